"""Files are complete, one process at a time uses a directory, and finished files are not changed."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from latf_sampling.bias import history
from latf_sampling.core import storage
from latf_sampling.data import layout
from latf_sampling.errors import StoreError
from latf_sampling.settings import Protocol
from latf_sampling.starts.working_directory import working_directory

PROTOCOL = Path("protocols/three-hole.yaml").absolute()
SETTINGS = Protocol.load(PROTOCOL)


def child(code: str, *arguments, **options) -> subprocess.Popen:
    """Another Python process with the same import path, which runs some code with some arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def line_of(process: subprocess.Popen) -> str:
    """The next line that it prints; fails with its error output if it ended instead."""
    line = process.stdout.readline().strip()
    assert line, process.communicate()[1]
    return line


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --------------------------------------------------------------------------------------------------- writing


def test_a_file_appears_under_its_name_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "down" / "note.txt"
    with storage.atomic_write(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename across file systems would not be atomic
        assert temporary.suffix == ".txt"  # writers choose the format by it
    assert target.read_text() == "half"
    assert names(target.parent) == ["note.txt"]


def test_an_exception_leaves_only_the_old_file(tmp_path):
    target = tmp_path / "note.txt"
    storage.write_text(target, "old")
    with pytest.raises(ZeroDivisionError), storage.atomic_write(target) as temporary:
        temporary.write_text("ne")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert names(tmp_path) == ["note.txt"]


def test_the_old_file_exists_until_the_new_one_is_complete(tmp_path):
    target = tmp_path / "note.txt"
    storage.write_text(target, "old")
    with storage.atomic_write(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="note.txt: cannot be written"), storage.atomic_write(tmp_path / "note.txt"):
        pass
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        storage.write_text(tmp_path / "file" / "note.txt", "text")


TRAINED_MODEL = """
from latf_sampling import LaTF
from latf_sampling.learning.networks import Networks
model = LaTF()
model.networks = Networks(model.settings, 50, 3)
model.trained = True
"""


def _limit_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails as it does on a full disk


@pytest.mark.parametrize(
    "write",
    [
        "storage.write_text(target, 'x' * 1_000_000)",
        "storage.write_json(target, list(range(100_000)))",
        "with storage.atomic_write(target) as temporary: np.savez(temporary, x=np.zeros(100_000))",
        "model.save(target)",
    ],
)
def test_a_disk_without_space_is_an_error_and_the_old_file_survives(tmp_path, write):
    target = tmp_path / "data.npz"
    target.write_text("old")
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from latf_sampling.core import storage\n"
        "from latf_sampling.errors import StoreError\n"
        "target = Path(sys.argv[1])\n"
        + (TRAINED_MODEL if "model" in write else "")
        + f"try:\n    {write}\nexcept StoreError as error:\n    print('refused', error)\n"
    )
    process = child(code, target, preexec_fn=_limit_files)
    out, err = process.communicate(timeout=60)
    assert out.startswith(f"refused {target}: cannot be written (File too large)"), err
    assert target.read_text() == "old"
    assert names(tmp_path) == ["data.npz"]


KILLED_WHILE_WRITING = """
import sys, time
from latf_sampling.core.storage import atomic_write
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.settings import Protocol
place = CampaignDirectory(sys.argv[1])
with place.acquire(Protocol.load(sys.argv[2])):
    with atomic_write(place.round(0).walker(0).path / "segment-000.dcd") as temporary, open(temporary, "w") as handle:
        handle.write("half of the new")
        handle.flush()
        print("writing", flush=True)
        time.sleep(60)
"""


