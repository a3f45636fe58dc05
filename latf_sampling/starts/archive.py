"""Frames to start from: where each is in latent space, and which of them to try for a target."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import mdtraj
import numpy as np
import torch

from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data.trajectories import Frames
from latf_sampling.errors import DataError
from latf_sampling.features.periodic import reduced_box
from latf_sampling.starts.geometry import AS_THEY_LIE, molecules_of

Trajectories = mdtraj.Trajectory | Frames | Sequence[mdtraj.Trajectory | Frames]

CLOSE = 0.5
"""Frames within so many sigma of a target are on it: no pull is needed, and that of the nearest temperature is best."""
POOL = 64
"""So many of the best frames are looked at for different ones among them."""
DIFFERENT = 0.02
"""nm; frames that differ by less are no second attempt."""
DIGITS = 5
"""Decimals of latent points."""
CHUNK = 2000
"""Frames whose variable is computed at once."""


class Archive:
    """Frames of one or more trajectories, in their order.

    Parameters
    ----------
    trajectories
        One `mdtraj.Trajectory`, or several of the same atoms, or of a campaign's `Frames`; they are not copied, and
        those on the disk are read piece by piece.
    cv
        The variable.
    temperatures
        Of each trajectory, or of each frame, K; None where they are not known. `Frames` know theirs.
    periodic
        Whether box vectors matter; those of frames without need of any are left alone.

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
        There is no frame, temperatures are not as many as frames or trajectories, or box vectors are missing.
    CVError
        The frames are of another molecule than the variable.
    """

    def __init__(self, trajectories: Trajectories, cv: LatentCV, temperatures=None, periodic: bool = False) -> None:
        parts = [trajectories] if isinstance(trajectories, (mdtraj.Trajectory, Frames)) else list(trajectories)
        if not sum(map(len, parts)):
            raise DataError("starts: the archive holds no frame to start from.")
        self.parts = parts
        self.noise, self.atoms = cv.noise, cv.atoms
        self.periodic = periodic
        latents = []
        for part in parts:
            for piece in _pieces(part):
                cv.check_topology(piece.topology)
                cells = piece.unitcell_vectors if periodic else None
                if periodic and cells is None:
                    raise DataError("starts: the system is periodic, and frames of the archive have no box vectors.")
                latents += [
                    cv(piece.xyz[k : k + CHUNK], None if cells is None else cells[k : k + CHUNK])
                    for k in range(0, len(piece), CHUNK)
                ]
                self.topology = piece.topology
        # Last bits may depend on how often torch has run the graph; dynamics that starts from them would too.
        self.latent = np.round(np.concatenate(latents).astype(np.float64), DIGITS) + 0.0
        self._first = np.cumsum([0, *map(len, parts)])
        self.temperatures = _of_frames(temperatures, parts)
        self._compared = molecules_of(self.topology, cv.atoms)

    def __len__(self) -> int:
        return len(self.latent)

    def fingerprint(self) -> str:
        """Sixteen letters that two archives share only if their frames have the same latents and temperatures."""
        digest = hashlib.sha256(np.ascontiguousarray(self.latent).tobytes())
        if self.temperatures is not None:
            digest.update(self.temperatures.tobytes())
        return digest.hexdigest()[:16]

    def take(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """Positions (n, N, 3) and box vectors (n, 3, 3), nm, if there are any, of some frames."""
        indices = np.asarray(indices, int)
        owner = np.searchsorted(self._first, indices, side="right") - 1
        positions = np.empty((len(indices), self.topology.n_atoms, 3))
        boxes = np.empty((len(indices), 3, 3)) if self.periodic else None
        for number in np.unique(owner):
            mine = owner == number
            part, frames = self.parts[number], indices[mine] - self._first[number]
            taken = part[frames] if isinstance(part, mdtraj.Trajectory) else part.take(frames.tolist())
            positions[mine] = taken.xyz
            if boxes is not None:
                boxes[mine] = _reduced(taken.unitcell_vectors)
        return positions, boxes

    def sample(self, most: int) -> tuple[np.ndarray, np.ndarray | None]:
        """At most so many frames, evenly spaced: positions (n, N, 3) and boxes."""
        return self.take(range(0, len(self), max(1, -(-len(self) // most))))

    def neighbours(self, target: np.ndarray, temperature: float, count: int) -> list[int]:
        """Frames to try for a target (d,), the best first, each different from those before as far as there are any.

        Those within half a sigma of the target are all as close; of these the one simulated at the nearest temperature
        (in 1/T, which counts in Boltzmann factors) comes first. Farther ones come by their distance.
        """
        distance = np.linalg.norm(self.latent - target, axis=1) / self.noise
        colder = np.zeros(len(self)) if self.temperatures is None else np.abs(1 / self.temperatures - 1 / temperature)
        order = np.lexsort((distance, colder, np.maximum(distance, CLOSE)))[:POOL]
        frames = mdtraj.Trajectory(self.take(order)[0][:, self._compared], None)
        chosen: list[int] = []
        for k in range(len(order)):
            if len(chosen) < count and (not chosen or _apart(frames[chosen], frames, k) > DIFFERENT):
                chosen.append(k)
        chosen += [k for k in range(len(order)) if k not in chosen]
        return [int(index) for index in order[chosen[:count]]]


def _pieces(part: mdtraj.Trajectory | Frames) -> Iterable[mdtraj.Trajectory]:
    return [part] if isinstance(part, mdtraj.Trajectory) else part.pieces()


def _reduced(boxes: np.ndarray) -> np.ndarray:
    """Box vectors (n, 3, 3) in the form that OpenMM takes, which those computed from angles miss by rounding."""
    return reduced_box(torch.from_numpy(np.tril(boxes.astype(np.float64)))).numpy()


def _apart(some: mdtraj.Trajectory, frames: mdtraj.Trajectory, index: int) -> float:
    """Smallest distance of a frame from some others, nm: after superposition, where there is anything to superpose."""
    if frames.n_atoms < AS_THEY_LIE:
        return float(np.sqrt(((some.xyz - frames.xyz[index]) ** 2).sum(2).mean(1)).min())
    return float(mdtraj.rmsd(some, frames, index).min())


def _of_frames(temperatures, parts: list) -> np.ndarray | None:
    if temperatures is None:
        if not all(isinstance(part, Frames) for part in parts):
            return None
        temperatures = [part.temperature for part in parts]
    given, lengths = np.array(temperatures, np.float64).reshape(-1), [len(part) for part in parts]
    if len(given) == len(parts):
        given = np.repeat(given, lengths)
    if len(given) != sum(lengths) or not (np.isfinite(given) & (given > 0)).all():
        raise DataError(
            f"starts: temperatures must be positive numbers, one for each of {len(parts)} trajectories or "
            f"{sum(lengths)} frames; got {len(given)}."
        )
    return given
