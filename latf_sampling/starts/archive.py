"""Archived frames to start from: their latent points, and the frames to try for a target."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import cast

import mdtraj
import numpy as np

from latf_sampling.core import arguments
from latf_sampling.core.boxes import reduced_boxes
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data.trajectories import Frames
from latf_sampling.errors import DataError
from latf_sampling.features import as_mdtraj
from latf_sampling.systems.geometry import SUPERPOSED_ATOMS, molecules_of
from latf_sampling.units import QuantityArrayLike, to_array

Trajectories = mdtraj.Trajectory | Frames | Sequence[mdtraj.Trajectory | Frames]

ON_TARGET = 0.5
"""Frames within so many sigma of a target are on it: they need not be pulled, and the one of the nearest temperature is
the best."""
CANDIDATES = 64
"""Number of the best frames among which different ones are selected."""
MIN_DIFFERENCE = 0.02
"""nm; a frame that differs by less from those before it is not worth a second attempt."""
DECIMALS = 5
"""Decimals of latent points."""
CHUNK = 2000
"""Number of frames whose variable is computed at once."""


class Archive:
    """Frames of one or more trajectories, in their order.

    Parameters
    ----------
    trajectories
        One `mdtraj.Trajectory`, or several of the same atoms, or `Frames` of a campaign; they are not copied, and
        those on the disk are read piece by piece.
    cv
        The variable.
    temperatures
        Of each trajectory, or of each frame, K, or a quantity; by default those of `Frames`, as far as all are such.
    periodic
        Whether the box vectors of frames are used.

    Attributes
    ----------
    latent : numpy.ndarray (frames, d)
    atoms : numpy.ndarray
        Atoms that the variable depends on.
    topology : mdtraj.Topology
    temperatures : numpy.ndarray (frames,) or None

    Raises
    ------
    DataError
        There is no frame, there are not as many temperatures as frames or trajectories, or box vectors are missing.
    CVError
        The frames belong to another molecule than the variable.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        cv: LatentCV,
        temperatures: QuantityArrayLike | None = None,
        periodic: bool = False,
    ) -> None:
        parts = [trajectories] if isinstance(trajectories, (mdtraj.Trajectory, Frames)) else list(trajectories)
        if not sum(map(len, parts)):
            raise DataError("starts: the archive holds no frame to start from.")
        self.parts = parts
        self.noise, self.atoms = cv.noise, cv.atoms
        self.periodic = periodic
        latents = []
        for part in parts:
            for piece in _pieces(part):
                self.topology = as_mdtraj(piece.topology)
                cv.check_topology(self.topology)
                cells = piece.unitcell_vectors if periodic else None
                if periodic and cells is None:
                    raise DataError("starts: the system is periodic, and frames of the archive have no box vectors.")
                positions = np.asarray(piece.xyz)
                for k in range(0, len(piece), CHUNK):
                    latents.append(cv(positions[k : k + CHUNK], None if cells is None else cells[k : k + CHUNK]))
        # The last bits may depend on how often torch has run the graph; dynamics that starts from them would, too.
        self.latent = np.round(np.concatenate(latents).astype(np.float64), DECIMALS) + 0.0
        self._first = np.cumsum([0, *map(len, parts)])
        self.temperatures = _temperatures_of_frames(temperatures, parts)
        self._compared = molecules_of(self.topology, cv.atoms)

    def __len__(self) -> int:
        return len(self.latent)

    def fingerprint(self) -> str:
        """Sixteen letters that two archives share only if their latent points and temperatures are the same."""
        digest = hashlib.sha256(np.ascontiguousarray(self.latent).tobytes())
        if self.temperatures is not None:
            digest.update(self.temperatures.tobytes())
        return digest.hexdigest()[:16]

    def take(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions (n, N, 3) and, of a periodic system, box vectors (n, 3, 3) of some frames, nm."""
        indices = np.asarray(indices, int)
        owner = np.searchsorted(self._first, indices, side="right") - 1
        positions = np.empty((len(indices), self.topology.n_atoms, 3))
        boxes = np.empty((len(indices), 3, 3)) if self.periodic else None
        for number in np.unique(owner):
            rows = owner == number
            part, frames = self.parts[number], indices[rows] - self._first[number]
            selected = part[frames] if isinstance(part, mdtraj.Trajectory) else part.take(frames.tolist())
            positions[rows] = selected.xyz
            if boxes is not None:
                boxes[rows] = reduced_boxes(np.asarray(selected.unitcell_vectors))
        return positions, boxes

    def sample(self, most: int) -> tuple[np.ndarray, np.ndarray | None]:
        """At most so many frames, evenly spaced: positions (n, N, 3) and boxes."""
        return self.take(range(0, len(self), max(1, -(-len(self) // most))))

    def nearest_frames(self, target: np.ndarray, temperature: float, count: int) -> list[int]:
        """Frames to try for a target (d,), the best first; they differ from each other, as far as the archive allows.

        Frames within half a sigma of the target are equally close. Of these the one simulated at the nearest
        temperature (in 1/T, as in Boltzmann factors) is the first. Farther ones are in the order of their distance.
        """
        distance = np.linalg.norm(self.latent - target, axis=1) / self.noise
        if self.temperatures is None:
            temperature_distance = np.zeros(len(self))
        else:
            temperature_distance = np.abs(1 / self.temperatures - 1 / temperature)
        order = np.lexsort((distance, temperature_distance, np.maximum(distance, ON_TARGET)))[:CANDIDATES]
        frames = mdtraj.Trajectory(self.take(order)[0][:, self._compared], None)
        selected: list[int] = []
        for k in range(len(order)):
            if len(selected) < count and (not selected or _difference(frames[selected], frames, k) > MIN_DIFFERENCE):
                selected.append(k)
        selected += [k for k in range(len(order)) if k not in selected]
        return [int(index) for index in order[selected[:count]]]


def check_archive(archive: object) -> None:
    """Refuse anything else in the place of the archived frames.

    Raises
    ------
    SettingsError
        It is neither a trajectory nor a list of some.
    """
    kinds, expected = (mdtraj.Trajectory, Frames), "an mdtraj.Trajectory, or a list of some"
    if isinstance(archive, kinds):
        return
    arguments.instance("starts", "archive", archive, (list, tuple), expected, "mdtraj.load")
    for number, part in enumerate(cast(Sequence, archive)):
        arguments.instance("starts", f"archive[{number}]", part, kinds, "an mdtraj.Trajectory", "mdtraj.load")


def _pieces(part: mdtraj.Trajectory | Frames) -> Iterable[mdtraj.Trajectory]:
    return [part] if isinstance(part, mdtraj.Trajectory) else part.pieces()


def _difference(others: mdtraj.Trajectory, frames: mdtraj.Trajectory, index: int) -> float:
    """Smallest root-mean-square distance of a frame from others, nm; after superposition, if there are enough atoms."""
    if frames.n_atoms < SUPERPOSED_ATOMS:
        distances = np.asarray(others.xyz) - np.asarray(frames.xyz)[index]
        return float(np.sqrt((distances**2).sum(2).mean(1)).min())
    return float(mdtraj.rmsd(others, frames, index).min())


def _temperatures_of_frames(
    temperatures: QuantityArrayLike | None, parts: Sequence[mdtraj.Trajectory | Frames]
) -> np.ndarray | None:
    """The temperature of each frame, K, or `None` if it is not known."""
    lengths = [len(part) for part in parts]
    if temperatures is None:
        temperatures = [part.temperature for part in parts if isinstance(part, Frames)]
        if len(temperatures) < len(parts):
            return None
    kelvin = to_array(temperatures, "temperature", "starts: temperatures").astype(np.float64).reshape(-1)
    count = len(kelvin)
    if count == len(parts):
        kelvin = np.repeat(kelvin, lengths)
    if len(kelvin) != sum(lengths) or not (np.isfinite(kelvin) & (kelvin > 0)).all():
        raise DataError(
            f"starts: temperatures must be positive numbers, one for each of {len(parts)} trajectories or "
            f"{sum(lengths)} frames; got {count}."
        )
    return kelvin
