"""A torch module that somebody else trained on rows of descriptors, as the second half of a collective variable.

Such modules (mlcolvar's, for one) take a table [n, F] and give [n, d], in single precision. Here they become a function
of descriptors (..., F) in double precision, which is what the graph of a bias is traced from.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit.frontend import FrontendError

from latf_sampling.core import archives, arguments
from latf_sampling.cv.operators import check_archive, check_operators
from latf_sampling.errors import CVError, SettingsError
from latf_sampling.features import Features

FAR = 30.0
"""Columns whose mean over the frames is so many of the module's own widths from the module's own mean are in another
unit or order."""
SAME = 1e-4
"""Largest difference of a value in single precision from the same value, relative to the range of the variable."""


class Rows(nn.Module):
    """A module of rows [n, F] as a function (..., F) -> (..., d)."""

    def __init__(self, module: nn.Module, columns: int, dim: int, single: bool) -> None:
        super().__init__()
        self.module = module
        self.columns, self.dim, self.single = columns, dim, single

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.columns)
        u = self.module(rows.to(torch.float32)).to(x.dtype) if self.single else self.module(rows)
        return u.reshape(list(x.shape[:-1]) + [self.dim])


class ExternalModule:
    """A module of descriptors, held to what a collective variable has to be.

    Parameters
    ----------
    file
        A TorchScript file, or a `torch.nn.Module`, which is not changed.
    features
        The descriptors that it takes, in the order of its columns.

    Attributes
    ----------
    name : str
        What to call it in a message: the path, or the class.
    module : torch.jit.ScriptModule
        The module as it is, in its own precision.

    Raises
    ------
    CVError
        The file is missing, damaged or no TorchScript, or uses an operator that no variable may; the module cannot be
        compiled.
    SettingsError
        It is neither a path nor a module.
    """

    def __init__(self, file: str | Path | nn.Module, features: Features) -> None:
        self.features = features
        if isinstance(file, nn.Module):
            self.name = type(file).__name__
            self.module: Any = _compiled(file, len(features.names), self.name)
        else:
            self.name = str(arguments.path("LatentCV.from_torchscript", "file", file, "a TorchScript file or a module"))
            self.module = _loaded(file)
        try:
            check_operators(self.module)
        except CVError as error:
            raise CVError(f"{self.name}: cannot be a collective variable: {error}.") from error
        self.module.eval()
        floating = [value.dtype for value in _numbers(self.module) if value.is_floating_point()]
        self.dtype = floating[0] if floating else torch.float32

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values (n, d) of the module itself, in its own precision, on descriptors (n, F).

        Raises
        ------
        CVError
            The module takes other columns, or gives something else than one number or row for each row.
        """
        names = self.features.names
        try:
            with torch.no_grad():
                u = self.module(torch.from_numpy(np.asarray(x)).to(self.dtype))
        except Exception as error:  # a module may raise anything
            expected = next((int(value.shape[-1]) for value in _numbers(self.module) if value.ndim), None)
            takes = f"it takes {expected} columns" if expected not in (None, len(names)) else _last_line(error)
            raise CVError(
                f"{self.name}: cannot be evaluated on the {len(names)} columns of these features, {names[0]} to "
                f"{names[-1]} ({takes}); give the descriptors that it was trained on, in their order."
            ) from error
        if not isinstance(u, Tensor) or not u.is_floating_point() or u.ndim not in (1, 2) or len(u) != len(x):
            got = f"a tensor {tuple(u.shape)} of {u.dtype}" if isinstance(u, Tensor) else f"a {type(u).__name__}"
            raise CVError(f"{self.name}: of {len(x)} rows of descriptors it must be ({len(x)}, d); it is {got}.")
        return u.reshape(len(u), -1).double().numpy()

    def values(self, x: np.ndarray) -> np.ndarray:
        """Values (n, d) on the descriptors of frames (n, F), after checks of the module on them.

        Raises
        ------
        CVError
            As of a call. A column is in another unit or order than the module's own scaling says; a value is not
            finite; a row's value depends on the other rows or changes from call to call; a component is constant.
        """
        self._check_scaling(x)
        u = self(x)
        if not np.isfinite(u).all():
            frame, component = np.argwhere(~np.isfinite(u))[0]
            raise CVError(f"{self.name}: component {component} is not finite in frame {frame}.")
        spread = np.ptp(u, axis=0)
        for component, width in enumerate(spread):
            if not width > 1e-6 * max(1.0, float(np.abs(u[:, component]).max())):
                raise CVError(
                    f"{self.name}: component {component} is {u[0, component]:.6g} in all {len(u)} frames; give frames "
                    "from all of the region that is to be biased, or another module."
                )
        if np.abs(self(x) - u).max() > SAME * spread.max():
            raise CVError(f"{self.name}: its values change from call to call; export it after .eval().")
        some = np.linspace(0, len(x) - 1, min(len(x), 4)).astype(int)
        if np.abs(np.concatenate([self(x[k : k + 1]) for k in some]) - u[some]).max() > SAME * spread.max():
            raise CVError(
                f"{self.name}: the value of a frame depends on the frames beside it, as with a batch normalization "
                "that is still training; export it after .eval()."
            )
        return u

    def encoder(self, dim: int) -> Rows:
        """The module as a function (..., F) -> (..., d), in double precision where all of it can be converted."""
        columns, buffer = len(self.features.names), io.BytesIO()
        torch.jit.save(self.module, buffer)
        buffer.seek(0)
        double = torch.jit.load(buffer, map_location="cpu").eval().double()
        try:
            u = double(torch.zeros(1, columns, dtype=torch.float64))
        except RuntimeError:  # numbers in the code itself, which a trace in single precision wrote there
            return Rows(self.module, columns, dim, single=True)
        return Rows(double, columns, dim, single=u.dtype != torch.float64)

    @property
    def scaling(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean (F,) and width (F,) by which the module scales its columns, where it has them as mlcolvar does."""
        state, columns = self.module.state_dict(), len(self.features.names)
        for name, value in state.items():
            width = state.get(f"{name.removesuffix('mean')}range")
            if name.endswith(".mean") and width is not None and value.shape == width.shape == (columns,):
                return value.double().numpy(), width.double().abs().numpy()
        return None

    def _check_scaling(self, x: np.ndarray) -> None:
        """Refuse columns that are not those that the module scales, such as distances in Ångström."""
        if self.scaling is None:
            return
        mean, width = self.scaling
        away = np.abs(x.mean(0) - mean) / np.maximum(width, 1e-12)
        strange = np.flatnonzero(away > FAR)
        if len(strange):
            column = int(strange[np.argmax(away[strange])])
            raise CVError(
                f"{self.name}: was trained on a column {column} around {mean[column]:.4g} ± {width[column]:.2g}, and "
                f"'{self.features.names[column]}' is {x[:, column].mean():.4g} on average; give the descriptors in "
                "the order and the units that it was trained on (nm, radian)."
            )


def _loaded(file: str | Path) -> Any:
    try:
        content, kind = archives.read_archive(file)
        if kind != archives.TORCHSCRIPT:
            raise ValueError("it holds tensors or a pickled module; export it by torch.jit.script or torch.jit.trace")
        check_archive(content)
        return torch.jit.load(io.BytesIO(content), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise CVError(f"{file}: cannot be read as TorchScript ({' '.join(str(error).split())[:200]}).") from error


def _compiled(module: nn.Module, columns: int, name: str) -> Any:
    """The module as TorchScript; what cannot be read as a program is recorded on an example."""
    if isinstance(module, torch.jit.ScriptModule):
        buffer = io.BytesIO()
        torch.jit.save(module, buffer)
        buffer.seek(0)
        return torch.jit.load(buffer, map_location="cpu")
    if not hasattr(module, "forward"):
        raise SettingsError(f"LatentCV.from_torchscript: {name} has no forward.")
    plain = copy.deepcopy(module).cpu().eval()
    try:
        return torch.jit.script(plain)
    except (RuntimeError, TypeError, ValueError, AttributeError, OSError, FrontendError):  # OSError: no source code
        floating = [value.dtype for value in _numbers(plain) if value.is_floating_point()]
        example = torch.randn(2, columns, dtype=floating[0] if floating else torch.float32)
        try:
            return torch.jit.trace(plain, example, check_trace=False)
        except Exception as error:  # the module may raise anything
            raise CVError(
                f"{name}: cannot be compiled on the {columns} columns of these features ({_last_line(error)})."
            ) from error


def _numbers(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, in the order in which a module states them."""
    yield from (value for value in module.state_dict().values() if isinstance(value, Tensor))


def _last_line(error: Exception) -> str:
    """What an error of torch says, without the program around it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
