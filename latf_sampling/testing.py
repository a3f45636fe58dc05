"""The contract of descriptors as a check, for those of users as for those of the package.

A descriptor is evaluated in the bias at every step of a simulation, for any conformation that the molecule reaches. So
its gradient has to be right and finite everywhere, and it must not depend on where the faces of a periodic box are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mdtraj
import numpy as np
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from latf_sampling.features import Features

STEP = 1e-5
"""Step of finite differences in double precision, nm."""
DIRECTIONS = 12
"""Number of random directions in which gradients are compared."""
ACROSS, BISECTIONS = 40, 25
"""Places of a molecule on its way across the box, and how often the interval of the largest change is halved."""
MAX_COLUMNS = 200
"""Number of columns whose gradients are compared; of more columns, a random subset of this size is."""


def check_descriptors(
    trajectory: mdtraj.Trajectory,
    spec: Sequence[Mapping[str, Any]],
    *,
    floating: bool = True,
    periodic: bool = True,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Check descriptors on frames of a molecule; the first violation becomes an AssertionError.

    - Every column has a unique name, and a finite value in every frame; single precision and any number of leading
      dimensions give the same values.
    - ``torch.jit.script``, ``torch.jit.freeze`` and ``make_fx``, which exported variables and their forces need, accept
      the module and give the same values.
    - The gradient agrees with finite differences, and is finite where atoms coincide or lie on a line.
    - Translation and rotation of the molecule change nothing, nor, in rectangular, triclinic and changing boxes, does
      the replacement of atoms by their periodic images. Where there are several molecules, nothing jumps while the last
      one moves across the box.

    Parameters
    ----------
    trajectory
        Frames of an unwrapped molecule from a simulation; the first eight are used, their boxes are not.
    spec
        Descriptors, as `Features` takes them.
    floating
        Whether the descriptors have to be invariant to translation and rotation.
    periodic
        Whether the descriptors can be measured in a periodic box.
    tolerance
        Largest error, in the unit of a column, relative to its largest value where that is above 1.
    seed
        Seed of random displacements and directions.

    Raises
    ------
    AssertionError
        A check fails; the message names the check and the column.
    SettingsError
        The specification is wrong.

    Examples
    --------
    >>> topology = mdtraj.Topology()
    >>> residue = topology.add_residue("ARG", topology.add_chain())
    >>> for name in ("A", "B", "C"):
    ...     _ = topology.add_atom(name, mdtraj.element.argon, residue)
    >>> frames = mdtraj.Trajectory(np.random.default_rng(0).normal(0, 0.2, (4, 3, 3)), topology)
    >>> check_descriptors(frames, [{"distances": "all"}])
    """
    features = Features(trajectory.topology, spec, periodic=periodic)
    # noise, so that no structure is special, as one that was built with exact angles is
    rng = np.random.default_rng(seed)
    x = np.asarray(trajectory.xyz)[:8, features.atoms].astype(np.float64)
    x = torch.from_numpy(x - x.mean((0, 1)) + rng.normal(0, 0.003, x.shape))
    check = _Check(features, tolerance, rng)
    check.columns(x)
    check.precisions_and_shapes(x)
    check.compiled(x)
    check.gradient(x, None)
    check.singular_structures(x)
    if floating:
        check.invariance(x)
    if periodic:
        # Not by bonds, which the topology of a nucleic acid may lack between its residues.
        chains = [features._topology.atom(int(atom)).residue.chain.index for atom in features.atoms]
        labels = np.unique(chains, return_inverse=True)[1]
        if labels.max() > 0:
            check.molecules(x, next(_boxes(x))[1], labels)
        for kind, box in _boxes(x):
            check.images(x, box, kind)
            check.gradient(x, box, f" in a {kind} box")


def _require(fulfilled: bool, violation: str) -> None:
    """An assertion that python -O does not remove."""
    if not fulfilled:
        raise AssertionError(violation)


