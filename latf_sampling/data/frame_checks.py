"""Physical checks of frames from files of other programs: bonds, overlaps, handedness, box, repeated frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import mdtraj
import numpy as np
import openmm
from scipy.spatial import KDTree

from latf_sampling.errors import DataError
from latf_sampling.systems.geometry import distinct_stereocenters, handedness, periodic_pairs
from latf_sampling.systems.molecule import bond_terms, box_vectors
from latf_sampling.systems.scale import scale_words
from latf_sampling.systems.structure import COVALENT_RADII
from latf_sampling.units import KB, to_float

BROKEN = 0.25
"""A bond is wrong if its length differs from the force field's by more than this share, and by more than `THERMAL`."""
MANY_BONDS, SCALED = 10, 0.06
"""The median of so many bonds may be this share off; water models and force fields differ by 0.045."""
THERMAL = 7.0
"""Standard deviations that the length of a bond may differ by, at the temperature of the trajectory."""
COVALENT = 0.45
"""As `BROKEN`, where the usual length is the sum of the covalent radii, from which a triple bond differs by 0.25."""
CLASH = 0.5
"""Heavy atoms, four or more bonds apart, overlap if they are nearer than this share of the sum of their radii. In
plain dynamics of alanine dipeptide at 600 K none of 20,000 frames is below 0.66."""
FEW_PAIRS = 2000
"""Up to so many pairs of heavy atoms all distances of all frames are computed, which is faster than trees of each."""
BOX_FACTOR = 2.0
"""Widths of the box of a frame may differ from those of the system by this factor."""
FEW_ATOMS = 3
"""Frames of so few atoms may be the same once they are rounded."""