def test_a_kill_while_writing_leaves_the_old_file_and_the_next_lock_removes_leftovers(tmp_path):
    place = layout.CampaignDirectory(tmp_path / "run")
    target = place.round(0).walker(0).path / "segment-000.dcd"
    with place.acquire(SETTINGS):
        storage.write_text(target, "old")
    process = child(KILLED_WHILE_WRITING, place.path, PROTOCOL)
    assert line_of(process) == "writing"
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    process.communicate()
    leftovers = [name for name in names(target.parent) if name != target.name]
    assert len(leftovers) == 1  # otherwise it was not killed in the middle of writing
    assert target.read_text() == "old"
    (target.parent / ".keep").write_text("")  # hidden, but not a leftover
    with place.acquire(SETTINGS):
        assert names(target.parent) == [".keep", target.name]
        assert target.read_text() == "old"


# ------------------------------------------------------------------------------------------------- reading


def test_json_round_trip(tmp_path):
    content = {"seed": 1, "integrator": {"timestep": 0.002, "friction": [1.0, None]}}
    storage.write_json(tmp_path / "a.json", content)
    assert storage.read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize("content", [None, "", '{"half": ', b"\xff\xfe"])
def test_a_missing_or_damaged_json_file_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StoreError, match="a.json: (cannot be read|is damaged; it is not JSON)"):
        storage.read_json(path)


def test_checksum_of_known_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # NIST's test vector
    assert storage.checksum(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "long").write_bytes(b"a" * 1_000_000)
    # and its long one
    assert storage.checksum(tmp_path / "long") == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"


# ------------------------------------------------------------------------------------------------- the lock

