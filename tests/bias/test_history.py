"""The history of hills on the disk: nothing is lost or doubled, whoever is killed when."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from latf_sampling.bias.history import History, Neighbors, Reader
from latf_sampling.errors import SimulationError, StoreError

FIELDS = ["step", "u0", "height"]
SETTINGS = {"bias": "test", "width": "0.1"}


def history(path: Path, count: int = 0) -> History:
    """A history, with so many entries written to it."""
    made = History(path, FIELDS, SETTINGS)
    for number in range(count):
        made.add([10 * number + 10, 0.1 * number, 1.0])
    made.write()
    return made


def reader(path: Path) -> Reader:
    return Reader(path, FIELDS, SETTINGS)


def plainly(path: Path) -> np.ndarray:
    """What a file holds, as any other program would read it."""
    lines = [line for line in path.read_text().splitlines(keepends=True) if line[0] != "#" and line[-1] == "\n"]
    return np.array([[float(word) for word in line.split()] for line in lines]).reshape(-1, len(FIELDS))


# ---------------------------------------------------------------------------------------------------------- one walker


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "a.hills"
    first = history(path, 200)
    assert np.array_equal(plainly(path), first.rows) and first.rows.shape == (200, 3)
    head = path.read_text().splitlines()[:4]
    assert head == ["#! FIELDS step u0 height", "#! SET bias test", "#! SET width 0.1", "#! SET generation 0"]
    first.close()
    again = history(path)
    assert np.array_equal(again.rows, first.rows)
    again.add([2010, 0.5, 2.0])
    assert len(plainly(path)) == 200  # not before it is asked for
    again.write()
    content = path.read_bytes()
    again.write()
    assert path.read_bytes() == content
    assert np.array_equal(plainly(path), again.rows) and len(again.rows) == 201


def test_every_bit_of_a_number_survives(tmp_path):
    rng = np.random.default_rng(0)
    numbers = np.array([struct.unpack("d", rng.bytes(8))[0] for _ in range(4000)])
    numbers = np.concatenate([numbers[np.isfinite(numbers)], [0.1 + 0.2, 5e-324, -0.0, 1.7976931348623157e308]])
    numbers = numbers[: len(numbers) // 2 * 2].reshape(-1, 2)
    first = history(tmp_path / "a.hills")
    for step, pair in enumerate(numbers):
        first.add([step + 2**40, *pair])
    first.write()
    first.close()
    for rows in (history(tmp_path / "a.hills").rows, reader(tmp_path / "a.hills").read_new()):
        assert rows.tobytes() == first.rows.tobytes()


def test_rewind(tmp_path):
    path = tmp_path / "a.hills"
    first = history(path, 10)
    assert first.rewind(100) is False and first.rewind(12345) is False
    assert "generation 0" in path.read_text()
    assert first.rewind(55) is True
    assert first.rows[:, 0].tolist() == [10, 20, 30, 40, 50]
    assert np.array_equal(plainly(path), first.rows) and "generation 1" in path.read_text()
    first.add([57, 0.5, 0.5])
    first.write()
    assert np.array_equal(plainly(path), first.rows) and len(first.rows) == 6
    first.close()
    again = history(path)
    assert np.array_equal(again.rows, first.rows)
    again.rewind(0)
    assert len(plainly(path)) == 0 and "generation 2" in path.read_text()


def test_rewind_of_what_was_not_written_yet(tmp_path):
    first = history(tmp_path / "a.hills", 3)
    first.add([40, 0.0, 1.0])
    first.add([50, 0.0, 1.0])
    first.rewind(40)
    first.add([60, 0.0, 1.0])
    first.write()
    assert plainly(tmp_path / "a.hills")[:, 0].tolist() == [10, 20, 30, 40, 60]


def test_without_a_path_everything_stays_in_memory(tmp_path):
    made = History(None, FIELDS, SETTINGS)
    for step in range(1, 200):
        made.add([step, 0.0, 0.0])
    made.write()
    assert made.rewind(150) and made.rows[:, 0].tolist() == list(range(1, 151))
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_a_broken_last_line_is_not_read_and_goes(tmp_path):
    path = tmp_path / "a.hills"
    history(path, 5).close()
    whole = path.read_bytes()
    for broken in (b"6", b"60 0.5", b"60 0.5 1.0"):
        path.write_bytes(whole + broken)
        other = reader(path)
        assert other.read_new()[:, 0].tolist() == [10, 20, 30, 40, 50] and other.offset == len(whole)
        again = history(path)
        assert path.read_bytes() == whole and len(again.rows) == 5
        again.add([70, 0.0, 1.0])
        again.write()
        again.close()
        assert other.read_new()[:, 0].tolist() == [70]


def test_a_line_that_comes_in_pieces_is_read_once(tmp_path):
    path = tmp_path / "a.hills"
    history(path, 1).close()
    other = reader(path)
    assert len(other.read_new()) == 1
    for piece, expected in (("20 ", 0), ("0.25 1", 0), (".5\n30 0.5", 1), (" 2.5\n", 1)):
        with open(path, "a") as file:
            file.write(piece)
        rows = other.read_new()
        assert len(rows) == expected
    assert rows.tolist() == [[30, 0.5, 2.5]]


DAMAGES = [
    (b"30 0.2 1.0\n", b"30 0.2\n"),
    (b"30 0.2 1.0\n", b"30 0.2 1.0 1.0\n"),
    (b"30 0.2 1.0\n", b"30 0.2 1.x\n"),
    (b"30 0.2 1.0\n", b"30 0.2 nan\n"),
    (b"30 0.2 1.0\n", b"30 inf 1.0\n"),
    (b"30 0.2 1.0\n", b"\n"),
    (b"30 0.2 1.0\n", b"30 0.2 1.0"),
    (b"30 0.2 1.0\n", b"\x00" * 40 + b"\n"),
    (b"30 0.2 1.0\n", b"\xff\xfe\x80\n"),
    (b"30 0.2 1.0\n", b"20 0.2 1.0\n"),
]


@pytest.mark.parametrize(("whole", "damaged"), DAMAGES)
def test_a_damaged_line_is_refused(tmp_path, whole, damaged):
    path = tmp_path / "a.hills"
    history(path, 5).close()
    content = path.read_bytes().replace(b"0.2" + b"0" * 15 + b"4", b"0.2")
    assert content.count(whole) == 1
    path.write_bytes(content.replace(whole, damaged))
    for read in (lambda: history(path), lambda: reader(path).read_new()):
        with pytest.raises(
            SimulationError, match="a.hills: is damaged after step 20: expected a later step and 2 more"
        ):
            read()
    assert path.read_bytes() == content.replace(whole, damaged)
    path.write_bytes(content)
    assert len(history(path).rows) == 5  # the lock of the object that failed is gone


def test_a_damaged_head_is_refused(tmp_path):
    path = tmp_path / "a.hills"
    history(path, 2).close()
    content = path.read_bytes()
    for damaged in (
        b"",
        b"hello\n",
        content[:20],
        content.replace(b"#! SET bias", b"#  SET bias"),
        content.replace(b"generation 0", b"generations"),
        content.replace(b"generation 0", b"generation x"),
        content.replace(b"generation 0", b"generation"),
        content.replace(b"#! SET generation 0\n", b""),
    ):
        path.write_bytes(damaged)
        for read in (lambda: history(path), lambda: reader(path).read_new()):
            with pytest.raises(SimulationError, match="first lines are damaged"):
                read()
        assert path.read_bytes() == damaged


def test_other_settings_and_dimensions_are_refused(tmp_path):
    path = tmp_path / "a.hills"
    history(path, 2).close()
    for fields, settings, words in (
        (FIELDS, {**SETTINGS, "width": "0.2"}, "was written with width 0.1, not 0.2"),
        (FIELDS, {**SETTINGS, "bias": "opes"}, "was written with bias test, not opes"),
        (FIELDS, {**SETTINGS, "start": "flow"}, "was written with start None, not flow"),
        (["step", "u0", "u1", "height"], SETTINGS, "with FIELDS step u0 height, not step u0 u1 height"),
    ):
        for read in (
            lambda f=fields, s=settings: History(path, f, s),
            lambda f=fields, s=settings: Reader(path, f, s).read_new(),
        ):
            with pytest.raises(SimulationError, match=words):
                read()
    other = Neighbors(tmp_path / "b.hills", FIELDS, {**SETTINGS, "width": "0.2"})
    with pytest.raises(SimulationError, match=r"a.hills: .* give each bias a directory of its own"):
        other.read_new()


def test_a_file_that_another_program_changed_is_refused(tmp_path):
    path = tmp_path / "a.hills"
    made, other = history(path, 5), reader(path)
    other.read_new()
    os.truncate(path, path.stat().st_size - 5)
    made.add([60, 0.0, 1.0])
    with pytest.raises(StoreError, match="another program changed it"):
        made.write()
    with pytest.raises(SimulationError, match="is shorter than it was"):
        other.read_new()
    path.unlink()
    with pytest.raises(StoreError, match=r"a.hills: cannot be written \(No such file"):
        made.write()
    with pytest.raises(SimulationError, match=r"a.hills: cannot be read as a history \(No such file"):
        other.read_new()
    assert not path.exists()


# ------------------------------------------------------------------------------------------------- two with one name

HOLD = """
import sys, time
from pathlib import Path
from latf_sampling.bias.history import History
made = History(Path(sys.argv[1]), ["step", "u0", "height"], {"bias": "test", "width": "0.1"})
made.add([10, 0.5, 1.0])
made.write()
print("there", flush=True)
time.sleep(100)
"""


def test_two_processes_with_one_name(tmp_path):
    """The second is refused as long as the first lives, however that ends."""
    path = tmp_path / "a.hills"
    holder = subprocess.Popen([sys.executable, "-W", "ignore", "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"there\n"
        with pytest.raises(SimulationError, match="another process adds to this history; give each walker a name"):
            history(path)
        assert len(reader(path).read_new()) == 1  # reading is for everyone
        other = history(tmp_path / "b.hills", 1)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert len(history(path).rows) == 1
    with pytest.raises(SimulationError, match="another process adds"):
        history(tmp_path / "b.hills")
    other.close()
    history(tmp_path / "b.hills")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a.lock: cannot be written"):
        history(tmp_path / "file" / "a.hills")


# ---------------------------------------------------------------------------------------------------------- disk full


def limited(size: int):
    """No file may grow beyond so many bytes."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else hard, hard))


