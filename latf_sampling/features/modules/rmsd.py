"""Root-mean-square deviation from reference structures, after optimal superposition: the torch modules."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from latf_sampling.features.periodic import (
    IMAGES,
    components_first,
    join_double,
    molecule_shares,
    safe_sqrt,
    split_double,
    squared_lengths,
    weighted_sums,
)
from latf_sampling.features.unwrap import Unwrap

_LAGUERRE_STEPS = 14
_NUMBERS = 100
"""Intermediate numbers in single precision that a combination of images takes, about."""


def _key_matrix() -> np.ndarray:
    """Linear map (9, 16) from sum_a x_ai y_aj to the symmetric matrix K whose last eigenvector is the rotation.

    Horn, doi:10.1364/JOSAA.4.000629: the quaternion q of the rotation R that maximizes sum_a R x_a . y_a maximizes
    q K q, which is that sum.
    """
    generators = np.zeros((4, 4, 3, 3))
    eye = np.eye(3)
    generators[0, 0] = eye
    cyclic = [(1, 2), (2, 0), (0, 1)]
    for i, (j, k) in enumerate(cyclic, 1):
        generators[0, i, j, k] = generators[i, 0, j, k] = 1.0
        generators[0, i, k, j] = generators[i, 0, k, j] = -1.0
        for other in range(1, 4):
            generators[i, other, i - 1, other - 1] += 1.0
            generators[i, other, other - 1, i - 1] += 1.0
        generators[i, i] -= eye
    return generators.reshape(16, 9).T


class RMSD(torch.nn.Module):
    """Root-mean-square deviations from references, nm, (..., n, 3) -> (..., references).

    With weights w that sum to one, d^2 = min over rotations R of sum_a w_a |R (x_a - <x>) - (y_a - <y>)|^2
    = <|x|^2> + <|y|^2> - 2 q K q, where the unit quaternion q of the rotation is the last eigenvector of a 4 by 4
    matrix K in double precision. Since q maximizes q K q, a change of q does not change d to first order: q counts as
    constant, and the gradient is right and finite, also where the best rotation is not unique. At the reference itself
    d and its gradient are zero.

    If atoms other than those measured are superposed, the rotation does matter. Then the derivative of q by K is that
    of an eigenvector, sum_k v_k (v_k dK q) / (l - l_k); where the best rotation is not unique it has no value, and is
    kept finite (the gaps l - l_k, nm^2, count as if none were below 1e-9).

    Parameters
    ----------
    atoms
        Indices of positions: the atoms of the references, then those that `bonded_tree` added.
    tree
        Edges of `bonded_tree`.
    references
        Positions (references, count, 3), nm.
    weights
        Weights of the ``count`` atoms in the deviation; they sum to one, and are zero for atoms that are only
        superposed.
    superpose
        Weights in the superposition; None if they are the same.
    n_atoms
        Number of positions.
    molecules
        Number of the molecule of each of the ``count`` atoms, those that are superposed first; None if they are of one.
        In a box all molecules are in those of their images which together make the deviation from the one reference
        smallest, so that it is continuous wherever a molecule goes. The images of superposed molecules change the
        rotation, and all combinations of them are compared; with a rotation given, the images of the others do not
        depend on each other.
    """

    shares: Tensor
    images: Tensor
    combinations: Tensor
    center: Tensor
    weights: Tensor
    squares: Tensor
    measured: Tensor
    superposed: Tensor
    key: Tensor

    def __init__(
        self,
        atoms: Sequence[int],
        tree: np.ndarray,
        references: np.ndarray,
        weights: np.ndarray,
        superpose: np.ndarray | None,
        n_atoms: int,
        molecules: np.ndarray | None = None,
    ):
        super().__init__()
        self.unwrap = Unwrap(atoms, tree, n_atoms, range(len(weights)))
        self.same: bool = superpose is None
        center = weights if superpose is None else superpose
        labels = np.zeros(len(weights), int) if molecules is None else molecules
        shares = molecule_shares(labels, center)
        self.superposed_further = int(labels[center > 0].max())
        self.further = len(shares)
        centered = references - np.einsum("a,rai->ri", center, references)[:, None]
        squares = (centered**2).sum(-1) @ weights
        self.count, self.steps = len(references), _LAGUERRE_STEPS

        def weighted(by: np.ndarray) -> np.ndarray:
            return (by[:, None] * centered).transpose(0, 2, 1).reshape(-1, len(by))

        self.register_buffer("shares", split_double(shares))
        self.register_buffer("images", torch.tensor(IMAGES))
        combinations = list(product(IMAGES, repeat=self.superposed_further))
        self.register_buffer("combinations", torch.tensor(combinations).reshape(len(combinations), -1, 3))
        self.numbers_in_box: int = _NUMBERS * len(combinations) if self.superposed_further > 0 else 0
        self.register_buffer("center", split_double(center[None]))
        self.register_buffer("weights", split_double(weights))
        self.register_buffer("squares", split_double(squares))
        self.register_buffer("measured", split_double(weighted(weights)))
        self.register_buffer("superposed", split_double(weighted(center)))
        self.register_buffer("key", torch.from_numpy(_key_matrix()).float())

    def key_matrices(self, x: Tensor, references: Tensor) -> Tensor:
        """The matrices K (..., references, 4, 4)."""
        sums = weighted_sums(join_double(references), x).unflatten(-2, [self.count, 3]).flatten(-2)
        return torch.matmul(sums, self.key.to(x.dtype)).unflatten(-1, [4, 4])

    def in_nearest_images(self, x: Tensor, box: Tensor) -> Tensor:
        """Centered positions (..., n, 3) with each molecule in the image that makes the deviation smallest."""
        shares, weights = join_double(self.shares), join_double(self.weights)
        if self.superposed_further > 0:
            counts = self.superposed_images(x.detach(), box.detach(), shares, weights)
            for k in range(self.superposed_further):
                x = x + shares[k].unsqueeze(-1) * torch.matmul(counts[..., k, :].unsqueeze(-2), box)
        if self.further > self.superposed_further:
            rotation = self.rotations(torch.matmul(join_double(self.superposed), x.detach()))
            images = self.images.to(x.dtype)
            for k in range(self.superposed_further, self.further):
                center = torch.matmul(weights * shares[k], x.detach())
                costs = self.costs_of_images(center, rotation, shares[k], weights, torch.matmul(images, box.detach()))
                x = x + shares[k].unsqueeze(-1) * torch.matmul(images[torch.argmin(costs, -1)].unsqueeze(-2), box)
        return x

    def superposed_images(self, x: Tensor, box: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
        """Numbers (..., molecules, 3) of box vectors that superposed molecules but the first are shifted by.

        Shifts change the sums over atoms linearly, so that the deviations for all combinations of images follow from a
        few vectors.
        """
        moved = shares[: self.superposed_further]
        shifts = torch.matmul(self.combinations.to(x.dtype), box.unsqueeze(-3))
        levers = torch.matmul(weights * moved, x).unsqueeze(-3)
        overlaps = torch.matmul(weights * moved, moved.t())
        costs = (shifts * (2.0 * levers + torch.matmul(overlaps, shifts))).sum([-2, -1])
        sums = self.sums_of_combinations(join_double(self.superposed), x, moved, shifts)
        if self.same:
            size = (squared_lengths(x) * weights).sum(-1, keepdim=True) + costs
            largest = 0.5 * (size + join_double(self.squares))
            costs = costs - 2.0 * self.largest_roots(sums.movedim(-1, 0).movedim(-1, 0), largest)
        else:
            rotation = self.rotations(sums)
            sums = self.sums_of_combinations(join_double(self.measured), x, moved, shifts)
            costs = costs - 2.0 * (rotation * sums).sum([-2, -1])
            images = torch.matmul(self.images.to(x.dtype), box).unsqueeze(-3)
            for k in range(self.superposed_further, self.further):
                center = torch.matmul(weights * shares[k], x).unsqueeze(-2)
                center = center + torch.matmul(torch.matmul(moved, weights * shares[k]), shifts)
                costs = costs + self.costs_of_images(center, rotation, shares[k], weights, images).amin(-1)
        return self.combinations.to(x.dtype)[torch.argmin(costs, -1)]

    def sums_of_combinations(self, references: Tensor, x: Tensor, moved: Tensor, shifts: Tensor) -> Tensor:
        """The sums in K (..., combinations, 3, 3) where molecules are shifted."""
        return torch.matmul(references, x).unsqueeze(-3) + torch.matmul(torch.matmul(references, moved.t()), shifts)

    def costs_of_images(
        self, center: Tensor, rotation: Tensor, share: Tensor, weights: Tensor, shifts: Tensor
    ) -> Tensor:
        """What the shifts (..., images, 3) of a molecule that is not superposed add to the squared deviation.

        ``center`` is the weighted sum of the positions of its atoms, (..., 3).
        """
        target = torch.matmul(torch.matmul(join_double(self.measured), share), rotation)
        growth = (weights * share * share).sum() * (shifts * shifts).sum(-1)
        return growth + 2.0 * (shifts * (center - target).unsqueeze(-2)).sum(-1)

    def rotations(self, sums: Tensor) -> Tensor:
        """The best rotations (..., 3, 3), by components of the reference and of the positions, for sums (..., 3, 3)."""
        key = torch.matmul(sums.flatten(-2), self.key.to(sums.dtype)).unflatten(-1, [4, 4])
        q = torch.linalg.eigh(key)[1][..., 3].unsqueeze(-1)
        return torch.matmul((q * q.transpose(-1, -2)).flatten(-2), self.key.t().to(sums.dtype)).unflatten(-1, [3, 3])

    def largest_eigenvalues(self, x: Tensor, size: Tensor) -> Tensor:
        """The largest eigenvalues (..., references) of K for many frames, without eigenvectors."""
        s = components_first(weighted_sums(join_double(self.superposed), x)).unflatten(1, [self.count, 3])
        largest = 0.5 * (size.movedim(-1, 0) + join_double(self.squares).unsqueeze(-1))
        return self.largest_roots(s.movedim(2, 1), largest).movedim(0, -1)

    def largest_roots(self, s: Tensor, largest: Tensor) -> Tensor:
        """The largest eigenvalues (...) of K from the sums in it, (3, 3, ...), and what they are at most.

        Theobald, doi:10.1107/S0108767305015266: they are roots of a quartic whose coefficients follow from the sums
        in K, and are at most the mean of both sizes. From there each of Laguerre's steps cubes the error; where the two
        largest eigenvalues coincide it divides the error by four.
        """
        xx, yx, zx = s[0, 0], s[0, 1], s[0, 2]
        xy, yy, zy = s[1, 0], s[1, 1], s[1, 2]
        xz, yz, zz = s[2, 0], s[2, 1], s[2, 2]
        squares = (s * s).sum([0, 1])
        determinant = xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
        minors = [
            a * d - b * c
            for a, b, c, d in [
                (xx, xy, yx, yy), (xx, xz, yx, yz), (xy, xz, yy, yz),
                (xx, xy, zx, zy), (xx, xz, zx, zz), (xy, xz, zy, zz),
                (yx, yy, zx, zy), (yx, yz, zx, zz), (yy, yz, zy, zz),
            ]
        ]  # fmt: skip
        minor_squares = torch.stack(minors).square().sum(0)
        c2, c1, c0 = -2.0 * squares, -8.0 * determinant, squares * squares - 4.0 * minor_squares
        root = largest
        for _ in range(self.steps):
            square = root * root
            value = torch.addcmul(c0, torch.addcmul(c1, square + c2, root), root)
            slope = torch.addcmul(c1, 4.0 * square + 2.0 * c2, root)
            curvature = 12.0 * square + 2.0 * c2
            discriminant = torch.clamp(9.0 * slope * slope - 12.0 * value * curvature, min=0.0)
            root = root - torch.clamp(4.0 * value / (slope + torch.sqrt(discriminant) + 1e-300), min=0.0)
        return root

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        # near the reference the result is a small difference of large numbers
        x = self.unwrap(positions, box).to(torch.float64)
        x = x - weighted_sums(join_double(self.center), x)
        if box is not None and self.further > 0:
            x = self.in_nearest_images(x, box.to(torch.float64))
        size = (squared_lengths(x) * join_double(self.weights)).sum(-1, keepdim=True)
        if self.same and x.dim() == 3 and not x.requires_grad:
            overlap = self.largest_eigenvalues(x, size)
            squares = torch.clamp(size + join_double(self.squares) - 2.0 * overlap, min=0.0)
            return safe_sqrt(squares, 1e-16).to(positions.dtype)
        key = self.key_matrices(x, self.superposed)
        values, vectors = torch.linalg.eigh(key.detach())
        q = vectors[..., 3].unsqueeze(-1)
        if not self.same:
            gaps = values[..., 3:] - values
            inverse = (gaps / (gaps * gaps + 1e-18)).unsqueeze(-1)
            change = torch.matmul(key - key.detach(), q)
            q = q + torch.matmul(vectors, inverse * torch.matmul(vectors.transpose(-1, -2), change))
            key = self.key_matrices(x, self.measured)
        overlap = (key * q * q.transpose(-1, -2)).sum([-2, -1])
        squares = torch.clamp(size + join_double(self.squares) - 2.0 * overlap, min=0.0)
        return safe_sqrt(squares, 1e-16).to(positions.dtype)
