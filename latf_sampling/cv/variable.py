"""Any collective variable of atomic positions that torch can differentiate."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit.frontend import FrontendError

from latf_sampling.core import arguments, backends
from latf_sampling.cv import graph
from latf_sampling.cv.collective_variable import CollectiveVariable, Evaluator, Positions
from latf_sampling.cv.compiler.kernel import KernelError
from latf_sampling.cv.shapes import Shape
from latf_sampling.errors import CVError
from latf_sampling.features import reduced_box
from latf_sampling.units import to_array

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


class Variable(CollectiveVariable):
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
        super().__init__(atoms, n_atoms, bounds, sigma, periodic, steepness)
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
        self._check_positions(tensor.shape)
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
            raise self._not_finite(torch.nonzero(~finite)[0].tolist())

    def _box(self, box: Any, frames: Sequence[int]) -> Tensor | None:
        """Box vectors of all frames or of each, in OpenMM's reduced form, which those of a trajectory need not have."""
        if not self.periodic:
            return None
        if box is None:
            raise self._no_box()
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

    def _gradients_in_chunks(self, positions: Positions, box: Any = None) -> Iterator[np.ndarray]:
        """What `gradients` gives, for `CHUNK` frames at a time."""
        positions = self._frames(positions)
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

    def fingerprint(self) -> str:
        """Sixteen characters that two variables have in common only if they are the same function of the positions."""
        digest = hashlib.sha256(self._definition())
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()[:16]

    def _definition(self) -> bytes:
        """What defines the function beside its numbers."""
        return f"{self.n_atoms} {self.periodic} {self.module.function.code}".encode()

    def evaluator(self, shape: Shape) -> Evaluator:
        """Energy and forces of a bias shape, as machine code.

        A custom descriptor may contain an operation that the compiler does not translate. Then torch evaluates the
        graph: the same numbers, several times slower, and a warning that says so. LATF_COMPILE=0 in the environment
        makes torch evaluate everything, for scripts that end before a new kernel would be compiled.
        """
        traced, inputs = graph.trace(self, shape), graph.example(self, shape)
        if backends.compiles():
            from latf_sampling.cv.compiler.lowering import compile_graph

            try:
                return compile_graph(traced, inputs)
            except KernelError as error:
                warnings.warn(f"bias: evaluated by torch, not as machine code ({error})", RuntimeWarning, stacklevel=6)
        script = torch.jit.freeze(graph.to_torchscript(traced, inputs).eval())

        def evaluate(positions: np.ndarray, box: np.ndarray, table: np.ndarray) -> tuple[float, np.ndarray]:
            energy, forces = script(*(torch.from_numpy(array) for array in (positions, box, table)))
            return float(energy), forces.numpy()

        return evaluate

    def __getstate__(self) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.jit.save(self.module, buffer)
        return {**self.__dict__, "module": buffer.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, module=torch.jit.load(io.BytesIO(state["module"])))
