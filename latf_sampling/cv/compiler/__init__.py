"""A traced graph of torch operations as machine code."""

from latf_sampling.cv.compiler.kernel import Kernel, KernelError, compile_graph

__all__ = ["Kernel", "KernelError", "compile_graph"]
