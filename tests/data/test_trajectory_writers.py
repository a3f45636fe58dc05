"""Trajectories are written as MDTraj writes them, and a full disk is an error that can be told."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from helpers.molecules import TRICLINIC, alanine_topology, frames
from openmm import app

from latf_sampling.core.storage import atomic_write
from latf_sampling.data.trajectory_writers import write_netcdf, write_xtc
from latf_sampling.errors import StoreError
from latf_sampling.features import as_mdtraj


def trajectory(n: int = 7, periodic: bool = True) -> mdtraj.Trajectory:
    result = mdtraj.Trajectory(frames(n).astype(np.float32), as_mdtraj(alanine_topology()), 0.1 * np.arange(1, n + 1))
    if periodic:
        result.unitcell_vectors = np.broadcast_to(TRICLINIC.astype(np.float32), (n, 3, 3))
    return result


@pytest.mark.parametrize("periodic", [True, False])
def test_netcdf_is_read_as_what_mdtraj_writes(tmp_path, periodic):
    written = trajectory(periodic=periodic)
    write_netcdf(written, tmp_path / "ours.nc")
    written.save_netcdf(str(tmp_path / "theirs.nc"))
    ours, theirs = (mdtraj.load_netcdf(str(tmp_path / f"{name}.nc"), top=written.top) for name in ("ours", "theirs"))
    assert np.array_equal(ours.xyz, theirs.xyz)
    assert np.array_equal(ours.time, theirs.time)
    if periodic:
        assert np.array_equal(ours.unitcell_vectors, theirs.unitcell_vectors)
    else:
        assert ours.unitcell_vectors is None
    first = (tmp_path / "ours.nc").read_bytes()
    write_netcdf(written, tmp_path / "ours.nc")
    assert (tmp_path / "ours.nc").read_bytes() == first


def test_an_incomplete_xtc_is_found(tmp_path, monkeypatch):
    short = trajectory(3)
    write_xtc(short, tmp_path / "whole.xtc")
    content = (tmp_path / "whole.xtc").read_bytes()[: -(tmp_path / "whole.xtc").stat().st_size // 3]
    monkeypatch.setattr(mdtraj.Trajectory, "save_xtc", lambda self, path: Path(path).write_bytes(content))
    with pytest.raises(StoreError, match="cannot be written"), atomic_write(tmp_path / "whole.xtc") as temporary:
        write_xtc(short, temporary)
    assert len(mdtraj.load_xtc(str(tmp_path / "whole.xtc"), top=short.top)) == 3


def a_state(path: Path) -> None:
    system = openmm.System()
    system.addParticle(1.0)
    simulation = app.Simulation(
        app.Topology(), system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    simulation.context.setPositions([(0.0, 0.0, 0.0)])
    with open(path, "w", encoding="utf-8") as file:
        simulation.saveState(file)


WRITERS = {
    "a.nc": lambda path: write_netcdf(trajectory(30), path),
    "a.xtc": lambda path: write_xtc(trajectory(30), path),
    "a.npz": lambda path: np.savez(path, energy=np.arange(500.0), bias=np.arange(500.0)),
    "a.xml": a_state,
}


@pytest.mark.parametrize("name", WRITERS)
def test_wherever_a_disk_is_full_nothing_is_left_and_the_same_write_succeeds_later(tmp_path, name):
    """The limit of a file's size stands for the disk: a write beyond it fails, also one in a library."""

    def write() -> None:
        with atomic_write(tmp_path / name) as temporary:
            WRITERS[name](temporary)

    write()
    size, unlimited = (tmp_path / name).stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / name).unlink()
    for limit in (0, 1, 100, size // 3, size // 2, size - 100, size - 5, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            with pytest.raises(StoreError, match=rf"{name}: cannot be written \(.*\); nothing was changed"):
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        assert list(tmp_path.iterdir()) == []
    write()
    assert (tmp_path / name).stat().st_size == size


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_of_the_disk_at_the_end_is_named_too(tmp_path, monkeypatch, number, call):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    words = rf"a\.nc: cannot be written \({os.strerror(number)}\)"
    with pytest.raises(StoreError, match=words), atomic_write(tmp_path / "a.nc") as temporary:
        write_netcdf(trajectory(), temporary)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    words = r"a\.nc: cannot be written \(No space left on device\)"
    with pytest.raises(StoreError, match=words), atomic_write(tmp_path / "a.nc") as temporary:
        write_netcdf(trajectory(), temporary)
    assert list(tmp_path.iterdir()) == []
