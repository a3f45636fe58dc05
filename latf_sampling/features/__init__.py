"""Descriptors as scriptable torch modules: the same code makes training data and runs inside the bias.

A specification lists what to measure, one kind an entry, as it stands in a protocol::

    [{"torsions": "phi psi"}, {"distances": {"between": "name CA", "skip": 3}}]

`Features` finds the atoms with MDTraj, names every column, and builds one `torch.nn.Module` a kind of descriptor.
A further kind is one file with a subclass of `Descriptor`, and one line in `DESCRIPTORS`; a user's own is a class in a
file of theirs, see `CustomDescriptor`.

What the modules promise

- float32 and float64, one frame (n, 3) or any number of leading dimensions; `torch.jit.script`, `torch.jit.freeze` and
  `torch.fx.experimental.proxy_tensor.make_fx` take them, for no branch depends on a value.
- Few operations: inside a simulation step dispatch costs more than arithmetic. All differences of positions are one
  product with a constant incidence matrix (rows of -1, +1 and 0, so nothing is rounded that subtraction would not,
  unless somebody switches on TF32 products on a GPU, which torch leaves off).
- Finite gradients everywhere. Two coincident atoms have a distance of zero with gradient zero; where three atoms of a
  torsion lie on a line, sine and cosine go smoothly to zero together (see `Torsions`).
- With a box each difference is replaced by its shortest periodic image (see `minimum_image` for what is guaranteed).
"""

from latf_sampling.features.features import Features
from latf_sampling.features.periodic import minimum_image, reduced_box
from latf_sampling.features.topology import as_mdtraj, fingerprint
from latf_sampling.features.torsions import TORSIONS
from latf_sampling.features.whole import Whole, bonded_tree, whole_molecules

__all__ = [
    "TORSIONS",
    "Features",
    "Whole",
    "as_mdtraj",
    "bonded_tree",
    "fingerprint",
    "minimum_image",
    "reduced_box",
    "whole_molecules",
]
