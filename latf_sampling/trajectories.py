"""Finished segments as arrays: positions in nm with temperature, energies, weights and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mdtraj
import numpy as np

from latf_sampling import store
from latf_sampling.errors import DataError
from latf_sampling.units import KB


@dataclass(frozen=True)
class WalkerFrames:
    """All saved frames of one walker, in order and evenly spaced in time.

    Attributes
    ----------
    trajectory : mdtraj.Trajectory
    temperature : float
        K.
    energies : numpy.ndarray (frames,)
        Potential energy without bias, kJ/mol.
    bias, offset : numpy.ndarray (frames,)
        Bias V(u, t) and its offset c(t) when the frame was saved, kJ/mol; zero without bias.
    round_index, walker : int
    """

    trajectory: mdtraj.Trajectory
    temperature: float
    energies: np.ndarray
    bias: np.ndarray
    offset: np.ndarray
    round_index: int
    walker: int

    def __len__(self) -> int:
        return len(self.energies)

    @property
    def biased(self) -> bool:
        return bool(self.bias.any())

    @property
    def log_weights(self) -> np.ndarray:
        """ln of each frame's weight, (V - c) / kT (Tiwary and Parrinello, doi:10.1021/jp504920s); (frames,)."""
        return (self.bias - self.offset) / (KB * self.temperature)

    @property
    def weights(self) -> np.ndarray:
        """Weights of mean 1 that undo the bias; (frames,)."""
        weights = np.exp(self.log_weights - self.log_weights.max())
        return weights / weights.mean()


def read_walker(folder: Path, topology: mdtraj.Topology, round_index: int, walker: int) -> WalkerFrames:
    """Read a walker's finished segments.

    Raises
    ------
    DataError
        No segment is finished, or a trajectory holds another number of frames than its table; names the file.
    """
    summaries = store.finished_segments(folder)
    if not summaries:
        raise DataError(f"{folder}: no segment is finished there.")
    pieces, tables = [], []
    for index in range(len(summaries)):
        files = store.segment_files(folder, index)
        pieces.append(mdtraj.load_netcdf(str(files["trajectory"]), top=topology))
        with np.load(files["frames"]) as table:
            tables.append({name: table[name] for name in ("energy", "bias", "offset")})
        if len(pieces[-1]) != len(tables[-1]["energy"]):
            raise DataError(
                f"{files['trajectory']}: holds {len(pieces[-1])} frames, its table {len(tables[-1]['energy'])}; "
                "one of them was truncated."
            )
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return WalkerFrames(
        trajectory=mdtraj.join(pieces, check_topology=False) if len(pieces) > 1 else pieces[0],
        temperature=summaries[0]["temperature"],
        energies=columns["energy"],
        bias=columns["bias"],
        offset=columns["offset"],
        round_index=round_index,
        walker=walker,
    )
