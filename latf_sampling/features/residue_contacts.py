"""Smallest distances between residues, as soft minima."""

from __future__ import annotations

from itertools import groupby, product
from typing import TYPE_CHECKING, Annotated, Any, Literal

import mdtraj
import numpy as np
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import Column, Descriptor, Entry, Term, refuse_too_many, select_atoms, validate
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import InverseLength, Settings

if TYPE_CHECKING:
    import torch


MAX_PAIRS = 2**16
"""Pairs of atoms in one module; more are divided among several modules, to limit memory."""


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
        from latf_sampling.features.modules.concatenation import concatenate
        from latf_sampling.features.modules.residue_contacts import SoftMinima

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
