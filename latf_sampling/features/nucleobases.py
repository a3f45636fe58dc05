"""Relative arrangement of nucleobases (G-vectors), and the distance from references in G-vectors (eRMSD)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import Column, Descriptor, Entry, Index, Term, validate
from latf_sampling.features.nucleotides import Nucleotide, nucleotides, selected_nucleotides
from latf_sampling.features.references import read_references
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


_Cutoff = Annotated[float, Field(gt=0)]


class _Pairs(Settings):
    pairs: tuple[tuple[Index, Index], ...] = Field(min_length=1)
    cutoff: _Cutoff = 2.4


class _Between(Settings):
    between: str
    and_: str | None = Field(None, alias="and")
    skip: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 0
    cutoff: _Cutoff = 2.4


class NucleobaseDescriptor(Descriptor):
    """A selection, ``{between: selection, and: selection, skip: k}``, or ``{pairs: [[i, j], ...]}`` of residues."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        usage = "write a selection, {between: selection, and: selection, skip: residues}, or {pairs: [[0, 1]]}"
        if isinstance(value, Mapping) and "pairs" in value:
            settings = validate(_Pairs, value, where, usage)
            known = {nucleotide.residue.index: nucleotide for nucleotide in nucleotides(labels.topology)}
            pairs = []
            for position, (first, second) in enumerate(settings.pairs):
                for residue in (first, second):
                    if residue not in known:
                        raise SettingsError(f"{where}.pairs[{position}]: residue {residue} is not a nucleotide.")
                if first == second:
                    raise SettingsError(f"{where}.pairs[{position}]: {[first, second]} names a residue twice.")
                pairs.append((known[first], known[second]))
        else:
            key = where if isinstance(value, str) else f"{where}.between"
            settings = validate(_Between, {"between": value} if isinstance(value, str) else value, where, usage)
            first = selected_nucleotides(labels.topology, settings.between, key)
            second = first
            if settings.and_ is not None:
                second = selected_nucleotides(labels.topology, settings.and_, f"{where}.and")
            ordered = [*product(first, second), *product(second, first)]
            pairs = [(i, j) for i, j in ordered if i.residue.index != j.residue.index]
            if not pairs:
                raise SettingsError(f"{key}: '{settings.between}' selects one nucleotide only; a pair needs two.")
            pairs = [(i, j) for i, j in pairs if abs(i.residue.index - j.residue.index) >= settings.skip]
            if not pairs:
                raise SettingsError(f"{where}.skip: no two nucleotides are {settings.skip} or more residues apart.")
        names = {k.residue.index: labels.residue(k.sugar[0]).replace(" ", "") for pair in pairs for k in pair}
        terms = {}
        for i, j in pairs:
            atoms = _base(i, where) + _base(j, where)
            label = f"{names[i.residue.index]} {names[j.residue.index]}"
            if settings.cutoff != 2.4:
                label += f" within {settings.cutoff:g}"
            terms[atoms] = Term(atoms, label, settings.cutoff)
        return Entry(settings.model_dump(mode="json", by_alias=True, exclude_none=True), list(terms.values()))

    def columns(self, terms: list[Term]) -> list[Column]:
        groups = [group for _, group in _by_cutoff(terms)]
        return [Column(f"gvector {part} {term.label}") for group in groups for part in "xyzw" for term in group]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.concatenation import concatenate
        from latf_sampling.features.modules.nucleobases import GVectors

        modules: list[torch.nn.Module] = []
        for cutoff, group in _by_cutoff(terms):
            bases = list(dict.fromkeys(base for term in group for base in (term.atoms[:3], term.atoms[3:])))
            pairs = [[bases.index(term.atoms[:3]), bases.index(term.atoms[3:])] for term in group]
            modules.append(GVectors(np.array(bases), np.array(pairs), n_atoms, cutoff))
        return concatenate(modules)


class _ErmsdSettings(Settings):
    of: str
    reference: Any
    cutoff: _Cutoff = 2.4


class ErmsdDescriptor(Descriptor):
    """``{of: selection, reference: file or files, cutoff: 2.4}``; a column for each reference."""

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validate(_ErmsdSettings, value, where, "write {of: selection, reference: file}")
        selected = selected_nucleotides(labels.topology, settings.of, f"{where}.of")
        if len(selected) < 2:
            raise SettingsError(f"{where}.of: '{settings.of}' selects one nucleotide only; an eRMSD needs two.")
        atoms = tuple(atom for nucleotide in selected for atom in _base(nucleotide, f"{where}.of"))
        normal_form, positions, names = read_references(settings.reference, labels, atoms, f"{where}.reference")
        label = f"ermsd within {settings.cutoff:g} from {positions.tolist()}"
        spec = {"of": settings.of, "reference": normal_form, "cutoff": settings.cutoff}
        return Entry(spec, [Term(atoms, label, (names, positions, settings.cutoff))])

    def columns(self, terms: list[Term]) -> list[Column]:
        names = []
        for index, term in enumerate(terms):
            noun = "ermsd" if len(terms) == 1 else f"ermsd#{index}"
            names += [f"{noun} {name}" for name in term.settings[0]]
        return [Column(name) for name in names]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.concatenation import concatenate
        from latf_sampling.features.modules.nucleobases import Ermsd

        modules: list[torch.nn.Module] = []
        for term in terms:
            _, positions, cutoff = term.settings
            bases = np.array(term.atoms).reshape(-1, 3)
            modules.append(Ermsd(bases, positions.reshape(len(positions), -1, 3, 3), n_atoms, cutoff))
        return concatenate(modules)


def _base(nucleotide: Nucleotide, where: str) -> tuple[int, ...]:
    if not nucleotide.base:
        residue = nucleotide.residue
        raise SettingsError(f"{where}: nucleotide {residue.name} {residue.resSeq} lacks C2, C4 or C6 of its base.")
    return nucleotide.base


def _by_cutoff(terms: list[Term]) -> list[tuple[float, list[Term]]]:
    cutoffs = dict.fromkeys(term.settings for term in terms)
    return [(cutoff, [term for term in terms if term.settings == cutoff]) for cutoff in cutoffs]
