"""Frames of an external trajectory that was examined before; their positions stay in its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mdtraj
import numpy as np

from latf_sampling.core.arrays import read_npz
from latf_sampling.data.external import checksum_at, stamp
from latf_sampling.data.layout import ExternalFiles
from latf_sampling.data.trajectories import Frames
from latf_sampling.data.trajectory_files import read_strided
from latf_sampling.errors import DataError


@dataclass(frozen=True)
class ExternalFrames(Frames):
    """Frames of an external trajectory; positions are read from its file whenever they are needed."""

    path: str
    stride: int
    topology: mdtraj.Topology
    periodic: bool
    temperature: float
    energies: np.ndarray
    external_weights: np.ndarray
    round_index: int
    walker: int
    skip: int = 0

    @classmethod
    def load(cls, files: ExternalFiles, topology: mdtraj.Topology, periodic: bool, number: int) -> ExternalFrames:
        """Read what `examine` has written about the trajectory of a number.

        Raises
        ------
        DataError
            The trajectory was not examined yet, is missing, or has changed since.
        """
        if not files.marker.exists():
            raise DataError(f"{files.marker}: does not exist; external trajectories are read by `latf run`: finish it.")
        summary = files.manifest().verified().content
        path = Path(summary["path"])
        now = stamp(path)
        if now["size"] != summary["size"] or (
            now["modified"] != summary["modified"] and checksum_at(path, now["modified"]) != summary["sha256"]
        ):
            raise DataError(
                f"{path}: has changed since this campaign began; restore the old file, or start a new campaign."
            )
        table = read_npz(files.numbers)
        energies, weights = table["energy"], table["weight"]
        return cls(
            str(path),
            summary["stride"],
            topology,
            periodic,
            summary["temperature"],
            energies,
            weights,
            0,
            number,
            summary.get("skip", 0),
        )

    @property
    def label(self) -> str:
        return f"round {self.round_index}, {Path(self.path).name}"

    @property
    def trajectory(self) -> mdtraj.Trajectory:  # pyright: ignore[reportIncompatibleVariableOverride] - read-only here
        return mdtraj.join(list(self.pieces()), check_topology=False)

    def pieces(self) -> Iterator[mdtraj.Trajectory]:
        yield from read_strided(self.path, self.topology, self.periodic, self.stride, self.skip)

    def take(self, frames: Sequence[int] | slice) -> mdtraj.Trajectory:
        wanted = np.arange(len(self))[frames]
        order = np.unique(wanted)
        parts, done = [], 0
        for piece in self.pieces():
            indices = order[(order >= done) & (order < done + len(piece))]
            done += len(piece)
            if len(indices):
                parts.append(piece[indices - done + len(piece)])
            if not len(order) or done > order[-1]:
                break
        return mdtraj.join(parts, check_topology=False)[np.searchsorted(order, wanted)]

    @property
    def log_weights(self) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(self.external_weights)
