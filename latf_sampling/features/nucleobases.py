"""Nucleobase geometry: how bases lie to each other (G-vectors), and the distance to references that it defines."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import pi
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import (
    Column,
    Descriptor,
    Entry,
    Index,
    Row,
    Settings,
    side_by_side,
    validated,
)
from latf_sampling.features.nucleotides import Nucleotide, chosen_nucleotides, nucleotides
from latf_sampling.features.periodic import Differences, cross, dot, gathered, joined, squared_lengths
from latf_sampling.features.references import read_references
from latf_sampling.features.topology import Labels

_SCALE = (0.5, 0.5, 0.3)  # nm; along x, y, z of a base's frame
_COLLAPSED = 1e-16  # nm^2 and nm^4; squared length of an axis where a base ceases to have a frame
_NEAR = 1e-12  # squared scaled distance below which its root is rounded off


class GVectors(torch.nn.Module):
    """How some bases lie in the frames of others, (..., n, 3) -> (..., 4 * pairs), no unit.

    Columns are the first components, x, of all pairs, then y, z, and the fourth, w.

    The frame of a base has its origin in the centre of C2, C4 and C6, x points to C2, and z is the normal of the plane
    (along x cross C6 of purines, x cross C4 of pyrimidines, so that the z of all bases in a strand point alike). With s
    the centre of the second base in the frame of the first, scaled to (x / 0.5 nm, y / 0.5 nm, z / 0.3 nm), and a
    cut-off c, the G-vector is

        G = (s sin(pi |s| / c) / |s|, 1 + cos(pi |s| / c)) c / pi   for |s| < c, and 0 beyond:

    Bottaro, Di Palma and Bussi, Nucleic Acids Res. 42, 13306 (2014), doi:10.1093/nar/gku972. It is continuous
    everywhere; at the cut-off its first three components have a kink (of slope one), the fourth is smooth. It is
    evaluated as sin(pi |s| / c) / |s| = (pi / c) sinc(|s| / 2c) w and 1 + cos(pi |s| / c) = 2 w^2 with
    w = sin(pi (1 - |s| / c) / 2), which has no pole at 0 and is exactly zero at the cut-off and beyond.

    In a box the shortest image of the vector between the centres counts; all its widths have to exceed 1 nm times the
    cut-off, so that no base sees another one twice.

    Parameters
    ----------
    bases : shape (bases, 3)
        Indices in the positions: C2, then C6 and C4 of a purine, C4 and C6 of a pyrimidine.
    pairs : shape (pairs, 2)
        Which base (an index of `bases`) gives the frame, and which one is looked at.
    n_atoms
        Number of positions.
    cutoff
        c above.
    """

    def __init__(self, bases: np.ndarray, pairs: np.ndarray, n_atoms: int, cutoff: float = 2.4):
        super().__init__()
        self.bases, self.pairs = len(bases), len(pairs)
        self.edges = Differences(np.tile(bases[:, 0], 2), bases[:, 1:].T.ravel(), n_atoms)
        self.between = Differences(pairs[:, 0], pairs[:, 1], len(bases))
        self.cutoff = cutoff
        self.quarter, self.height = pi / 2, 2 * cutoff / pi  # TorchScript sees no constant of the file
        self.collapsed, self.near = _COLLAPSED, _NEAR
        self.register_buffer("first", torch.from_numpy(np.ascontiguousarray(bases[:, 0])))
        frames = pairs[:, 0] + len(bases) * np.arange(3)[:, None]  # rows of x, then those of y and z
        self.register_buffer("frames", torch.from_numpy(frames.ravel()))
        self.register_buffer("scale", 1 / torch.tensor(_SCALE).unsqueeze(-1))

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        second, third = torch.split(self.edges(positions, box), [self.bases, self.bases], -2)
        centre = (second + third) / 3  # from C2
        between = self.between(gathered(positions, self.first) + centre, box)
        z = cross(second, third)
        axes = joined([-centre, cross(centre, z), z])  # x points from the centre to C2
        axes = axes * torch.rsqrt(squared_lengths(axes) + self.collapsed).unsqueeze(-1)
        s = dot(gathered(axes, self.frames), joined([between, between, between]))
        s = s.unflatten(-1, [3, self.pairs]) * self.scale
        squares = (s * s).sum(-2, keepdim=True)
        t = torch.clamp(squares * torch.rsqrt(squares + self.near) / self.cutoff, max=1.0)
        w = torch.sin((1.0 - t) * self.quarter)
        return torch.cat([s * (torch.sinc(0.5 * t) * w), (w * w) * self.height], -2).flatten(-2)


class Ermsd(torch.nn.Module):
    """Distances from references in G-vectors, (..., n, 3) -> (..., references), no unit.

    eRMSD = sqrt(sum |G_jk - G_jk of the reference|^2 / number of bases), over all ordered pairs of bases jk: Bottaro,
    Di Palma and Bussi (2014), see `GVectors`. No superposition is needed. Where it is zero, so is its gradient.

    Parameters
    ----------
    bases, n_atoms, cutoff
        As for `GVectors`.
    references : shape (references, bases, 3, 3)
        Positions of the atoms of ``bases`` in each reference, whole, nm.
    """

    def __init__(self, bases: np.ndarray, references: np.ndarray, n_atoms: int, cutoff: float = 2.4):
        super().__init__()
        pairs = np.array([(i, j) for i, j in product(range(len(bases)), repeat=2) if i != j])
        self.gvectors = GVectors(bases, pairs, n_atoms, cutoff)
        own = GVectors(np.arange(bases.size).reshape(-1, 3), pairs, bases.size, cutoff).double()
        # divided beforehand, so that the norm of the difference is the eRMSD
        self.weight = len(bases) ** -0.5
        self.register_buffer("references", self.weight * own(torch.from_numpy(references).flatten(1, 2)))
        self.references = self.references.float()

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        mine = self.weight * self.gvectors(positions, box)
        return torch.linalg.vector_norm(mine.unsqueeze(-2) - self.references, dim=-1)


_Cutoff = Annotated[float, Field(gt=0)]


class _Pairs(Settings):
    pairs: tuple[tuple[Index, Index], ...] = Field(min_length=1)
    cutoff: _Cutoff = 2.4


class _Between(Settings):
    between: str
    and_: str | None = Field(None, alias="and")
    skip: Annotated[int, Field(strict=True, ge=0)] = 0
    cutoff: _Cutoff = 2.4


class NucleobaseDescriptor(Descriptor):
    """A selection, ``{between: selection, and: selection, skip: k}``, or ``{pairs: [[i, j], ...]}`` of residues."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        help_ = "write a selection, {between: selection, and: selection, skip: residues}, or {pairs: [[0, 1]]}"
        if isinstance(value, Mapping) and "pairs" in value:
            settings = validated(_Pairs, value, where, help_)
            known = {nucleotide.residue.index: nucleotide for nucleotide in nucleotides(labels.topology)}
            pairs = []
            for position, (first, second) in enumerate(settings.pairs):
                for residue in (first, second):
                    if residue not in known:
                        raise SettingsError(f"{where}.pairs[{position}]: residue {residue} is no nucleotide.")
                if first == second:
                    raise SettingsError(f"{where}.pairs[{position}]: {[first, second]} names a residue twice.")
                pairs.append((known[first], known[second]))
        else:
            key = where if isinstance(value, str) else f"{where}.between"
            settings = validated(_Between, {"between": value} if isinstance(value, str) else value, where, help_)
            first = chosen_nucleotides(labels.topology, settings.between, key)
            second = first
            if settings.and_ is not None:
                second = chosen_nucleotides(labels.topology, settings.and_, f"{where}.and")
            ways = [*product(first, second), *product(second, first)]
            pairs = [(i, j) for i, j in ways if i.residue.index != j.residue.index]
            if not pairs:
                raise SettingsError(f"{key}: '{settings.between}' selects one nucleotide only; a pair needs two.")
            pairs = [(i, j) for i, j in pairs if abs(i.residue.index - j.residue.index) >= settings.skip]
            if not pairs:
                raise SettingsError(f"{where}.skip: no two nucleotides are {settings.skip} or more residues apart.")
        names = {k.residue.index: labels.residue(k.sugar[0]).replace(" ", "") for pair in pairs for k in pair}
        rows = {}
        for i, j in pairs:
            atoms = _base(i, where) + _base(j, where)
            label = f"{names[i.residue.index]} {names[j.residue.index]}"
            if settings.cutoff != 2.4:
                label += f" within {settings.cutoff:g}"
            rows[atoms] = Row(atoms, label, settings.cutoff)
        return Entry(settings.model_dump(mode="json", by_alias=True, exclude_none=True), list(rows.values()))

    def columns(self, rows: list[Row]) -> list[Column]:
        groups = [group for _, group in _by_cutoff(rows)]
        return [Column(f"gvector {part} {row.label}") for group in groups for part in "xyzw" for row in group]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules: list[torch.nn.Module] = []
        for cutoff, group in _by_cutoff(rows):
            bases = list(dict.fromkeys(base for row in group for base in (row.atoms[:3], row.atoms[3:])))
            pairs = [[bases.index(row.atoms[:3]), bases.index(row.atoms[3:])] for row in group]
            modules.append(GVectors(np.array(bases), np.array(pairs), n_atoms, cutoff))
        return side_by_side(modules)


