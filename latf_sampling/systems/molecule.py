"""A structure with its forces, as everything above takes it, and its copy on the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from latf_sampling.core import storage
from latf_sampling.errors import StoreError


@dataclass(frozen=True)
class Conformation:
    """A structure to start from: positions (N, 3) in nm and, where it has its own, box vectors (3, 3) in nm."""

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
        Structures that walkers start from in turn; empty for the one above.
    """

    system: openmm.System
    topology: app.Topology
    positions: np.ndarray
    conformations: tuple[Conformation, ...] = ()

    def start(self, walker: int) -> Conformation:
        """The structure that a walker starts from."""
        return (
            self.conformations[walker % len(self.conformations)] if self.conformations else Conformation(self.positions)
        )

    def save(self, folder: Path, made_from: str) -> None:
        """Write system.xml, structure.cif to look at, and molecule.json with the rest.

        Parameters
        ----------
        folder
            Where they go.
        made_from
            What the molecule was made from, in any words; `load` asks for the same.
        """
        with storage.atomic_write(folder / "structure.cif") as temporary, open(temporary, "w") as handle:
            app.PDBxFile.writeFile(self.topology, self.positions * unit.nanometer, handle, keepIds=True)
        storage.write_text(folder / "system.xml", openmm.XmlSerializer.serialize(self.system))
        content = {
            "made_from": made_from,
            "topology": _described(self.topology),
            "positions": self.positions.tolist(),
            "conformations": [
                {"positions": entry.positions.tolist(), "box": None if entry.box is None else entry.box.tolist()}
                for entry in self.conformations
            ],
            "checksum": storage.checksum(folder / "system.xml"),
        }
        storage.write_json(folder / "molecule.json", content)  # last: where it is, the others are

    @classmethod
    def load(cls, folder: Path, made_from: str | None = None) -> Molecule | None:
        """The molecule that was saved in a folder; none where there is none, or one made from something else.

        Raises
        ------
        StoreError
            A file is damaged.
        """
        content = _content(folder, made_from)
        if content is None:
            return None
        file = folder / "system.xml"
        if not file.exists() or storage.checksum(file) != content["checksum"]:
            raise StoreError(f"{file}: is missing or was changed; restore it, or begin in another directory.")
        return cls(
            openmm.XmlSerializer.deserialize(file.read_text()),
            _topology(content["topology"]),
            np.array(content["positions"]),
            tuple(
                Conformation(np.array(entry["positions"]), None if entry["box"] is None else np.array(entry["box"]))
                for entry in content["conformations"]
            ),
        )

    @staticmethod
    def is_kept(folder: Path, made_from: str) -> bool:
        """Whether `load` would find one; without building it."""
        return _content(folder, made_from) is not None


def _content(folder: Path, made_from: str | None) -> dict | None:
    """What molecule.json holds; none where it is missing, or the molecule was made from something else."""
    if not (folder / "molecule.json").exists():
        return None
    content = storage.read_json(folder / "molecule.json")
    return content if made_from in (None, content["made_from"]) else None


def residue_label(residue: app.topology.Residue) -> str:
    """A residue as errors name it: ``ALA 2 (chain A)``."""
    return f"{residue.name} {residue.id}{residue.insertionCode.strip()} (chain {residue.chain.id})"


def bond_lengths(system: openmm.System) -> dict[tuple[int, int], float]:
    """Lengths at rest of bonds by their atoms, the lower index first: of harmonic bonds and constraints, nm."""
    found = {}
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for k in range(force.getNumBonds()):
                a, b, length, _ = force.getBondParameters(k)
                found[min(a, b), max(a, b)] = length.value_in_unit(unit.nanometer)
    for k in range(system.getNumConstraints()):
        a, b, length = system.getConstraintParameters(k)
        found[min(a, b), max(a, b)] = length.value_in_unit(unit.nanometer)
    return found


def box_vectors(vectors) -> np.ndarray | None:
    """Box vectors of OpenMM's as an array (3, 3) in nm; none stays none."""
    if vectors is None:
        return None
    return np.array([vector.value_in_unit(unit.nanometer) for vector in vectors], dtype=float)


def _described(topology: app.Topology) -> dict:
    """A topology in full; files of structures leave out bonds, or know standard residues alone."""
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
    made, atoms = app.Topology(), []
    for chain in content["chains"]:
        made_chain = made.addChain(chain["id"])
        for residue in chain["residues"]:
            made_residue = made.addResidue(residue["name"], made_chain, residue["id"], residue["insertion_code"])
            for name, symbol, number in residue["atoms"]:
                element = None if symbol is None else app.Element.getBySymbol(symbol)
                atoms.append(made.addAtom(name, element, made_residue, number))
    for first, second in content["bonds"]:
        made.addBond(atoms[first], atoms[second])
    if content["box"] is not None:
        made.setPeriodicBoxVectors([openmm.Vec3(*row) for row in content["box"]] * unit.nanometer)
    return made
