"""What holds for all tests."""

import os

# Compiling a bias takes seconds, and most tests make a new one: they let torch evaluate it, and processes that they
# start do the same. `test_kernel` and a test of `test_bias_force` see to it that machine code gives the same numbers.
os.environ["LATF_COMPILE"] = "0"
