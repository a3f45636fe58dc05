"""Files of trajectories, in any format of MDTraj: read piece by piece, and refused with a reason."""

from __future__ import annotations

import importlib.util
import re
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import mdtraj
import numpy as np
import torch
from mdtraj.formats.registry import FormatRegistry
from scipy.io import netcdf_file

from latf_sampling.core.readers import quiet, why
from latf_sampling.errors import DataError
from latf_sampling.features import reduced_box, unwrap_molecules
from latf_sampling.features.topology import atom_lines
from latf_sampling.systems.structure import DUMMY_BOX
from latf_sampling.systems.structure_text import packed_by

PIECE_BYTES = 32 * 2**20
"""Bytes of positions that are read at a time, about."""
NETCDF = (".nc", ".netcdf", ".ncdf")
MMCIF = (".cif", ".mmcif", ".pdbx")
WITH_TABLES = (".h5", ".hdf5", ".lh5")
"""Formats that MDTraj reads with a further package."""
GZIPPED = tuple(ending for ending in FormatRegistry.loaders if ending.endswith(".gz"))
"""Formats that MDTraj reads from files compressed by gzip."""
BINARY = {
    "XTC": (lambda head: head[:4] in (b"\0\0\x07\xcb", b"\0\0\x07\xe7"), (".xtc",)),
    "TRR": (lambda head: head[:4] == b"\0\0\x07\xc9", (".trr",)),
    "DCD": (lambda head: head[4:8] == b"CORD", (".dcd",)),
    "NetCDF": (lambda head: head[:3] == b"CDF", (*NETCDF, ".ncrst", ".restrt", ".rst7", ".inpcrd")),
    "HDF5": (lambda head: head[:8] == b"\x89HDF\r\n\x1a\n", (*WITH_TABLES, *NETCDF)),  # also NetCDF of version 4
}
"""Formats by how their files begin, and the endings of their names."""
FARTHEST = 1e5
"""nm; a larger coordinate is taken as a number that the format could not hold."""


