"""`latf verify` reads every file, names all that are damaged, and says what a run would do about each."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.molecules import finished_campaign

from latf_sampling.campaign.repair import repair_starts
from latf_sampling.cli import main as cli
from latf_sampling.core.manifest import Manifest
from latf_sampling.errors import RepairWarning, StoreError
from latf_sampling.records.records import Records
from latf_sampling.records.verification import Verification
from latf_sampling.starts.files import StartFiles

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(finished_campaign(), tmp_path / "copy"))


def faults(directory: Path) -> dict[str, tuple[str, str]]:
    verification = Verification.of(directory)
    return {
        finding.path.relative_to(directory).as_posix(): (finding.fault, finding.remedy)
        for finding in verification.findings
    }


REMADE = {"log.txt", "log.jsonl", "attempts.txt"}
"""Files that no manifest states."""


def test_a_campaign_without_damage():
    numbers = []
    verification = Verification.of(finished_campaign(), numbers.append)
    assert verification.findings == []
    assert verification.summary.endswith("are as they were written.")
    written = {path for path in finished_campaign().rglob("*") if path.is_file()}
    markers = {path for path in written if path.suffix == ".json" and Manifest.load(path).digest}
    unstated = {path for path in written - markers if path.suffix in (".lock", "") or path.name in REMADE}
    assert verification.tasks == len(markers)
    assert verification.files == len(written - markers - unstated) >= numbers[-1]


def flip(path: Path) -> None:
    """Change a byte, as a bad disk does: size and time stay."""
    stat, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_all_damaged_files_are_named(copy):
    round_2, walker = copy / "rounds/02", copy / "rounds/02/walker-00"
    flip(walker / "segment-003.nc")
    (walker / "segment-005.npz").write_bytes((walker / "segment-005.npz").read_bytes()[:100])
    (walker / "segment-007.json").unlink()
    (walker / "segment-009.xml").unlink()
    flip(round_2 / "learning/model.pt")
    (round_2 / "hills/walker-00.hills").write_text("")
    (copy / "rounds/01/starts/start-001.npz").unlink()
    (copy / "rounds/00/walker-00/segment-002.json").write_text("{}")
    flip(copy / "starts/starts.xtc")
    (copy / "system/structure.cif").unlink()
    found = faults(copy)
    size = len((finished_campaign() / "rounds/02/walker-00/segment-005.npz").read_bytes())
    assert {name: fault for name, (fault, _) in found.items()} == {
        "system/structure.cif": "is missing",
        "rounds/00/walker-00/segment-002.json": "is damaged; it does not state step, frames, temperature, seconds",
        "rounds/01/starts/start-001.npz": "is missing",
        "rounds/02/walker-00/segment-003.nc": "was changed after it was finished",
        "rounds/02/walker-00/segment-005.npz": f"was changed after it was finished; it has 100 of {size:,} bytes",
        "rounds/02/walker-00/segment-007.json": "is missing, while later segments of this walker exist",
        "rounds/02/walker-00/segment-009.xml": "is missing",
        "rounds/02/hills/walker-00.hills": "its first 200 hills are not those that were added",
        "rounds/02/learning/model.pt": "was changed after it was finished",
        "starts/starts.xtc": "was changed after it was finished",
    }
    remedies = {name: remedy for name, (_, remedy) in found.items()}
    assert remedies["rounds/02/learning/model.pt"] == "`latf run` trains the model again."
    assert remedies["starts/starts.xtc"] == remedies["rounds/01/starts/start-001.npz"] == "`latf run` writes it again."
    assert remedies["rounds/02/walker-00/segment-003.nc"].startswith("The model of round 2 was trained on it: restore")


def test_what_was_not_learned_from_is_made_again(copy):
    shutil.rmtree(copy / "rounds/02/learning")
    shutil.rmtree(copy / "starts")
    flip(copy / "rounds/02/walker-00/segment-019.nc")
    assert faults(copy) == {
        "rounds/02/walker-00/segment-019.nc": ("was changed after it was finished", "`latf run` makes it again.")
    }


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        ("rounds/02/learning", "rounds/02/learning/history.json"),
        ("rounds/01/learning", "rounds/01/learning/history.json"),
        ("rounds/02/walker-00", "rounds/02/walker-00/segment-000.json"),
        ("rounds/02/walker-00/segment-019.json", "rounds/02/walker-00/segment-019.json"),
        ("system/molecule.json", "system/molecule.json"),
        ("starts/starts.json", "starts/starts.json"),
    ],
)
def test_what_is_missing_altogether_is_found_by_what_depends_on_it(copy, lost, found):
    path = copy / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert faults(copy).keys() == {found}


def test_an_input_or_a_protocol_that_was_changed(copy):
    flip(next((copy / "inputs").glob("*.pdb")))
    assert faults(copy) == {
        "inputs/alanine-dipeptide.pdb": (
            "was changed after it was finished", "`latf run` copies it again from beside the protocol."
        )
    }  # fmt: skip
    shutil.copy(finished_campaign() / "inputs/alanine-dipeptide.pdb", copy / "inputs")
    content = json.loads((copy / "protocol.json").read_text())
    (copy / "protocol.json").write_text(json.dumps({**content, "seed": 2}))
    assert faults(copy) == {"protocol.json": ("was changed after the campaign was made; restore it", "Restore it.")}
    (copy / "protocol.json").unlink()
    with pytest.raises(StoreError, match=r"protocol\.json: is missing, while the campaign's results are here"):
        Verification.of(copy)


def test_exit_codes(copy, monkeypatch, capsys):
    def latf() -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["latf", "verify", str(copy)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().out

    assert latf()[0] == 0
    flip(copy / "rounds/01/learning/cv.pt")
    code, words = latf()
    assert code == 2
    assert words.splitlines()[0].endswith(
        "cv.pt: was changed after it was finished. `latf run` trains the model again, if the result is the variable "
        "that later walkers were biased along."
    )
    assert words.splitlines()[1].startswith("1 damaged file among ")
    Records.load(copy).verify()  # which does not read files whose size and time are as they were


def test_arrays_of_a_structure_are_written_again_from_its_state(copy):
    """Also where walkers have started from it; without both nothing has the structure."""
    arrays, records = copy / "rounds/01/starts/start-001.npz", Records.load(copy)
    before, files = arrays.read_bytes(), StartFiles(arrays.parent)
    for damage in (Path.unlink, flip, lambda path: path.write_bytes(b"")):
        damage(arrays)
        os.utime(arrays) if arrays.exists() else None
        assert faults(copy)["rounds/01/starts/start-001.npz"][1] == "`latf run` writes it again."
        with pytest.warns(RepairWarning, match=r"start-001\.npz: is missing or was changed\. It is written again from"):
            repair_starts(records, files, begun=True)
        assert arrays.read_bytes() == before and faults(copy) == {}
    arrays.unlink()
    arrays.with_suffix(".xml").unlink()
    assert {remedy for _, remedy in faults(copy).values()} == {
        "Walkers have started from these structures; restore it."
    }
    with pytest.raises(StoreError, match=r"start-001\.npz: is missing or was changed\. Walkers have started from its"):
        repair_starts(records, files, begun=True)


def test_a_report_and_a_finished_task_that_are_gone(copy):
    """Which only manifest and ledger tell."""
    (copy / "report.html").write_text("cut")
    assert faults(copy).keys() == {"report.html"}
    (copy / "report.html").unlink()
    assert faults(copy)["report.html"] == ("is missing", "`latf run` or `latf report` writes it again.")
    shutil.copy(finished_campaign() / "report.html", copy)
    shutil.rmtree(copy / "rounds/02/learning")
    shutil.rmtree(copy / "starts")
    (copy / "rounds/02/walker-00/segment-019.json").unlink()
    assert faults(copy).keys() == {
        "rounds/02/learning/history.json", "rounds/02/walker-00/segment-019.json", "starts/starts.json"
    }  # fmt: skip
    (copy / "ledger.sqlite").write_bytes(b"none")
    assert faults(copy) == {
        "ledger.sqlite": ("is damaged (file is not a database)", "`latf run` makes it again from the manifests.")
    }
    (copy / "ledger.sqlite").unlink()
    (copy / "ledger.sqlite").symlink_to("elsewhere")
    assert faults(copy) == {
        "ledger.sqlite": ("is no regular file", "Remove it: `latf run` makes it again from the manifests.")
    }