class _ErmsdSettings(Settings):
    of: str
    reference: Any
    cutoff: _Cutoff = 2.4


class ErmsdDescriptor(Descriptor):
    """``{of: selection, reference: file or files, cutoff: 2.4}``; a column a reference."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validated(_ErmsdSettings, value, where, "write {of: selection, reference: file}")
        found = chosen_nucleotides(labels.topology, settings.of, f"{where}.of")
        if len(found) < 2:
            raise SettingsError(f"{where}.of: '{settings.of}' selects one nucleotide only; an eRMSD needs two.")
        atoms = tuple(atom for nucleotide in found for atom in _base(nucleotide, f"{where}.of"))
        plain, positions, names = read_references(settings.reference, labels, atoms, f"{where}.reference")
        label = f"ermsd within {settings.cutoff:g} from {positions.tolist()}"
        spec = {"of": settings.of, "reference": plain, "cutoff": settings.cutoff}
        return Entry(spec, [Row(atoms, label, (names, positions, settings.cutoff))])

    def columns(self, rows: list[Row]) -> list[Column]:
        names = []
        for index, row in enumerate(rows):
            noun = "ermsd" if len(rows) == 1 else f"ermsd#{index}"
            names += [f"{noun} {name}" for name in row.settings[0]]
        return [Column(name) for name in names]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules: list[torch.nn.Module] = []
        for row in rows:
            _, positions, cutoff = row.settings
            bases = np.array(row.atoms).reshape(-1, 3)
            modules.append(Ermsd(bases, positions.reshape(len(positions), -1, 3, 3), n_atoms, cutoff))
        return side_by_side(modules)


def _base(nucleotide: Nucleotide, where: str) -> tuple[int, ...]:
    if not nucleotide.base:
        residue = nucleotide.residue
        raise SettingsError(f"{where}: nucleotide {residue.name} {residue.resSeq} lacks C2, C4 or C6 of its base.")
    return nucleotide.base


def _by_cutoff(rows: list[Row]) -> list[tuple[float, list[Row]]]:
    cutoffs = dict.fromkeys(row.settings for row in rows)
    return [(cutoff, [row for row in rows if row.settings == cutoff]) for cutoff in cutoffs]
