"""Root-mean-square deviation from reference structures, after optimal superposition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Row,
    Settings,
    atoms_of,
    side_by_side,
    validated,
    words_of,
)
from latf_sampling.features.periodic import combined, inner, root, squared_lengths, together, two_parts
from latf_sampling.features.references import read_references
from latf_sampling.features.topology import Labels, relative_weights
from latf_sampling.features.whole import Whole, bonded_tree

_FEWEST = 3  # atoms; two can be superposed in infinitely many ways


def _key_matrix() -> np.ndarray:
    """From sum_a x_ai y_aj, (9,), to the symmetric matrix (16,) whose largest eigenvector is the rotation.

    Horn, doi:10.1364/JOSAA.4.000629: the quaternion q of the rotation R that maximises sum_a R x_a . y_a maximises
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


_STEPS = 14


class RMSD(torch.nn.Module):
    """Distances from references, nm, (..., n, 3) -> (..., references).

    With weights w that sum to one, d^2 = min over rotations R of sum_a w_a |R (x_a - <x>) - (y_a - <y>)|^2
    = <|x|^2> + <|y|^2> - 2 q K q, q being the unit quaternion of the rotation, found as the last eigenvector of a 4 by
    4 matrix K in double precision. Since q makes q K q largest, its change does not change d to first order: it counts
    as constant, and the gradient is right and finite, also where the best rotation is not unique. At the reference
    itself d and its gradient are zero.

    If atoms other than those measured are superposed, the rotation does matter. Then the derivative of q by K is that
    of an eigenvector, sum_k v_k (v_k dK q) / (l - l_k); where the best rotation is not unique it has no value, and is
    kept finite (the gaps l - l_k, nm^2, count as if none were below 1e-9).

    Parameters
    ----------
    atoms
        Indices in the positions, what `bonded_tree` added included.
    tree
        Its edges.
    references
        Positions (references, count, 3) of the first atoms, nm.
    weights
        Of these atoms in what is measured; they sum to one, and are zero for those that are only superposed.
    superpose
        Their weights in the superposition; None for the same ones.
    n_atoms
        Number of positions.
    """

    def __init__(
        self,
        atoms: Sequence[int],
        tree: np.ndarray,
        references: np.ndarray,
        weights: np.ndarray,
        superpose: np.ndarray | None,
        n_atoms: int,
    ):
        super().__init__()
        self.whole = Whole(atoms, tree, n_atoms, range(len(weights)))
        self.same: bool = superpose is None
        center = weights if superpose is None else superpose
        centered = references - np.einsum("a,rai->ri", center, references)[:, None]
        squares = (centered**2).sum(-1) @ weights
        self.count, self.steps = len(references), _STEPS

        def correlation(by: np.ndarray) -> np.ndarray:
            return (by[:, None] * centered).transpose(0, 2, 1).reshape(-1, len(by))

        self.register_buffer("center", two_parts(center[None]))
        self.register_buffer("weights", two_parts(weights))
        self.register_buffer("squares", two_parts(squares))
        self.register_buffer("measured", two_parts(correlation(weights)))
        self.register_buffer("superposed", two_parts(correlation(center)))
        self.register_buffer("key", torch.from_numpy(_key_matrix()).float())

    def keys(self, x: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """The matrices K (..., references, 4, 4)."""
        sums = combined(together(references), x).unflatten(-2, [self.count, 3]).flatten(-2)
        return torch.matmul(sums, self.key.to(x.dtype)).unflatten(-1, [4, 4])

    def many(self, x: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """The largest eigenvalues (..., references) of K for many frames, without eigenvectors.

        Theobald, doi:10.1107/S0108767305015266: they are roots of a quartic whose coefficients follow from the sums
        that make up K, and not above the mean of both sizes. Laguerre's steps from there cube the error in each; where
        the two largest coincide they quarter it.
        """
        s = inner(combined(together(self.superposed), x)).unflatten(1, [self.count, 3])
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
        of_minors = torch.stack(minors).square().sum(0)
        c2, c1, c0 = -2.0 * squares, -8.0 * determinant, squares * squares - 4.0 * of_minors
        found = 0.5 * (size.movedim(-1, 0) + together(self.squares).unsqueeze(-1))
        for _ in range(self.steps):
            square = found * found
            value = torch.addcmul(c0, torch.addcmul(c1, square + c2, found), found)
            slope = torch.addcmul(c1, 4.0 * square + 2.0 * c2, found)
            bend = 12.0 * square + 2.0 * c2
            under = torch.clamp(9.0 * slope * slope - 12.0 * value * bend, min=0.0)
            found = found - torch.clamp(4.0 * value / (slope + torch.sqrt(under) + 1e-300), min=0.0)
        return found.movedim(0, -1)

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        # what is left near the reference is the difference of large numbers
        x = self.whole(positions, box).to(torch.float64)
        x = x - combined(together(self.center), x)
        size = (squared_lengths(x) * together(self.weights)).sum(-1, keepdim=True)
        if self.same and x.dim() == 3 and not x.requires_grad:
            squares = torch.clamp(size + together(self.squares) - 2.0 * self.many(x, size), min=0.0)
            return root(squares, 1e-16).to(positions.dtype)
        key = self.keys(x, self.superposed)
        values, vectors = torch.linalg.eigh(key.detach())
        q = vectors[..., 3].unsqueeze(-1)
        if not self.same:
            gaps = values[..., 3:] - values
            inverse = (gaps / (gaps * gaps + 1e-18)).unsqueeze(-1)
            change = torch.matmul(key - key.detach(), q)
            q = q + torch.matmul(vectors, inverse * torch.matmul(vectors.transpose(-1, -2), change))
            key = self.keys(x, self.measured)
        overlap = (key * q * q.transpose(-1, -2)).sum([-2, -1])
        squares = torch.clamp(size + together(self.squares) - 2.0 * overlap, min=0.0)
        return root(squares, 1e-16).to(positions.dtype)


class _RMSDSettings(Settings):
    of: Any
    reference: Any
    superpose: Any = None
    weights: Literal["mass", "equal"] = "equal"


class RMSDDescriptor(Descriptor):
    """``{of: selection, reference: file, superpose: selection, weights: equal}``; one row an entry.

    ``reference`` may be several files, each of whose models is a column, or ``{positions: ...}`` in nm of the atoms of
    ``of``, then of those in ``superpose`` alone.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validated(_RMSDSettings, value, where, "write {of: selection, reference: file.pdb}")
        topology = labels.topology
        of = atoms_of(topology, settings.of, f"{where}.of")
        superpose = of if settings.superpose is None else atoms_of(topology, settings.superpose, f"{where}.superpose")
        if len(superpose) < _FEWEST:
            key = "of" if settings.superpose is None else "superpose"
            raise SettingsError(f"{where}.{key}: needs {_FEWEST} atoms or more to superpose, finds {len(superpose)}.")
        chosen = list(dict.fromkeys([*of, *superpose]))
        normal, references, names = read_references(settings.reference, labels, chosen, f"{where}.reference")
        weights, others = (self._weights(labels, chosen, some, settings.weights, where) for some in (of, superpose))
        same = set(of) == set(superpose)
        atoms, tree = bonded_tree(topology, chosen)
        words = words_of(settings.of, of, labels)
        if not same:
            words += f" over {words_of(settings.superpose, superpose, labels)}"
        words += " by mass" * (settings.weights == "mass")
        columns = [f"rmsd of {words} from {name}" for name in names]
        row = Row(tuple(atoms), "; ".join(columns), (columns, tree, references, weights, None if same else others))
        return Entry({**settings.model_dump(mode="json", exclude_none=True), "reference": normal}, [row])

    @staticmethod
    def _weights(labels: Labels, atoms: list[int], some: list[int], kind: str, where: str) -> np.ndarray:
        places = {atom: place for place, atom in enumerate(atoms)}
        weights = np.zeros(len(atoms))
        weights[[places[atom] for atom in some]] = relative_weights(labels.topology, some, kind, where)
        return weights

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(name, "nm") for row in rows for name in row.settings[0]]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules = [RMSD(row.atoms, *row.settings[1:], n_atoms) for row in rows]
        return side_by_side(modules)
