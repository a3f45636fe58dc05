"""The file of a trained `LaTF`: tensors and plain values, of which nothing is run when they are read."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latf_sampling.core import archives, storage
from latf_sampling.errors import DataError

FORMAT = 5
"""Of the file that `LaTF.save` writes; 5 since flows widen their coordinates where the data are many."""
READABLE = (3, 4, 5)
"""Formats that are read. In the third, settings always had the dimension; in the fourth, coordinates were straight."""


def write_content(path: Path, content: dict[str, Any]) -> None:
    """Write what a model consists of to one file, at once or not at all."""
    buffer = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError
    torch.save({"format": FORMAT, **content}, buffer)
    with storage.atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_content(path: str | Path) -> dict:
    """What a file written by `LaTF.save` holds."""
    try:
        data, kind = archives.read_archive(path)
    except archives.ArchiveError as error:
        raise DataError(f"{path}: cannot be read as a LaTF model: {error}.") from error
    if kind == archives.TORCHSCRIPT:
        raise DataError(f"{path}: is a CV file or another TorchScript program, not a LaTF model; see LatentCV.load.")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds Python objects besides tensors and numbers, which could run any code; it is no LaTF model, "
            "and was not loaded."
        ) from error
    except Exception as error:  # torch raises many types for a damaged file
        raise DataError(f"{path}: cannot be read as a LaTF model: it is damaged.") from error
    version = content.get("format") if isinstance(content, dict) else None
    if not isinstance(version, int) or "settings" not in content:
        raise DataError(f"{path}: is not a LaTF model, though torch wrote it; see LaTF.save.")
    if version not in READABLE:
        remedy = "update latf_sampling" if version > FORMAT else "train it again"
        readable = f"{READABLE[0]} to {READABLE[-1]}"
        raise DataError(f"{path}: is a LaTF model of format {version}, and this version reads {readable}; {remedy}.")
    return content


def check_provenance(known: dict, n_states: int, boltzmann: float) -> None:
    """Raise a ValueError where what a model states about its training cannot be; earlier versions state less."""
    temperatures = np.asarray(known["temperatures"], float)
    possible = np.isfinite(temperatures) & (temperatures > 0)
    if not (temperatures.ndim == 1 and len(temperatures) and possible.all()):
        raise ValueError("its temperatures are none")
    if not isinstance(known["density"], bool) or not float(known["minimum_effective_size"]) >= 0:
        raise ValueError("what it states about its training is none")
    if known.get("temperature_mode", "steered") not in ("reweighted", "thermodynamic", "steered"):
        raise ValueError(f"there is no temperature_mode {known['temperature_mode']!r}")
    if not 0 < float(boltzmann) < np.inf:
        raise ValueError("its Boltzmann constant is none")
    sampled = np.asarray(known.get("well_sampled", temperatures), float)
    if sampled.ndim != 1 or not np.isin(sampled, temperatures).all():
        raise ValueError("its well_sampled temperatures are none of those that it was trained at")
    if "thermodynamics" in known:
        shape = np.shape(known["thermodynamics"]["parameters"])
        if len(shape) != 3 or shape[1:] != (3, n_states) or len(known["thermodynamics"]["reach"]) != 2:
            raise ValueError("its thermodynamics are none")
