"""Root-mean-square deviation from reference structures, after optimal superposition: the torch modules."""

from collections.abc import Sequence

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
        Number of the molecule of each of the ``count`` atoms; None if they are of one. In a box each further molecule,
        one after the other, is in that of its images which makes the deviation from the one reference smallest, so that
        the deviation is continuous wherever a molecule goes.
    """

    shares: Tensor
    images: Tensor
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
        shares = molecule_shares(np.zeros(len(weights), int) if molecules is None else molecules, center)
        self.further = len(shares)
        centered = references - np.einsum("a,rai->ri", center, references)[:, None]
        squares = (centered**2).sum(-1) @ weights
        self.count, self.steps = len(references), _LAGUERRE_STEPS

        def weighted(by: np.ndarray) -> np.ndarray:
            return (by[:, None] * centered).transpose(0, 2, 1).reshape(-1, len(by))

        self.register_buffer("shares", split_double(shares))
        self.register_buffer("images", torch.tensor(IMAGES))
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

    def nearest(self, x: Tensor, box: Tensor, share: Tensor) -> Tensor:
        """Shifts (..., n, 3) of centered positions by the image of a molecule that is nearest to the reference.

        A shift t of the molecule changes the sums over atoms linearly, so that the deviation of all 27 images follows
        from a few vectors.
        """
        images, weights = self.images.to(x.dtype), join_double(self.weights)
        shifts = torch.matmul(images, box.detach())
        lever = torch.matmul(weights * share, x).unsqueeze(-2)
        growth = 2.0 * (shifts * lever).sum(-1) + (weights * share * share).sum() * (shifts * shifts).sum(-1)
        key = self.keys_of_images(x, join_double(self.superposed), share, shifts)
        q = torch.linalg.eigh(key)[1][..., 3].unsqueeze(-1)
        if not self.same:
            key = self.keys_of_images(x, join_double(self.measured), share, shifts)
        overlap = (key * q * q.transpose(-1, -2)).sum([-2, -1])
        counts = images[torch.argmin(growth - 2.0 * overlap, -1)]
        return share.unsqueeze(-1) * torch.matmul(counts.unsqueeze(-2), box)

    def keys_of_images(self, x: Tensor, references: Tensor, share: Tensor, shifts: Tensor) -> Tensor:
        """The matrices K (..., images, 4, 4) where a molecule is shifted by (..., images, 3)."""
        sums = torch.matmul(references, x).unsqueeze(-3)
        change = torch.matmul(references, share).unsqueeze(-1) * shifts.unsqueeze(-2)
        return torch.matmul((sums + change).flatten(-2), self.key.to(x.dtype)).unflatten(-1, [4, 4])

    def largest_eigenvalues(self, x: Tensor, size: Tensor) -> Tensor:
        """The largest eigenvalues (..., references) of K for many frames, without eigenvectors.

        Theobald, doi:10.1107/S0108767305015266: they are roots of a quartic whose coefficients follow from the sums
        in K, and are at most the mean of both sizes. From there each of Laguerre's steps cubes the error; where the two
        largest eigenvalues coincide it divides the error by four.
        """
        s = components_first(weighted_sums(join_double(self.superposed), x)).unflatten(1, [self.count, 3])
        xx, yx, zx = s[0, :, 0], s[0, :, 1], s[0, :, 2]
        xy, yy, zy = s[1, :, 0], s[1, :, 1], s[1, :, 2]
        xz, yz, zz = s[2, :, 0], s[2, :, 1], s[2, :, 2]
        squares = (s * s).sum([0, 2])
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
        root = 0.5 * (size.movedim(-1, 0) + join_double(self.squares).unsqueeze(-1))
        for _ in range(self.steps):
            square = root * root
            value = torch.addcmul(c0, torch.addcmul(c1, square + c2, root), root)
            slope = torch.addcmul(c1, 4.0 * square + 2.0 * c2, root)
            curvature = 12.0 * square + 2.0 * c2
            discriminant = torch.clamp(9.0 * slope * slope - 12.0 * value * curvature, min=0.0)
            root = root - torch.clamp(4.0 * value / (slope + torch.sqrt(discriminant) + 1e-300), min=0.0)
        return root.movedim(0, -1)

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        # near the reference the result is a small difference of large numbers
        x = self.unwrap(positions, box).to(torch.float64)
        x = x - weighted_sums(join_double(self.center), x)
        if box is not None and self.further > 0:
            vectors = box.to(torch.float64)
            shares = join_double(self.shares)
            for k in range(self.further):
                x = x + self.nearest(x.detach(), vectors, shares[k])
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
