"""Trajectories are written as MDTraj writes them, and a full disk is an error that can be told."""

from __future__ import annotations

import errno
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from helpers.molecules import TRICLINIC, alanine_topology, frames

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


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    words = r"a\.nc: cannot be written \(No space left on device\)"
    with pytest.raises(StoreError, match=words), atomic_write(tmp_path / "a.nc") as temporary:
        write_netcdf(trajectory(), temporary)
    assert list(tmp_path.iterdir()) == []
