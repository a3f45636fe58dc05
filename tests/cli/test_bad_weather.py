"""The command line where something around it goes wrong: signals, places that cannot be written, locales, names with
brackets, narrow terminals."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.molecules import TINY_WELLS, finished_campaign, finished_wells
from rich.console import Console
from rich.table import Table
from rich.text import Text

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.cli import main as cli
from latf_sampling.cli import signals, tables
from latf_sampling.cli.progress import Bars
from latf_sampling.core.readers import quiet
from latf_sampling.core.tasks import RemoteTraceback, UnexpectedFailure
from latf_sampling.errors import LatfError
from latf_sampling.records.records import Records

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it
LATF = [sys.executable, "-m", "latf_sampling.cli.main"]


@pytest.fixture
def latf(monkeypatch, capsys, tmp_path):
    """Calls the command line in an empty directory; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["latf", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=captured.out, err=captured.err)

    return call


def write_wells(folder: Path, file: str = "protocol.yaml", **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(yaml.safe_dump({**TINY_WELLS, **changes}, allow_unicode=True), encoding="utf-8")
    return folder / file


def no_work(monkeypatch) -> None:
    """Let a command fail that begins to work before it knows that its output cannot be written."""

    def work(*_, **__):
        raise AssertionError("work began")

    for name in ("run", "train", "evaluate", "generate_starts", "structures_at"):
        monkeypatch.setattr(Campaign, name, work)
    monkeypatch.setattr(Records, "frames", work)
    monkeypatch.setattr(Records, "model", work)


# ------------------------------------------------------------------------------------------------------------- outputs

FILES = {
    "evaluate": lambda path: ("evaluate", finished_wells(), "-o", path),
    "lags": lambda path: ("lags", finished_wells(), "-o", path),
    "features": lambda path: ("features", finished_campaign(), "-o", path),
    "report": lambda path: ("report", finished_wells(), "-o", path),
    "export": lambda path: ("export", finished_campaign(), "-o", path),
}
"""Commands that write a file."""
DIRECTORIES = {
    "run": lambda path: ("run", write_wells(Path("given")), "-o", path),
    "train": lambda path: ("train", finished_campaign(), "-o", path),
    "starts": lambda path: ("starts", finished_campaign(), "--temperature", "450 K", "-n", 2, "-o", path),
}
"""Commands that write a directory."""


def device(folder: Path) -> Path:
    return Path("/dev/null")


def link_to_a_device(folder: Path) -> Path:
    (folder / "link.npz").symlink_to("/dev/null")
    return folder / "link.npz"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.npz")
    return folder / "pipe.npz"


def unix_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.npz")  # relative, since such a name must be short
    return folder / "socket.npz"


def directory(folder: Path) -> Path:
    (folder / "folder.npz").mkdir()
    return folder / "folder.npz"


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("mine")
    return folder / "file" / "x.npz"


def long_name(folder: Path) -> Path:
    return folder / f"{'x' * 300}.npz"


def loop(folder: Path) -> Path:
    (folder / "loop.npz").symlink_to("loop.npz")
    return folder / "loop.npz"


@pytest.mark.parametrize("command", FILES)
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (device, "is a device; give the name of a regular file"),
        (link_to_a_device, "is a symbolic link"),
        (pipe, "is a named pipe"),
        (unix_socket, "is a socket"),
        (directory, "is a directory"),
        (below_a_file, "a directory|no folder"),
        (long_name, "name"),
        (loop, "symbolic link"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(latf, monkeypatch, tmp_path, command, place, words):
    path = place(tmp_path)
    given = FILES[command](path)
    no_work(monkeypatch)
    if command == "features" and path.suffix != ".npz":
        pytest.skip("its suffix is refused")
    before = sorted((file, file.lstat().st_mode) for file in tmp_path.rglob("*"))
    found = latf(*given)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("latf: ") and found.err.count("\n") == 1 and re.search(words, found.err)
    assert sorted((file, file.lstat().st_mode) for file in tmp_path.rglob("*")) == before
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("command", DIRECTORIES)
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (device, "is a device; give the name of a directory"),
        (link_to_a_device, "is a device"),
        (pipe, "is a named pipe"),
        (below_a_file, "a directory|no folder"),
        (long_name, "name"),
    ],
)
def test_a_directory_that_cannot_be_written_is_refused_before_the_work(
    latf, monkeypatch, tmp_path, command, place, words
):
    given = DIRECTORIES[command](place(tmp_path))
    no_work(monkeypatch)
    found = latf(*given)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("latf: ") and found.err.count("\n") == 1 and re.search(words, found.err)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("command", [*FILES, *DIRECTORIES])