def test_disk_full(tmp_path):
    """Of lines that do not all fit, only whole ones are there; the next write goes on after them."""
    path = tmp_path / "a.hills"
    made, other = history(path, 3), reader(path)
    assert len(other.read_new()) == 3
    before = path.read_bytes()
    try:
        limited(len(before) + 5)
        made.add([100, 0.123456789, 1.0])
        for _ in range(2):
            with pytest.raises(StoreError, match=r"a.hills: cannot be written \(File too large\)"):
                made.write()
            assert path.read_bytes() == before
        assert len(other.read_new()) == 0
        made.add([110, 0.123456789, 2.0])
        made.add([120, 0.123456789, 3.0])
        limited(len(before) + len("100 0.123456789 1.0\n") + 7)
        with pytest.raises(StoreError):
            made.write()
        assert path.read_bytes() == before + b"100 0.123456789 1.0\n"
        assert other.read_new()[:, 0].tolist() == [100]
        limited(20)
        with pytest.raises(StoreError):
            made.rewind(20)
        assert path.read_bytes() == before + b"100 0.123456789 1.0\n"
        assert made.rows[:, 0].tolist() == [10, 20, 30, 100, 110, 120]
    finally:
        limited(-1)
    made.write()
    assert np.array_equal(plainly(path), made.rows) and len(made.rows) == 6
    assert other.read_new()[:, 0].tolist() == [110, 120]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.hills", "a.lock"]


