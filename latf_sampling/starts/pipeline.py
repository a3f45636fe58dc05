"""From the arguments of an entry point to a set of structures: prepared, made, and collected."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openmm
from openmm import app

from latf_sampling.core import arguments, devices, streams
from latf_sampling.core.provenance import Attempt
from latf_sampling.cv.force import without_biases
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import DataError
from latf_sampling.features import as_mdtraj
from latf_sampling.starts.archive import Archive, Trajectories, check_archive
from latf_sampling.starts.batches import TargetBatches, default_processes
from latf_sampling.starts.checks import Checks, TargetResult
from latf_sampling.starts.files import StartFiles
from latf_sampling.starts.options import StartOptions
from latf_sampling.starts.structure_set import Starts
from latf_sampling.starts.thermal import Thermal
from latf_sampling.starts.worker import WorkerSettings, particle_masses, stable_timestep
from latf_sampling.starts.working_directory import check_same_settings, working_directory
from latf_sampling.units import QuantityArrayLike

TIMESTEP_FRAMES = 1000
"""Number of archived frames whose gradients of the variable limit the time step."""


@dataclass(frozen=True)
class StartPipeline:
    """Everything that is needed to make structures at latent points; see `generate_starts`."""

    cv: LatentCV
    archive: Archive
    settings: WorkerSettings
    dof: int
    options: StartOptions

    @classmethod
    def from_options(
        cls,
        cv: LatentCV,
        archive: Trajectories,
        temperatures: QuantityArrayLike | None,
        system: openmm.System,
        topology: app.Topology,
        options: StartOptions,
    ) -> StartPipeline:
        """Check that all parts belong together, and evaluate the variable on the archive.

        Raises
        ------
        CVError, DataError, SettingsError
            They do not.
        """
        arguments.instance("starts", "cv", cv, LatentCV, "a LatentCV", "LatentCV.load")
        arguments.instance("starts", "system", system, openmm.System, "an openmm.System")
        arguments.instance("starts", "topology", topology, app.Topology, "an openmm.app.Topology")
        check_archive(archive)
        system = without_biases(system)
        cv.check_topology(topology)
        cv.check_system(system)
        molecules = as_mdtraj(topology)
        if any(residue.n_atoms > 1 for residue in molecules.residues) and molecules.n_bonds == 0:
            raise DataError("starts: the topology has no bonds, so that nothing can be checked by them; add them.")
        frames = Archive(archive, cv, temperatures, system.usesPeriodicBoundaryConditions())
        step = stable_timestep(options.timestep, cv, options.temperature, system, *frames.sample(TIMESTEP_FRAMES))
        checks = Checks.from_topology(
            molecules,
            system,
            noise=cv.noise,
            tolerance=options.tolerance,
            allow_cis=options.allow_cis,
            allow_inversion=options.allow_inversion,
        )
        settings = WorkerSettings(
            system=openmm.XmlSerializer.serialize(system),
            topology=topology,
            variable=Path(),
            temperature=options.temperature,
            timestep=step,
            friction=options.friction,
            thermalization=max(1, round(options.thermalise / step)),
            release=max(1, round(options.release / step)) if options.release else 0,
            checks=checks,
            seed=streams.stream_seed(options.seed, "starts"),
            platform=_platform(options, system),
            at_once=None,
            devices=options.devices,
        )
        moving = int((particle_masses(system) > 0).sum())
        return cls(cv, frames, settings, 3 * moving - system.getNumConstraints(), options)

    def run(self, points: np.ndarray, n: int, finish: Callable[[Starts], Starts]) -> Starts:
        """Make n structures at latent points (m, d), of which those after the first n are replacements.

        With a directory they are saved there, or loaded from there if they are complete.
        """
        settings, directory = self._settings(n), self.options.directory
        if directory is not None and (files := StartFiles(directory)).complete:
            check_same_settings(directory, files.read_table()["settings"], settings)
            self.options.progress(1.0, "finished before")
            return Starts.load(directory, self.settings.topology)
        processes = self.options.processes or default_processes(self.settings.platform, n, self.options.executor)
        batches = TargetBatches(
            points, n, self.archive, self.settings, self.dof, self.options.attempts, processes, self.options.executor
        )
        with working_directory(directory, settings, points) as working:
            attempt = Attempt(working.folder, "starts")
            results, thermal = batches.run(self.cv, working, self.options.progress)
            starts = finish(self._collect(points, results, thermal, n, settings))
            if directory is not None:
                where = {"platform": self.settings.platform or "chosen by each worker"}
                provenance = attempt.provenance(device=where, stream=["starts", self.options.seed])
                starts.save(directory, self.options.structures, provenance)
        return starts

    def _settings(self, n: int) -> dict:
        """Everything that determines the structures, to the last bit."""
        options = self.options
        return {
            "requested": n,
            "temperature": options.temperature,
            "seed": options.seed,
            "timestep": options.timestep,
            "thermalise": options.thermalise,
            "release": options.release,
            "friction": options.friction,
            "tolerance": options.tolerance,
            "attempts": options.attempts,
            "allow_cis": options.allow_cis,
            "allow_inversion": options.allow_inversion,
            "platform": self.settings.platform,
            "variable": self.cv.fingerprint(),
            "archive": self.archive.fingerprint(),
            "system": hashlib.sha256(self.settings.system.encode()).hexdigest()[:16],
        }

    def _collect(
        self, points: np.ndarray, results: list[TargetResult], thermal: Thermal, n: int, settings: dict
    ) -> Starts:
        structures = {number: result.structure for number, result in enumerate(results) if result.structure is not None}
        valid = list(structures)

        def stack(name: str, *shape: int) -> np.ndarray:
            return np.array([getattr(entry, name) for entry in structures.values()]).reshape(len(valid), *shape)

        checks = [{**results[k].attempts[-1], "number": k, "tried": len(results[k].attempts)} for k in valid]
        for entry in checks:
            del entry["reason"]
        rejected = [
            _rejected(number, points[number], result)
            for number, result in enumerate(results)
            if result.structure is None
        ]
        return Starts(
            temperature=self.options.temperature,
            topology=self.settings.topology,
            positions=stack("positions", self.cv.n_atoms, 3),
            velocities=stack("velocities", self.cv.n_atoms, 3),
            boxes=stack("box", 3, 3) if self.archive.periodic else None,
            targets=points[valid].reshape(len(valid), self.cv.dim),
            reached=stack("reached", self.cv.dim),
            sources=np.array([entry["source"] for entry in checks], int),
            energies=stack("energy"),
            checks=checks,
            rejected=rejected,
            requested=n,
            tolerance=self.options.tolerance,
            thermal=thermal,
            settings=settings,
        )


def _platform(options: StartOptions, system: openmm.System) -> str | None:
    """Name of the platform to use; `None` lets workers choose, which may have a GPU where this machine has none."""
    if options.is_elsewhere and options.platform is None:
        return None
    return devices.pick(options.platform, system.getNumParticles(), options.devices)[0].getName()


def _rejected(number: int, target: np.ndarray, result: TargetResult) -> dict:
    """A target without structure, and the reasons."""
    reasons = [
        f"from frame {attempt['source']}: {attempt['reason']}" if "source" in attempt else attempt["reason"]
        for attempt in result.attempts
    ]
    return {"target": target.tolist(), "number": number, "reasons": reasons, "attempts": result.attempts}
