"""A set of structures with their checks, the rejected targets with their reasons, and all of it as files."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from latf_sampling.core import storage
from latf_sampling.core.manifest import Manifest
from latf_sampling.core.notebook import ShownInNotebooks, some
from latf_sampling.core.openmm_xml import read_openmm_xml
from latf_sampling.core.provenance import Attempt
from latf_sampling.core.structure_files import write_structure
from latf_sampling.core.words import plural
from latf_sampling.data.trajectory_writers import write_xtc
from latf_sampling.errors import SettingsError
from latf_sampling.features import as_mdtraj
from latf_sampling.starts.coverage import Coverage
from latf_sampling.starts.files import FORMATS, StartFiles
from latf_sampling.starts.thermal import Thermal

PDB_ATOMS, PDB_RESIDUES, PDB_CHAINS = 99_999, 9_999, 62
"""Largest numbers of atoms, residues of a chain, and chains in a PDB file."""
PDB_COORDINATES = (-99.9, 999.9)
"""nm; coordinates that fit into the columns of a PDB file."""


@dataclass(frozen=True, repr=False)
class Starts(ShownInNotebooks):
    """Structures to start simulations from, and the rejected targets.

    Attributes
    ----------
    positions, velocities : numpy.ndarray (m, N, 3)
        nm and nm/ps.
    boxes : numpy.ndarray (m, 3, 3) or None
        Box vectors of periodic systems, nm.
    targets, reached : numpy.ndarray (m, d)
        Requested latent point, and that of the structure.
    sources : numpy.ndarray (m,)
        Index of the archived frame that each structure was made from.
    energies : numpy.ndarray (m,)
        Potential energy without umbrella, kJ/mol.
    weights : numpy.ndarray (m,)
        Of mean 1; they bring the set to the flow's density (`latf_sampling.starts.coverage.weights`). All are 1 for
        structures at given points.
    checks : list of dict
        For each structure the "number" of its target, how many frames were "tried", and the values of all checks:
        "held" and "reached" latent, "held_distance" and "released_distance" from the target in the units of the
        tolerance, "energy", "closest" contact as a share of the sum of the radii (`None` if it is above 1), largest
        "stretch" of a bond, "inverted" stereocenters and "flipped" peptide bonds.
    rejected : list of dict
        For each failed target: "target", "number", "reasons", one for each archived frame that was tried, and
        "attempts" with the values of the checks.
    requested : int
        Requested number of structures.
    tolerance : float
        Largest distance from the target, in the units of `generate_starts`.
    coverage : Coverage or None
        The comparison with the flow; `None` for structures at given points.
    thermal : Thermal or None
        The thermal range of energies, and the fluctuation of the latent, as measured.
    settings : dict
        Everything that determined the structures.
    """

    temperature: float
    topology: app.Topology
    positions: np.ndarray
    velocities: np.ndarray
    targets: np.ndarray
    reached: np.ndarray
    sources: np.ndarray
    energies: np.ndarray
    rejected: list[dict]
    requested: int
    tolerance: float
    boxes: np.ndarray | None = None
    weights: np.ndarray = None  # pyright: ignore[reportAssignmentType]  # __post_init__ makes them 1
    checks: list[dict] = field(default_factory=list)
    coverage: Coverage | None = None
    thermal: Thermal | None = None
    settings: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weights is None:
            object.__setattr__(self, "weights", np.ones(len(self.positions)))

    def __len__(self) -> int:
        return len(self.positions)

    def __repr__(self) -> str:
        atoms = plural(self.topology.getNumAtoms(), "atom")
        return f"<Starts: {len(self)} of {self.requested} structures of {atoms} at {self.temperature:g} K>"

    def _overview(self) -> list[tuple[str, Any]]:
        reached = [f"({', '.join(f'{value:.3g}' for value in point)})" for point in self.reached]
        return [("reached", some(reached)), ("summary", some(self.summary().splitlines()))]

    def summary(self) -> str:
        """One or more sentences: the number of structures, their coverage, and the reasons of rejections."""
        lines = [f"{len(self)} of {self.requested} structures at {self.temperature:g} K are valid."]
        if self.coverage is not None:
            lines.append(self.coverage.summary())
        for entry in self.rejected:
            target = ", ".join(f"{value:.3g}" for value in entry["target"])
            lines.append(f"Target ({target}): {'; '.join(entry['reasons'])}.")
        return "\n".join(lines)

    def save(
        self, folder: str | Path, structures: str | None = None, provenance: Mapping[str, Any] | None = None
    ) -> None:
        """Write everything into a folder; `starts.json` is the last.

        - ``start-000.pdb`` (or ``.cif``, PDBx/mmCIF) and so on;
        - ``start-000.xml``: positions, velocities and box for `openmm.app.Simulation.loadState`, to the last digit;
        - ``start-000.npz``: the same as arrays "positions", "velocities" and, in periodic systems, "box";
        - ``starts.xtc``: all structures as one trajectory, to 0.001 nm;
        - ``starts.json`` and ``starts.csv``: targets, latents, source frames, energies, checks, weights, and rejected
          targets with their reasons.

        Parameters
        ----------
        structures
            "pdb" or "cif"; by default PDB if it can hold the system.
        provenance
            Where, when and with what the structures were made; by default here and now.

        Raises
        ------
        SettingsError
            There is no such format.
        """
        files, attempt = StartFiles(folder), Attempt(None, "starts")
        if structures not in (None, *FORMATS):
            raise SettingsError(f"starts: structures are written as {' or '.join(FORMATS)}; got {structures!r}.")
        suffix = structures or ("pdb" if self._fits_pdb() else "cif")
        written: list[Path] = []
        for index, state in enumerate(_states(self)):
            box = None if self.boxes is None else self.boxes[index]
            write_structure(files.structure(index, suffix), _boxed(self.topology, box), self.positions[index])
            storage.write_text(files.state(index), state)
            _write_arrays(files.arrays(index), self.positions[index], self.velocities[index], box)
            written += [files.structure(index, suffix), files.state(index), files.arrays(index)]
        if len(self):
            trajectory = mdtraj.Trajectory(self.positions, as_mdtraj(self.topology))
            if self.boxes is not None:
                trajectory.unitcell_vectors = self.boxes
            with storage.atomic_write(files.trajectory) as temporary:
                write_xtc(trajectory, temporary)
            written.append(files.trajectory)
        storage.write_text(files.spreadsheet, self._csv())
        written.append(files.spreadsheet)
        Manifest.write(files.table, self._table(), written, provenance or attempt.provenance())

    @classmethod
    def load(cls, folder: str | Path, topology: app.Topology) -> Starts:
        """A set from the files that `save` wrote, to the last digit.

        Raises
        ------
        StoreError
            A file is missing or damaged.
        """
        files = StartFiles(folder)
        table = files.manifest().verified(".npz").content
        count, dim, atoms = table["valid"], table["dimension"], topology.getNumAtoms()
        arrays = [files.read_arrays(index) for index in range(count)]
        boxes = [entry["box"] for entry in arrays if "box" in entry]
        coverage, thermal = table["coverage"], table["thermal"]
        return cls(
            table["temperature"],
            topology,
            np.array([entry["positions"] for entry in arrays]).reshape(count, atoms, 3),
            np.array([entry["velocities"] for entry in arrays]).reshape(count, atoms, 3),
            np.array(table["targets"]).reshape(count, dim),
            np.array(table["reached"]).reshape(count, dim),
            np.array(table["sources"], int),
            np.array(table["energies"], float),
            table["rejected"],
            table["requested"],
            table["tolerance"],
            weights=np.array(table["weights"], float),
            checks=table["checks"],
            boxes=np.array(boxes) if boxes else None,
            coverage=None if coverage is None else Coverage.from_dict(coverage),
            thermal=None if thermal is None else Thermal.from_dict(thermal),
            settings=table["settings"],
        )

    def _table(self) -> dict:
        return {
            "temperature": self.temperature,
            "requested": self.requested,
            "valid": len(self),
            "dimension": self.targets.shape[1],
            "tolerance": self.tolerance,
            "targets": self.targets.tolist(),
            "reached": self.reached.tolist(),
            "sources": self.sources.tolist(),
            "energies": self.energies.tolist(),
            "weights": self.weights.tolist(),
            "checks": self.checks,
            "coverage": None if self.coverage is None else self.coverage.as_dict(),
            "thermal": None if self.thermal is None else self.thermal.as_dict(),
            "rejected": self.rejected,
            "settings": self.settings,
        }

    def _csv(self) -> str:
        """One line for each target, in the order of their numbers, with and without a structure."""
        dim = self.targets.shape[1]
        latents = [f"{name}_{k + 1}" for name in ("target", "held", "reached") for k in range(dim)]
        head = ["number", "file", *latents, "source_frame", "pulled", "frames_tried", "energy_kJ_per_mol"]
        head += ["held_distance", "released_distance", "closest_contact", "bond_stretch", "inverted", "flipped"]
        rows: list[list] = []
        for index, values in enumerate(self.checks):
            rows.append(_row(StartFiles.name(index), self.targets[index], values, dim, float(self.weights[index]), ""))
        for entry in self.rejected:
            last = entry["attempts"][-1] if entry.get("attempts") else {}
            values = {**last, "number": entry.get("number"), "tried": len(entry["reasons"])}
            rows.append(_row("", entry["target"], values, dim, "", "; ".join(entry["reasons"])))
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([*head, "weight", "rejected_because"])
        rows.sort(key=lambda row: (row[0] is None, row[0]))
        writer.writerows(rows)
        return buffer.getvalue()

    def _fits_pdb(self) -> bool:
        chains = list(self.topology.chains())
        residues = max((sum(1 for _ in chain.residues()) for chain in chains), default=0)
        low, high = PDB_COORDINATES
        inside = not len(self) or (self.positions.min() > low and self.positions.max() < high)
        small = self.topology.getNumAtoms() <= PDB_ATOMS and residues <= PDB_RESIDUES and len(chains) <= PDB_CHAINS
        return bool(inside and small)


def restore_arrays(path: Path, periodic: bool) -> None:
    """Write the arrays of a structure again from the state beside them, which has the same numbers to the last digit.

    Parameters
    ----------
    path
        The arrays, `StartFiles.arrays`.
    periodic
        Whether the structure has a box.

    Raises
    ------
    DataError
        The state is damaged.
    StoreError
        The arrays cannot be written.
    """
    state: Any = read_openmm_xml(path.with_suffix(".xml"), openmm.State)
    # in the units of the package, which are OpenMM's
    positions = state.getPositions(asNumpy=True).value_in_unit_system(unit.md_unit_system)
    velocities = state.getVelocities(asNumpy=True).value_in_unit_system(unit.md_unit_system)
    box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit_system(unit.md_unit_system) if periodic else None
    _write_arrays(path, positions, velocities, box)


def _write_arrays(path: Path, positions: np.ndarray, velocities: np.ndarray, box: np.ndarray | None) -> None:
    arrays: dict[str, Any] = {"positions": positions, "velocities": velocities}
    if box is not None:
        arrays["box"] = box
    with storage.atomic_write(path) as temporary:
        np.savez(temporary, **arrays)


def _row(file: str, target, values: dict, dim: int, weight, reason: str) -> list:
    """A line of the spreadsheet."""
    empty = [None] * dim
    latents = [*target, *(values.get("held") or empty), *(values.get("reached") or empty)]
    numbers = [values.get(key) for key in ("source", "pulled", "tried", "energy", "held_distance", "released_distance")]
    geometry = [values.get("closest"), values.get("stretch")]
    changes = [" ".join(values.get(key) or ()) for key in ("inverted", "flipped")]
    return [values.get("number"), file, *latents, *numbers, *geometry, *changes, weight, reason]


def _boxed(topology: app.Topology, box: np.ndarray | None) -> app.Topology:
    """The topology with the box of a structure; both share their chains."""
    if box is None:
        return topology
    other = copy.copy(topology)
    other.setPeriodicBoxVectors([openmm.Vec3(*map(float, row)) for row in box])
    return other


def _states(starts: Starts) -> list[str]:
    """XML of an OpenMM state for each structure."""
    system, states = openmm.System(), []
    for _ in range(starts.topology.getNumAtoms()):
        system.addParticle(1.0)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    for index in range(len(starts)):
        if starts.boxes is not None:
            context.setPeriodicBoxVectors(*starts.boxes[index])
        context.setPositions(starts.positions[index])
        context.setVelocities(starts.velocities[index])
        states.append(openmm.XmlSerializer.serialize(context.getState(getPositions=True, getVelocities=True)))
    return states
