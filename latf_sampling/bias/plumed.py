"""To PLUMED and back: a variable and its bias as input of PLUMED, and PLUMED's files as hills and columns.

A folder that `export_plumed` wrote is complete: ``plumed.dat`` with descriptors, encoder, bias and walls, and ``HILLS``
or ``STATE`` with what the bias has gathered, from which PLUMED goes on. Hills of metadynamics are the same numbers in
both programs; PLUMED's OPES goes on from kernels that are merged alike.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from latf_sampling.bias.grid import walls_around
from latf_sampling.bias.history import SUFFIX, History
from latf_sampling.bias.metadynamics import Metadynamics
from latf_sampling.bias.opes import OPES
from latf_sampling.core import arguments, storage
from latf_sampling.cv.collective_variable import CollectiveVariable
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.plumed import NODE, float32_encoder, plumed_variable
from latf_sampling.errors import DataError, SettingsError
from latf_sampling.features import Features
from latf_sampling.units import KB

IMPORTED = "plumed"
"""Name of the walker that hills of PLUMED are stored as."""
KERNELS_OF = {"gaussian", "stretched-gaussian"}
"""Kinds of PLUMED's hills that are Gaussians, up to 0.2 % of their height where it cuts them off."""


def export_plumed(
    directory: str | Path,
    cv: LatentCV,
    features: Features,
    bias: Metadynamics | OPES | None = None,
    *,
    stride: int = 500,
    timestep: float = 0.002,
) -> list[Path]:
    """Write a variable, and a bias along it, as input of PLUMED 2.9 or later (with its module annfunc).

    Parameters
    ----------
    directory
        A folder; ``plumed.dat``, ``encoder.pt`` (single precision, for PYTORCH_MODEL), ``HILLS`` or ``STATE``, and
        reference structures are written into it.
    cv, features
        The variable, and its descriptors.
    bias
        Metadynamics or OPES along the variable; `None` writes the variable and its walls alone.
    stride
        Steps between lines of ``COLVAR``; with a bias its own interval is taken.
    timestep
        ps, for the times of hills.

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    CVError
        PLUMED has no word for a descriptor, which is named, or for the encoder.
    SettingsError
        PLUMED cannot go on with this bias.
    """
    arguments.instance("export_plumed", "cv", cv, LatentCV, "a LatentCV", "LatentCV.load")
    arguments.instance("export_plumed", "features", features, Features, "the Features of the variable")
    folder = arguments.path("export_plumed", "directory", directory, "a folder")
    if bias is not None:
        arguments.instance("export_plumed", "bias", bias, (Metadynamics, OPES), "Metadynamics or OPES")
        if bias.cv.fingerprint() != cv.fingerprint():
            raise SettingsError("export_plumed: the bias acts along another variable than this one.")
    lines, files = plumed_variable(cv, features)
    arg = _nodes(cv)
    printed = [*arg]
    if bias is not None:
        stride = bias.frequency
        what, text = _metadynamics(bias, timestep) if isinstance(bias, Metadynamics) else _opes(bias, timestep)
        files[{"METAD": "HILLS"}.get(what.split()[0], "STATE")] = text
        lines.append(f"bias: {what}")
        printed.append("bias.bias")
    walls = walls_around(cv, cv.sigma) if bias is None else bias.grid.walls
    kappa = ",".join(repr(0.5 * k) for k in walls.stiffness.tolist())
    for name, ends in (("LOWER", walls.low), ("UPPER", walls.high)):
        at = ",".join(map(repr, ends.tolist()))
        lines.append(f"{name.lower()}: {name}_WALLS ARG={','.join(arg)} AT={at} KAPPA={kappa}")
    lines.append(f"PRINT ARG={','.join(printed)} STRIDE={stride} FILE=COLVAR FMT=%.12g")
    files["plumed.dat"] = "\n".join(["# Written by latf_sampling. Lengths in nm, energies in kJ/mol.", *lines, ""])
    buffer = io.BytesIO()
    torch.jit.save(float32_encoder(cv), buffer)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in sorted(files.items()):
        storage.write_text(folder / name, text)
    with storage.atomic_write(folder / "encoder.pt") as temporary:
        temporary.write_bytes(buffer.getvalue())
    return [folder / name for name in (*sorted(files), "encoder.pt")]


def _nodes(cv: CollectiveVariable) -> list[str]:
    return [NODE.format(k) for k in range(cv.dim)]


def _warn_of_trust(bias: Metadynamics | OPES) -> None:
    if bias.trust is not None:
        warnings.warn("plumed: the wall of a trust region is not exported, as PLUMED has no density.", stacklevel=4)


