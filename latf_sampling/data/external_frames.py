"""Frames of a trajectory that was examined before; their positions stay in its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mdtraj
import numpy as np

from latf_sampling.core import storage
from latf_sampling.data.external import stamp
from latf_sampling.data.trajectories import Frames
from latf_sampling.data.trajectory_files import read_pieces
from latf_sampling.errors import DataError


@dataclass(frozen=True)
class ExternalFrames(Frames):
    """Frames of a given trajectory; positions are read from its file whenever they are asked for."""

    path: str
    stride: int
    topology: mdtraj.Topology
    periodic: bool
    temperature: float
    energies: np.ndarray
    given_weights: np.ndarray
    round_index: int
    walker: int

    @classmethod
    def read(cls, target: Path, topology: mdtraj.Topology, periodic: bool, walker: int) -> ExternalFrames:
        """What `examine` has noted.

        Raises
        ------
        DataError
            The trajectory was not examined yet, is missing, or is not what it was.
        """
        mark = target.with_suffix(".json")
        if not mark.exists():
            raise DataError(f"{mark}: is not there; trajectories are read by `latf run`, which was not finished.")
        summary = storage.read_json(mark)
        path = Path(summary["path"])
        now = stamp(path)
        if now["size"] != summary["size"] or (
            now["modified"] != summary["modified"] and _checksum(path, now["modified"]) != summary["sha256"]
        ):
            raise DataError(
                f"{path}: is not what it was when this campaign began; put the old file back, or start a new campaign."
            )
        with np.load(target.with_suffix(".npz")) as table:
            energies, weights = table["energy"], table["weight"]
        return cls(
            str(path), summary["stride"], topology, periodic, summary["temperature"], energies, weights, 0, walker
        )

    @property
    def label(self) -> str:
        return f"round {self.round_index}, {Path(self.path).name}"

    @property
    def trajectory(self) -> mdtraj.Trajectory:
        return mdtraj.join(list(self.pieces()), check_topology=False)

    def pieces(self) -> Iterator[mdtraj.Trajectory]:
        done = 0
        for piece in read_pieces(self.path, self.topology, self.periodic):
            kept = piece[-done % self.stride :: self.stride]
            done += len(piece)
            if len(kept):
                yield kept

    def take(self, frames: Sequence[int] | slice) -> mdtraj.Trajectory:
        wanted = np.arange(len(self))[frames]
        found, done = [], 0
        order = np.unique(wanted)
        for piece in self.pieces():
            here = order[(order >= done) & (order < done + len(piece))]
            done += len(piece)
            if len(here):
                found.append(piece[here - done + len(piece)])
            if not len(order) or done > order[-1]:
                break
        joined = mdtraj.join(found, check_topology=False)
        return joined[np.searchsorted(order, wanted)]

    @property
    def log_weights(self) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(self.given_weights)


@cache
def _checksum(path: Path, modified: int) -> str:
    """Of a file whose time stamp changed, once a process."""
    return storage.checksum(path)
