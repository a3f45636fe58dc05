"""Root-mean-square deviation from reference structures, after optimal superposition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from latf_sampling.errors import SettingsError
from latf_sampling.features.bonded_tree import bonded_tree, molecule_labels
from latf_sampling.features.descriptor import Column, Descriptor, Entry, Term, atom_indices, describe_atoms, validate
from latf_sampling.features.references import read_references
from latf_sampling.features.topology import Labels, normalized_weights
from latf_sampling.settings.fields import Settings

if TYPE_CHECKING:
    import torch


_MIN_ATOMS = 3  # two atoms can be superposed in infinitely many ways


MOST_SUPERPOSED = 3
"""Molecules that are superposed together in a box: each further one has 27 images, whose combinations are compared."""


def _without_joint_images(superposed: int) -> str:
    """Why so many molecules are not superposed together in a box; empty if they are."""
    if superposed <= MOST_SUPERPOSED:
        return ""
    return (
        f"images of {superposed} molecules that are superposed together have too many combinations; superpose atoms of "
        f"{MOST_SUPERPOSED} molecules or fewer, as in superpose: chainid 0, and measure as many as you like"
    )


class _RMSDSettings(Settings):
    of: Any
    reference: Any
    superpose: Any = None
    weights: Literal["mass", "equal"] = "equal"


class RMSDDescriptor(Descriptor):
    """``{of: selection, reference: file, superpose: selection, weights: equal}``; an entry is one term.

    ``reference`` may be several files, each model of which is a column, or ``{positions: ...}``, nm: of the atoms in
    ``of``, then of those only in ``superpose``.
    """

    def read(self, value: Any, labels: Labels, where: str) -> Entry:
        settings = validate(_RMSDSettings, value, where, "write {of: selection, reference: file.pdb}")
        topology = labels.topology
        of = atom_indices(topology, settings.of, f"{where}.of")
        superpose = of
        if settings.superpose is not None:
            superpose = atom_indices(topology, settings.superpose, f"{where}.superpose")
        if len(superpose) < _MIN_ATOMS:
            key = "of" if settings.superpose is None else "superpose"
            raise SettingsError(
                f"{where}.{key}: needs {_MIN_ATOMS} atoms or more to superpose, finds {len(superpose)}."
            )
        union = list(dict.fromkeys([*of, *superpose]))
        normal_form, references, names = read_references(settings.reference, labels, union, f"{where}.reference")
        weights = self._weights(labels, union, of, settings.weights, where)
        same = set(of) == set(superpose)
        superpose_weights = None if same else self._weights(labels, union, superpose, settings.weights, where)
        # From a molecule that is superposed, the images of all others are found.
        ordered = [*superpose, *(atom for atom in union if atom not in set(superpose))]
        nodes, tree = bonded_tree(topology, ordered)
        atoms = [*union, *nodes[len(union) :]]
        place = {atom: number for number, atom in enumerate(atoms)}
        tree = np.array([[place[nodes[end]] for end in edge] for edge in tree.tolist()], np.int64).reshape(-1, 2)
        label = dict(zip(ordered, molecule_labels(topology, ordered).tolist()))
        refusal = _without_joint_images(1 + max(label[atom] for atom in superpose))
        # Without a box it is of no account how many there are, and nothing is prepared for their images.
        molecules = np.zeros(len(union), int) if refusal else np.array([label[atom] for atom in union])
        description = describe_atoms(settings.of, of, labels)
        if not same:
            description += f" over {describe_atoms(settings.superpose, superpose, labels)}"
        description += " by mass" * (settings.weights == "mass")
        columns = [f"rmsd of {description} from {name}" for name in names]
        term = Term(
            tuple(atoms), "; ".join(columns), (columns, tree, references, weights, superpose_weights, molecules)
        )
        return Entry(
            {**settings.model_dump(mode="json", exclude_none=True), "reference": normal_form},
            [term],
            refusal,
        )

    @staticmethod
    def _weights(labels: Labels, atoms: list[int], weighted: list[int], kind: str, where: str) -> np.ndarray:
        """Weights of ``atoms``, zero except for those in ``weighted``."""
        index = {atom: number for number, atom in enumerate(atoms)}
        weights = np.zeros(len(atoms))
        weights[[index[atom] for atom in weighted]] = normalized_weights(labels.topology, weighted, kind, where)
        return weights

    def columns(self, terms: list[Term]) -> list[Column]:
        return [Column(name, "nm") for term in terms for name in term.settings[0]]

    def module(self, terms: list[Term], n_atoms: int) -> torch.nn.Module:
        from latf_sampling.features.modules.concatenation import concatenate
        from latf_sampling.features.modules.rmsd import RMSD

        modules: list[torch.nn.Module] = []
        for term in terms:
            _, tree, references, weights, superpose_weights, molecules = term.settings
            # The images of several molecules are those nearest to one reference.
            parts = [references] if molecules.max() == 0 else [reference[None] for reference in references]
            for part in parts:
                modules.append(RMSD(term.atoms, tree, part, weights, superpose_weights, n_atoms, molecules))
        return concatenate(modules)
