"""Frames of one trajectory with temperature, energies and weights, and those of a walker's finished segments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mdtraj
import numpy as np

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
class WalkerFrames(Frames):
    """All saved frames of one walker.

    Attributes
    ----------
    bias, offset : numpy.ndarray (frames,)
        Bias V(u, t) and its offset c(t) when the frame was saved, kJ/mol; zero without bias.
    """

    trajectory: mdtraj.Trajectory
    temperature: float
    energies: np.ndarray
    bias: np.ndarray
    offset: np.ndarray
    round_index: int
    walker: int
    breaks: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def load(cls, folder: Path, topology: mdtraj.Topology, round_index: int, walker: int) -> WalkerFrames:
        """Read a walker's finished segments.

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
        pieces, tables = [], []
        for index in range(len(manifests)):
            files = directory.segment(index)
            pieces.append(mdtraj.load_netcdf(str(files.trajectory), top=topology))
            table = read_npz(files.frames)
            tables.append({name: table[name] for name in ("energy", "bias", "offset")})
            if len(pieces[-1]) != len(tables[-1]["energy"]):
                raise DataError(
                    f"{files.trajectory}: holds {len(pieces[-1])} frames, its table {len(tables[-1]['energy'])}; "
                    "one of them was truncated."
                )
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        return cls(
            trajectory=mdtraj.join(pieces, check_topology=False) if len(pieces) > 1 else pieces[0],
            temperature=manifests[0].content["temperature"],
            energies=columns["energy"],
            bias=columns["bias"],
            offset=columns["offset"],
            round_index=round_index,
            walker=walker,
            breaks=breaks_of(manifests),
        )

    def pieces(self) -> Iterator[mdtraj.Trajectory]:
        yield self.trajectory

    def take(self, frames: Sequence[int] | slice) -> mdtraj.Trajectory:
        return self.trajectory[frames]

    @property
    def biased(self) -> bool:
        return bool(self.bias.any())

    @property
    def log_weights(self) -> np.ndarray:
        """(V - c) / kT (Tiwary and Parrinello, doi:10.1021/jp504920s)."""
        return offset_weights(self.bias, self.offset, self.temperature)