def _metadynamics(bias: Metadynamics, timestep: float) -> tuple[str, str]:
    """The action, and the file of hills: there heights are gamma / (gamma - 1) times those here."""
    if bias._starts_from_flow:
        raise SettingsError("plumed: the bias starts from the free energy of the flow, which is no sum of hills.")
    if bias.adaptive_widths:
        raise SettingsError("plumed: adaptive widths come from the mean gradient of the variable, unlike PLUMED's.")
    _warn_of_trust(bias)
    names, factor = _nodes(bias.cv), bias.bias_factor / (bias.bias_factor - 1)
    head = [
        f"#! FIELDS time {' '.join(names)} {' '.join(f'sigma_{name}' for name in names)} height biasf",
        "#! SET multivariate false",
        "#! SET kerneltype gaussian",
    ]
    rows = [
        " ".join(map(repr, [row[0] * timestep, *row[1:-1], row[-1] * factor, bias.bias_factor]))
        for row in bias.all_kernels().tolist()
        if row[-1] != 0  # of a walker behind the walls
    ]
    sigma = ",".join(map(repr, bias.hill_width.tolist()))
    action = (
        f"METAD ARG={','.join(names)} PACE={bias.frequency} HEIGHT={bias.height!r} SIGMA={sigma} "
        f"BIASFACTOR={bias.bias_factor!r} TEMP={bias.temperature!r} FILE=HILLS RESTART=YES"
    )
    return action, "\n".join([*head, *rows, ""])


def _opes(bias: OPES, timestep: float) -> tuple[str, str]:
    """The action, and the file of its state."""
    if bias.adaptive_widths:
        raise SettingsError("plumed: the state of adaptive widths is that of each walker, and is not exported.")
    if bias._excludes_region:
        raise SettingsError("plumed: an excluded region has to be written as an action of PLUMED; leave it out.")
    _warn_of_trust(bias)
    names, state, d = _nodes(bias.cv), bias.state, bias.cv.dim
    kT, rows = KB * bias.temperature, bias.all_kernels()
    rows = rows[rows[:, 1 + d] > 0]
    weights = np.exp(rows[:, -1])
    first = math.exp(-bias.barrier / kT)
    norm = state.sum_of_weights
    # PLUMED's heights are relative to the first width, which is wider where the target is.
    scale = bias.bias_factor ** (0.5 * d) if bias.explore else 1.0
    factor = repr(bias.bias_factor) if math.isfinite(bias.bias_factor) else "inf"
    time = repr(float(rows[-1, 0] * timestep) if len(rows) else 0.0)
    action = "OPES_METAD_EXPLORE" if bias.explore else "OPES_METAD"
    settings = {
        "action": f"{action}_state",
        "biasfactor": factor,
        "epsilon": repr(bias.epsilon),
        "kernel_cutoff": repr(state.kernels.cutoff),
        "compression_threshold": "1",
        "zed": repr(float(scale * state.mean / norm) if len(state.kernels) else 1.0),
        "sum_weights": repr(float(first + weights.sum())),
        "sum_weights2": repr(float(first**2 + (weights**2).sum())),
        "counter": str(1 + len(rows)),
    }
    kernels = state.kernels
    lines = [
        " ".join([time, *map(repr, [*center, *width, scale * height])])
        for center, width, height in zip(kernels.centers.tolist(), kernels.widths.tolist(), kernels.heights.tolist())
    ]
    head = [f"#! FIELDS time {' '.join(names)} {' '.join(f'sigma_{name}' for name in names)} height"]
    head += [f"#! SET {key} {value}" for key, value in settings.items()]
    sigma, narrowest = (",".join(map(repr, w.tolist())) for w in (bias.hill_width, bias.narrowest * bias.hill_width))
    line = (
        f"{action} ARG={','.join(names)} PACE={bias.frequency} BARRIER={bias.barrier!r} BIASFACTOR={factor} "
        f"SIGMA={sigma} SIGMA_MIN={narrowest} TEMP={bias.temperature!r} FILE=KERNELS "
        "STATE_RFILE=STATE STATE_WFILE=STATE.new RESTART=YES"
    )
    return line, "\n".join([*head, *lines, ""])