def _boxes(x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Boxes so large that all differences within the molecule are their own shortest images."""
    side = 2.5 * float((x.amax(-2) - x.amin(-2)).norm(dim=-1).max()) + 0.5
    triclinic = side * torch.tensor([[1.4, 0, 0], [0.5, 1.2, 0], [-0.6, 0.4, 1.0]], dtype=x.dtype)
    yield "rectangular", side * torch.diag(torch.tensor([1.0, 1.1, 1.3], dtype=x.dtype))
    yield "triclinic", triclinic
    yield "changing", triclinic * torch.linspace(1.0, 1.1, len(x), dtype=x.dtype)[:, None, None]


class _Check:
    """The checks of `check_descriptors`, on positions x (frames, n, 3) of the atoms that the descriptors need."""

    def __init__(self, features: Features, tolerance: float, rng: np.random.Generator):
        self.features, self.tolerance, self.rng = features, tolerance, rng

    def measure(self, x: torch.Tensor, box: torch.Tensor | None = None) -> torch.Tensor:
        return self.features.measure(x, box)

    def columns(self, x: torch.Tensor) -> None:
        names, units = self.features.names, self.features.units
        repeated = [name for name in names if names.count(name) > 1]
        _require(not repeated, f"two columns are called '{''.join(repeated[:1])}'.")
        _require(all(names), "a column has no name.")
        _require(len(units) == len(names), f"there are {len(units)} units for {len(names)} columns.")
        values = self.measure(x)
        _require(
            tuple(values.shape) == (len(x), len(names)),
            f"{len(x)} frames give an array {tuple(values.shape)}, {(len(x), len(names))} is right.",
        )
        for column, finite in zip(names, torch.isfinite(values).all(0)):
            _require(bool(finite), f"'{column}' is not finite in one of the frames.")

    def precisions_and_shapes(self, x: torch.Tensor) -> None:
        expected = self.measure(x)
        self._same(self.measure(x[0]), expected[0], "a single frame gives another value")
        self._same(self.measure(x[:, None])[:, 0], expected, "further leading dimensions give another value")
        single = self.measure(x.float())
        _require(single.dtype == torch.float32, f"float32 positions give {single.dtype}.")
        self._same(single.double(), expected, "single precision gives another value", 1e-4)

    def compiled(self, x: torch.Tensor) -> None:
        expected = self.measure(x)
        module = copy.deepcopy(self.features.module).double().eval()
        try:
            module = torch.jit.freeze(torch.jit.script(module))
        except Exception as error:  # torch raises many types
            raise AssertionError(f"torch.jit.script does not take the module: {error}") from error
        self._same(module(x), expected, "torch.jit.script gives another value")
        traced = make_fx(lambda positions: module(positions))(x[0])
        self._same(traced(x[-1]), expected[-1], "a graph traced on one frame gives another value on the next")

    def gradient(self, x: torch.Tensor, box: torch.Tensor | None, where: str = "") -> None:
        x = x[:3]
        box = box[:3] if box is not None and box.ndim == 3 else box
        columns, gradients = self._gradients(x, box)
        for _ in range(DIRECTIONS):
            direction = torch.from_numpy(self.rng.normal(size=x.shape)) / np.sqrt(x.shape[-2])
            plus, minus = (self.measure(x + sign * STEP * direction, box)[:, columns] for sign in (1, -1))
            expected = (plus - minus) / (2 * STEP)
            slopes = (gradients * direction).sum((-2, -1)).T
            self._same(slopes, expected, f"the gradient{where} is not that of finite differences", 1e-5, columns)

    def singular_structures(self, x: torch.Tensor) -> None:
        line = torch.zeros_like(x[0])
        line[:, 0] = torch.linspace(0, 0.1 * len(line), len(line), dtype=x.dtype)
        pairs = x[0].clone()
        pairs[1::2] = pairs[: len(pairs) // 2 * 2 : 2]
        structures = {"all atoms coincide": torch.zeros_like(x[0]), "all lie on a line": line, "pairs coincide": pairs}
        for description, structure in structures.items():
            columns, gradients = self._gradients(structure[None], None)
            values = self.measure(structure)[columns]
            for number, value, gradient in zip(columns.tolist(), values, gradients):
                name = self.features.names[number]
                _require(bool(torch.isfinite(value)), f"'{name}' is not finite where {description}.")
                _require(
                    bool(torch.isfinite(gradient).all()),
                    f"the gradient of '{name}' is not finite where {description}.",
                )

    def invariance(self, x: torch.Tensor) -> None:
        expected = self.measure(x)
        rotation, _ = np.linalg.qr(self.rng.normal(size=(3, 3)))
        rotation = torch.from_numpy(rotation * np.linalg.det(rotation))  # a reflection becomes a rotation
        self._same(self.measure(x + torch.tensor([0.7, -1.1, 0.4])), expected, "a translation changes it")
        self._same(self.measure(x @ rotation.T), expected, "a rotation changes it")

    def images(self, x: torch.Tensor, box: torch.Tensor, kind: str) -> None:
        expected = self.measure(x)
        self._same(self.measure(x, box), expected, f"a {kind} box that is large enough changes it")
        shifts = torch.from_numpy(self.rng.integers(-2, 3, size=(*x.shape[:-1], 3)).astype(float))
        moved = x + shifts @ box
        self._same(self.measure(moved, box), expected, f"periodic images of atoms in a {kind} box change it")

    def molecules(self, x: torch.Tensor, box: torch.Tensor, labels: np.ndarray) -> None:
        """Move the last molecule across the box, and look closer and closer where a column changes most."""
        members = torch.from_numpy(labels == labels.max()).to(x.dtype)[:, None]
        way = torch.tensor([0.6, 1.0, 0.4], dtype=x.dtype) @ box

        def at(fraction: float) -> torch.Tensor:
            return self.measure(x[0] + fraction * members * way, box)

        fractions = np.linspace(0, 1, ACROSS + 1)
        values = torch.stack([at(fraction) for fraction in fractions])
        changes = (values[1:] - values[:-1]).abs()
        column = int(changes.amax(0).div(values.abs().amax(0).clamp(min=1.0)).argmax())
        place = int(changes[:, column].argmax())
        low, high = fractions[place], fractions[place + 1]
        first, last = at(low)[column], at(high)[column]
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            value = at(middle)[column]
            if abs(value - first) > abs(last - value):
                high, last = middle, value
            else:
                low, first = middle, value
        jump = float(abs(last - first))
        _require(
            jump <= 1e-4 * max(1.0, float(values[:, column].abs().max())),
            f"'{self.features.names[column]}' jumps by {jump:.2g} where a molecule crosses half a box.",
        )

    def _gradients(self, x: torch.Tensor, box: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of columns, a random subset of many, and gradients of the columns (columns, *x.shape)."""
        x = x.clone().requires_grad_()
        values = self.measure(x, box)
        columns = np.sort(self.rng.permutation(values.shape[-1])[:MAX_COLUMNS])
        gradients = [torch.autograd.grad(values[..., k].sum(), x, retain_graph=True)[0] for k in columns.tolist()]
        return torch.from_numpy(columns), torch.stack(gradients)

    def _same(
        self,
        actual: torch.Tensor,
        expected: torch.Tensor,
        violation: str,
        tolerance: float | None = None,
        columns: torch.Tensor | None = None,
    ) -> None:
        """Compare values (..., columns); ``columns`` are the indices of the columns if they are a subset."""
        allowed = (self.tolerance if tolerance is None else tolerance) * expected.abs().reshape(
            -1, expected.shape[-1]
        ).amax(0).clamp(min=1.0)
        errors = (actual - expected).abs().reshape(-1, expected.shape[-1]).amax(0)
        worst = int(torch.argmax((errors / allowed).nan_to_num(torch.inf)))
        name = self.features.names[worst if columns is None else int(columns[worst])]
        _require(
            bool(errors[worst] <= allowed[worst]),
            f"'{name}': {violation}, by {float(errors[worst]):.2g} where {float(allowed[worst]):.2g} is allowed.",
        )
