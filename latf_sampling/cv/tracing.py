"""The process that traces a variable with torch, for processes without: see `latf_sampling.cv.compiled_variable`.

    python -m latf_sampling.cv.tracing CV_FILE PROGRAMS < SHAPE

writes the programs of value and gradient of the variable, or, where a shape is given as JSON, that of the bias. It
also compiles what every walker needs, so that walkers that begin at the same time find the machine code.
"""

from __future__ import annotations

import sys
from pathlib import Path

from latf_sampling.core.plugins import import_openmm
from latf_sampling.cv.compiled_variable import write_programs
from latf_sampling.cv.compiler.kernel import Kernel, KernelError
from latf_sampling.cv.shapes import from_json


def trace_file(path: Path, file: Path, request: str) -> None:
    """Write a file of programs of the variable of a CV file; a request is a shape as JSON, or empty."""
    import torch

    from latf_sampling.cv import graph
    from latf_sampling.cv.compiler.lowering import lower
    from latf_sampling.cv.latent_cv import LatentCV

    torch.set_num_threads(1)
    cv, shape = LatentCV.load(path), from_json(request) if request else None
    about = {
        "atoms": cv.atoms.tolist(),
        "n_atoms": cv.n_atoms,
        "bounds": cv.bounds.tolist(),
        "sigma": cv.sigma.tolist(),
        "periodic": cv.periodic,
        "steepness": None if cv.steepness is None else cv.steepness.tolist(),
        "topology": cv.metadata["topology"],
        "fingerprint": cv.fingerprint(),
    }
    try:
        if shape is None:
            inputs = graph.configuration(cv)
            traced = {"value": graph.trace_value(cv), "gradient": graph.trace_gradient(cv)}
            programs = {name: lower(each, inputs) for name, each in traced.items()}
            used = "value"  # the gradient is for hills with adaptive widths alone
        else:
            inputs = graph.example(cv, shape)
            programs, used = {"bias": lower(graph.trace(cv, shape), inputs)}, "bias"
        Kernel(programs[used])(*(each.numpy() for each in inputs))
    except KernelError as error:
        about, programs = {"unsupported": str(error)}, {}
    write_programs(file, about, programs)


if __name__ == "__main__":
    import_openmm()
    trace_file(Path(sys.argv[1]), Path(sys.argv[2]), sys.stdin.read())
