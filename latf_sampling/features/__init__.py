"""Descriptors as scriptable torch modules: the same code makes training data and runs inside the bias.

A specification lists what to measure, one kind of descriptor per entry, as in a protocol::

    [{"torsions": "phi psi"}, {"distances": {"between": "name CA", "skip": 3}}]

`Features` finds the atoms with MDTraj, names every column, and builds one `torch.nn.Module` for each kind. A new
kind is one file with a subclass of `Descriptor`, its module in a file of `modules/`, and its entry in `registry.py`.
Only the modules need torch, which takes seconds to import: specifications are read without. Users can name a class in a
file of their own, see `CustomDescriptor`.

All modules have these properties, which `latf_sampling.testing.check_descriptors` checks:

- They take float32 and float64, one frame (n, 3) or any number of leading dimensions. `torch.jit.script`,
  `torch.jit.freeze` and `torch.fx.experimental.proxy_tensor.make_fx` accept them, since no branch depends on a value.
- They have few operations: inside a simulation step dispatch costs more than arithmetic. All differences of positions
  are one product with a constant incidence matrix, whose rows of -1, +1 and 0 make it as exact as subtraction (unless
  TF32 is enabled for products on a GPU; torch disables it by default).
- Gradients are finite everywhere. Two coincident atoms have a distance of zero with gradient zero; where three atoms of
  a torsion lie on a line, sine and cosine go smoothly to zero together (see `Torsions`).
- With a box, each difference is replaced by its shortest periodic image (see `minimum_image` for the conditions).

Files whose modules annotate their buffers do without ``from __future__ import annotations``: TorchScript needs types
where that import leaves strings.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from latf_sampling.features.bonded_tree import bonded_tree
from latf_sampling.features.features import Features
from latf_sampling.features.topology import as_mdtraj, fingerprint
from latf_sampling.features.torsions import TORSIONS

if TYPE_CHECKING:
    from latf_sampling.features.periodic import minimum_image, reduced_box
    from latf_sampling.features.unwrap import Unwrap, unwrap_molecules

_WITH_TORCH = {
    **dict.fromkeys(("minimum_image", "reduced_box"), "periodic"),
    **dict.fromkeys(("Unwrap", "unwrap_molecules"), "unwrap"),
}
"""Names that are loaded when they are first used: what reads specifications does without torch."""

__all__ = [
    "TORSIONS",
    "Features",
    "Unwrap",
    "as_mdtraj",
    "bonded_tree",
    "fingerprint",
    "minimum_image",
    "reduced_box",
    "unwrap_molecules",
]


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'latf_sampling.features' has no attribute {name!r}")
    return getattr(import_module(f"latf_sampling.features.{_WITH_TORCH[name]}"), name)
