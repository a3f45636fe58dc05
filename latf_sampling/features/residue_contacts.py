"""Smallest distances between residues, as soft minima."""

from collections.abc import Sequence
from itertools import groupby, product
from typing import Annotated, Any, Literal

import mdtraj
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Term,
    concatenate,
    refuse_too_many,
    select_atoms,
    validate,
)
from latf_sampling.features.periodic import Differences, squared_lengths
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import InverseLength, Settings

MAX_PAIRS = 2**16
"""Pairs of atoms in one module; more are divided among several modules, to limit memory."""
_CLOSEST = 1e-8  # nm^2; added to squares of distances, which makes a distance d longer by 5e-9 nm^2 / d
_CACHED = 512  # pairs at a time for many frames, whose differences then stay in a processor's cache


class SoftMinima(torch.nn.Module):
    """Soft minima of groups of distances, nm, (..., n, 3) -> (..., groups).

        d = beta / ln(sum_i exp(beta / r_i)),

    which is below the smallest of the distances r_i and approaches it as beta grows, as in MDTraj's
    ``compute_contacts(soft_min=True)`` and PLUMED's MINDIST. The exponents are taken relative to the largest, so that
    nothing overflows, and r_i^2 + (1e-4 nm)^2 instead of r_i^2 keeps values and gradients finite at coincident atoms.

    Parameters
    ----------
    groups
        Pairs of atoms (pairs, 2) of each group.
    beta
        1/nm.
    n_atoms
        Number of positions.
    """

    least: Tensor
    indices: Tensor
    real: Tensor

    def __init__(self, groups: Sequence[np.ndarray], beta: float, n_atoms: int):
        super().__init__()
        pairs = np.concatenate(groups)
        self.differences = Differences(pairs[:, 0], pairs[:, 1], n_atoms)
        self.beta, self.scale = beta, beta**-2
        self.register_buffer("least", torch.tensor(_CLOSEST * beta**-2))
        sizes = np.array([len(group) for group in groups])
        ends = np.cumsum(sizes)
        column = np.arange(sizes.max())
        real = column < sizes[:, None]
        # rows of equal length: shorter groups repeat their first pair, with weight zero
        indices = (ends - sizes)[:, None] + np.where(real, column, 0)
        self.register_buffer("indices", torch.from_numpy(indices))
        self.register_buffer("real", torch.from_numpy(real.astype(np.float32)))
        # parts of the table: first and last group, first and last pair, longest group
        parts, first = [], 0
        for last in range(1, len(groups) + 1):
            if last == len(groups) or ends[last] - (ends - sizes)[first] > _CACHED:
                part = [first, last, (ends - sizes)[first], ends[last - 1], sizes[first:last].max()]
                parts.append([int(number) for number in part])
                first = last
        self.parts = parts

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        if positions.dim() == 2:
            return self.minima(self.differences(positions, box), self.indices, self.real)
        columns: list[Tensor] = []
        for first, last, start, stop, longest in self.parts:
            vectors = self.differences.subset(positions, box, start, stop)
            indices = self.indices[first:last, :longest] - start
            minima = self.minima(vectors, indices, self.real[first:last, :longest])
            columns.append(minima.movedim(-1, 0))
        return torch.cat(columns).movedim(0, -1)

    def minima(self, vectors: Tensor, indices: Tensor, real: Tensor) -> Tensor:
        """Soft minima of the lengths of vectors (..., pairs, 3), in groups that are the rows of ``indices``."""
        inverse = torch.rsqrt(torch.add(self.least, squared_lengths(vectors), alpha=self.scale))  # beta / r
        inverse = inverse.movedim(-1, 0).index_select(0, indices.flatten()).movedim(0, -1).unflatten(-1, indices.shape)
        largest = _largest(inverse.detach())
        terms = torch.exp(inverse - largest) * real
        return self.beta / (torch.log(terms.sum(-1)) + largest.squeeze(-1))