def test_a_write_that_is_interrupted_after_it_was_done(tmp_path):
    """Ctrl-C between the disk and the note that it has the lines: they are not written again."""
    path = tmp_path / "a.hills"
    made = history(path, 2)
    made.add([30, 0.0, 1.0])
    with open(path, "a") as file:
        file.write("30 0.0 1.0\n")
    made.add([40, 0.0, 1.0])
    made.write()
    assert plainly(path)[:, 0].tolist() == [10, 20, 30, 40]


# ------------------------------------------------------------------------------------------------------- many walkers


def test_neighbours_give_each_entry_once(tmp_path):
    mine = history(tmp_path / "mine.hills", 3)
    others = Neighbors(mine.path, FIELDS, SETTINGS)
    assert others.read_new() == ([], False)
    a = history(tmp_path / "a.hills", 2)
    (rows,), void = others.read_new()
    assert np.array_equal(rows, a.rows) and not void
    history(tmp_path / "b.hills", 4)
    a.add([30, 0.0, 1.0])
    a.write()
    (tmp_path / ".hidden.hills").write_text("a temporary file of somebody who was killed")
    (tmp_path / "notes.txt").write_text("not ours")
    rows, void = others.read_new()
    assert [len(part) for part in rows] == [1, 4] and not void
    assert [len(part) for part in others.read_new()[0]] == [0, 0]


def test_neighbours_hear_of_a_rewind(tmp_path):
    a, b = history(tmp_path / "a.hills", 5), history(tmp_path / "b.hills", 2)
    others = Neighbors(tmp_path / "mine.hills", FIELDS, SETTINGS)
    others.read_new()
    a.rewind(20)
    for step in (31, 32, 33, 34):  # longer than it was
        a.add([step, 0.0, 1.0])
    a.write()
    assert others.read_new()[1] is True
    others.seek({})
    rows, void = others.read_new()
    assert not void
    assert [part[:, 0].tolist() for part in rows] == [[10, 20, 31, 32, 33, 34], [10, 20]]
    assert others.read_new()[1] is False
    b.rewind(0)
    assert others.read_new()[1] is True


