"""Fraction of native contacts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from latf_sampling.errors import SettingsError
from latf_sampling.features.contacts import SwitchedPairs, sum_row
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
from latf_sampling.features.references import read_references
from latf_sampling.features.switching import Fermi
from latf_sampling.features.topology import Labels
from latf_sampling.settings.fields import InverseLength, Length


class NativeContacts(torch.nn.Module):
    """Q = mean over contacts of 1 / (1 + exp(beta (r_ij - lambda r0_ij))), (..., n, 3) -> (..., 1), or each of them.

    Best, Hummer, Eaton, doi:10.1073/pnas.1311599110.

    Parameters
    ----------
    pairs
        Atoms in contact (contacts, 2).
    native
        Their distances r0 in the native structure, nm.
    beta, lambda_
        1/nm, and how much longer than r0 a contact may be.
    each
        Whether to give every contact by itself.
    n_atoms
        Number of positions.
    """

    def __init__(
        self, pairs: np.ndarray, native: Sequence[float], beta: float, lambda_: float, each: bool, n_atoms: int
    ):
        super().__init__()
        self.contacts = SwitchedPairs(pairs, n_atoms, Fermi(torch.tensor(native) * lambda_, 1 / beta))
        self.each: bool = each

    def forward(self, positions: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        values = self.contacts(positions, box)
        return values if self.each else values.mean(-1, keepdim=True)


class _NativeSettings(Settings):
    of: Any
    reference: Any
    cutoff: Length = 0.45
    beta: InverseLength = 50.0
    lambda_: Annotated[float, Field(ge=1)] = Field(1.8, alias="lambda")
    skip: Annotated[int, Field(strict=True, ge=0)] = 4
    each: bool = False


class NativeContactDescriptor(Descriptor):
    """``{of: selection, reference: file, cutoff: 0.45 nm, beta: 50 /nm, lambda: 1.8, skip: 4, each: false}``.

    Contacts are pairs of the selected atoms nearer than the cut-off in the reference, whose residues are ``skip`` or
    more apart: as published, with all heavy atoms and more than three residues.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validated(_NativeSettings, value, where, "write {of: element != H, reference: native.pdb}")
        atoms = np.array(atoms_of(labels.topology, settings.of, f"{where}.of"))
        normal, references, names = read_references(settings.reference, labels, atoms, f"{where}.reference")
        if len(references) > 1:
            raise SettingsError(f"{where}.reference: needs one native structure, got {len(references)}.")
        residues = np.array([labels.topology.atom(int(atom)).residue.index for atom in atoms])
        i, j = np.triu_indices(len(atoms), 1)
        apart = np.abs(residues[i] - residues[j]) >= settings.skip
        i, j = i[apart], j[apart]
        native = np.linalg.norm(references[0][i] - references[0][j], axis=-1)
        near = native < settings.cutoff
        i, j, native = i[near], j[near], native[near]
        if not len(native):
            raise SettingsError(
                f"{where}.cutoff: no two atoms {settings.skip} or more residues apart are within "
                f"{settings.cutoff:g} nm in {names[0]}."
            )
        pairs = [(int(min(pair)), int(max(pair))) for pair in zip(atoms[i], atoms[j])]
        words = ""
        for key, number, unit in (("beta", settings.beta, " /nm"), ("lambda", settings.lambda_, "")):
            if number != _NativeSettings.model_fields["lambda_" if key == "lambda" else key].default:
                words += f", {key} {number:g}{unit}"
        form = (settings.beta, settings.lambda_)
        if settings.each:
            rows = [
                Row(pair, f"native contact {labels.atom(pair[0])} {labels.atom(pair[1])} in {names[0]}{words}", one)
                for pair, one in zip(pairs, [(form, [float(r0)], None) for r0 in native])
            ]
        else:
            of = words_of(settings.of, atoms.tolist(), labels)
            words = f" within {settings.cutoff:g} nm, {settings.skip} residues apart{words}"
            total = sum_row(pairs, f"native contacts of {of} in {names[0]}{words}", None)
            rows = [total._replace(settings=(form, native.tolist(), total.settings[1]))]
        return Entry({**settings.model_dump(mode="json", by_alias=True), "reference": normal}, rows)

    def columns(self, rows: list[Row]) -> list[Column]:
        return [Column(row.label) for row in rows]

    def module(self, rows: list[Row], n_atoms: int) -> torch.nn.Module:
        modules: list[torch.nn.Module] = []
        for (form, each), group in groupby(rows, key=lambda row: (row.settings[0], row.settings[2] is None)):
            alike = list(group)
            if each:
                native = [r0 for row in alike for r0 in row.settings[1]]
                modules.append(NativeContacts(np.array([row.atoms for row in alike]), native, *form, True, n_atoms))
                continue
            for row in alike:
                pairs = np.array(row.atoms)[row.settings[2]]
                modules.append(NativeContacts(pairs, row.settings[1], *form, False, n_atoms))
        return side_by_side(modules)