def _largest(values: Tensor) -> Tensor:
    """Largest values along the last dimension, which is kept."""
    if values.dim() > 2:  # many frames: halving is several times faster, as this dimension is not innermost in memory
        while values.shape[-1] > 1:
            half = (values.shape[-1] + 1) // 2
            values = torch.maximum(values[..., :half], values[..., values.shape[-1] - half :])
        return values
    return values.amax(-1, keepdim=True)


class _ResidueSettings(Settings):
    between: str
    and_: str | None = Field(None, alias="and")
    scheme: Literal["closest-heavy", "closest", "ca", "sidechain-heavy", "sidechain"] = "closest-heavy"
    skip: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 3
    beta: InverseLength = 20.0


class ResidueContactDescriptor(Descriptor):
    """``{between: selection, and: selection, scheme: closest-heavy, skip: 3, beta: "20 /nm"}``; a term is one pair.

    Residues are selected by any of their atoms; the scheme says which of their atoms count.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validate(_ResidueSettings, value, where, "write {between: protein, skip: 3, scheme: closest-heavy}")
        topology = labels.topology
        first = _residues(topology, settings.between, f"{where}.between")
        second = first if settings.and_ is None else _residues(topology, settings.and_, f"{where}.and")
        refuse_too_many(len(first) * len(second) // (1 if settings.and_ else 2), f"{where}.between")
        pairs = dict.fromkeys((min(p), max(p)) for p in product(first, second) if p[0] != p[1])
        separated = [(i, j) for i, j in pairs if j - i >= settings.skip]
        if not separated:
            raise SettingsError(f"{where}.skip: no two selected residues are {settings.skip} or more apart.")
        members = {
            residue: _members(topology.residue(residue), settings.scheme, labels, where)
            for residue in sorted({residue for pair in separated for residue in pair})
        }
        description = settings.scheme + f", beta {settings.beta:g} /nm" * (settings.beta != 20.0)
        terms = []
        for i, j in separated:
            names = " ".join(labels.residue(members[residue][0]) for residue in (i, j))
            label = f"smallest distance {names} ({description})"
            terms.append(Term((*members[i], *members[j]), label, (len(members[i]), settings.beta)))
        return Entry(settings.model_dump(mode="json", by_alias=True, exclude_none=True), terms)

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(term.label, "nm") for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        modules: list[torch.nn.Module] = []
        for beta, alike in groupby(terms, key=lambda term: term.settings[1]):
            part: list[np.ndarray] = []
            for term in alike:
                first, second = term.atoms[: term.settings[0]], term.atoms[term.settings[0] :]
                pairs = np.array(list(product(first, second)))
                if part and (len(part) + 1) * max(len(pairs), *(len(p) for p in part)) > MAX_PAIRS:
                    modules.append(SoftMinima(part, beta, n_atoms))
                    part = []
                part.append(pairs)
            modules.append(SoftMinima(part, beta, n_atoms))
        return concatenate(modules)


def _residues(topology: mdtraj.Topology, selection: str, where: str) -> list[int]:
    """Indices of the residues that have an atom in a selection."""
    return sorted({topology.atom(atom).residue.index for atom in select_atoms(topology, selection, where)})


def _members(residue: Any, scheme: str, labels: Labels, where: str) -> list[int]:
    """Atoms of a residue that count in a scheme."""
    # as in MDTraj, the hydrogens of glycine are its side chain
    heavy = scheme == "closest-heavy" or (scheme == "sidechain-heavy" and residue.name != "GLY")
    members = [
        atom.index
        for atom in residue.atoms
        if not (heavy and atom.element is not None and atom.element.symbol == "H")
        and (scheme != "ca" or atom.name == "CA")
        and (not scheme.startswith("sidechain") or atom.is_sidechain)
    ]
    if not members:
        raise SettingsError(
            f"{where}.scheme: '{scheme}' finds no atom of {labels.residue(next(residue.atoms).index)}; leave the "
            "residue out of the selection, or take another scheme."
        )
    return members
