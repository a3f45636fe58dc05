"""Frames of one trajectory with temperature, energies and weights, and those of a walker's finished segments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mdtraj
import numpy as np
from mdtraj.formats import NetCDFTrajectoryFile

from latf_sampling.analysis.weights import offset_weights
from latf_sampling.core.arrays import read_npz
from latf_sampling.data.exchanges import breaks_of
from latf_sampling.data.layout import WalkerDirectory
from latf_sampling.errors import DataError


class Frames(ABC):
    """Frames of one trajectory, in order and evenly spaced in time, in memory or on the disk.

    Attributes
    ----------
    trajectory : mdtraj.Trajectory
        All frames in memory; `pieces` and `take` need less memory where positions are on the disk.
    temperature : float
        K.
    energies : numpy.ndarray (frames,)
        Potential energy without bias, kJ/mol.
    round_index, walker : int
        The round of the campaign, and the number of the walker or external trajectory in it.
    breaks : numpy.ndarray (n,)
        Indices of frames that do not go on from the frame before: another walker's configuration was taken over between
        them, by replica exchange.
    """

    trajectory: mdtraj.Trajectory
    temperature: float
    energies: np.ndarray
    round_index: int
    walker: int
    breaks: np.ndarray = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.energies)

    @abstractmethod
    def pieces(self) -> Iterator[mdtraj.Trajectory]:
        """All frames in order, some at a time."""

    @abstractmethod
    def take(self, frames: Sequence[int] | slice) -> mdtraj.Trajectory:
        """Some frames, by their indices and in the order of these."""

    @property
    @abstractmethod
    def log_weights(self) -> np.ndarray:
        """ln of each frame's weight in the unbiased ensemble, up to a constant; (frames,)."""

    @property
    def label(self) -> str:
        """Name of the trajectory for people."""
        return f"round {self.round_index}, walker {self.walker}"

    @property
    def biased(self) -> bool:
        """Whether a bias of this campaign acted."""
        return False

    @property
    def weights(self) -> np.ndarray:
        """Weights of mean 1 in the unbiased ensemble; (frames,)."""
        weights = np.exp(self.log_weights - self.log_weights.max())
        return weights / weights.mean()

    @property
    def externally_weighted(self) -> bool:
        """Whether frames differ in weight although no bias of this campaign acted."""
        return not self.biased and bool(np.ptp(self.weights) > 0)


@dataclass(frozen=True)
class StoredFrames:
    """The frames of a walker's segments on the disk, which are read one segment at a time.

    Attributes
    ----------
    files : tuple of pathlib.Path
        Trajectories of the segments, in order.
    lengths : tuple of int
        Number of frames of each.
    topology : mdtraj.Topology
    """

    files: tuple[Path, ...]
    lengths: tuple[int, ...]
    topology: mdtraj.Topology

    def pieces(self) -> Iterator[mdtraj.Trajectory]:
        """The segments in order."""
        for file in self.files:
            yield mdtraj.load_netcdf(str(file), top=self.topology)

    def __getitem__(self, frames: Sequence[int] | slice) -> mdtraj.Trajectory:
        """Some frames, by their indices and in the order of these; segments without one of them are not read."""
        ends = np.cumsum(self.lengths)
        wanted = np.atleast_1d(np.arange(ends[-1])[frames])
        segments = np.searchsorted(ends, wanted, side="right")
        parts, order = [], []
        for segment in np.unique(segments):
            places = np.flatnonzero(segments == segment)
            piece = mdtraj.load_netcdf(str(self.files[segment]), top=self.topology)
            parts.append(piece[wanted[places] - ends[segment] + self.lengths[segment]])
            order.append(places)
        if not parts:
            return mdtraj.Trajectory(np.empty((0, self.topology.n_atoms, 3), np.float32), self.topology)
        joined = mdtraj.join(parts, check_topology=False) if len(parts) > 1 else parts[0]
        return joined[np.argsort(np.concatenate(order))]


@dataclass(frozen=True)
class WalkerFrames(Frames):
    """All saved frames of one walker; their positions stay on the disk.

    Attributes
    ----------
    source : StoredFrames or mdtraj.Trajectory
        Where the positions are.
    bias, offset : numpy.ndarray (frames,)
        Bias V(u, t) and its offset c(t) when the frame was saved, kJ/mol; zero without bias.
    """

    source: StoredFrames | mdtraj.Trajectory
    temperature: float
    energies: np.ndarray
    bias: np.ndarray
    offset: np.ndarray
    round_index: int
    walker: int
    breaks: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def load(cls, folder: Path, topology: mdtraj.Topology, round_index: int, walker: int) -> WalkerFrames:
        """Read what belongs to the frames of a walker's finished segments, and find their positions.

        Raises
        ------
        DataError
            No segment is finished, or a trajectory holds another number of frames than its table; names the file.
        StoreError
            A file of a finished segment has changed since; names it.
        """
        directory = WalkerDirectory(folder)
        manifests = directory.finished_segments()
        if not manifests:
            raise DataError(f"{folder}: holds no finished segment.")
        lengths, tables = [], []
        for index in range(len(manifests)):
            files = directory.segment(index)
            with NetCDFTrajectoryFile(str(files.trajectory)) as stored:
                lengths.append(len(stored))
            table = read_npz(files.frames)
            tables.append({name: table[name] for name in ("energy", "bias", "offset")})
            if lengths[-1] != len(tables[-1]["energy"]):
                raise DataError(
                    f"{files.trajectory}: holds {lengths[-1]} frames, its table {len(tables[-1]['energy'])}; "
                    "one of them was truncated."
                )
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        files = tuple(directory.segment(index).trajectory for index in range(len(manifests)))
        return cls(
            source=StoredFrames(files, tuple(lengths), topology),
            temperature=manifests[0].content["temperature"],
            energies=columns["energy"],
            bias=columns["bias"],
            offset=columns["offset"],
            round_index=round_index,
            walker=walker,
            breaks=breaks_of(manifests),
        )

    @property
    def trajectory(self) -> mdtraj.Trajectory:  # pyright: ignore[reportIncompatibleVariableOverride] - read-only here
        return self.source[:]

    def pieces(self) -> Iterator[mdtraj.Trajectory]:
        if isinstance(self.source, StoredFrames):
            yield from self.source.pieces()
        else:
            yield self.source

    def take(self, frames: Sequence[int] | slice) -> mdtraj.Trajectory:
        return self.source[frames]

    @property
    def biased(self) -> bool:
        return bool(self.bias.any())

    @property
    def log_weights(self) -> np.ndarray:
        """(V - c) / kT (Tiwary and Parrinello, doi:10.1021/jp504920s)."""
        return offset_weights(self.bias, self.offset, self.temperature)
