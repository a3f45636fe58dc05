"""Code that no file holds, as in a notebook or at a prompt, starts processes like any other."""

from __future__ import annotations

import subprocess
import sys

CELL = """
del __file__  # which no notebook has
from latf_sampling.core.processes import LocalExecutor

print("the cell runs")
started = lambda: None  # cannot be passed to another process, and need not be
with LocalExecutor(1) as executor:
    print(executor.submit(len, "abc").result())
"""


def test_a_cell_needs_no_guard():
    done = subprocess.run([sys.executable, "-"], input=CELL, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "the cell runs\n3\n"), done.stderr
    assert "Traceback" not in done.stderr