def test_neighbours_go_on_from_where_they_were(tmp_path):
    a = history(tmp_path / "a.hills", 5)
    others = Neighbors(tmp_path / "mine.hills", FIELDS, SETTINGS)
    others.read_new()
    places = others.offsets()
    a.add([60, 0.0, 1.0])
    a.write()
    history(tmp_path / "b.hills", 2)
    later = Neighbors(tmp_path / "mine.hills", FIELDS, SETTINGS)
    later.seek({name: list(place) for name, place in places.items()})  # as a JSON file gives them back
    rows, void = later.read_new()
    assert [part[:, 0].tolist() for part in rows] == [[60], [10, 20]] and not void
    a.rewind(30)
    later.seek(places)
    assert later.read_new()[1] is True


def test_a_neighbour_that_cannot_be_read_costs_no_entry_of_another(tmp_path):
    a, b = history(tmp_path / "a.hills", 1), history(tmp_path / "b.hills", 1)
    others = Neighbors(tmp_path / "mine.hills", FIELDS, SETTINGS)
    others.read_new()
    for made in (a, b):
        made.add([20, 0.0, 1.0])
        made.write()
    content = b.path.read_bytes()
    b.path.write_bytes(content + b"30 what\n")
    for _ in range(2):
        with pytest.raises(SimulationError, match="b.hills: is damaged after step 20"):
            others.read_new()
    b.path.write_bytes(content)
    rows, void = others.read_new()
    assert [part[:, 0].tolist() for part in rows] == [[20], [20]] and not void


def write_at_random(folder: Path, walker: int, seed: int, acknowledged, stop) -> None:
    """Append at random times, take some back now and then, and note what is surely on the disk."""
    rng = np.random.default_rng(seed)
    made = History(folder / f"w{walker}.hills", FIELDS, SETTINGS)
    step = int(made.rows[-1, 0]) if len(made.rows) else 0
    assert step >= acknowledged[walker]
    while not stop.value:
        for _ in range(rng.integers(1, 4)):
            step += 1
            made.add([step, walker, rng.random()])
        if rng.random() < 0.03:
            step = max(0, step - int(rng.integers(1, 20)))
            acknowledged[walker] = min(acknowledged[walker], step)
            made.rewind(step)
        if rng.random() < 0.8:
            made.write()
            acknowledged[walker] = step
        if rng.random() < 0.3:
            time.sleep(0.002 * rng.random())
    made.write()


def read_at_random(folder: Path, name: str, seed: int, stop) -> None:
    """Collect the entries of all walkers, as a bias does; in the end write down those it has."""
    rng, found = np.random.default_rng(seed), []
    others = Neighbors(folder / f"{name}.hills", FIELDS, SETTINGS)
    done = False
    while not done:
        done = stop.value  # one more time after that
        news, void = others.read_new()
        if void:
            found.clear()
            others.seek({})
            news, void = others.read_new()
            while void:  # never, since nothing was read before
                os.abort()
        found += news
        time.sleep(0.01 * rng.random())
    np.save(folder / f"{name}.npy", np.concatenate(found))


def test_walkers_that_are_killed_at_random_and_readers(tmp_path):
    """Every reader ends with exactly what the files hold, each entry once, and no file has lost what was written."""
    processes = multiprocessing.get_context("fork")
    rng, walkers = np.random.default_rng(0), 3
    # Without locks, which a killed process would keep for ever.
    stop, end = processes.Value("b", 0, lock=False), processes.Value("b", 0, lock=False)
    acknowledged = processes.Array("d", walkers, lock=False)

    def walker(number: int):
        arguments = tmp_path, number, int(rng.integers(2**31)), acknowledged, stop
        made = processes.Process(target=write_at_random, args=arguments)
        made.start()
        return made

    readers = [processes.Process(target=read_at_random, args=(tmp_path, f"reader{k}", k, end)) for k in range(2)]
    running, kills = [walker(number) for number in range(walkers)], 0
    try:
        for process in readers:
            process.start()
        finish = time.monotonic() + 6
        while time.monotonic() < finish:
            time.sleep(0.1 * rng.random())
            number = int(rng.integers(walkers))
            os.kill(running[number].pid, signal.SIGKILL)
            running[number].join()
            kills += 1
            file = tmp_path / f"w{number}.hills"
            if file.exists():
                rows = plainly(file)
                assert (rows[-1, 0] if len(rows) else 0) >= acknowledged[number]
                if rng.random() < 0.3:  # as a power cut may leave it
                    with open(file, "a") as broken:
                        broken.write(f"{int(acknowledged[number]) + 5} 0.12"[: int(rng.integers(1, 9))])
            running[number] = walker(number)
        stop.value = 1
        for process in running:
            process.join(20)
            assert process.exitcode == 0
        end.value = 1
        for process in readers:
            process.join(20)
            assert process.exitcode == 0
    finally:
        for process in [*running, *readers]:
            if process.is_alive():
                process.kill()
    assert kills > 5
    there = [plainly(tmp_path / f"w{number}.hills") for number in range(walkers)]
    for number, rows in enumerate(there):
        assert len(rows) > 100 and (np.diff(rows[:, 0]) > 0).all() and (rows[:, 1] == number).all()
        assert rows[-1, 0] >= acknowledged[number]
        assert reader(tmp_path / f"w{number}.hills").read_new().tobytes() == rows.tobytes()
    assert any("generation 0" not in (tmp_path / f"w{number}.hills").read_text() for number in range(walkers))
    expected = np.concatenate(there)
    for k in range(2):
        found = np.load(tmp_path / f"reader{k}.npy")
        assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