def test_a_place_without_room_or_permission_is_refused_before_the_work(latf, monkeypatch, tmp_path, command, number):
    given = {**FILES, **DIRECTORIES}[command](
        tmp_path / "new" / "x.npz" if command != "features" else tmp_path / "x.npz"
    )
    no_work(monkeypatch)

    def refuse(self, content):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    found = latf(*given)
    assert (found.code, found.out) == (2, "")
    assert found.err == f"latf: {given[-1]}: cannot be written ({os.strerror(number)}).\n"
    assert not (tmp_path / "new").exists()


def test_what_a_link_points_to_is_not_replaced(latf, tmp_path):
    (tmp_path / "cv.pt").write_text("mine")
    (tmp_path / "link.pt").symlink_to("cv.pt")
    found = latf("export", finished_campaign(), "-o", "link.pt")
    assert (found.code, found.out) == (2, "")
    assert found.err == "latf: link.pt: is a symbolic link; give the name of the file that it points to.\n"
    assert (tmp_path / "link.pt").is_symlink() and (tmp_path / "cv.pt").read_text() == "mine"


def test_a_link_in_a_campaign_is_refused(latf, tmp_path, monkeypatch):
    """A campaign that was received must not overwrite other files of its reader."""
    monkeypatch.setattr(Records, "frames", None)
    for name in ("report", "lags"):
        victim, copy = tmp_path / "victim", tmp_path / name
        victim.write_text("mine")
        copy.mkdir()
        for file in finished_wells().iterdir():
            if file.suffix != ".html":
                (copy / file.name).symlink_to(file)
        (copy / f"{name}.html").symlink_to(victim)
        found = latf(name, copy)
        assert found.code == 2 and f"{name}.html: is a symbolic link" in found.err
        assert victim.read_text() == "mine"


def test_a_read_only_file_is_not_replaced(latf, tmp_path, monkeypatch):
    (tmp_path / "cv.pt").write_text("mine")
    denied = SimpleNamespace(**{**vars(os), "access": lambda path, mode: False})  # root may write it
    monkeypatch.setattr("latf_sampling.core.outputs.os", denied)
    found = latf("export", finished_campaign(), "-o", "cv.pt")
    assert (found.code, found.err) == (2, "latf: cv.pt: cannot be written (it is read-only).\n")


