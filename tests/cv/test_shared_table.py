"""Tables of biases in shared memory: nobody can remove them, and a reader knows when they are gone."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import openmm
import pytest
from helpers.landscape import Landscape
from helpers.molecules import alanine_cv, alanine_system, context, energy, frames

from latf_sampling.core.backends import BACKENDS
from latf_sampling.cv import shared_table
from latf_sampling.cv.shared_table import SharedTable, mapped
from latf_sampling.errors import StoreError

ANONYMOUS = hasattr(os, "memfd_create")


@pytest.fixture(params=[True, False] if ANONYMOUS else [False], ids=lambda anonymous: "memory" if anonymous else "file")
def anonymous(request, monkeypatch, tmp_path):
    """Memory as on Linux, and temporary files as elsewhere."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not request.param and ANONYMOUS:
        monkeypatch.delattr(os, "memfd_create")
    return request.param


def test_what_is_written_is_read_elsewhere(anonymous):
    table = SharedTable(3)
    table.values[:] = [1, 2, 3]
    script = (
        "from latf_sampling.cv.shared_table import mapped; "
        f"print(mapped({table.path!r}, {table.key!r}, 3), mapped({table.path!r}, 1.0, 3))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[1. 2. 3.] None\n"
    assert mapped(table.path, table.key, 10_000) is None
    path, key = table.path, table.key
    values = table.values
    del table
    gc.collect()
    assert mapped(path, key, 3) is None and values.tolist() == [1, 2, 3]
    assert not list(Path(tempfile.gettempdir()).iterdir())


def test_an_empty_table(anonymous):
    assert SharedTable(0).values.shape == (0,)


def test_a_full_disk_is_told(anonymous, monkeypatch):
    """Where the table is mapped, it would end the process by SIGBUS."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = len(os.listdir("/proc/self/fd")) if ANONYMOUS else 0
    with pytest.raises(
        StoreError, match="no room for a table of 80 bytes in .* .No space left on device.; free memory"
    ):
        SharedTable(10)
    assert not list(Path(tempfile.gettempdir()).iterdir())
    assert not ANONYMOUS or len(os.listdir("/proc/self/fd")) == before


def test_too_many_open_files_are_told(anonymous, monkeypatch):
    def none_left(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(shared_table.fcntl, "fcntl", none_left)
    monkeypatch.setattr(tempfile, "mkstemp", none_left)
    before = len(os.listdir("/proc/self/fd")) if ANONYMOUS else 0
    with pytest.raises(StoreError, match="no file for a table of 80 bytes .Too many open files."):
        SharedTable(10)
    assert not ANONYMOUS or len(os.listdir("/proc/self/fd")) == before


def test_descriptors_are_high_and_closed(monkeypatch):
    if not ANONYMOUS:
        pytest.skip("temporary files")
    tables = [SharedTable(1) for _ in range(3)]
    assert [table.number >= shared_table.HIGH for table in tables] == [True] * 3
    number = tables[0].number
    os.fstat(number)
    del tables
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.parametrize("backend", BACKENDS)
def test_temporary_files_can_be_removed(backend, monkeypatch, tmp_path):
    """A cleaner of temporary files does not touch a bias, in contexts that are there and in new ones."""
    if not ANONYMOUS:
        pytest.skip("temporary files")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    system, x = alanine_system(), frames(1)[0]
    bias = Landscape(system, alanine_cv(2), 1, backend=backend)
    made = context(system, x)
    assert not list(tmp_path.glob("latf-bias*"))
    for seed in (2, 3):
        bias.change(seed, made)
        expected = bias.energy(bias.values(made)[None])[0]
        assert energy(made, bias.group) == pytest.approx(expected, abs=1e-5)
        assert energy(context(system, x), bias.group) == pytest.approx(expected, abs=1e-5)


def test_another_file_under_the_same_path_is_not_taken_for_the_table(monkeypatch, tmp_path):
    """Where tables are files, and a cleaner removed them: an error, and not a walker without its bias."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create", raising=False)
    system, x = alanine_system(), frames(1)[0]
    bias = Landscape(system, alanine_cv(2), 1, backend="torchforce")
    made = context(system, x)
    for file in tmp_path.glob("latf-bias-*"):
        file.unlink()
    bias.change(2, made)
    with pytest.raises(openmm.OpenMMException, match="the shared memory of the bias is gone"):
        energy(made, bias.group)


def test_tables_are_apart():
    one, other = SharedTable(4), SharedTable(4)
    one.values[:] = 1
    assert not other.values.any() and one.key != other.key and np.isfinite([one.key, other.key]).all()
