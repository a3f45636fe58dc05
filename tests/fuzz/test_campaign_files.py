"""Files of a finished campaign are damaged in five ways; no report and no run may end well with other numbers.

A tiny campaign of three rounds has 28 kinds of files (the first, one in the middle and the last of each folder and
ending are taken), each of which is deleted, emptied, cut in half, changed by one bit, and replaced by its neighbor:
some 250 cases. `LATF_FUZZ=all` takes all files of all folders, some 1,000 cases.

After each damage a report is written, and the campaign is run again with the same protocol. A case passes if the
report is refused with the name of a file or has every byte that it had; and if the run refuses, or begins to make
again what is damaged, or leaves files whose report has every byte that it had. No other exception may be seen.
"""

from __future__ import annotations

import os
import random
import shutil
import warnings
from pathlib import Path

import pytest
from helpers.molecules import finished_campaign, write_protocol

from latf_sampling.campaign import campaign as loop
from latf_sampling.campaign import executors
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.errors import LatfError, RepairWarning
from latf_sampling.records.records import Records
from latf_sampling.report import write_report

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
        if path.is_file() and path.suffix not in (".html", ".lock") and path.name != "lock":
            found.setdefault(f"{path.parent.relative_to(directory)}/*{path.suffix}", []).append(path)
    return found


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> tuple[Path, Path, bytes]:
    """A protocol, a copy of a finished campaign, and its report."""
    folder = tmp_path_factory.mktemp("fuzz")
    directory = Path(shutil.copytree(finished_campaign(), folder / "run"))
    return write_protocol(folder / "protocol"), directory, page(directory)


def page(directory: Path) -> bytes:
    """A new report."""
    write_report(Records.load(directory), directory.parent / "page.html")
    return (directory.parent / "page.html").read_bytes()


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


def chosen(paths: list[Path]) -> list[Path]:
    if os.environ.get("LATF_FUZZ") == "all":
        return paths
    return sorted({paths[0], paths[len(paths) // 2], paths[-1]} if len(paths) > 4 else {paths[-1]})


def test_no_damage_changes_a_number(campaign, monkeypatch):
    protocol, directory, report = campaign
    monkeypatch.setattr(loop, "train", again)
    monkeypatch.setattr(loop.structures, "generate", again)
    monkeypatch.setattr(loop, "write_report", lambda records: None)
    monkeypatch.setitem(executors.EXECUTORS, "local", again)
    assert page(directory) == report
    assert run(protocol, directory, "without damage")
    intact = {path: path.read_bytes() for paths in groups(directory).values() for path in paths}
    cases = silent = 0
    for paths in groups(directory).values():
        for path in chosen(paths):
            others = [*(other for other in paths if other != path), *(o for o in intact if o.suffix == path.suffix)]
            neighbor = next((other for other in others if other != path), None)
            for damage in DAMAGES:
                if damage is exchange and (neighbor is None or intact[neighbor] == intact[path]):
                    continue
                where, cases = f"{damage.__name__} {path.relative_to(directory)}", cases + 1
                damage(path, neighbor or path)
                try:
                    assert page(directory) == report, f"{where}: the report has changed"
                    silent += 1
                except LatfError as error:
                    refused(error, directory, where)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RepairWarning)
                    if run(protocol, directory, where):
                        assert page(directory) == report, f"{where}: the report has changed after a run"
                for other in directory.rglob("*"):
                    if other.is_file() and other in intact and other.read_bytes() != intact[other]:
                        other.write_bytes(intact[other])
                for other, content in intact.items():
                    if not other.exists():
                        other.parent.mkdir(parents=True, exist_ok=True)
                        other.write_bytes(content)
                for other in set(groups_flat(directory)) - intact.keys():
                    other.unlink()
    assert cases > 200, cases
    assert silent < 0.05 * cases, silent  # spaces of JSON, and what is lost at the end of a campaign and made again


def groups_flat(directory: Path) -> list[Path]:
    return [path for paths in groups(directory).values() for path in paths]