LOCKING = """
import sys, time
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.settings import Protocol
with CampaignDirectory(sys.argv[1]).acquire(Protocol.load(sys.argv[2])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_a_killed_one_releases_the_directory(tmp_path):
    place = layout.CampaignDirectory(tmp_path / "run")
    process = child(LOCKING, place.path, PROTOCOL)
    try:
        assert line_of(process) == "locked"
        with pytest.raises(StoreError, match="another process is running this campaign"), place.acquire(SETTINGS):
            pytest.fail("two processes use one directory")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    deadline = time.monotonic() + 10
    while True:  # the kernel needs a moment to close the files of a killed process
        try:
            with place.acquire(SETTINGS):
                break
        except StoreError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_exception_releases_the_lock_too(tmp_path):
    place = layout.CampaignDirectory(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), place.acquire(SETTINGS):
        raise ZeroDivisionError
    with place.acquire(SETTINGS):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    words = rf"its file system has no locks \({os.strerror(number)}\), .*; give a directory on another disk"
    hills = tmp_path / "a.hills"
    hills.write_text("")
    uses = {
        "run/lock": lambda: layout.CampaignDirectory(tmp_path / "run").acquire(SETTINGS).__enter__(),
        "targets/lock": lambda: working_directory(tmp_path / "s", {}, np.zeros((1, 2))).__enter__(),
        "a.lock": lambda: history.take_back(hills, 0),
        "b.lock": lambda: history.History(tmp_path / "b.hills", ["step"], {}),
    }
    for name, use in uses.items():
        with pytest.raises(StoreError, match=f"{name}: cannot be locked, since {words}"):
            use()


# --------------------------------------------------------------------------------------------- the protocol


def test_another_protocol_is_refused_with_the_keys_that_differ(tmp_path):
    place = layout.CampaignDirectory(tmp_path / "run")
    with place.acquire(SETTINGS):
        pass
    assert place.protocol() == SETTINGS
    with place.acquire(SETTINGS.model_copy(update={"seed": 2})):  # nothing was made by the first one
        pass
    assert place.protocol().seed == 2
    walker = place.round(0).walker(0)
    finish(walker.path, 0)
    integrator = SETTINGS.integrator.model_copy(update={"friction": 5.0})
    with (
        pytest.raises(StoreError, match=r"other settings \(integrator\.friction, seed\)"),
        place.acquire(SETTINGS.model_copy(update={"integrator": integrator, "name": "new"})),
    ):
        pytest.fail("another protocol was accepted")
    assert place.protocol().seed == 2
    with place.acquire(SETTINGS.model_copy(update={"seed": 2, "name": "new"})):
        pass
    assert place.protocol().name == "new"


def test_a_directory_with_other_files_is_refused_and_not_changed(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="thesis.tex"), layout.CampaignDirectory(tmp_path).acquire(SETTINGS):
        pytest.fail("a directory with other files was accepted")
    assert set(names(tmp_path)) <= {"thesis.tex", "lock"}
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_inputs_are_copied_once_also_after_an_interruption(tmp_path):
    place = layout.CampaignDirectory(tmp_path / "run")
    place.inputs.mkdir(parents=True)  # an earlier start was interrupted here
    (place.inputs / ".molecule.123.pdb").write_text("ato")
    with place.acquire(Protocol.load("protocols/alanine-dipeptide.yaml")):
        assert names(place.inputs) == ["alanine-dipeptide.pdb", "reference_alanine.json"]


def test_a_damaged_protocol_is_a_store_error(tmp_path):
    place = layout.CampaignDirectory(tmp_path / "run")
    with place.acquire(SETTINGS):
        pass
    (place.path / "protocol.json").write_text('{"seed": ')
    with pytest.raises(StoreError, match="protocol.json: is damaged; it is not JSON"), place.acquire(SETTINGS):
        pytest.fail("a damaged protocol was accepted")


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "run").write_text("")
    with (
        pytest.raises(StoreError, match="cannot be used as a campaign directory"),
        layout.CampaignDirectory(tmp_path / "run").acquire(SETTINGS),
    ):
        pytest.fail("a file was accepted as a directory")


def test_paths_stay_inside_and_are_distinct(tmp_path):
    place = layout.CampaignDirectory(tmp_path)
    paths = [place.round(r).walker(w).path for r in range(3) for w in range(3)]
    paths += [place.round(r).learning.path for r in range(3)] + [place.round(r).starts for r in range(3)]
    paths += [place.starts, place.report]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(tmp_path) for path in paths)


# ------------------------------------------------------------------------------------------------- segments


SUMMARY = {"frames": 10, "temperature": 300.0, "seconds": 1.0}


def finish(walker: Path, index: int) -> list[Path]:
    segment = layout.WalkerDirectory(walker).segment(index)
    paths = [segment.trajectory, segment.frames, segment.state]
    for path in paths:
        storage.write_text(path, f"{path.suffix} {index}")
    segment.finish({**SUMMARY, "step": 100 * index})
    return paths


def steps(walker: Path) -> list[int]:
    return [manifest.content["step"] for manifest in layout.WalkerDirectory(walker).finished_segments()]


def test_a_gap_between_finished_segments_is_refused(tmp_path):
    assert steps(tmp_path) == []
    for index in (0, 1, 3):
        finish(tmp_path, index)
    with pytest.raises(StoreError, match=r"segment-002\.json: is missing, while later segments of this walker exist"):
        steps(tmp_path)
    finish(tmp_path, 2)
    assert steps(tmp_path) == [0, 100, 200, 300]


def test_a_segment_without_its_marker_is_not_finished(tmp_path):
    finish(tmp_path, 0)
    layout.WalkerDirectory(tmp_path).segment(0).marker.unlink()
    assert steps(tmp_path) == []


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_a_finished_file_that_changed_is_named(tmp_path, number, damage):
    finish(tmp_path, 0)
    path = finish(tmp_path, 1)[number]
    if damage == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:] if damage == "changed" else content[:-1])
    what = "is missing" if damage == "missing" else "was changed after it was finished"
    with pytest.raises(StoreError, match=f"{re.escape(str(path))}: {what}"):
        steps(tmp_path)


def test_a_segment_cannot_be_finished_without_its_files(tmp_path):
    with pytest.raises(OSError, match="segment-000"):
        layout.WalkerDirectory(tmp_path).segment(0).finish({})
    assert steps(tmp_path) == []


@pytest.mark.parametrize("path", [".", "..", "/"])
def test_a_folder_is_no_file_to_write(path):
    with pytest.raises(StoreError, match="is a directory; give the name of a regular file"):
        storage.write_text(path, "x")
