"""Each kind of file of a campaign cut, overwritten with zeros and removed: what `latf verify` and `latf run` do then.

    python benchmarks/damage.py -o /tmp/damage

runs the campaign of `wells` in `torture.py`, and copies of it that are finished or stopped in the middle of their
second round. In each copy one file is damaged, at a random place. `latf verify` has to name it unless nothing depends
on it, and `latf run` to end like the campaign that was never damaged, byte by byte, or to refuse with one sentence.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.molecules import run_in_process
from helpers.torture import differences
from torture import SYSTEMS, write

from latf_sampling.campaign import campaign as loop
from latf_sampling.campaign.campaign import Campaign
from latf_sampling.core import storage
from latf_sampling.errors import LatfError
from latf_sampling.records.verification import Verification

# A page of pictures after each of a hundred runs takes more time than all the rest, and nothing is made from it.
loop.Campaign._report = lambda campaign, *_: storage.write_text(campaign.directory.report, "")

DAMAGES = ("cut", "zeros", "removed")
UNSTATED = {"log.txt", "log.jsonl", "attempts.txt", "lock"}
"""Names of files that no result depends on."""


class Stopped(BaseException):
    """The campaign is in the middle of its second round."""


def stop_half_way(step: str, fraction: float, words: str) -> None:
    if step == "round 1: simulate" and fraction > 0.3:
        raise Stopped


def kinds(directory: Path, rng: random.Random) -> Iterator[Path]:
    """One file of each kind: names that differ in numbers alone are of one kind."""
    files: dict[str, list[Path]] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            files.setdefault(re.sub(r"\d+", "N", str(path.relative_to(directory))), []).append(path)
    for paths in files.values():
        yield rng.choice(paths).relative_to(directory)


def damage(path: Path, how: str, rng: random.Random) -> None:
    """Cut a file at a random place, overwrite it with zeros from there on, or remove it."""
    content = path.read_bytes()
    place = rng.randrange(max(len(content), 1))
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:place] + bytes(len(content) - place if how == "zeros" else 0))


def mend(protocol: Path, directory: Path) -> str:
    """Run a campaign again; returns "mended", or the sentence of its refusal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_in_process(Campaign(protocol, directory))
    except LatfError as error:
        return str(error)
    return "mended"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng, folder = random.Random(arguments.seed), arguments.output
    protocol = write(folder / "protocol", SYSTEMS["wells"])
    states = {name: folder / name for name in ("finished", "half-way")}
    for path in states.values():
        shutil.rmtree(path, ignore_errors=True)
    mend(protocol, states["finished"])
    try:
        run_in_process(Campaign(protocol, states["half-way"]), progress=stop_half_way)
    except Stopped:
        pass
    wrong = []
    print("| campaign | file | damage | latf verify | latf run | s |\n|---|---|---|---|---|---|", flush=True)
    for state, whole in states.items():
        for name in kinds(whole, rng):
            how, began = rng.choice(DAMAGES), time.monotonic()
            copy = folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            damage(copy / name, how, rng)
            try:
                named = any(finding.path == copy / name for finding in Verification.of(copy).findings)
                words = "names it" if named else "finds another" if Verification.of(copy).findings else "-"
            except LatfError as error:
                named, words = name.name in str(error), str(error)
            result = mend(protocol, copy)
            different = differences(copy, states["finished"]) if result == "mended" else []
            shown = result.replace(f"{copy}/", "").replace("\n", " ") + "".join(f"; {each}" for each in different[:3])
            seconds = time.monotonic() - began
            print(f"| {state} | {name} | {how} | {words} | {shown} | {seconds:.0f} |", flush=True)
            if different or not (named or name.name in UNSTATED or result == "mended"):
                wrong.append(f"{state}: {name} {how}")
    print("\n".join(["", *wrong]) if wrong else "\nEach was named or is no result, and mended or refused.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
