"""What a bias needs of a collective variable, whatever evaluates it; without torch, which takes 500 MB."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from latf_sampling.core import arguments
from latf_sampling.core.notebook import ShownInNotebooks, some
from latf_sampling.core.words import plural
from latf_sampling.errors import CVError, SettingsError
from latf_sampling.features import fingerprint
from latf_sampling.units import to_array

if TYPE_CHECKING:
    import mdtraj
    import openmm
    from openmm import app, unit

    from latf_sampling.cv.shapes import Shape

Positions: TypeAlias = "np.ndarray | unit.Quantity | Sequence"
Evaluator: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""(positions (n, 3) of the variable's atoms, box (3, 3), table (m,) of a shape) -> (energy, forces (n, 3))."""


def check_topology(name: str, topology: app.Topology | mdtraj.Topology, made_for: str) -> None:
    """Refuse a topology (OpenMM's or MDTraj's) without the fingerprint of the one that a variable was made for."""
    if fingerprint(topology) != made_for:
        raise CVError(
            f"{name}: the variable was made for another topology (other atoms, names or residues); that of a campaign "
            "is in its folder, system/structure.cif. For another molecule train and export it again."
        )


class CollectiveVariable(ShownInNotebooks, ABC):
    """A collective variable of atomic positions, with the range and the widths that a bias on it needs.

    Parameters
    ----------
    atoms
        Indices (n,) of the atoms that it depends on, each once.
    n_atoms
        Number of particles of the system.
    bounds
        Range (d, 2) of each component: the grid of a bias covers it, and walls stand outside.
    sigma
        Width (d,) of a hill along each component.
    periodic
        Whether it depends on the periodic box.
    steepness
        Length (d,) of each component's gradient, 1/nm, root of the mean square over typical frames; hills with adaptive
        widths need it.

    Raises
    ------
    CVError
        An index, a bound or a width is impossible.
    """

    def __init__(
        self,
        atoms: Sequence[int] | np.ndarray,
        n_atoms: int,
        bounds: Sequence[Sequence[float]] | np.ndarray,
        sigma: Sequence[float] | np.ndarray,
        periodic: bool = False,
        steepness: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        self.n_atoms, self.periodic = arguments.whole(self._name, "n_atoms", n_atoms, 1), bool(periodic)
        self.atoms = self._checked_atoms(atoms)
        self.bounds, self.sigma = self._numbers("bounds", bounds), self._numbers("sigma", sigma)
        self.steepness = None if steepness is None else self._numbers("steepness", steepness)
        self._check_scales()

    def __repr__(self) -> str:
        components = plural(self.dim, "component")
        return f"<{type(self).__name__}: {components} from {len(self.atoms)} of {plural(self.n_atoms, 'atom')}>"

    def _overview(self) -> list[tuple[str, Any]]:
        ranges = [
            f"{low:.3g} to {high:.3g}, width of a hill {sigma:.2g}"
            for (low, high), sigma in zip(self.bounds, self.sigma)
        ]
        return [("components", ranges), ("atoms", ", ".join(some(list(self.atoms), 20))), ("periodic", self.periodic)]

    def _checked_atoms(self, atoms: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.array(list(atoms) if isinstance(atoms, Iterable) else atoms)
        if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
            raise CVError(f"{self._name}: atoms must be indices of atoms (n,), at least one; got {atoms!r}.")
        if array.min() < 0 or array.max() >= self.n_atoms or len(set(array.tolist())) < len(array):
            raise CVError(
                f"{self._name}: atoms must be different indices from 0 to {self.n_atoms - 1}; got {array.tolist()}."
            )
        return array.astype(np.int64)

    def _numbers(self, name: str, values: Any) -> np.ndarray:
        try:
            return np.array(values, np.float64)
        except (TypeError, ValueError) as error:
            raise CVError(f"{self._name}: {name} must be numbers; got {arguments.describe(values)}.") from error

    def _check_scales(self) -> None:
        shapes = self.bounds.shape, self.sigma.shape
        if self.sigma.ndim != 1 or not len(self.sigma) or self.bounds.shape != (len(self.sigma), 2):
            raise CVError(f"{self._name}: bounds must be (d, 2) and sigma (d,); got {shapes[0]} and {shapes[1]}.")
        if not (np.isfinite(self.bounds).all() and (self.bounds[:, 0] < self.bounds[:, 1]).all()):
            raise CVError(f"{self._name}: bounds must be finite, the lower one first; got {self.bounds.tolist()}.")
        if not (np.isfinite(self.sigma).all() and (self.sigma > 0).all()):
            raise CVError(f"{self._name}: sigma must be above 0 and finite; got {self.sigma.tolist()}.")
        if self.steepness is not None and self.steepness.shape != self.sigma.shape:
            raise CVError(f"{self._name}: steepness must be {self.sigma.shape}; got {self.steepness.shape}.")

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def dim(self) -> int:
        """Number of components d."""
        return len(self.sigma)

    @abstractmethod
    def __call__(self, positions: Any, box: Any = None) -> Any:
        """Evaluate on positions (..., N, 3), with box vectors (..., 3, 3) where it is `periodic`; returns (..., d)."""

    @abstractmethod
    def _gradients_in_chunks(self, positions: Positions, box: Any = None) -> Iterator[np.ndarray]:
        """What `gradients` gives, for some frames at a time."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Sixteen characters that two variables have in common only if they are the same function of the positions."""

    @abstractmethod
    def evaluator(self, shape: Shape) -> Evaluator:
        """Energy and forces of a bias shape on this variable, for a `PythonForce`."""

    def undefined(self, positions: np.ndarray, box: np.ndarray | None = None) -> list[str]:
        """Names of what the variable is a function of that has no finite value at positions (N, 3), where known."""
        return []

    def _check_positions(self, shape: Sequence[int]) -> None:
        """Refuse positions of another shape than (..., N, 3)."""
        if len(shape) < 2 or tuple(shape[-2:]) != (self.n_atoms, 3):
            raise CVError(f"{self._name}: expected positions (..., {self.n_atoms}, 3); got {tuple(shape)}.")

    def _frames(self, positions: Positions) -> np.ndarray:
        """Frames (n, N, 3) in double precision."""
        frames = np.asarray(to_array(positions, "length", "positions"), np.float64)
        if frames.ndim != 3 or frames.shape[1:] != (self.n_atoms, 3):
            raise CVError(f"{self._name}: expected frames (n, {self.n_atoms}, 3); got {frames.shape}.")
        return frames

    def _not_finite(self, place: Sequence[int]) -> CVError:
        """The error for a position that is no number, or infinite, by its indices: of frame, atom and component."""
        *frame, atom, _ = place
        where = f" in frame {', '.join(map(str, frame))}" if frame else ""
        return CVError(f"{self._name}: the position of atom {atom}{where} is not finite.")

    def _no_box(self) -> CVError:
        return CVError(f"{self._name}: the variable was made for a periodic system; give the box vectors.")

    def of_context(self, context: openmm.Context) -> np.ndarray:
        """Value (d,) at the present positions of a context; not finite where the simulation exploded."""
        if not hasattr(context, "getState"):
            raise SettingsError(f"{self._name}: expected an openmm.Context; got {arguments.describe(context)}.")
        positions, box = self._state_of(context)
        if np.isfinite(positions).all():
            return self(positions, box)
        return np.full(self.dim, np.nan)

    def gradient_of_context(self, context: openmm.Context) -> np.ndarray:
        """Length (d,) of each component's gradient at the present positions of a context, 1/nm."""
        positions, box = self._state_of(context)
        slopes = self.gradients(positions[None], box)[0]
        return np.sqrt((slopes**2).sum((1, 2)))

    def _state_of(self, context: openmm.Context) -> tuple[np.ndarray, np.ndarray | None]:
        state = context.getState(getPositions=True)
        box = state.getPeriodicBoxVectors(asNumpy=True)._value if self.periodic else None
        return state.getPositions(asNumpy=True)._value, box

    def gradients(self, positions: Positions, box: Any = None) -> np.ndarray:
        """Derivatives of each component by the positions of `atoms`, 1/nm, on frames (n, N, 3); (n, d, atoms, 3).

        Raises
        ------
        CVError, SettingsError
            As of a call of the variable.
        """
        empty = np.zeros((0, self.dim, len(self.atoms), 3))
        return np.concatenate([empty, *self._gradients_in_chunks(positions, box)])

    def mobility(self, positions: Positions, masses: np.ndarray, box: Any = None) -> np.ndarray:
        """Inverse mass of each component, sum_i |du/dx_i|^2 / m_i, on frames (n, N, 3); returns (n, d) in 1/(amu nm^2).

        A spring of stiffness k on the component oscillates at sqrt(k * mobility): that must stay well below one
        radian per time step.
        """
        masses = np.asarray(masses, np.float64)
        if masses.shape != (self.n_atoms,):
            raise CVError(f"{self._name}: masses must be ({self.n_atoms},), amu; got {masses.shape}.")
        masses = masses[self.atoms]
        inverse = np.where(masses > 0, 1 / np.where(masses > 0, masses, 1.0), 0.0)
        parts = [(slopes**2).sum(-1) @ inverse for slopes in self._gradients_in_chunks(positions, box)]
        return np.concatenate([np.zeros((0, self.dim)), *parts])

    def check_system(self, system: openmm.System) -> None:
        """Refuse an OpenMM system that the variable was not made for.

        Raises
        ------
        CVError
            The system has another number of particles.
        SettingsError
            The argument is no system.
        """
        if not hasattr(system, "getNumParticles"):
            raise SettingsError(f"{self._name}: expected an openmm.System; got {arguments.describe(system)}.")
        if system.getNumParticles() != self.n_atoms:
            raise CVError(
                f"{self._name}: the variable was made for {self.n_atoms} atoms; the system has "
                f"{system.getNumParticles()}."
            )