def read_pieces(
    path: str | Path, topology: mdtraj.Topology, periodic: bool, chunk: int | None = None
) -> Iterator[mdtraj.Trajectory]:
    """All frames of a trajectory file in order, some at a time, molecules whole; without boxes unless `periodic`.

    Parameters
    ----------
    path
        File of any format that MDTraj reads.
    topology
        Of the system; the atoms of a file with a topology of its own must be the same.
    periodic
        Whether every frame must have a box.
    chunk
        Number of frames at a time; by default as many as `PIECE_BYTES` hold.

    Raises
    ------
    DataError
        The file is missing, damaged or truncated, holds no frame, other atoms, a frame without a box, or invalid
        positions; names the file, and the frame.
    """
    _check_whole(path)
    _check_format(path)
    chunk = chunk or max(1, PIECE_BYTES // (12 * topology.n_atoms))
    reader = _chunks(path, topology, chunk)
    bonds = np.array([[a.index, b.index] for a, b in topology.bonds], int).reshape(-1, 2)
    done, unwrap = 0, None
    while True:
        try:
            with quiet():
                piece = next(reader, None)
        except Exception as error:  # readers raise many types for a damaged file
            if counts := re.search(r"shape \(Any, \d+, 3\)\.\s+You supplied\s+\(\d+, (\d+), 3\)", str(error)):
                raise _other_atoms(str(path), int(counts[1]), topology.n_atoms) from error
            where = f"cannot be read beyond frame {done - 1}" if done else "cannot be read"
            raise DataError(f"{path}: {where}{why(error)}; is it truncated, or of another system?") from error
        if piece is None:
            break
        if piece.topology is not topology:
            check_atoms(piece.topology, topology, str(path))
            piece.topology = topology
        _drop_dummy_cells(piece)
        _check_positions(piece, path, done, periodic)
        if _is_cut(piece, bonds):
            # bonds across the box would have absurd energies
            unwrap = unwrap_molecules(topology) if unwrap is None else unwrap
            boxes = reduced_box(torch.from_numpy(np.tril(np.asarray(piece.unitcell_vectors))))
            piece.xyz = unwrap(torch.from_numpy(piece.xyz), boxes).numpy()
        if not periodic:
            piece.unitcell_vectors = None
        done += len(piece)
        yield piece
    if not done:
        raise DataError(f"{path}: holds no frame.")


def read_strided(
    path: str | Path, topology: mdtraj.Topology, periodic: bool, stride: int, skip: int = 0
) -> Iterator[mdtraj.Trajectory]:
    """Every `stride`-th frame of a trajectory file, beginning with number `skip`, as `read_pieces` reads them."""
    done = 0
    for piece in without_first(read_pieces(path, topology, periodic), skip):
        selected = piece[-done % stride :: stride]
        done += len(piece)
        if len(selected):
            yield selected


def without_first(pieces: Iterable[mdtraj.Trajectory], skip: int) -> Iterator[mdtraj.Trajectory]:
    """The same frames without the first `skip`."""
    for piece in pieces:
        if skip < len(piece):
            yield piece[skip:] if skip else piece
        skip = max(skip - len(piece), 0)


def check_atoms(have: mdtraj.Topology | None, need: mdtraj.Topology, where: str) -> None:
    """Refuse a topology whose atoms or their order are not those of the system; chains may differ.

    Elements may differ, since MDTraj guesses them by the first letter where a file has none: in GRO files it takes
    sodium for nitrogen, and lithium, magnesium and zinc for virtual sites.

    Raises
    ------
    DataError
        Names the first atom that differs.
    """
    if have is None:
        raise DataError(f"{where}: holds no topology.")
    if have.n_atoms != need.n_atoms:
        raise _other_atoms(where, have.n_atoms, need.n_atoms)
    for index, (one, other) in enumerate(zip(atom_lines(have), atom_lines(need), strict=True)):
        if one != other and _without_element(one) != _without_element(other):
            raise DataError(
                f"{where}: atom {index} is '{one}' (name, element, residue, residue index), the system has '{other}'."
            )


def _other_atoms(where: str, have: int, need: int) -> DataError:
    return DataError(f"{where}: has {have} atoms, the system {need}; a trajectory of the whole system is needed.")


def _without_element(line: str) -> list[str]:
    """Name of an atom, and name and index of its residue, from a line of `atom_lines`."""
    name, _, residue, index = line.rsplit(" ", 3)
    return [name, residue, index]


def _check_whole(path: str | Path) -> None:
    """Refuse files that their readers would silently pad with zeros or cut short."""
    suffix = Path(path).suffix.lower()
    try:
        with open(path, "rb") as file:
            head = file.read(32)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if not head:
        raise DataError(f"{path}: is empty.")
    name = Path(path).name.lower()
    if (program := packed_by(head)) is not None and not (program == "gzip" and name.endswith(GZIPPED)):
        raise DataError(f"{path}: it is compressed by {program}; unpack it first.")
    for kind, (begins, endings) in BINARY.items():
        if begins(head) and not name.endswith(endings):
            raise DataError(f"{path}: begins as a file of {kind}; let its name end in {endings[0]}.")
    if suffix in NETCDF and head[:3] == b"CDF":
        try:
            netcdf_file(str(path), mmap=True).close()
        except Exception as error:  # the type depends on where the file ends
            raise DataError(f"{path}: is truncated or damaged.") from error
    if suffix == ".dcd" and len(head) >= 12 and head[4:8] == b"CORD":
        order = "<" if head[:4] == struct.pack("<i", 84) else ">"
        promised = struct.unpack(f"{order}i", head[8:12])[0]
        try:
            with quiet(), mdtraj.open(str(path)) as trajectory:
                actual = len(trajectory)
        except Exception as error:  # the type depends on where the file ends
            raise DataError(f"{path}: is truncated or damaged.") from error
        if actual < promised:
            words = f"its header promises {promised} frames, and it has {actual}"
            if _ends_within_a_frame(Path(path), order):
                raise DataError(f"{path}: is truncated; {words}.")
            warnings.warn(f"{path}: {words}; it is taken to be of a run that stopped early.", stacklevel=3)


def _ends_within_a_frame(path: Path, order: str) -> bool:
    """Whether a DCD file ends within a frame: a run that stopped early leaves complete ones, fewer than planned."""
    with open(path, "rb") as file:
        control = struct.unpack(f"{order}4s20i", file.read(92)[4:88])[1:]
        file.seek(struct.unpack(f"{order}i", file.read(4))[0] + 4, 1)  # the titles
        atoms = struct.unpack(f"{order}3i", file.read(12))[1]
        has_cell, has_fourth = control[19] and control[10], control[19] and control[11]
        frame = (56 if has_cell else 0) + (4 if has_fourth else 3) * (8 + 4 * atoms)
        return control[8] > 0 or (path.stat().st_size - file.tell()) % frame != 0  # with fixed atoms frames differ


def _check_format(path: str | Path) -> None:
    """Refuse a file whose format cannot be read here, which its name tells."""
    name = Path(path).name.lower()
    if not name.endswith(tuple(FormatRegistry.loaders)):
        raise DataError(
            f"{path}: MDTraj reads no file with this ending; it reads {', '.join(sorted(FormatRegistry.loaders))}."
        )
    if name.endswith(WITH_TABLES) and importlib.util.find_spec("tables") is None:
        raise DataError(f"{path}: to read this format, install the package PyTables: pip install tables.")


def _check_positions(piece: mdtraj.Trajectory, path: str | Path, done: int, periodic: bool) -> None:
    xyz = np.asarray(piece.xyz)
    valid = (np.abs(xyz) < FARTHEST).all((1, 2))  # False for NaN
    if piece.n_atoms > 1:
        valid &= np.ptp(xyz, axis=1).any(1)
    if not valid.all():
        raise DataError(f"{path}: frame {done + int(valid.argmin())} holds invalid positions (NaN, or damaged).")
    if periodic:
        lengths = piece.unitcell_lengths
        boxed = np.zeros(len(piece), bool) if lengths is None else (lengths > 0).all(1)
        if not boxed.all():
            raise DataError(f"{path}: frame {done + int(boxed.argmin())} has no periodic box, which the system needs.")


def _chunks(path: str | Path, topology: mdtraj.Topology, chunk: int) -> Iterator[mdtraj.Trajectory]:
    """Frames as MDTraj reads them; it has no reader of PDBx/mmCIF that reads some at a time."""
    if Path(path).name.lower().removesuffix(".gz").endswith(MMCIF):
        frames = mdtraj.load(str(path))
        yield from (frames[first : first + chunk] for first in range(0, len(frames), chunk))
    else:
        yield from mdtraj.iterload(str(path), top=topology, chunk=chunk)


def _drop_dummy_cells(piece: mdtraj.Trajectory) -> None:
    """Cells that are too small to be any stand for none, and become zero."""
    if piece.unitcell_lengths is not None:
        lengths = np.asarray(piece.unitcell_lengths)
        dummy = np.any(lengths < DUMMY_BOX, axis=1)
        if dummy.any():
            piece.unitcell_lengths = np.where(dummy[:, None], 0, lengths)


def _is_cut(piece: mdtraj.Trajectory, bonds: np.ndarray) -> bool:
    """Whether molecules of a frame are cut by the faces of the box."""
    if not len(bonds) or piece.unitcell_vectors is None or not (np.asarray(piece.unitcell_lengths) > 0).all():
        return False
    xyz, boxes = np.asarray(piece.xyz), np.asarray(piece.unitcell_vectors)
    longest = np.abs(xyz[:, bonds[:, 0]] - xyz[:, bonds[:, 1]]).max((1, 2))
    return bool((longest > 0.4 * np.diagonal(boxes, axis1=1, axis2=2).min(1)).any())
