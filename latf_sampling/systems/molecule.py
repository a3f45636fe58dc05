"""A structure with its forces, and its copy in a campaign's directory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import openmm
from openmm import app

from latf_sampling.core import storage
from latf_sampling.core.manifest import Manifest
from latf_sampling.core.openmm_xml import read_openmm_xml
from latf_sampling.core.structure_files import write_structure
from latf_sampling.errors import StoreError
from latf_sampling.settings.stored import same_molecule
from latf_sampling.settings.system import SystemSettings
from latf_sampling.units import to_array, to_float, to_quantity


@dataclass(frozen=True)
class Conformation:
    """Positions (N, 3) to start from, nm, and box vectors (3, 3), nm; None is the system's default box."""

    positions: np.ndarray
    box: np.ndarray | None = None


@dataclass(frozen=True)
class Molecule:
    """A structure with its forces.

    Attributes
    ----------
    system, topology
        OpenMM's; the box of the structure is the system's default one.
    positions : numpy.ndarray (N, 3)
        nm.
    conformations : tuple of Conformation
        Structures that walkers start from in turn; if it is empty, they start from the positions.
    """

    system: openmm.System
    topology: app.Topology
    positions: np.ndarray
    conformations: tuple[Conformation, ...] = ()

    def start(self, walker: int) -> Conformation:
        """The structure that the walker of this index starts from."""
        return (
            self.conformations[walker % len(self.conformations)] if self.conformations else Conformation(self.positions)
        )

    def save(self, folder: Path, made_from: str) -> None:
        """Write system.xml, structure.cif for viewers, and molecule.json with everything else.

        Parameters
        ----------
        folder
            Folder for these files.
        made_from
            A text that identifies what the molecule was made from, for `load` to compare.
        """
        structure = folder / "structure.cif"
        write_structure(structure, self.topology, self.positions)
        storage.write_text(folder / "system.xml", openmm.XmlSerializer.serialize(self.system))
        content = {
            "made_from": made_from,
            "topology": _described(self.topology),
            "positions": self.positions.tolist(),
            "conformations": [
                {"positions": entry.positions.tolist(), "box": None if entry.box is None else entry.box.tolist()}
                for entry in self.conformations
            ],
        }
        Manifest.write(folder / "molecule.json", content, [folder / "system.xml", structure])

    @classmethod
    def load(cls, folder: Path, made_from: str | None = None) -> Molecule | None:
        """The molecule that was saved in a folder; None if there is none, or if it was made from something else.

        Raises
        ------
        StoreError
            A file is missing or was changed; names it.
        """
        manifest = _manifest(folder, made_from)
        if manifest is None:
            return None
        content = manifest.verified().content
        return cls(
            read_openmm_xml(folder / "system.xml", openmm.System),
            _topology(content["topology"]),
            np.array(content["positions"]),
            tuple(
                Conformation(np.array(entry["positions"]), None if entry["box"] is None else np.array(entry["box"]))
                for entry in content["conformations"]
            ),
        )

    @staticmethod
    def is_saved(folder: Path, made_from: str) -> bool:
        """Whether `load` would return a molecule."""
        try:
            manifest = _manifest(folder, made_from)
        except StoreError:
            return False
        return manifest is not None and not manifest.damaged()

    def is_that_of(self, folder: Path) -> bool:
        """Whether its system is the one that was saved in a folder, some of whose files may be damaged."""
        system = hashlib.sha256(openmm.XmlSerializer.serialize(self.system).encode()).hexdigest()
        stored = folder / "system.xml"
        if stored.exists() and storage.checksum(stored) == system:
            return True
        try:
            manifest = _manifest(folder, None)
        except StoreError:
            return False
        return manifest is not None and manifest.files.get("system.xml") == system


def _manifest(folder: Path, made_from: str | None) -> Manifest | None:
    """The manifest of a saved molecule; None if it is missing, or if the molecule was made from something else."""
    path = folder / "molecule.json"
    if not path.exists():
        return None
    manifest = Manifest.load(path, ("made_from", "topology", "positions", "conformations"))
    same = made_from is None or same_molecule(made_from, manifest.content["made_from"], SystemSettings)
    return manifest if same else None


def residue_label(residue: app.topology.Residue) -> str:
    """The name of a residue in errors: ``ALA 2 (chain A)``."""
    return f"{residue.name} {residue.id}{residue.insertionCode.strip()} (chain {residue.chain.id})"


def bond_lengths(system: openmm.System) -> dict[tuple[int, int], float]:
    """Equilibrium lengths of harmonic bonds and constraints, nm, by their atoms, the lower index first."""
    return {pair: length for pair, (length, _) in bond_terms(system).items()}


def bond_terms(system: openmm.System) -> dict[tuple[int, int], tuple[float, float]]:
    """Lengths of bonds as `bond_lengths`, and the force constants, kJ/mol/nm^2; infinity for constraints."""
    terms = {}
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for k in range(force.getNumBonds()):
                a, b, length, stiffness = force.getBondParameters(k)
                terms[min(a, b), max(a, b)] = to_float(length, "length"), to_float(stiffness, "stiffness")
    for k in range(system.getNumConstraints()):
        a, b, length = system.getConstraintParameters(k)
        terms[min(a, b), max(a, b)] = to_float(length, "length"), float("inf")
    return terms


def positions_array(positions: Any) -> np.ndarray:
    """Positions of OpenMM as an array (N, 3) in nm."""
    return np.array(to_array(positions, "length"), dtype=float).reshape(-1, 3)


@overload
def box_vectors(vectors: None) -> None: ...
@overload
def box_vectors(vectors: Iterable[Any]) -> np.ndarray: ...
def box_vectors(vectors: Iterable[Any] | None) -> np.ndarray | None:
    """Box vectors of OpenMM as an array (3, 3) in nm, or None for None."""
    return None if vectors is None else np.array([to_array(vector, "length") for vector in vectors], dtype=float)


def _described(topology: app.Topology) -> dict:
    """A complete topology for JSON; files of structures lack bonds of residues that are not standard."""
    box = box_vectors(topology.getPeriodicBoxVectors())
    return {
        "chains": [
            {
                "id": chain.id,
                "residues": [
                    {
                        "name": residue.name,
                        "id": residue.id,
                        "insertion_code": residue.insertionCode,
                        "atoms": [
                            [atom.name, None if atom.element is None else atom.element.symbol, atom.id]
                            for atom in residue.atoms()
                        ],
                    }
                    for residue in chain.residues()
                ],
            }
            for chain in topology.chains()
        ],
        "bonds": [[bond.atom1.index, bond.atom2.index] for bond in topology.bonds()],
        "box": None if box is None else box.tolist(),
    }


def _topology(content: dict) -> app.Topology:
    topology, atoms = app.Topology(), []
    for chain_content in content["chains"]:
        chain = topology.addChain(chain_content["id"])
        for entry in chain_content["residues"]:
            residue = topology.addResidue(entry["name"], chain, entry["id"], entry["insertion_code"])
            for name, symbol, number in entry["atoms"]:
                element = None if symbol is None else app.Element.getBySymbol(symbol)
                atoms.append(topology.addAtom(name, element, residue, number))
    for first, second in content["bonds"]:
        topology.addBond(atoms[first], atoms[second])
    if content["box"] is not None:
        topology.setPeriodicBoxVectors(to_quantity([openmm.Vec3(*row) for row in content["box"]], "length"))
    return topology
