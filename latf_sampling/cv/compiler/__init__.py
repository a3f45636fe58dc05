"""A traced graph of torch operations as machine code."""

from latf_sampling.cv.compiler.kernel import Kernel, KernelError, compiled

__all__ = ["Kernel", "KernelError", "compiled"]