@dataclass(frozen=True)
class FrameChecks:
    """What every frame of a system has in common, to tell a damaged frame from a physical one.

    Attributes
    ----------
    names : tuple of str
        Names of the atoms for people.
    bonds : numpy.ndarray (b, 2)
        Bonds of the topology, and of the force field where it has harmonic ones or constraints.
    lengths, spreads, shares : numpy.ndarray (b,)
        Usual lengths, nm; their standard deviations at 1 K, nm; and the least share of a length that is too much.
    heavy : numpy.ndarray (h,)
        Heavy atoms with bonds, whose contacts are checked; neighbors of an ion are nearer than the sum of the radii.
    radii : numpy.ndarray (h,)
        Their van der Waals radii, nm.
    near : numpy.ndarray (n,)
        Pairs of them that are one to three bonds apart, as ``lower * h + higher`` of their places in `heavy`, sorted.
    centers : numpy.ndarray (c, 5)
        Stereocenters and their neighbors.
    hands : numpy.ndarray (c,)
        Their handedness in the structure of the system; empty where no structure was given.
    widths : numpy.ndarray (3,) or None
        Of the system's box, nm.
    """

    names: tuple[str, ...]
    bonds: np.ndarray
    lengths: np.ndarray
    spreads: np.ndarray
    shares: np.ndarray
    heavy: np.ndarray
    radii: np.ndarray
    near: np.ndarray
    centers: np.ndarray
    hands: np.ndarray
    widths: np.ndarray | None

    @classmethod
    def from_system(
        cls, topology: mdtraj.Topology, system: openmm.System, reference: np.ndarray | None = None
    ) -> FrameChecks:
        """The checks of a system.

        Parameters
        ----------
        topology, system
            Its atoms and forces.
        reference
            Positions (N, 3), nm, of its structure, in whose stereocenters frames must agree; `None` checks none.
        """
        terms, atoms, rows = bond_terms(system), list(topology.atoms), []
        bonded: dict[int, list[int]] = {atom.index: [] for atom in atoms}
        for pair in sorted({(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds} | terms.keys()):
            usual, stiffness = terms.get(pair, (0.0, np.inf))
            share = BROKEN
            if pair not in terms:
                symbols = ["" if atoms[index].element is None else atoms[index].element.symbol for index in pair]
                usual, share = sum(COVALENT_RADII.get(symbol, np.nan) for symbol in symbols), COVALENT
            if usual > 0 and stiffness > 0:  # it is that of a Drude particle at 0, and may be unknown
                rows.append((*pair, usual, np.sqrt(KB / stiffness), share))
            bonded[pair[0]].append(pair[1])
            bonded[pair[1]].append(pair[0])
        table = np.array(rows).reshape(-1, 5)
        heavy = [
            a.index for a in atoms if bonded[a.index] and a.element is not None and a.element.symbol not in ("H", "VS")
        ]
        place, near = {atom: k for k, atom in enumerate(heavy)}, []
        for start in heavy:
            visited, shell = {start}, {start}
            for _ in range(3):
                shell = {other for atom in shell for other in bonded[atom]} - visited
                visited |= shell
            near += [place[start] * len(heavy) + place[other] for other in visited if other > start and other in place]
        centers = distinct_stereocenters(topology)
        box = box_vectors(system.getDefaultPeriodicBoxVectors()) if system.usesPeriodicBoundaryConditions() else None
        return cls(
            tuple(f"{atom.name} {atom.index} of {atom.residue.name} {atom.residue.resSeq}" for atom in atoms),
            table[:, :2].astype(int),
            table[:, 2],
            table[:, 3],
            table[:, 4],
            np.array(heavy, int),
            np.array([atoms[index].element.radius for index in heavy]),
            np.sort(np.array(near, np.int64)),
            centers,
            np.empty(0) if reference is None else handedness(reference, centers),
            None if box is None else box.diagonal(),
        )

    def fault(self, piece: mdtraj.Trajectory, temperature: float | None) -> tuple[int, str] | None:
        """The first frame that is not physical, and what is wrong with it; `None` if all are.

        Parameters
        ----------
        piece
            Frames, molecules whole, with boxes if the system is periodic.
        temperature
            K; `None` where it is not known, and may be up to 1000 K.
        """
        xyz = np.asarray(piece.xyz)
        boxes = None if self.widths is None else np.asarray(piece.unitcell_vectors, np.float64)
        tests = (
            self._boxes(boxes),
            self._bonds(xyz, temperature or 1000.0),
            self._hands(xyz),
            self._contacts(xyz, boxes),
        )
        faults = [test for test in tests if test is not None]
        return min(faults, key=lambda fault: fault[0], default=None)  # of one frame, the first test

    def _boxes(self, boxes: np.ndarray | None) -> tuple[int, str] | None:
        if boxes is None or self.widths is None:
            return None
        factors = np.exp(np.log(np.diagonal(boxes, axis1=1, axis2=2) / self.widths).mean(1))
        wrong = np.abs(np.log(factors)) > np.log(BOX_FACTOR)
        if not wrong.any():
            return None
        frame = int(wrong.argmax())
        width, usual = float(np.diagonal(boxes[frame]).min()), float(self.widths.min())
        return (
            frame,
            f"has a box of {width:.3g} nm, where the system's has {usual:.3g} nm: is its unit of length right?",
        )

    def _bonds(self, xyz: np.ndarray, temperature: float) -> tuple[int, str] | None:
        if not len(self.bonds):
            return None
        vectors = xyz[:, self.bonds[:, 0]] - xyz[:, self.bonds[:, 1]]
        ratios = np.sqrt(np.einsum("fbi,fbi->fb", vectors, vectors)) / self.lengths
        tolerated = np.maximum(self.shares, THERMAL * np.sqrt(temperature) * self.spreads / self.lengths)
        wrong = np.abs(ratios - 1) > tolerated
        frames = wrong.any(1)
        if (stiff := tolerated == BROKEN).sum() >= MANY_BONDS:
            frames |= np.abs(np.median(ratios[:, stiff], axis=1) - 1) > SCALED
        if not frames.any():
            return None
        frame = int(frames.argmax())
        return frame, self._of_bonds(ratios[frame], wrong[frame])

    def _of_bonds(self, ratios: np.ndarray, wrong: np.ndarray) -> str:
        """What wrong bonds look like."""
        middle = float(np.median(ratios))
        if not wrong.any() or (wrong.mean() > 0.8 and np.ptp(np.quantile(ratios, [0.1, 0.9])) < 0.4 * middle):
            return f"has bonds that are all {scale_words(middle)}"
        worst = int(np.argmax(np.where(wrong, np.abs(np.log(np.maximum(ratios, 1e-6))), 0)))
        first, second = (self.names[atom] for atom in self.bonds[worst])
        length, usual = ratios[worst] * self.lengths[worst], self.lengths[worst]
        hint = "is the order of atoms that of the topology?"
        if wrong.sum() == 1:
            hint = "is it damaged?"
        elif length > 1 and wrong.mean() < 0.5:
            hint = "is a molecule broken over a box, or the order of atoms not that of the topology?"
        return f"has a bond of {first} and {second} that is {length:.3g} nm long, {usual:.2g} nm would be right: {hint}"

    def _hands(self, xyz: np.ndarray) -> tuple[int, str] | None:
        if not len(self.hands):
            return None
        x = [xyz[:, self.centers[:, k]].astype(np.float64) for k in range(1, 5)]
        wrong = np.sign(np.einsum("fci,fci->fc", np.cross(x[1] - x[0], x[2] - x[0]), x[3] - x[0])) != self.hands
        frames = wrong.any(1)
        if not frames.any():
            return None
        frame = int(frames.argmax())
        center = self.names[self.centers[int(wrong[frame].argmax()), 0]]
        if not wrong[frame].all():
            hint = "is it another molecule, or the order of atoms not that of the topology?"
        elif len(self.hands) > 1:
            return frame, "is the mirror image of the system's structure: are its coordinates mirrored?"
        else:
            hint = "are its coordinates mirrored?"
        return frame, f"has the other handedness at {center} than the system's structure: {hint}"

    def _contacts(self, xyz: np.ndarray, boxes: np.ndarray | None) -> tuple[int, str] | None:
        if len(self.heavy) < 2:
            return None
        if boxes is None and len(self.heavy) * (len(self.heavy) - 1) // 2 <= FEW_PAIRS:
            return self._all_contacts(xyz)
        for frame in range(len(xyz)):
            box = None if boxes is None else np.tril(boxes[frame])
            x = xyz[frame, self.heavy]
            cutoff = 2 * CLASH * float(self.radii.max())
            if box is None:
                pairs = KDTree(x).query_pairs(cutoff, output_type="ndarray")
                distances = np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
            else:
                pairs, distances = periodic_pairs(x, box, cutoff)
            pairs = np.sort(pairs, axis=1)
            close = distances < CLASH * (self.radii[pairs[:, 0]] + self.radii[pairs[:, 1]])
            close &= ~np.isin(pairs[:, 0] * len(self.heavy) + pairs[:, 1], self.near)
            if close.any():
                worst = int(np.argmin(np.where(close, distances, np.inf)))
                inside = np.linalg.norm(x[pairs[close, 0]] - x[pairs[close, 1]], axis=1) < distances[close] + 0.01
                return frame, self._of_contact(pairs[worst], float(distances[worst]), not inside.any())
        return None

    def _all_contacts(self, xyz: np.ndarray) -> tuple[int, str] | None:
        pairs = np.stack(np.triu_indices(len(self.heavy), 1), 1)
        pairs = pairs[~np.isin(pairs[:, 0] * len(self.heavy) + pairs[:, 1], self.near)]
        vectors = xyz[:, self.heavy[pairs[:, 0]]] - xyz[:, self.heavy[pairs[:, 1]]]
        shares = np.sqrt(np.einsum("fpi,fpi->fp", vectors, vectors)) / self.radii[pairs].sum(1)
        frames = (shares < CLASH).any(1)
        if not frames.any():
            return None
        frame = int(frames.argmax())
        worst = int(shares[frame].argmin())
        return frame, self._of_contact(pairs[worst], float(shares[frame, worst] * self.radii[pairs[worst]].sum()))

    def _of_contact(self, pair: np.ndarray, distance: float, over_the_box: bool = False) -> str:
        first, second = (self.names[self.heavy[place]] for place in pair)
        if over_the_box:
            return (
                f"has {first} and {second} {distance:.2g} nm apart over the faces of its box, where they overlap: was "
                "it rotated, as by a superposition, or is the box not its own?"
            )
        return (
            f"has {first} and {second} {distance:.2g} nm apart, where they overlap: is it damaged, or the order of "
            "atoms not that of the topology?"
        )


@dataclass
class CheckedFrames:
    """Frames of one file as they are read, refused at the first one that is not physical or was there before.

    Parameters
    ----------
    checks
        Those of the system.
    path
        The file, for errors.
    temperature
        As in `FrameChecks.fault`.
    stride
        Only every `stride`-th frame of the file is given, for the numbers of frames in errors.
    others
        Frames of other files, by their `digest`, and these files; none of them may be here too.
    seen
        The frames so far, by their `digest`.
    """

    checks: FrameChecks
    path: str
    temperature: float | None = None
    stride: int = 1
    others: Mapping[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def __call__(self, pieces: Iterable[mdtraj.Trajectory]) -> Iterator[mdtraj.Trajectory]:
        """The same frames.

        Raises
        ------
        DataError
            Names the file, the first bad frame, and what it looks like.
        """
        done = 0
        for piece in pieces:
            fault = self.checks.fault(piece, self.temperature)
            if piece.n_atoms > FEW_ATOMS:
                self._refuse_copies(np.asarray(piece.xyz)[: None if fault is None else fault[0]], done)
            if fault is not None:
                raise DataError(f"{self.path}: frame {self.stride * (done + fault[0])} {fault[1]}")
            done += len(piece)
            yield piece

    def ends(self) -> list[str]:
        """Digests of the first and the last frame; empty where frames of so few atoms are not compared."""
        known = list(self.seen)
        return [known[0], known[-1]] if known else []

    def _refuse_copies(self, xyz: np.ndarray, done: int) -> None:
        for number, positions in enumerate(xyz, done):
            key = digest(positions)
            if key in self.others:
                raise DataError(
                    f"{self.path}: frame {self.stride * number} is also in {self.others[key]}, and would count twice; "
                    "name both files in one entry with chain: true if they are parts of one run, or remove one."
                )
            earlier = self.seen.setdefault(key, number)
            if earlier != number:
                raise DataError(
                    f"{self.path}: frame {self.stride * number} is a copy of frame {self.stride * earlier}: were files "
                    "joined, or a simulation continued from its last frame? Remove one of the two."
                )


def digest(positions: np.ndarray) -> str:
    """A short digest of positions (N, 3): two frames with the same one are the same."""
    return hashlib.blake2b(np.ascontiguousarray(positions, np.float32).tobytes(), digest_size=12).hexdigest()


def check_energies(
    path: str, energies: np.ndarray, stride: int, weights: np.ndarray, temperature: float, system: openmm.System
) -> None:
    """Refuse frames whose energies differ from those of the others by far more than thermal motion explains.

    At other temperatures a single one of them would take all weight.

    Parameters
    ----------
    path, stride
        The file, every `stride`-th frame of which is used, for errors.
    energies, weights : numpy.ndarray (frames,)
        Of the frames that are used, kJ/mol; those without a weight are not looked at.
    temperature, system
        K; and what they were simulated with.

    Raises
    ------
    DataError
        Names the first such frame.
    """
    values = energies[weights > 0]
    middle = float(np.median(values))
    thermal, spread = _thermal(system, temperature)
    spread = max(spread, 1.4826 * float(np.median(np.abs(values - middle))))
    wrong = (np.abs(energies - middle) > thermal + 12 * spread + 50 * KB * temperature) & (weights > 0)
    if wrong.any():
        frame = int(wrong.argmax())
        raise DataError(
            f"{path}: frame {frame * stride} has a potential energy of {energies[frame]:.6g} kJ/mol, far from the "
            f"{middle:.6g} +- {spread:.2g} kJ/mol of the others: is it damaged?"
        )


def check_minimum(path: str, energy: float, context: openmm.Context, temperature: float) -> None:
    """Refuse a first frame that is far higher above the nearest minimum than thermal motion explains.

    Parameters
    ----------
    path
        The file, for errors.
    energy
        Potential energy of the frame, kJ/mol.
    context
        Has its positions, which change. Some steps of the search are enough, since only a frame that is not thermal
        comes down by so much.
    temperature
        K.

    Raises
    ------
    DataError
        Says how high it is.
    """
    thermal, spread = _thermal(context.getSystem(), temperature)
    openmm.LocalEnergyMinimizer.minimize(context, 10, 100)
    above = energy - context.getState(getEnergy=True).getPotentialEnergy()._value
    if above > 2 * thermal + 8 * spread + 50 * KB * temperature:
        raise DataError(
            f"{path}: frame 0 is {above:.4g} kJ/mol above the nearest minimum of the potential energy, where thermal "
            f"motion at {temperature:g} K has {thermal:.3g} +- {spread:.2g} kJ/mol: is it of another force field, "
            "temperature or system?"
        )


def _thermal(system: openmm.System, temperature: float) -> tuple[float, float]:
    """Mean and standard deviation of the potential energy of harmonic motion around a minimum, kJ/mol."""
    particles = sum(to_float(system.getParticleMass(k), "mass") > 0 for k in range(system.getNumParticles()))
    dof = max(3 * particles - system.getNumConstraints(), 1)
    return 0.5 * dof * KB * temperature, (0.5 * dof) ** 0.5 * KB * temperature