# ------------------------------------------------------------------------------------------- errors of files and others


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(13, "Permission denied", "/x/protocol.json"), 2,
         "/x/protocol.json: cannot be read or written (Permission denied)."),
        (OSError(28, "No space left on device"), 2, "a file cannot be read or written (No space left on device)."),
        (MemoryError("Unable to allocate 9 TiB"), 2, "there is not enough memory (Unable to allocate 9 TiB)."),
        (LatfError("one sentence."), 2, "one sentence."),
        (IndexError("list index out of range"), 70,
         "unexpected failure (IndexError: list index out of range). This is a fault of latf_sampling; please report it "
         "with the traceback, which is in "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_no_error_is_a_traceback(latf, monkeypatch, tmp_path, error, code, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Records, "load", fail)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    found = latf("status", "x")
    assert (found.code, found.out) == (code, "")
    assert found.err.startswith(f"latf: {words}") and found.err.count("\n") == 1
    if code == 70:
        text = Path(found.err.split("which is in ")[1].strip().rstrip(".")).with_suffix(".txt").read_text()
        assert "Traceback" in text and "latf status x" in text


def test_a_failure_in_another_process_keeps_its_traceback(latf, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise UnexpectedFailure("round 0, walker 1: unexpected failure (KeyError: 'u').") from RemoteTraceback(
            "over there"
        )

    monkeypatch.setattr(Records, "load", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = latf("status", "x")
    assert found.code == 70
    assert found.err.startswith("latf: round 0, walker 1: unexpected failure (KeyError: 'u'). This is a fault of")
    assert "over there" in next(tmp_path.rglob("traceback.txt")).read_text()


@pytest.mark.parametrize(
    ("target", "code", "words"), [("| true", 1, ""), (">&-", 0, ""), (">/dev/full", 2, "No space left on device")]
)
def test_an_output_that_nobody_reads_or_that_is_full(target, code, words):
    command = f"{' '.join(LATF)} schema {target}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert words in done.stderr if words else not done.stderr


# ------------------------------------------------------------------------------------------------------------- signals


def start(folder: Path, *arguments: str, **options) -> subprocess.Popen:
    """The command line in a process group of its own."""
    return subprocess.Popen(
        [*options.pop("before", ()), *LATF, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_signals,
        **options,
    )


def _heed_signals() -> None:
    """As at a terminal, also where the tests run in the background, which ignores Ctrl-C, or under nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def running(group: int) -> list[str]:
    """Processes of a group that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, fields = entry.read_text().rsplit(")", 1)
        except OSError:  # it has just ended
            continue
        state, _, its_group = fields.split()[:3]
        if int(its_group) == group and state != "Z":
            found.append(entry.parent.name)
    return found


def test_signals_end_a_run_which_goes_on_later(tmp_path):
    """SIGTERM to the driver, then SIGHUP to all processes, then the end, in one campaign; SIGHUP under nohup before."""
    protocol = write_wells(tmp_path, rounds=[{"walkers": ["1 kJ/mol", "2 kJ/mol"], "length": "1 ns"}], evaluate=None)
    walker, segments = tmp_path / "run" / "rounds" / "00" / "walker-00", []
    for send, number, code in ((os.kill, signal.SIGTERM, 143), (os.killpg, signal.SIGHUP, 129)):
        process = start(tmp_path, "run", protocol.name, "-o", "run")
        wait_for(walker / f"segment-{len(segments) + 1:03d}.json", process)
        send(process.pid, number)
        out, err = process.communicate(timeout=60)
        words = f"interrupted by {number.name}; what is finished is kept, and the same command continues."
        assert (process.returncode, out, err) == (code, "", f"latf: {words}\n")
        end = time.monotonic() + 10
        while running(process.pid) and time.monotonic() < end:  # multiprocessing's tracker of resources ends last
            time.sleep(0.05)
        assert running(process.pid) == []
        assert list((tmp_path / "run").rglob(".*")) == []  # no half file
        segments = sorted(walker.glob("segment-*.json"))
    before = {file: file.read_bytes() for file in segments}
    assert 2 < len(before) < 20
    process = start(tmp_path, "run", protocol.name, "-o", "run", before=["nohup"])
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGHUP)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "Traceback" not in err and "leaked" not in err
    assert {file: file.read_bytes() for file in before} == before
    assert len(list(walker.glob("segment-*.json"))) == 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_one_sentence(latf, monkeypatch, number):
    def work(*_, **__):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(Records, "load", work)
    original = signal.signal(number, signal.default_int_handler)  # what is ignored would stay ignored
    try:
        before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        found = latf("status", "x")
        after = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    finally:
        signal.signal(number, original)
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert (found.code, found.out, found.err) == (128 + number, "", f"latf: interrupted{by}.\n")
    assert after == before


def test_a_signal_that_was_swallowed_on_its_way_is_told(latf, monkeypatch):
    def work(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except BaseException:
            raise RuntimeError("an error in a callback") from None

    monkeypatch.setattr(Records, "load", work)
    found = latf("status", "x")
    assert found.code == 143 and "interrupted by SIGTERM" in found.err and found.err.count("\n") == 1


def test_what_is_ignored_stays_ignored():
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.as_exceptions():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handler)


# ------------------------------------------------------------------------------------------------------------- scripts

SCRIPT = """
import latf_sampling as ls

class Enough(Exception):
    pass

def until_it_learns(step, fraction, words):
    if step == "round 0: learn" and fraction > 0:
        raise Enough

print("the script runs")
campaign = ls.Campaign("protocol.yaml", "run")
try:
    campaign.run(until_it_learns)
except Enough:
    print(len(campaign.frames()))
"""


def test_a_script_needs_no_guard(tmp_path):
    write_wells(tmp_path, rounds=[{"walkers": ["1 kJ/mol"], "length": "100 ps"}], evaluate=None)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "the script runs\n1\n"), done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------------------- locales


def test_any_locale(tmp_path):
    """Protocol, folder and page with letters that ASCII does not know."""
    protocol = write_wells(tmp_path / "é", "protokoll-ß.yaml", name="Trois trous, été ☃")
    page = tmp_path / "ü" / "☃.html"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for coding, command in (("ascii", ["check", protocol]), ("", ["report", finished_wells(), "-o", page])):
        variables = {**environment, "PYTHONIOENCODING": coding} if coding else environment
        done = subprocess.run([*LATF, *map(str, command)], capture_output=True, env=variables, timeout=200)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert "±" in page.read_text(encoding="utf-8")
    assert f"Report: {page}" in done.stdout.decode()


def test_a_name_that_is_not_utf8_is_printed(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    cli._use_utf8()
    print("é", "\udce9", flush=True)
    assert raw.getvalue() == b"\\xe9 \\udce9\n"


# -------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("name", ["T[red]300", "[/x]", "[nan nan]", ":smile:", "{task}"])
def test_names_are_no_markup(latf, monkeypatch, tmp_path, name):
    entry = {"step": f"round {name}", "done": 1.0, "words": name}
    monkeypatch.setattr(Records, "load", lambda *_, **__: SimpleNamespace(status=lambda: [entry], protocol=None))
    monkeypatch.setattr("latf_sampling.cli.view.walkers_of_present_round", lambda *_: [])
    monkeypatch.setattr("latf_sampling.cli.view.disagreements", lambda *_: [])
    assert latf("status", name).out.splitlines()[1] == f"round {name}  100 %  {name}"
    monkeypatch.setattr("latf_sampling.report.write_report", lambda records, path: Path(name) / "report.html")
    assert latf("report", "x").out == f"Report: {name}/report.html\n"
    assert latf("report", "x", "-o", f"{name.replace('/', '')}.html").out == f"Report: {name.replace('/', '')}.html\n"
    monkeypatch.undo()
    assert name.strip("[/]") in latf("status", tmp_path / name).err


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_no_markup(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, color_system=None)
    with Bars(console) as bars:
        bars("T[red]300", 1.0, "[/x] [nan nan]")
    text = console.file.getvalue()
    assert "T[red]300" in text and "[/x] [nan nan]" in text


@pytest.mark.parametrize("width", [40, 80])
def test_tables_break_no_word(width):
    rows = [
        ["round 1: simulate", "100 %", "4 of 4 segments, metadynamics, 300 K, 300 K"],
        ["report", "0 %", "/" + 60 * "x"],
    ]
    text = tables.aligned(["step", "done", ""], rows, width)
    assert text.split() == " ".join(" ".join(row) for row in [["step", "done"], *rows]).split()
    assert all(len(line) <= width for line in text.splitlines() if "xxx" not in line)
    assert all(line == line.rstrip() for line in text.splitlines())
    assert tables.aligned(["step", "done", ""], rows).splitlines()[1].endswith("300 K, 300 K")


@pytest.mark.parametrize(("width", "terminal"), [(40, True), (80, True), (40, False)])
def test_tables_of_numbers_break_no_word(width, terminal):
    table = Table(title="samples")
    for title in ("temperature", "Kullback-Leibler", "noise floor", "populations of the states", "effective frames"):
        table.add_column(title, overflow="fold")
    table.add_row(*map(Text, ("300 K", "[0.0123]", "0.0045", "0.12345", "123,456")))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    tables.print_table(console, table)
    text = console.file.getvalue()
    for word in ("temperature", "Kullback-Leibler", "populations", "effective", "[0.0123]", "123,456"):
        assert word in text


def test_what_libraries_print_is_not_seen(capfd):
    print("before")
    with quiet():
        print("python", file=sys.stderr)
        os.write(1, b"descriptor\n")
        subprocess.run(["echo", "child"])
    print("after")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("before\nafter\n", "")


def test_schema_is_json(latf):
    assert json.loads(latf("schema").out)
