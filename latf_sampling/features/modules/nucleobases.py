"""Relative arrangement of nucleobases (G-vectors), and the distance from references in them (eRMSD): torch modules."""

from itertools import product
from math import pi

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import Differences, cross, dot, gather, squared_lengths, stack_vectors

_SCALE = (0.5, 0.5, 0.3)  # nm; along x, y, z of a base's frame
_COLLAPSED = 1e-16  # nm^2 and nm^4; squared length of an axis below which a base ceases to have a frame
_NEAR = 1e-12  # squared scaled distance below which its root is rounded off


class GVectors(torch.nn.Module):
    """G-vectors: centers of bases in the frames of other bases, (..., n, 3) -> (..., 4 * pairs), no unit.

    Columns are the first components, x, of all pairs, then y, z, and the fourth, w.

    The frame of a base has its origin in the center of C2, C4 and C6; x points to C2, and z is the normal of the plane
    (along x cross C6 of purines, x cross C4 of pyrimidines, so that z is parallel for all bases of a strand). With s
    the center of the second base in the frame of the first, scaled to (x / 0.5 nm, y / 0.5 nm, z / 0.3 nm), and a
    cut-off c, the G-vector is

        G = (s sin(pi |s| / c) / |s|, 1 + cos(pi |s| / c)) c / pi   for |s| < c, and 0 beyond:

    Bottaro, Di Palma and Bussi, Nucleic Acids Res. 42, 13306 (2014), doi:10.1093/nar/gku972. It is continuous
    everywhere; at the cut-off its first three components have a kink (of slope one), the fourth is smooth. It is
    evaluated as sin(pi |s| / c) / |s| = (pi / c) sinc(|s| / 2c) w and 1 + cos(pi |s| / c) = 2 w^2 with
    w = sin(pi (1 - |s| / c) / 2), which has no pole at 0 and is exactly zero at the cut-off and beyond.

    In a box, the shortest image of the vector between the centers counts; all widths of the box have to exceed 1 nm
    times the cut-off, so that two images of a base are never within the cut-off.

    Parameters
    ----------
    bases : shape (bases, 3)
        Indices of positions: C2, then C6 and C4 of a purine, or C4 and C6 of a pyrimidine.
    pairs : shape (pairs, 2)
        Indices in ``bases``: the base that defines the frame, and the base whose center is measured.
    n_atoms
        Number of positions.
    cutoff
        The cut-off c.
    """

    first: Tensor
    frames: Tensor
    scale: Tensor

    def __init__(self, bases: np.ndarray, pairs: np.ndarray, n_atoms: int, cutoff: float = 2.4):
        super().__init__()
        self.bases, self.pairs = len(bases), len(pairs)
        self.edges = Differences(np.tile(bases[:, 0], 2), bases[:, 1:].T.ravel(), n_atoms)
        self.between = Differences(pairs[:, 0], pairs[:, 1], len(bases))
        self.cutoff = cutoff
        self.quarter, self.height = pi / 2, 2 * cutoff / pi  # TorchScript does not see constants of the file
        self.collapsed, self.near = _COLLAPSED, _NEAR
        self.register_buffer("first", torch.from_numpy(np.ascontiguousarray(bases[:, 0])))
        frames = pairs[:, 0] + len(bases) * np.arange(3)[:, None]  # rows of x, then those of y and z
        self.register_buffer("frames", torch.from_numpy(frames.ravel()))
        self.register_buffer("scale", 1 / torch.tensor(_SCALE).unsqueeze(-1))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        second, third = torch.split(self.edges(positions, box), [self.bases, self.bases], -2)
        center = (second + third) / 3  # from C2
        between = self.between(gather(positions, self.first) + center, box)
        z = cross(second, third)
        axes = stack_vectors([-center, cross(center, z), z])  # x points from the center to C2
        axes = axes * torch.rsqrt(squared_lengths(axes) + self.collapsed).unsqueeze(-1)
        s = dot(gather(axes, self.frames), stack_vectors([between, between, between]))
        s = s.unflatten(-1, [3, self.pairs]) * self.scale
        squares = (s * s).sum(-2, keepdim=True)
        t = torch.clamp(squares * torch.rsqrt(squares + self.near) / self.cutoff, max=1.0)
        w = torch.sin((1.0 - t) * self.quarter)
        return torch.cat([s * (torch.sinc(0.5 * t) * w), (w * w) * self.height], -2).flatten(-2)


class Ermsd(torch.nn.Module):
    """Distances from references in G-vectors, (..., n, 3) -> (..., references), no unit.

    eRMSD = sqrt(sum |G_jk - G_jk of the reference|^2 / number of bases), over all ordered pairs of bases jk: Bottaro,
    Di Palma and Bussi (2014), see `GVectors`. No superposition is needed. Where the eRMSD is zero, so is its gradient.

    Parameters
    ----------
    bases, n_atoms, cutoff
        As for `GVectors`.
    references : shape (references, bases, 3, 3)
        Positions of the atoms of ``bases`` in each reference, unwrapped, nm.
    """

    references: Tensor

    def __init__(self, bases: np.ndarray, references: np.ndarray, n_atoms: int, cutoff: float = 2.4):
        super().__init__()
        pairs = np.array([(i, j) for i, j in product(range(len(bases)), repeat=2) if i != j])
        self.gvectors = GVectors(bases, pairs, n_atoms, cutoff)
        reference_gvectors = GVectors(np.arange(bases.size).reshape(-1, 3), pairs, bases.size, cutoff).double()
        # weighted beforehand, so that the norm of the difference is the eRMSD
        self.weight = len(bases) ** -0.5
        self.register_buffer("references", self.weight * reference_gvectors(torch.from_numpy(references).flatten(1, 2)))
        self.references = self.references.float()

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        gvectors = self.weight * self.gvectors(positions, box)
        return torch.linalg.vector_norm(gvectors.unsqueeze(-2) - self.references, dim=-1)