def read_plumed(file: str | Path, names: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Read a table that PLUMED wrote, such as COLVAR or HILLS; restarts are joined.

    Parameters
    ----------
    file
        The file.
    names
        The columns that are wanted, in this order; `None` takes all.

    Returns
    -------
    tuple
        The names of the columns, and the numbers (lines, columns). As columns of descriptors they make a
        `latf_sampling.Series`.

    Raises
    ------
    DataError
        The file is missing or no table of PLUMED, a line is damaged, or a column is not there; names the line.

    Examples
    --------
    >>> import tempfile
    >>> colvar = Path(tempfile.mkdtemp()) / "COLVAR"
    >>> _ = colvar.write_text("#! FIELDS time d1 d2\\n 0 0.3 0.5\\n 1 0.4 0.6\\n")
    >>> read_plumed(colvar, ["d2", "d1"])
    (['d2', 'd1'], array([[0.5, 0.3],
           [0.6, 0.4]]))
    """
    fields, rows, _ = _table(file)
    if names is None:
        return fields, rows
    missing = [name for name in names if name not in fields]
    if missing:
        raise DataError(f"{file}: has no column '{missing[0]}'; it has {', '.join(fields)}.")
    return list(names), rows[:, [fields.index(name) for name in names]]


def _table(file: str | Path) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """Names of columns, numbers (lines, columns) and what is SET in a table of PLUMED."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, TypeError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise DataError(f"{file}: cannot be read as a table of PLUMED ({reason}).") from error
    fields: list[str] = []
    rows: list[list[float]] = []
    settings: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words[:2] == ["#!", "FIELDS"]:
            if fields and words[2:] != fields:
                raise DataError(f"{file}: line {number} begins a table with other columns; give each its own file.")
            fields = words[2:]
        elif words[:2] == ["#!", "SET"] and len(words) > 3:
            if settings.setdefault(words[2], words[3]) != words[3]:
                raise DataError(f"{file}: line {number} sets {words[2]} to {words[3]}, after {settings[words[2]]}.")
        elif words and not words[0].startswith("#"):
            rows.append(_row(words, fields, file, number))
    if not fields:
        raise DataError(f"{file}: is no table of PLUMED; its first line is '#! FIELDS time ...'.")
    return fields, np.array(rows).reshape(-1, len(fields)), settings


def _row(words: list[str], fields: list[str], file: str | Path, number: int) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != len(fields) or not all(map(math.isfinite, numbers)):
        raise DataError(
            f"{file}: line {number} is damaged; expected {len(fields)} numbers, got '{' '.join(words)[:80]}'."
        )
    return numbers


def import_hills(file: str | Path, bias: Metadynamics) -> int:
    """Let metadynamics start from the hills of PLUMED: they become those of a walker called "plumed".

    Parameters
    ----------
    file
        HILLS, with one column for each component of the variable, in their order, and well-tempered with the factor of
        the bias.
    bias
        Metadynamics with a directory, which stores them there for all walkers. They come before step 0 of everyone.

    Returns
    -------
    int
        Number of hills.

    Raises
    ------
    DataError
        The file is damaged, or its hills are not those of such a bias; names the line or the setting.
    SettingsError
        The bias has no directory, or has imported hills already.
    """
    arguments.instance("import_hills", "bias", bias, Metadynamics, "Metadynamics")
    if bias.history.path is None or bias.read_only:
        raise SettingsError("import_hills: the bias needs a directory that it can write to; give directory=...")
    path, d = bias.history.path.with_name(f"{IMPORTED}{SUFFIX}"), bias.cv.dim
    if path.exists():
        raise SettingsError(f"import_hills: {path} exists already; hills are imported once.")
    fields, rows, settings = _table(file)
    if len(fields) != 2 * d + 3 or fields[-2:] != ["height", "biasf"]:
        raise DataError(
            f"{file}: are no hills of metadynamics along {d} variables; expected time, {d} centers, {d} widths "
            f"(sigma_...), height and biasf, got {' '.join(fields)}."
        )
    if settings.get("multivariate", "false") != "false" or settings.get("kerneltype", "gaussian") not in KERNELS_OF:
        raise DataError(f"{file}: expected Gaussians with multivariate false; got {settings}.")
    for number, row in enumerate(rows):
        height = row[-2] * (bias.bias_factor - 1) / bias.bias_factor
        if abs(row[-1] - bias.bias_factor) > 1e-6 * bias.bias_factor:
            raise DataError(f"{file}: hill {number} has the factor {row[-1]:g}; the bias has {bias.bias_factor:g}.")
        if not (row[1 + d : 1 + 2 * d] > 0).all() or not 0 <= height <= bias._highest * (1 + 1e-6):
            raise DataError(
                f"{file}: hill {number} has a height of {height:.6g} kJ/mol and widths of {row[1 + d : 1 + 2 * d]}; "
                f"heights from 0 to {bias._highest:g}, the first of this bias, and widths above 0 are possible."
            )
    history = History(path, bias.history.fields, bias.history.settings)
    try:
        for step, row in enumerate(rows, -len(rows)):
            height = row[-2] * (bias.bias_factor - 1) / bias.bias_factor
            history.add([step, *row[1 : 1 + 2 * d], height, step])
        history.write()
    finally:
        history.close()
    bias._take_new()
    return len(rows)
