"""Fraction of native contacts."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.contacts import sum_term
from latf_sampling.features.descriptor import Column, Descriptor, Entry, Term, atom_indices, describe_atoms, validate
from latf_sampling.features.references import read_references
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import InverseLength, Length, Settings

if TYPE_CHECKING:
    import torch


class _NativeSettings(Settings):
    of: Any
    reference: Any
    cutoff: Length = 0.45
    beta: InverseLength = 50.0
    lambda_: Annotated[float, Field(ge=1)] = Field(1.8, alias="lambda")
    skip: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = 4
    each: bool = False


class NativeContactDescriptor(Descriptor):
    """``{of: selection, reference: file, cutoff: 0.45 nm, beta: 50 /nm, lambda: 1.8, skip: 4, each: false}``.

    Contacts are pairs of selected atoms within the cut-off in the reference whose residues are at least ``skip`` apart;
    the published definition takes all heavy atoms and residues more than three apart.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validate(_NativeSettings, value, where, "write {of: element != H, reference: native.pdb}")
        atoms = np.array(atom_indices(labels.topology, settings.of, f"{where}.of"))
        normal_form, references, names = read_references(settings.reference, labels, atoms, f"{where}.reference")
        if len(references) > 1:
            raise SettingsError(f"{where}.reference: needs one native structure, got {len(references)}.")
        residues = np.array([labels.topology.atom(int(atom)).residue.index for atom in atoms])
        i, j = np.triu_indices(len(atoms), 1)
        separated = np.abs(residues[i] - residues[j]) >= settings.skip
        i, j = i[separated], j[separated]
        native = np.linalg.norm(references[0][i] - references[0][j], axis=-1)
        near = native < settings.cutoff
        i, j, native = i[near], j[near], native[near]
        if not len(native):
            raise SettingsError(
                f"{where}.cutoff: no two atoms {settings.skip} or more residues apart are within "
                f"{settings.cutoff:g} nm in {names[0]}."
            )
        pairs = [(int(min(pair)), int(max(pair))) for pair in zip(atoms[i], atoms[j])]
        fields, description = _NativeSettings.model_fields, ""
        if settings.beta != fields["beta"].default:
            description += f", beta {settings.beta:g} /nm"
        if settings.lambda_ != fields["lambda_"].default:
            description += f", lambda {settings.lambda_:g}"
        shape = (settings.beta, settings.lambda_)
        if settings.each:
            terms = []
            for pair, r0 in zip(pairs, native):
                label = f"native contact {labels.atom(pair[0])} {labels.atom(pair[1])} in {names[0]}{description}"
                terms.append(Term(pair, label, (shape, [float(r0)], None)))
        else:
            label = f"native contacts of {describe_atoms(settings.of, atoms.tolist(), labels)} in {names[0]}"
            label += f" within {settings.cutoff:g} nm, {settings.skip} residues apart{description}"
            total = sum_term(pairs, label, None)
            terms = [total._replace(settings=(shape, native.tolist(), total.settings[1]))]
        return Entry({**settings.model_dump(mode="json", by_alias=True), "reference": normal_form}, terms)

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(term.label) for term in terms]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.concatenation import concatenate
        from latf_sampling.features.modules.native_contacts import NativeContacts

        modules: list[torch.nn.Module] = []
        for ((beta, lambda_), each), group in groupby(
            terms, key=lambda term: (term.settings[0], term.settings[2] is None)
        ):
            alike = list(group)
            if each:
                native = [r0 for term in alike for r0 in term.settings[1]]
                pairs = np.array([term.atoms for term in alike])
                modules.append(NativeContacts(pairs, native, beta, lambda_, True, n_atoms))
                continue
            for term in alike:
                pairs = np.array(term.atoms)[term.settings[2]]
                modules.append(NativeContacts(pairs, term.settings[1], beta, lambda_, False, n_atoms))
        return concatenate(modules)
