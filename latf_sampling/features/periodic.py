"""Differences of positions, with or without a periodic box."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

Indices = Sequence[int] | np.ndarray | Tensor
"""Indices of atoms, in any form."""
IMAGES = tuple(sorted(product((-1.0, 0.0, 1.0), repeat=3), key=lambda counts: sum(map(abs, counts))))
"""Numbers of box vectors from a cell to itself and its 26 neighbors, itself first."""
DENSE_ENTRIES = 2**22
"""Above this many entries of the incidence matrix, gathering positions is faster than multiplying by it."""


def reduced_box(box: Tensor) -> Tensor:
    """Bring box vectors (rows, lower triangular) into OpenMM's reduced form; the lattice stays the same.

    Parameters
    ----------
    box : torch.Tensor, shape (..., 3, 3)
        Box vectors a, b, c as rows, nm; a along x, b in the xy plane.

    Returns
    -------
    torch.Tensor, shape (..., 3, 3)
        As before, with abs(b_x) and abs(c_x) at most a_x / 2 and abs(c_y) at most b_y / 2.

    Examples
    --------
    >>> reduced_box(torch.tensor([[2.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))[1]
    tensor([-1.,  1.,  0.])
    """
    a, b, c = box.unbind(-2)
    c = c - b * torch.round(c[..., 1:2] / b[..., 1:2])
    c = c - a * torch.round(c[..., 0:1] / a[..., 0:1])
    b = b - a * torch.round(b[..., 0:1] / a[..., 0:1])
    return torch.stack([a, b, c], -2)


def minimum_image(vectors: Tensor, box: Tensor, images: Tensor) -> Tensor:
    """Replace each vector by the shortest of its periodic images.

    The vector is first wrapped along c, b and a in turn, which leaves it inside a brick of the three box heights; then
    the shortest of its 27 images is taken. For a box in OpenMM's reduced form (a, b and c are its rows) that is

    - exact for every vector if the box is rectangular, or if 8 c_z^2 >= a_x^2 + b_y^2 and 3 b_y^2 >= a_x^2, which
      holds for cubes, rhombic dodecahedra, truncated octahedra and hexagonal prisms that are not very flat;
    - exact in any box for every vector whose shortest image is not longer than half of min(a_x, b_y, c_z), the
      largest cut-off that OpenMM allows;
    - otherwise the shortest of the 27, as in MDTraj; in a very flat and skewed box it need not be the shortest of all.

    The choice of the image counts as constant: the gradient with respect to ``vectors`` is the identity, without a
    trace of the search in the graph, and with respect to ``box`` that of the lattice vector subtracted.

    Parameters
    ----------
    vectors : torch.Tensor, shape (..., v, 3)
        Differences of positions, nm.
    box : torch.Tensor, shape (3, 3) or (..., 3, 3)
        Box vectors as rows, nm, in reduced form (OpenMM's always are; see `reduced_box`).
    images : torch.Tensor, shape (27, 3)
        The numbers of box vectors to try, those of no shift first; `Features` keeps it as a buffer. If it is the first
        row alone, the box has to be rectangular, where the wrapped vector is the shortest.

    Returns
    -------
    torch.Tensor, shape (..., v, 3)
    """
    if len(images) == 1:
        size = box.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
        return vectors - torch.round(vectors.detach() / size.detach()) * size
    counts = image_counts(vectors, box, images)
    if vectors.dim() == 2:
        return vectors - torch.matmul(counts, box)
    n, rows = components_first(counts), box.movedim(-1, 0).movedim(-1, 0)
    shifts = [n[0] * rows[0, k] + n[1] * rows[1, k] + n[2] * rows[2, k] for k in range(3)]
    return vectors - components_last(torch.stack(shifts))


def image_counts(vectors: Tensor, box: Tensor, images: Tensor) -> Tensor:
    """How many of each box vector `minimum_image` subtracts, (..., v, 3); constants for the gradient."""
    if len(images) == 1:
        return torch.round(vectors.detach() / box.detach().diagonal(dim1=-2, dim2=-1).unsqueeze(-2))
    if vectors.dim() > 2:
        return _image_counts_of_frames(vectors, box, images)
    free, cell = vectors.detach(), box.detach()
    c = torch.round(free[..., 2:3] / cell[..., 2:3, 2:3])
    free = free - c * cell[..., 2:3, :]
    b = torch.round(free[..., 1:2] / cell[..., 1:2, 1:2])
    free = free - b * cell[..., 1:2, :]
    a = torch.round(free[..., 0:1] / cell[..., 0:1, 0:1])
    free = free - a * cell[..., 0:1, :]
    # |free - shift|^2 without |free|^2, which all images share
    shifts = torch.matmul(images, cell)
    score = (shifts * shifts).sum(-1).unsqueeze(-2) - 2.0 * torch.matmul(free, shifts.transpose(-1, -2))
    return torch.cat([a, b, c], -1) + images[torch.argmin(score, -1)]


def _image_counts_of_frames(vectors: Tensor, box: Tensor, images: Tensor) -> Tensor:
    """As `image_counts`, for many frames: by component and image by image, which is three times as fast."""
    x, y, z = components_first(vectors.detach()).unbind(0)
    cell = box.detach().movedim(-1, 0).movedim(-1, 0).contiguous()
    (ax, _, _), (bx, by, _), (cx, cy, cz) = cell[0].unbind(0), cell[1].unbind(0), cell[2].unbind(0)
    counts_c = torch.round(z / cz)
    x, y, z = x - counts_c * cx, y - counts_c * cy, z - counts_c * cz
    counts_b = torch.round(y / by)
    x, y = x - counts_b * bx, y - counts_b * by
    counts_a = torch.round(x / ax)
    x = x - counts_a * ax
    half = torch.cat([images[:4], images[7:13], images[19:23]])  # the other images are the negatives of these
    shifts = torch.tensordot(half, cell, [[1], [0]])  # pyright: ignore[reportArgumentType]  # typed as int only
    squares, parts = (shifts * shifts).sum(1).unbind(0), (2.0 * shifts).flatten(0, 1).unbind(0)
    lowest, overlap, which = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for k in range(1, 14):
        # |free - shift|^2 - |free|^2 for the shift or its opposite, whichever is shorter
        twice = torch.addcmul(torch.addcmul(x * parts[3 * k], y, parts[3 * k + 1]), z, parts[3 * k + 2])
        score = squares[k] - twice.abs()
        better = score < lowest
        lowest = torch.minimum(score, lowest)
        overlap = torch.where(better, twice, overlap)
        which = torch.where(better, float(k), which)
    counts = torch.stack([counts_a, counts_b, counts_c])
    counts = counts + half.t().index_select(1, which.to(torch.int64).flatten()).unflatten(-1, x.shape) * overlap.sign()
    return components_last(counts)


def frames_contiguous(positions: Tensor) -> Tensor:
    """The same positions (frames, n, 3), with each component of all frames contiguous in memory.

    Operations on many frames are then several times faster than along the three components.
    """
    return positions.permute(2, 1, 0).contiguous().permute(2, 1, 0)


def components_first(vectors: Tensor) -> Tensor:
    """Vectors (..., n, 3) as (3, n, ...), a view; frames are then the innermost dimension, see `frames_contiguous`."""
    return vectors.movedim(-2, 0).movedim(-1, 0)


def components_last(components: Tensor) -> Tensor:
    """Components (3, n, ...) as vectors (..., n, 3): the inverse of `components_first`."""
    return components.movedim(0, -1).movedim(0, -2)


def molecule_shares(molecules: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How atoms around their weighted center move where one molecule is shifted by one, (molecules - 1, atoms).

    Parameters
    ----------
    molecules
        Number of the molecule of each atom, from 0; the first one is not shifted.
    weights
        Weights of the center, which sum to one.
    """
    members = (molecules == np.arange(1, molecules.max(initial=0) + 1)[:, None]).astype(float)
    return members - (members @ weights)[:, None]


def gather(positions: Tensor, atoms: Tensor) -> Tensor:
    """Positions (..., len(atoms), 3) of some atoms; of many frames, in memory as by `frames_contiguous`."""
    if positions.dim() == 2:
        return positions.index_select(0, atoms)
    return components_last(components_first(positions).index_select(1, atoms))


def weighted_sums(weights: Tensor, positions: Tensor) -> Tensor:
    """Weighted sums (..., rows, 3) of positions (..., n, 3), for weights (rows, n); the layout in memory is kept."""
    if positions.dim() == 2:
        return torch.matmul(weights, positions)
    x = components_first(positions)
    return components_last(torch.matmul(weights, x.flatten(2)).unflatten(-1, x.shape[2:]))


def split_double(values: np.ndarray) -> Tensor:
    """Numbers in double precision as sums of two in single precision (2, ...): a buffer that survives conversion.

    Weights have to sum to one in double precision, or a center far from the origin is misplaced.
    """
    exact = torch.from_numpy(np.ascontiguousarray(values))
    return torch.stack([exact.float(), (exact - exact.float()).float()])


def join_double(parts: Tensor) -> Tensor:
    """Numbers in double precision: the inverse of `split_double`."""
    return parts.to(torch.float64).sum(0)


def squared_lengths(vectors: Tensor) -> Tensor:
    """Squares (...) of the lengths of vectors (..., 3)."""
    if vectors.dim() == 2:
        return (vectors * vectors).sum(-1)
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return torch.addcmul(torch.addcmul(x * x, y, y), z, z)


def stack_vectors(parts: list[Tensor]) -> Tensor:
    """Concatenate vectors (..., n, 3) along n; the layout in memory is kept."""
    if parts[0].dim() == 2:
        return torch.cat(parts)
    return components_last(torch.cat([components_first(part) for part in parts], 1))


def dot(u: Tensor, v: Tensor) -> Tensor:
    """Scalar products (...) of vectors (..., 3)."""
    if u.dim() == 2:
        return (u * v).sum(-1)
    return torch.addcmul(torch.addcmul(u[..., 0] * v[..., 0], u[..., 1], v[..., 1]), u[..., 2], v[..., 2])


def cross(u: Tensor, v: Tensor) -> Tensor:
    """Vector products (..., 3) of vectors (..., 3); the layout in memory is kept."""
    if u.dim() == 2:
        return torch.linalg.cross(u, v, dim=-1)
    a, b = components_first(u), components_first(v)
    pairs = [(1, 2), (2, 0), (0, 1)]
    return components_last(torch.stack([torch.addcmul(a[i] * b[j], a[j], b[i], value=-1.0) for i, j in pairs]))


def lengths(vectors: Tensor, keepdim: bool = False) -> Tensor:
    """Lengths (...) of vectors (..., 3), or (..., 1), with gradient zero where a vector is zero."""
    if vectors.dim() == 2:
        return torch.linalg.vector_norm(vectors, dim=-1, keepdim=keepdim)
    # of many frames: the norm in a dimension that is not innermost in memory takes ten times as long
    values = safe_sqrt(squared_lengths(vectors), 1e-24)
    return values.unsqueeze(-1) if keepdim else values


def safe_sqrt(squares: Tensor, tiny: float) -> Tensor:
    """Square roots with gradient zero instead of infinity at zero; ``tiny`` has to be negligible beside the squares.

    In single precision nothing overflows if ``tiny`` is 1e-25 or more.
    """
    return squares * torch.rsqrt(squares + tiny)


class Differences(torch.nn.Module):
    """Differences ``positions[second] - positions[first]`` (..., count, 3), shortest images if there is a box."""

    matrix: Tensor
    first: Tensor
    second: Tensor
    images: Tensor

    def __init__(self, first: Indices, second: Indices, n_atoms: int):
        super().__init__()
        count = len(first)
        self.count = count
        self.dense: bool = count * n_atoms <= DENSE_ENTRIES
        matrix = torch.zeros(count if self.dense else 0, n_atoms)
        if self.dense:
            matrix[torch.arange(count), torch.as_tensor(first)] = -1.0
            matrix[torch.arange(count), torch.as_tensor(second)] = 1.0
        self.register_buffer("matrix", matrix)
        self.register_buffer("first", torch.as_tensor(first, dtype=torch.int64))
        self.register_buffer("second", torch.as_tensor(second, dtype=torch.int64))
        self.register_buffer("images", torch.tensor(IMAGES))

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        if positions.dim() > 2:
            return self.subset(positions, box, 0, self.count)
        if self.dense:
            vectors = torch.matmul(self.matrix, positions)
        else:
            vectors = gather(positions, self.second) - gather(positions, self.first)
        if box is not None:
            vectors = minimum_image(vectors, box, self.images)
        return vectors

    def subset(self, positions: Tensor, box: Tensor | None, start: int, stop: int) -> Tensor:
        """Differences ``start`` to ``stop`` (..., stop - start, 3): not all of a large table has to be in memory."""
        vectors = gather(positions, self.second[start:stop]).sub_(gather(positions, self.first[start:stop]))
        if box is not None:
            vectors = minimum_image(vectors, box, self.images)
        return vectors
