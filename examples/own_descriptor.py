"""A custom descriptor, and the check that a simulation can rely on it.

    python examples/own_descriptor.py structure.pdb

Name the class in a protocol, with this file beside it:

    features:
      - custom: {file: own_descriptor.py, class: ShapeAnisotropy, settings: {atoms: name CA}}
"""

from __future__ import annotations

import sys

import mdtraj
import torch

import latf_sampling as ls
from latf_sampling.features import Unwrap, bonded_tree
from latf_sampling.testing import check_descriptors


class ShapeAnisotropy(torch.nn.Module):
    """Anisotropy of some atoms: 0 for a sphere, 1 for a line (Theodorou and Suter, doi:10.1021/ma00148a028).

    With S the gyration tensor it is 3/2 tr(S^2) / tr(S)^2 - 1/2, without any eigenvalue, so that it is smooth.
    """

    def __init__(self, topology: mdtraj.Topology, atoms: str):
        super().__init__()
        selected = topology.select(atoms).tolist()
        self.atoms, tree = bonded_tree(topology, selected)  # the selection, then the atoms that connect it
        self.names = [f"shape anisotropy of {atoms}"]
        self.units = [""]
        # forward receives these atoms alone, so that they count from 0
        self.unwrap = Unwrap(range(len(self.atoms)), tree, len(self.atoms), range(len(selected)))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        x = self.unwrap(positions, box)
        x = x - x.mean(-2, keepdim=True)
        tensor = torch.matmul(x.transpose(-1, -2), x)
        trace = tensor.diagonal(dim1=-2, dim2=-1).sum(-1)
        # where all atoms coincide there is no shape; the small numbers keep value and gradient finite there
        squares = (tensor * tensor).sum([-2, -1]) + 1e-20
        return (1.5 * squares / (trace * trace + 1e-20) - 0.5).unsqueeze(-1)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("Give a structure: python examples/own_descriptor.py structure.pdb")
    frames = mdtraj.load(sys.argv[1])
    spec = [{"custom": {"file": __file__, "class": "ShapeAnisotropy", "settings": {"atoms": "element != H"}}}]
    check_descriptors(frames, spec)
    features = ls.Features(frames.topology, spec)
    print(features.names, features.transform(frames)[:5].tolist())
