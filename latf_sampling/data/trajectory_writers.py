"""Writing trajectories so that a full disk is an `OSError`, which the libraries that MDTraj writes with do not report.

On a full disk the NetCDF library ends the process by a segmentation fault, and the XTC library may lose the last bytes
without an error.
"""

from __future__ import annotations

import io
from pathlib import Path

import mdtraj
import numpy as np
from scipy.io import netcdf_file

ANGSTROM = 10.0
"""Angstrom in one nm."""


def write_netcdf(trajectory: mdtraj.Trajectory, path: str | Path) -> None:
    """Write positions, times and boxes in the NetCDF format of AMBER, in single precision; boxes in double.

    The same trajectory gives the same bytes.

    Parameters
    ----------
    trajectory
        The frames.
    path
        File to write.

    Raises
    ------
    OSError
        It cannot be written.

    References
    ----------
    https://ambermd.org/netcdf/nctraj.xhtml
    """
    buffer = _Kept()
    file = netcdf_file(buffer, "w", version=2)
    for name, value in {
        "title": "",
        "application": "latf_sampling",
        "program": "latf_sampling",
        "programVersion": "1",
        "Conventions": "AMBER",
        "ConventionVersion": "1.0",
    }.items():
        setattr(file, name, value)
    file.createDimension("frame", None)
    file.createDimension("spatial", 3)
    file.createDimension("atom", trajectory.n_atoms)
    file.createVariable("spatial", "c", ("spatial",))[:] = list("xyz")
    _record(file, "time", "f4", (), np.asarray(trajectory.time), "picosecond")
    _record(file, "coordinates", "f4", ("atom", "spatial"), ANGSTROM * np.asarray(trajectory.xyz), "angstrom")
    if trajectory.unitcell_lengths is not None:
        file.createDimension("cell_spatial", 3)
        file.createDimension("cell_angular", 3)
        file.createDimension("label", 5)
        file.createVariable("cell_spatial", "c", ("cell_spatial",))[:] = list("abc")
        labels = [list(label) for label in ("alpha", "beta ", "gamma")]
        file.createVariable("cell_angular", "c", ("cell_angular", "label"))[:] = labels
        lengths = ANGSTROM * np.asarray(trajectory.unitcell_lengths, np.float64)
        _record(file, "cell_lengths", "f8", ("cell_spatial",), lengths, "angstrom")
        _record(file, "cell_angles", "f8", ("cell_angular",), np.asarray(trajectory.unitcell_angles), "degree")
    file.close()
    Path(path).write_bytes(buffer.content)


class _Kept(io.BytesIO):
    """Bytes that stay after the file in them is closed, which writes it; with `flush` it would be written twice."""

    content = b""

    def close(self) -> None:
        if not self.closed:
            self.content = self.getvalue()
        super().close()


def write_xtc(trajectory: mdtraj.Trajectory, path: str | Path) -> None:
    """Write positions, times and boxes as XTC.

    Raises
    ------
    OSError
        It cannot be written.
    """
    try:
        trajectory.save_xtc(str(path))
        with mdtraj.open(str(path)) as file:
            complete = len(file) == len(trajectory)
            if complete:
                file.seek(len(file) - 1)  # the number of frames is that of their beginnings
                file.read(1)
    except RuntimeError as error:
        raise OSError(f"{error}; is the disk full?") from error
    if not complete:
        raise OSError("not all frames were written; is the disk full?")


def _record(
    file: netcdf_file, name: str, kind: str, dimensions: tuple[str, ...], values: np.ndarray, unit: str
) -> None:
    """Write a variable that has a value for each frame."""
    variable = file.createVariable(name, kind, ("frame", *dimensions))
    variable.units = unit
    variable[:] = values