# --------------------------------------------------------------------------------------- what no walker can have added

LIMITS = {"height": (0.0, 1.2)}
COLUMNS = ["step", "u0", "height", "clock"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("20 0.5 1e9 20", "hill of walker 'a' at step 20 has height 1e[+]09, and 0 to 1.2 is possible"),
        ("20 0.5 -50 20", "hill of walker 'a' at step 20 has height -50"),
        ("20 0.5 1.0 19", r"hill of walker 'a' at step 20 has an earlier clock \(19\)"),
    ],
)
def test_a_hill_that_no_walker_can_have_added(tmp_path, line, message):
    """Refused by other walkers, by the walker itself when it goes on, and by readers; nothing before it is lost."""
    path = tmp_path / "a.hills"
    settings = {"bias": "test"}
    made = History(path, COLUMNS, settings, limits=LIMITS)
    made.add([10, 0.5, 1.2, 10])
    made.write()
    made.close()
    others = Neighbors(tmp_path / "b.hills", COLUMNS, settings, LIMITS)
    assert len(others.read_new()[0][0]) == 1
    with open(path, "a") as file:
        file.write(line + "\n")
    before = others.offsets()
    for read in (
        others.read_new,
        lambda: others.read_all(np.empty((0, 4))),
        lambda: others.read("a", np.empty((0, 4))),
        lambda: History(path, COLUMNS, settings, limits=LIMITS),
        lambda: History(path, COLUMNS, settings, read_only=True, limits=LIMITS),
    ):
        with pytest.raises(SimulationError, match=message):
            read()
    assert others.offsets() == before


@pytest.mark.parametrize("what", ["shorter", "empty", "missing"])
def test_a_network_disk_whose_sizes_lag_behind(tmp_path, what):
    """A reader that runs waits for the rest of the file, and gives up when it does not come."""
    path, settings = tmp_path / "a.hills", {"bias": "test"}
    made = History(path, COLUMNS, settings)
    made.add([10, 0.5, 1.0, 10])
    made.write()
    others = Neighbors(tmp_path / "b.hills", COLUMNS, settings)
    assert len(others.read_new()[0][0]) == 1
    made.add([20, 0.6, 1.0, 20])
    made.write()
    whole = path.read_bytes()
    if what == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) - 30] if what == "shorter" else b"")
    rows, void = others.read_new()
    assert not len(rows[0]) and not void
    path.write_bytes(whole)
    rows, void = others.read_new()
    assert rows[0].tolist() == [[20, 0.6, 1.0, 20]] and not void
    path.unlink()
    assert not len(others.read_new()[0][0])
    for reader_ in others._readers.values():
        reader_.patience = 0.0
    with pytest.raises(SimulationError, match=r"a.hills: cannot be read as a history \(No such file"):
        others.read_new()


def test_walkers_that_are_known_and_gone(tmp_path):
    """What a walker has read is noted beside its history, for when it continues without."""
    settings = {"bias": "test"}
    own = History(tmp_path / "b.hills", COLUMNS, settings)
    own.remember({"a.hills"})
    own.remember({"a.hills", "c.hills"})
    own.close()
    again = History(tmp_path / "b.hills", COLUMNS, settings)
    assert again.known == {"a.hills", "c.hills"}
    (tmp_path / "c.hills").touch()
    assert Neighbors(tmp_path / "b.hills", COLUMNS, settings).missing(again.known) == ["a.hills"]
