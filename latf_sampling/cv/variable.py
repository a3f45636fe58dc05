"""Any differentiable collective variable of atomic positions: what every bias takes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit.frontend import FrontendError

from latf_sampling.core import arguments
from latf_sampling.core.notebook import ShownInNotebooks, some
from latf_sampling.core.words import plural
from latf_sampling.errors import CVError, SettingsError
from latf_sampling.features import reduced_box
from latf_sampling.units import to_array

if TYPE_CHECKING:
    import openmm
    from openmm import unit

Positions: TypeAlias = "np.ndarray | unit.Quantity | Sequence"

CHUNK = 512
"""Frames whose gradients are evaluated at once."""


class OfAllAtoms(nn.Module):
    """A function of some atoms as a function of all of them.

    Parameters
    ----------
    function
        (positions (..., n, 3), box (..., 3, 3) or `None`) -> (..., d), in double precision, of the atoms alone that it
        depends on.
    atoms
        Their indices (n,).
    """

    if TYPE_CHECKING:  # TorchScript cannot read annotations that are text
        atoms: Tensor

    def __init__(self, function: nn.Module, atoms: Tensor) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("atoms", atoms)

    @torch.jit.export
    def compact(self, positions: Tensor, box: Tensor | None) -> Tensor:
        """Evaluate on the positions (..., n, 3) of `atoms` alone, in double precision."""
        return self.function(positions, box)

    def forward(self, positions: Tensor, box: Tensor | None = None) -> Tensor:
        if box is not None:
            box = box.to(torch.float64)
        return self.compact(positions.index_select(-2, self.atoms).to(torch.float64), box)


class Variable(ShownInNotebooks):
    """A collective variable that torch can differentiate.

    Parameters
    ----------
    function
        A torch module that TorchScript can compile: (positions (..., n, 3) in nm of `atoms`, box vectors (..., 3, 3) in
        nm or `None`) -> (..., d), in double precision.
    atoms
        Indices (n,) of the atoms that it depends on, each once, in the order in which the function gets them.
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
        The function cannot be compiled, is not (..., d) or cannot be differentiated; an index, a bound or a width is
        impossible.

    Examples
    --------
    The distance between two atoms:

    >>> class Distance(nn.Module):
    ...     def forward(self, positions: Tensor, box: Tensor | None) -> Tensor:
    ...         return torch.linalg.vector_norm(positions[..., 1, :] - positions[..., 0, :], dim=-1, keepdim=True)
    >>> distance = Variable(Distance(), atoms=[0, 1], n_atoms=2, bounds=[[0.1, 1.0]], sigma=[0.02])
    >>> distance([[0.0, 0.0, 0.0], [0.3, 0.0, 0.4]])
    array([0.5])
    """

    def __repr__(self) -> str:
        components = plural(self.dim, "component")
        return f"<{type(self).__name__}: {components} from {len(self.atoms)} of {plural(self.n_atoms, 'atom')}>"

    def _overview(self) -> list[tuple[str, Any]]:
        ranges = [
            f"{low:.3g} to {high:.3g}, width of a hill {sigma:.2g}"
            for (low, high), sigma in zip(self.bounds, self.sigma)
        ]
        return [("components", ranges), ("atoms", ", ".join(some(list(self.atoms), 20))), ("periodic", self.periodic)]

    module: Any
    """The compiled function of all atoms, with the method ``compact`` for `atoms` alone; a `torch.jit.ScriptModule`."""

    def __init__(
        self,
        function: nn.Module,
        atoms: Sequence[int] | np.ndarray,
        n_atoms: int,
        bounds: Sequence[Sequence[float]] | np.ndarray,
        sigma: Sequence[float] | np.ndarray,
        periodic: bool = False,
        steepness: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        if not isinstance(function, nn.Module):
            raise CVError(f"{self._name}: the function must be a torch.nn.Module; got {arguments.describe(function)}.")
        self.n_atoms, self.periodic = arguments.whole(self._name, "n_atoms", n_atoms, 1), bool(periodic)
        self.atoms = self._checked_atoms(atoms)
        self.bounds, self.sigma = self._numbers("bounds", bounds), self._numbers("sigma", sigma)
        self.steepness = None if steepness is None else self._numbers("steepness", steepness)
        self._check_scales()
        if isinstance(function, torch.jit.ScriptModule) and hasattr(function, "compact"):
            self.module = function
            return
        try:
            module = OfAllAtoms(function, torch.from_numpy(self.atoms)).requires_grad_(False)
            self.module = torch.jit.script(module)
        except (RuntimeError, TypeError, ValueError, FrontendError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CVError(f"{self._name}: TorchScript cannot compile the function ({reason}).") from error
        self._check_function()

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

    def _check_function(self) -> None:
        """Refuse a function of another shape than (..., d), or one that torch cannot differentiate."""
        x = torch.from_numpy(0.3 * np.random.default_rng(0).normal(size=(2, len(self.atoms), 3)))
        box = 10.0 * torch.eye(3, dtype=torch.float64) if self.periodic else None
        for positions in (x[0], x):
            moving = positions.clone().requires_grad_(True)
            try:
                u = self.module.compact(moving, box if box is None or moving.ndim == 2 else box.expand(2, 3, 3))
                shape = (*moving.shape[:-2], self.dim)
                if tuple(u.shape) != shape:
                    raise CVError(
                        f"{self._name}: of positions {tuple(moving.shape)} the function must be {shape}; "
                        f"it is {tuple(u.shape)}."
                    )
                torch.autograd.grad(u.sum(), moving)
            except (RuntimeError, IndexError) as error:
                reason = str(error).strip().splitlines()[-1][:300]
                raise CVError(
                    f"{self._name}: the function cannot be evaluated and differentiated on positions "
                    f"{tuple(moving.shape)} ({reason})."
                ) from error

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def dim(self) -> int:
        """Number of components d."""
        return len(self.sigma)

    @overload
    def __call__(self, positions: Tensor, box: Any = None) -> Tensor: ...
    @overload
    def __call__(self, positions: Positions, box: Any = None) -> np.ndarray: ...
    def __call__(self, positions: Any, box: Any = None) -> Any:
        """Evaluate on positions (..., N, 3), with box vectors (..., 3, 3) where the variable is `periodic`.

        Both are tensors, arrays in nm, or quantities. A variable that is not periodic uses no periodic images, with a
        box or without one.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            (..., d), a tensor where the positions are one.

        Raises
        ------
        CVError
            The number of atoms is another one, a position is not finite, or the box is missing.
        SettingsError
            The positions are no lengths.
        """
        is_tensor = isinstance(positions, Tensor)
        tensor = positions if is_tensor else torch.as_tensor(to_array(positions, "length", "positions"))
        if tensor.ndim < 2 or tensor.shape[-2:] != (self.n_atoms, 3):
            raise CVError(f"{self._name}: expected positions (..., {self.n_atoms}, 3); got {tuple(tensor.shape)}.")
        self._check_finite(tensor)
        if not tensor.numel():
            return (
                tensor.new_zeros((*tensor.shape[:-2], self.dim))
                if is_tensor
                else np.zeros((*tensor.shape[:-2], self.dim))
            )
        u = self.module(tensor, self._box(box, tensor.shape[:-2]))
        return u if is_tensor else u.detach().numpy()

    def _check_finite(self, positions: Tensor) -> None:
        """Refuse positions (..., N, 3) that are no numbers, or infinite; names frame and atom."""
        if positions.is_complex():
            raise CVError(f"{self._name}: positions must be real numbers; got a tensor of {positions.dtype}.")
        finite = torch.isfinite(positions)
        if not finite.all():
            *frame, atom, _ = torch.nonzero(~finite)[0].tolist()
            where = f" in frame {', '.join(map(str, frame))}" if frame else ""
            raise CVError(f"{self._name}: the position of atom {atom}{where} is not finite.")

    def _box(self, box: Any, frames: Sequence[int]) -> Tensor | None:
        """Box vectors of all frames or of each, in OpenMM's reduced form, which those of a trajectory need not have."""
        if not self.periodic:
            return None
        if box is None:
            raise CVError(f"{self._name}: the variable was made for a periodic system; give the box vectors.")
        plain = box if isinstance(box, Tensor) else torch.tensor(np.asarray(to_array(box, "length", "box"), np.float64))
        if plain.ndim < 2 or plain.shape[-2:] != (3, 3) or not torch.isfinite(plain).all():
            raise CVError(
                f"{self._name}: the box must be finite vectors (..., 3, 3), nm; got {arguments.describe(box)}."
            )
        of = tuple(plain.shape[:-2])
        if len(of) > len(frames) or any(k not in (1, n) for k, n in zip(of[::-1], frames[::-1])):
            raise CVError(
                f"{self._name}: boxes {of} do not belong to frames {tuple(frames)}; give one, or one for each frame."
            )
        return reduced_box(plain.to(torch.float64))

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
        return np.concatenate([empty, *self.gradients_in_chunks(positions, box)])

    def gradients_in_chunks(self, positions: Positions, box: Any = None) -> Iterator[np.ndarray]:
        """What `gradients` gives, for `CHUNK` frames at a time."""
        positions = np.asarray(to_array(positions, "length", "positions"), np.float64)
        if positions.ndim != 3 or positions.shape[1:] != (self.n_atoms, 3):
            raise CVError(f"{self._name}: expected frames (n, {self.n_atoms}, 3); got {positions.shape}.")
        self._check_finite(torch.from_numpy(positions))
        box = None if box is None else np.asarray(to_array(box, "length", "box"))
        if self.periodic and len(positions):
            self._box(box, positions.shape[:1])  # refused as a whole, not piece by piece
        for start in range(0, len(positions), CHUNK):
            part = slice(start, start + CHUNK)
            x = torch.from_numpy(positions[part]).requires_grad_(True)
            u = self.module(x, self._box(box if box is None or box.ndim == 2 else box[part], x.shape[:1]))
            slopes = [torch.autograd.grad(u[:, k].sum(), x, retain_graph=True)[0] for k in range(self.dim)]
            yield torch.stack(slopes, 1)[:, :, self.atoms].numpy()

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
        parts = [(slopes**2).sum(-1) @ inverse for slopes in self.gradients_in_chunks(positions, box)]
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

    def fingerprint(self) -> str:
        """Sixteen characters that two variables have in common only if they are the same function of the positions."""
        digest = hashlib.sha256(self._definition())
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _definition(self) -> bytes:
        """What defines the function beside its numbers."""
        return f"{self.n_atoms} {self.periodic} {self.module.function.code}".encode()

    def __getstate__(self) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.jit.save(self.module, buffer)
        return {**self.__dict__, "module": buffer.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, module=torch.jit.load(io.BytesIO(state["module"])))
