"""A proposal for the descriptors of a molecule, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latf_sampling.campaign.proposed_system import ProposedSystem
from latf_sampling.campaign.proposed_yaml import Key
from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.systems.contents import Residue, heavy_atoms

PAIRS = 24
"""Atoms whose distances are taken, at most: 276 distances."""
FEW_ATOMS = 25
"""Molecules of no more heavy atoms are described by all distances between them."""
SKIP = 3
"""Distances are between residues that are so far from each other in the chain."""
POCKET = 8
"""CA atoms, at most, whose distances from a ligand are taken."""
BASES = 8
"""Strands of no more nucleotides are described by the positions of all bases relative to each other."""


def proposed_features(system: ProposedSystem) -> tuple[list[Key], int]:
    """Entries of `features`, and the number of columns that they make."""
    contents = system.contents
    keys: list[Key] = []
    heavy = sorted(heavy_atoms([*contents.amino_acids, *contents.nucleotides, *contents.caps, *contents.others]))
    if contents.amino_acids:
        keys += those_that_exist(system, [Key("- torsions", "phi psi", "the backbone of the protein")])
    if contents.nucleotides:
        names = "alpha beta gamma delta epsilon zeta chi"
        keys += those_that_exist(system, [Key("- torsions", names, "backbone and bases of the nucleic acid"),
                                  Key("- pucker", "all", "the sugars")])  # fmt: skip
    # Hydrogens that are still to be added will change the indices of the atoms of a refused molecule.
    named = system.refusal is None or len(heavy) == len(heavy_atoms(list(system.molecule.topology.residues())))
    if 1 < len(heavy) <= FEW_ATOMS and named:
        keys.append(
            Key("- distances", _atoms(system, heavy), f"all of {len(heavy)} heavy atoms: the molecule is small")
        )
    else:
        keys += _polymer_distances(system)
        keys += _ligand_distances(system) if system.refusal is None else []
    if not keys:
        raise SettingsError(
            f"{system.title}: {contents} has no torsion and no two atoms whose distance could be a descriptor; write "
            "the protocol by hand, with descriptors of docs/descriptors.md."
        )
    return keys, len(Features(system.molecule.topology, specification(keys), periodic=system.periodic).names)


def specification(keys: Sequence[Key]) -> list[dict[str, Any]]:
    return [{key.name.removeprefix("- "): key.value} for key in keys]


def those_that_exist(system: ProposedSystem, keys: Sequence[Key]) -> list[Key]:
    """Those entries that the molecule has something for: a single residue has no torsion along the chain."""
    working = []
    for key in keys:
        try:
            Features(system.molecule.topology, specification([key]), periodic=system.periodic)
        except SettingsError:
            continue
        working.append(key)
    return working


def _polymer_distances(system: ProposedSystem) -> list[Key]:
    keys = []
    contents = system.contents
    for residues, name, word in ((contents.amino_acids, "CA", "CA atoms"), (contents.nucleotides, "C1'", "C1' atoms")):
        chosen, words = _thinned(residues, PAIRS)
        if name == "C1'" and 1 < len(residues) <= BASES:
            keys.append(Key("- nucleobases", "all", "how all bases lie relative to each other"))
        elif len(residues) > SKIP:
            value = {"between": named_atoms(system, name, chosen, residues), "skip": SKIP}
            keys.append(Key("- distances", value, f"{word}{words}, of residues that are no neighbors"))
    return keys


def _ligand_distances(system: ProposedSystem) -> list[Key]:
    """Where each other molecule is relative to the chains, and its own shape."""
    contents, keys = system.contents, []
    chains = [*contents.amino_acids, *contents.nucleotides]
    for molecule in contents.others:
        heavy = heavy_atoms([molecule])
        if not heavy:
            continue
        if contents.amino_acids:
            pocket, _ = _thinned(_nearest(system, molecule), POCKET)
            atoms = heavy[:: max(1, -(-len(heavy) // 3))]
            value = {"between": named_atoms(system, "CA", pocket, chains), "and": _index(atoms)}
            keys.append(Key("- distances", value, f"where {molecule.name} is, from CA atoms around it"))
        if len(heavy) > 2:
            atoms = heavy[:: -(-len(heavy) // PAIRS)]
            keys.append(Key("- distances", _index(atoms), f"the shape of {molecule.name}"))
    return keys


def _nearest(system: ProposedSystem, molecule: Residue) -> list[Residue]:
    """Amino acids, the nearest to a molecule first, as far as they are worth a distance."""
    positions = system.molecule.positions
    center = positions[heavy_atoms([molecule])].mean(axis=0)

    def distance(residue: Residue) -> float:
        return float(np.linalg.norm(positions[heavy_atoms([residue])].mean(axis=0) - center))

    return sorted(system.contents.amino_acids, key=distance)[:POCKET]


def _thinned(residues: Sequence[Residue], most: int) -> tuple[Sequence[Residue], str]:
    """Residues at equal distances in the sequence, no more than a number."""
    step = max(1, -(-len(residues) // most))
    return residues[::step], "" if step == 1 else f" of every {_ordinal(step)} residue"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def named_atoms(system: ProposedSystem, name: str, chosen: Sequence[Residue], residues: Sequence[Residue]) -> str:
    """A selection of one atom in some residues; calcium has the name of a CA atom too."""
    of_name = [atom for atom in system.molecule.topology.atoms() if atom.name == name]
    quoted = name if name.isalnum() else f'"{name}"'
    if len(chosen) == len(residues) == len(of_name):
        return f"name {quoted}"
    return f"name {quoted} and resid {' '.join(str(residue.index) for residue in sorted(chosen, key=_place))}"


def _place(residue: Residue) -> int:
    return residue.index


def _atoms(system: ProposedSystem, heavy: Sequence[int]) -> str:
    everything = heavy_atoms(list(system.molecule.topology.residues()))
    return "element != H" if len(everything) == len(heavy) else _index(heavy)


def _index(atoms: Sequence[int]) -> str:
    if len(atoms) > 2 and list(atoms) == list(range(atoms[0], atoms[-1] + 1)):
        return f"index {atoms[0]} to {atoms[-1]}"
    return f"index {' '.join(map(str, atoms))}"
