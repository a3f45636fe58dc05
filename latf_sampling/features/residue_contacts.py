"""Smallest distances between residues, as a soft minimum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, product
from typing import Annotated, Any, Literal

import mdtraj
import numpy as np
import torch
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import Column, Descriptor, Entry, Row, Settings, select, side_by_side, validated
from latf_sampling.features.periodic import Differences, squared_lengths
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import InverseLength

_CLOSEST = 1e-8  # nm^2; added to squares of distances, which takes 5e-9 nm^2 / d of a distance d
_MOST_PAIRS = 2**16  # of atoms in one module; more are measured one part after the other
_CACHED = 512  # of many frames, whose differences then stay in a processor's cache


class SoftMinima(torch.nn.Module):
    """Soft minima of groups of distances, nm, (..., n, 3) -> (..., groups).

        d = beta / ln(sum_i exp(beta / r_i)),

    which is below the smallest of the distances r_i, and the closer to it the larger beta is: MDTraj's
    ``compute_contacts(soft_min=True)`` and PLUMED's MINDIST. The exponents are taken relative to the largest, so that
    nothing overflows, and r_i^2 + (1e-4 nm)^2 instead of r_i^2 keeps values and gradients finite at coincident atoms.

    Parameters
    ----------
    groups
        Of each the pairs of atoms (pairs, 2).
    beta
        1/nm.
    n_atoms
        Number of positions.
    """

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
        # rows of equal length: the shorter ones repeat their first pair, which then does not count
        places = (ends - sizes)[:, None] + np.where(real, column, 0)
        self.register_buffer("places", torch.from_numpy(places))
        self.register_buffer("real", torch.from_numpy(real.astype(np.float32)))
        # parts of the table: first and last group, first and last pair, longest group
        parts, first = [], 0
        for last in range(1, len(groups) + 1):
            if last == len(groups) or ends[last] - (ends - sizes)[first] > _CACHED:
                part = [first, last, (ends - sizes)[first], ends[last - 1], sizes[first:last].max()]
                parts.append([int(number) for number in part])
                first = last
        self.parts = parts

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        if positions.dim() == 2:
            return self.minima(self.differences(positions, box), self.places, self.real)
        columns: list[torch.Tensor] = []
        for first, last, start, stop, longest in self.parts:
            vectors = self.differences.some(positions, box, start, stop)
            found = self.minima(vectors, self.places[first:last, :longest] - start, self.real[first:last, :longest])
            columns.append(found.movedim(-1, 0))
        return torch.cat(columns).movedim(0, -1)

    def minima(self, vectors: torch.Tensor, places: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        inverse = torch.rsqrt(torch.add(self.least, squared_lengths(vectors), alpha=self.scale))  # beta / r
        inverse = inverse.movedim(-1, 0).index_select(0, places.flatten()).movedim(0, -1).unflatten(-1, places.shape)
        largest = _largest(inverse.detach())
        terms = torch.exp(inverse - largest) * real
        return self.beta / (torch.log(terms.sum(-1)) + largest.squeeze(-1))


def _largest(values: torch.Tensor) -> torch.Tensor:
    """Largest along the last dimension, which stays."""
    if values.dim() > 2:  # of many frames, by halves: several times faster than along a dimension that is not innermost
        while values.shape[-1] > 1:
            half = (values.shape[-1] + 1) // 2
            values = torch.maximum(values[..., :half], values[..., values.shape[-1] - half :])
        return values
    return values.amax(-1, keepdim=True)


class _ResidueSettings(Settings):
    between: str
    and_: str | None = Field(None, alias="and")
    scheme: Literal["closest-heavy", "closest", "ca", "sidechain-heavy", "sidechain"] = "closest-heavy"
    skip: Annotated[int, Field(strict=True, ge=0)] = 3
    beta: InverseLength = 20.0


class ResidueContactDescriptor(Descriptor):
    """``{between: selection, and: selection, scheme: closest-heavy, skip: 3, beta: "20 /nm"}``; a row a pair.

    The selections pick residues, by any of their atoms; the scheme says which atoms of these count.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validated(_ResidueSettings, value, where, "write {between: protein, skip: 3, scheme: closest-heavy}")
        topology = labels.topology
        first = _residues(topology, settings.between, f"{where}.between")
        second = first if settings.and_ is None else _residues(topology, settings.and_, f"{where}.and")
        pairs = dict.fromkeys((min(p), max(p)) for p in product(first, second) if p[0] != p[1])
        found = [(i, j) for i, j in pairs if j - i >= settings.skip]
        if not found:
            raise SettingsError(f"{where}.skip: no two selected residues are {settings.skip} or more apart.")
        members = {
            residue: _members(topology.residue(residue), settings.scheme, labels, where)
            for residue in sorted({residue for pair in found for residue in pair})
        }
        words = settings.scheme + f", beta {settings.beta:g} /nm" * (settings.beta != 20.0)
        rows = []
        for i, j in found:
            names = " ".join(labels.residue(members[residue][0]) for residue in (i, j))
            label = f"smallest distance {names} ({words})"
            rows.append(Row((*members[i], *members[j]), label, (len(members[i]), settings.beta)))
        return Entry(settings.model_dump(mode="json", by_alias=True, exclude_none=True), rows)

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(row.label, "nm") for row in rows]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules: list[torch.nn.Module] = []
        for beta, alike in groupby(rows, key=lambda row: row.settings[1]):
            part: list[np.ndarray] = []
            for row in alike:
                first, second = row.atoms[: row.settings[0]], row.atoms[row.settings[0] :]
                pairs = np.array(list(product(first, second)))
                if part and (len(part) + 1) * max(len(pairs), *(len(p) for p in part)) > _MOST_PAIRS:
                    modules.append(SoftMinima(part, beta, n_atoms))
                    part = []
                part.append(pairs)
            modules.append(SoftMinima(part, beta, n_atoms))
        return side_by_side(modules)


def _residues(topology: mdtraj.Topology, selection: str, where: str) -> list[int]:
    return sorted({topology.atom(atom).residue.index for atom in select(topology, selection, where)})


def _members(residue: Any, scheme: str, labels: Labels, where: str) -> list[int]:
    """Atoms of a residue that count."""
    # as in MDTraj, the hydrogens of glycine stand for its side chain
    heavy = scheme == "closest-heavy" or (scheme == "sidechain-heavy" and residue.name != "GLY")
    found = [
        atom.index
        for atom in residue.atoms
        if not (heavy and atom.element is not None and atom.element.symbol == "H")
        and (scheme != "ca" or atom.name == "CA")
        and (not scheme.startswith("sidechain") or atom.is_sidechain)
    ]
    if not found:
        raise SettingsError(
            f"{where}.scheme: '{scheme}' finds no atom of {labels.residue(next(residue.atoms).index)}; leave the "
            "residue out of the selection, or take another scheme."
        )
    return found
