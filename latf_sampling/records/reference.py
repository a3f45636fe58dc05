"""The file with an independent free-energy difference that a protocol may name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latf_sampling.errors import SettingsError

KEY = "observe.reference"


@dataclass(frozen=True)
class ReferenceFile:
    """An independent value of the free-energy difference, as `protocols/reference_alanine.py` writes it.

    Attributes
    ----------
    value, error : float
        ``difference_kJ_per_mol`` and ``error_kJ_per_mol``, which is 0 where it is missing.
    temperature : float or None
        ``temperature_K``; None where the file does not say it.
    surface : tuple or None
        ``edges_rad`` (bins + 1,) and ``free_energy_kJ_per_mol`` (bins, bins) of phi and psi, infinite where the file
        has null.
    """

    value: float
    error: float = 0.0
    temperature: float | None = None
    surface: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def load(cls, file: Path) -> ReferenceFile:
        """Read and check a file.

        Raises
        ------
        SettingsError
            It is not JSON, lacks the value, or holds something else than numbers; names the file and its key.

        Examples
        --------
        >>> ReferenceFile.load(Path("protocols/reference_alanine.json")).temperature  # doctest: +SKIP
        300.0
        """
        try:
            content = json.loads(file.read_bytes().decode())
        except OSError as error:
            raise SettingsError(f"{KEY}: {file} cannot be read ({error.strerror}).") from error
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{KEY}: {file} is not a JSON file ({error}).") from error
        if not isinstance(content, dict) or "difference_kJ_per_mol" not in content:
            raise SettingsError(
                f"{KEY}: {file} has no key 'difference_kJ_per_mol'; a reference is a mapping like "
                '{"difference_kJ_per_mol": 8.6, "error_kJ_per_mol": 0.1, "temperature_K": 300}.'
            )
        value = _number(content, "difference_kJ_per_mol", file)
        error = _number(content, "error_kJ_per_mol", file) if "error_kJ_per_mol" in content else 0.0
        if error < 0:
            raise SettingsError(f"{KEY}: error_kJ_per_mol of {file} is negative: {error:g}.")
        temperature = _number(content, "temperature_K", file) if "temperature_K" in content else None
        if temperature is not None and temperature <= 0:
            raise SettingsError(f"{KEY}: temperature_K of {file} must be more than 0; got {temperature:g}.")
        return cls(value, error, temperature, _surface(content, file))


def _number(content: dict[str, Any], key: str, file: Path) -> float:
    value = content[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingsError(f"{KEY}: {key} of {file} is not a finite number: {json.dumps(value)[:80]}.")
    return float(value)


def _surface(content: dict[str, Any], file: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Edges and free energies of the surface, if the file has one."""
    keys = ("edges_rad", "free_energy_kJ_per_mol")
    present = [key for key in keys if key in content]
    if not present:
        return None
    try:
        edges, rows = (content[key] for key in keys)
        edges = np.array(edges, np.float64)
        surface = np.array([[math.inf if value is None else value for value in row] for row in rows], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{KEY}: {file} needs both {' and '.join(keys)}, lists of numbers.") from error
    bins = len(edges) - 1 if edges.ndim == 1 else 0
    if bins < 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise SettingsError(f"{KEY}: edges_rad of {file} is not an ascending list of two or more numbers.")
    if surface.shape != (bins, bins) or np.isnan(surface).any():
        raise SettingsError(
            f"{KEY}: free_energy_kJ_per_mol of {file} has the shape {surface.shape}; {bins + 1} edges need "
            f"{(bins, bins)}."
        )
    return edges, surface
