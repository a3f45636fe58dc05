"""NPY and NPZ files: what numpy wrote is read; what is damaged or would fill the memory is refused in one sentence."""

from __future__ import annotations

import io
import pickle
import random
import zipfile

import numpy as np
import pytest

from latf_sampling.core.arrays import read_npy, read_npz
from latf_sampling.errors import DataError

ARRAYS = {
    "a": np.arange(24.0).reshape(2, 3, 4),
    "b": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "c": np.array(3),
    "d": np.zeros((0, 3)),
    "e": np.array('{"text": 1}'),
    "f": np.array([True, False]),
}


def npz(save=np.savez) -> bytes:
    handle = io.BytesIO()
    save(handle, **ARRAYS)
    return handle.getvalue()


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return handle.getvalue()


def npy(array: np.ndarray, **changes) -> bytes:
    handle = io.BytesIO()
    np.lib.format.write_array_header_1_0(handle, {**np.lib.format.header_data_from_array_1_0(array), **changes})
    return handle.getvalue() + array.tobytes()


def objects() -> bytes:
    handle = io.BytesIO()
    np.save(handle, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return handle.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path, save):
    (tmp_path / "a.npz").write_bytes(npz(save))
    read = read_npz(tmp_path / "a.npz")
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)
        assert read[name].flags.writeable
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(read_npy(tmp_path / "a.npy"), array)


WRONG = {
    "empty": (b"", "zip|No data|EOF"),
    "no archive": (b"1.0 2.0\n", "zip"),
    "a pickle": (pickle.dumps([1.0]), "zip"),
    "cut off": (npz()[:-100], "zip"),
    "Python objects": (archive(("a.npy", objects())), "holds Python objects, not numbers"),
    "another file in it": (archive(("a.txt", b"energy")), "magic"),
    "a shape that fills the memory": (
        archive(("a.npy", npy(np.zeros(3), shape=(10**13,)))),
        "claims an array of shape",
    ),
    "a negative shape": (archive(("a.npy", npy(np.zeros(3), shape=(-3,)))), "claims an array of shape|not valid"),
    "two of one name": (archive(("a.npy", npy(np.zeros(3))), ("a.npy", npy(np.ones(3)))), "two arrays of one name"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused(tmp_path, case):
    content, words = WRONG[case]
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.npz: cannot be read as numbers \(.*({words})"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(DataError, match="No such file"):
        read_npz(tmp_path / "b.npz")


def test_a_small_file_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("latf_sampling.core.arrays.MOST_BYTES", 2**20)
    (tmp_path / "a.npz").write_bytes(archive(("a.npy", npy(np.zeros(2**18))), compression=zipfile.ZIP_DEFLATED))
    assert (tmp_path / "a.npz").stat().st_size < 2**13
    with pytest.raises(DataError, match="its arrays have more than"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_changed_byte_is_noticed_or_does_not_matter(tmp_path, save):
    """300 changes: the checksums of the archive are compared, which numpy does only if it reads to the end."""
    content, generator = npz(save), random.Random(2)
    for _ in range(300):
        place, value = generator.randrange(len(content)), generator.randrange(256)
        (tmp_path / "a.npz").write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        try:
            read = read_npz(tmp_path / "a.npz")
        except DataError as error:
            assert "\n" not in str(error)
            continue
        for name in read.keys() & ARRAYS.keys():  # a byte in the names of the directory changes a name
            assert np.array_equal(read[name], ARRAYS[name])


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", npy(np.zeros(9))[:-8], npy(np.zeros(3), shape=(10**13,)), objects()]
)
def test_single_arrays(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy: cannot be read as numbers \("):
        read_npy(tmp_path / "a.npy")
