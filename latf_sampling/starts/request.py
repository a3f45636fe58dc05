"""What is asked for, whichever door it comes through: checked, made, and collected into a set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app

from latf_sampling.core import platforms, streams
from latf_sampling.core.storage import read_json
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.features import as_mdtraj
from latf_sampling.starts.archive import Archive, Trajectories
from latf_sampling.starts.checks import Checks
from latf_sampling.starts.maker import Made, Recipe, stable_timestep
from latf_sampling.starts.starts import Starts
from latf_sampling.starts.targets import Progress, Targets, default_processes, refuse_other, workshop
from latf_sampling.starts.thermal import Thermal
from latf_sampling.units import to_float, to_kelvin

STEEPNESS_FRAMES = 1000
"""Archived frames on which the variable's steepness decides about the time step."""


@dataclass(frozen=True)
class Request:
    """What all doors of `generate` take, checked and in the package's units; see `generate_starts`."""

    cv: LatentCV
    archive: Archive
    recipe: Recipe
    freedom: int
    seed: int
    times: dict[str, float]
    attempts: int
    processes: int | None
    directory: Path | None
    structures: str | None
    progress: Callable[[float, str], None]

    @classmethod
    def of(
        cls,
        cv: LatentCV,
        archive: Trajectories,
        system: openmm.System,
        topology: app.Topology,
        temperature,
        release,
        *,
        temperatures=None,
        seed: int = 0,
        timestep=0.002,
        friction=1.0,
        thermalise=4.0,
        tolerance: float = 4.0,
        attempts: int = 4,
        allow_cis: bool = False,
        allow_inversion: bool = False,
        platform: str | None = None,
        processes: int | None = 1,
        directory: str | Path | None = None,
        structures: str | None = None,
        progress: Progress = lambda fraction, words: None,
    ) -> Request:
        temperature = to_kelvin(temperature, "starts: temperature")
        times = {"timestep": timestep, "thermalise": thermalise, "release": release}
        times = {name: to_float(value, "time", name) for name, value in times.items()}
        above = {"tolerance": (tolerance, "")}
        above |= {name: (times[name], " ps") for name in ("timestep", "thermalise")}
        for name, (value, unit_name) in above.items():
            if not value > 0:
                raise SettingsError(f"starts: {name} must be more than 0{unit_name}; got {value:g}{unit_name}.")
        if not times["release"] >= 0:
            raise SettingsError(f"starts: release must not be negative; got {times['release']:g} ps.")
        for name, value in (("attempts", attempts), ("processes", 1 if processes is None else processes)):
            if value < 1:
                raise SettingsError(f"starts: {name} must be at least 1; got {value}.")
        cv.check_topology(topology)
        cv.check_system(system)
        known = as_mdtraj(topology)
        if any(residue.n_atoms > 1 for residue in known.residues) and known.n_bonds == 0:
            raise DataError("starts: the topology has no bonds, so that nothing can be checked by them; add them.")
        periodic = system.usesPeriodicBoundaryConditions()
        frames = Archive(archive, cv, temperatures, periodic)
        step = stable_timestep(times["timestep"], cv, temperature, system, *frames.sample(STEEPNESS_FRAMES))
        allowed = {"allow_cis": allow_cis, "allow_inversion": allow_inversion}
        recipe = Recipe(
            system=openmm.XmlSerializer.serialize(system),
            topology=topology,
            variable=Path(),
            temperature=temperature,
            timestep=step,
            friction=to_float(friction, "friction", "friction"),
            thermalise=max(1, round(times["thermalise"] / step)),
            release=max(1, round(times["release"] / step)) if times["release"] else 0,
            checks=Checks.of(known, system, cv.noise, tolerance, **allowed),
            seed=streams.stream_seed(seed, "starts"),
            platform=platforms.pick_platform(platform, system.getNumParticles()).getName(),
            threads=None,
        )
        moving = sum(system.getParticleMass(k)._value > 0 for k in range(system.getNumParticles()))
        freedom = 3 * moving - system.getNumConstraints()
        folder = None if directory is None else Path(directory)
        return cls(cv, frames, recipe, freedom, seed, times, attempts, processes, folder, structures, progress)

    def make(self, points: np.ndarray, wanted: int, finish: Callable[[Starts], Starts]) -> Starts:
        """Make structures at points, and save them where there is a directory."""
        settings = self._settings(wanted)
        table = None if self.directory is None else self.directory / "starts.json"
        if table is not None and table.exists():
            there = read_json(table)
            refuse_other(self.directory, there["settings"], settings)
            self.progress(1.0, "finished before")
            return Starts.load(self.directory, self.recipe.topology)
        processes = self.processes or default_processes(self.recipe.platform, wanted)
        targets = Targets(points, wanted, self.archive, self.recipe, self.freedom, self.attempts, processes)
        with workshop(self.directory, settings, points) as folder:
            made, thermal = targets.make(self.cv, folder, self.progress)
            starts = finish(self._collect(points, made, thermal, wanted, settings))
            if self.directory is not None:
                starts.save(self.directory, self.structures)
        return starts

    def _settings(self, wanted: int) -> dict:
        """What decides about the structures, to the last bit."""
        recipe, checks = self.recipe, self.recipe.checks
        return {
            "requested": wanted,
            "temperature": recipe.temperature,
            "seed": self.seed,
            **self.times,
            "friction": recipe.friction,
            "tolerance": checks.tolerance,
            "attempts": self.attempts,
            "allow_cis": checks.allow_cis,
            "allow_inversion": checks.allow_inversion,
            "platform": recipe.platform,
            "variable": self.cv.fingerprint(),
            "archive": self.archive.fingerprint(),
            "system": hashlib.sha256(recipe.system.encode()).hexdigest()[:16],
        }

    def _collect(self, points: np.ndarray, made: list[Made], thermal: Thermal, wanted: int, settings: dict) -> Starts:
        valid = [number for number, entry in enumerate(made) if entry.found is not None]
        found = [made[number].found for number in valid]

        def stack(name: str, *shape: int) -> np.ndarray:
            return np.array([getattr(entry, name) for entry in found]).reshape(len(found), *shape)

        checks = [{**made[k].attempts[-1], "number": k, "tried": len(made[k].attempts)} for k in valid]
        for entry in checks:
            del entry["reason"]
        return Starts(
            temperature=self.recipe.temperature,
            topology=self.recipe.topology,
            positions=stack("positions", self.cv.n_atoms, 3),
            velocities=stack("velocities", self.cv.n_atoms, 3),
            boxes=stack("box", 3, 3) if self.archive.periodic else None,
            targets=points[valid].reshape(len(found), self.cv.dim),
            reached=stack("reached", self.cv.dim),
            sources=np.array([entry["source"] for entry in checks], int),
            energies=stack("energy"),
            checks=checks,
            rejected=[_rejected(number, points[number], entry) for number, entry in enumerate(made) if not entry.found],
            requested=wanted,
            tolerance=self.recipe.checks.tolerance,
            thermal=thermal,
            settings=settings,
        )


def _rejected(number: int, target: np.ndarray, made: Made) -> dict:
    """A target without structure, and why; frames that gave the same reason are not told apart by words."""
    reasons = [
        f"from frame {attempt['source']}: {attempt['reason']}" if "source" in attempt else attempt["reason"]
        for attempt in made.attempts
    ]
    return {"target": target.tolist(), "number": number, "reasons": reasons, "attempts": made.attempts}
