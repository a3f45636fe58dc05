"""Files of a finished campaign are damaged in five ways; no report and no run may end well with other numbers.

A tiny campaign of three rounds has some 50 kinds of files by folder and ending. There are five ways to damage one: it
is deleted, emptied, cut in half, changed by one bit, or replaced by its neighbor. The last file of each kind is damaged
in three of them, by turns, one in the middle in one: some 150 cases. `LATF_FUZZ=all` takes all files and all ways, some
1,000 cases.

After each damage everything that a report is written from is read, as the report reads it, and the campaign is run
again with the same protocol. A case passes if reading is refused with the name of a file, or every number is what it
was; and if the run refuses, or begins to make again what is damaged, or leaves files with the same numbers. No other
exception may be seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.molecules import finished_campaign, step_here, write_protocol

from latf_sampling.campaign import campaign as loop
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.data.trajectories import WalkerFrames
from latf_sampling.errors import LatfError
from latf_sampling.records.records import Records

pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


class MadeAgain(Exception):
    """A step began that costs more than writing a file."""


def again(*arguments, **settings):
    raise MadeAgain


def delete(path: Path, neighbor: Path) -> None:
    path.unlink()


def empty(path: Path, neighbor: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path, neighbor: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, neighbor: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(str(path.name)).randrange(len(content))] ^= 1
    path.write_bytes(bytes(content))


def exchange(path: Path, neighbor: Path) -> None:
    shutil.copyfile(neighbor, path)


DAMAGES = [delete, empty, cut, flip, exchange]


def groups(directory: Path) -> dict[str, list[Path]]:
    """Files of a campaign that a run does not write anew in any case, by folder and ending."""
    found: dict[str, list[Path]] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.suffix not in (".html", ".lock", ".txt") and path.name != "lock":
            found.setdefault(f"{path.parent.relative_to(directory)}/*{path.suffix}", []).append(path)
    return found


def numbers(directory: Path) -> str:
    """Digest of all that a report shows."""
    records, digest = Records.load(directory), hashlib.sha256()
    records.verify()
    protocol = json.loads(records.protocol.canonical())
    digest.update(json.dumps(protocol, sort_keys=True).encode())
    for entry in records.rounds:
        for walker in entry.begun:
            frames = walker.frames
            assert isinstance(frames, WalkerFrames)
            for values in (frames.trajectory.xyz, frames.energies, frames.bias, frames.offset, *walker.values.values()):
                digest.update(np.ascontiguousarray(values).tobytes())
        assert entry.learned is not None
        digest.update(f"{entry.learned.model.fingerprint()} {entry.learned.cv.fingerprint()}".encode())
        digest.update(repr(sorted(entry.learned.history.items())).encode())
        for hills in sorted(directory.glob(f"rounds/{entry.index:02d}/hills/*.hills")):
            digest.update(np.loadtxt(hills).tobytes())
        for folder in (records.directory.round(entry.index).starts, records.directory.starts):
            if (starts := records.starts(folder)) is not None:
                digest.update(repr(sorted(starts[0].items())).encode())
                digest.update(np.ascontiguousarray(starts[1].xyz).tobytes())
    return digest.hexdigest()


def refused(error: LatfError, directory: Path, where: str) -> None:
    """An error has to be one sentence, or two, about files of the campaign."""
    words = str(error)
    assert "\n" not in words and str(directory) in words, f"{where}: {words}"


def run(protocol: Path, directory: Path, where: str) -> bool:
    """Run the campaign; returns whether it came to its end without a step that costs more than writing a file."""
    try:
        Campaign(protocol, directory).run()
    except MadeAgain:
        return False
    except LatfError as error:
        refused(error, directory, where)
        return False
    return True


def chosen(paths: list[Path], turn: int) -> list[tuple[Path, Callable[[Path, Path], None]]]:
    """Which of the files of a folder and ending are damaged, and how."""
    if os.environ.get("LATF_FUZZ") == "all":
        return [(path, damage) for path in paths for damage in DAMAGES]
    middle, last = paths[len(paths) // 2], paths[-1]
    files = [last, last, *([middle] if middle != last else [])]
    return [(path, DAMAGES[(turn + k) % len(DAMAGES)]) for k, path in enumerate(files)]


def restore(directory: Path, intact: dict[Path, bytes]) -> None:
    """Give every file the content that it had, and remove others."""
    for path, content in intact.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for paths in groups(directory).values():
        for path in paths:
            if path not in intact:
                path.unlink()


def test_no_damage_changes_a_number(tmp_path, monkeypatch):
    directory = Path(shutil.copytree(finished_campaign(), tmp_path / "run"))
    protocol = write_protocol(tmp_path / "protocol")
    monkeypatch.setattr("latf_sampling.campaign.learning.train_model", again)
    monkeypatch.setattr(loop.structures, "generate", again)
    monkeypatch.setattr(loop.Campaign, "_report", lambda *_: None)
    monkeypatch.setattr(loop, "run_step", step_here)
    monkeypatch.setattr(loop, "run_walkers", again)
    expected = numbers(directory)
    assert run(protocol, directory, "without damage") and numbers(directory) == expected
    intact = {path: path.read_bytes() for paths in groups(directory).values() for path in paths}
    cases = silent = 0
    for turn, paths in enumerate(groups(directory).values()):
        for path, damage in chosen(paths, turn):
            others = [*(other for other in paths if other != path), *(o for o in intact if o.suffix == path.suffix)]
            neighbor = next((other for other in others if intact[other] != intact[path]), None)
            if damage is exchange and neighbor is None:
                continue
            where, cases = f"{damage.__name__} {path.relative_to(directory)}", cases + 1
            damage(path, neighbor or path)
            try:
                assert numbers(directory) == expected, f"{where}: other numbers"
                silent += 1
            except LatfError as error:
                refused(error, directory, where)
            if run(protocol, directory, where):
                assert numbers(directory) == expected, f"{where}: other numbers after a run"
            restore(directory, intact)
    print(f"{cases} cases, {silent} of them without a consequence")
    assert cases > 90
    assert silent < 0.08 * cases  # spaces of JSON, and what is lost at the end of a campaign and made again
