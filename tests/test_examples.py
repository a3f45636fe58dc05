"""The examples run as they stand, and what the README shows exists."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import jupytext
import mdtraj
import pytest
from helpers.molecules import finished_campaign, write_protocol
from nbclient import NotebookClient

import latf_sampling
from latf_sampling.cli import main as cli
from latf_sampling.settings import Protocol

pytestmark = pytest.mark.timeout(900)  # the first test that needs the tiny campaign runs it
ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Code blocks of the README."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def public_names(code: str) -> set[str]:
    """What it takes from the package: every x in ls.x."""
    return {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ls"
    }


@pytest.fixture
def example(monkeypatch, capsys):
    """Runs an example with arguments; gives what it printed."""

    def run(name: str, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_examples_use_public_names_and_say_how_to_run_them(file):
    code = file.read_text()
    assert public_names(code) <= set(latf_sampling.__all__)
    assert public_names(code)
    assert f"    python examples/{file.name} " in ast.get_docstring(ast.parse(code), clean=False)


@pytest.mark.parametrize("name", ["metadynamics.py", "own_descriptor.py", "starts.py"])
def test_an_example_without_its_arguments_ends_in_a_sentence(example, name):
    with pytest.raises(SystemExit, match=rf"^Give .*: python examples/{name} "):
        example(name)


NOTEBOOKS = [file for file in EXAMPLES if file.read_text().startswith("# %%")]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_examples_are_notebooks_too(file):
    """Cells of the percent format: first words, then code that compiles cell by cell, with the imports in the first."""
    words, first, *more = jupytext.read(file).cells
    assert words.cell_type == "markdown" and words.source.startswith(("A ", "Structures "))
    assert "import latf_sampling as ls" in first.source and more
    for cell in (first, *more):
        if cell.cell_type == "code":
            compile(cell.source, file.name, "exec")


def test_a_notebook_runs(tmp_path):
    notebook = jupytext.read(ROOT / "examples" / "metadynamics.py")
    given = finished_campaign() / "rounds" / "00" / "learning" / "cv.pt"
    cell = next(cell for cell in notebook.cells if '["runs/demo/rounds/00/learning/cv.pt", "100"]' in cell.source)
    cell.source = cell.source.replace("runs/demo/rounds/00/learning/cv.pt", str(given)).replace('"100"', '"10"')
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    assert "free energy spans" in notebook.cells[-1].outputs[-1].text


def test_metadynamics(example, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = example("metadynamics.py", finished_campaign() / "rounds" / "00" / "learning" / "cv.pt", 10)
    progress, surface = words.splitlines()
    assert re.fullmatch(r"10 ps: u = \[.*\], 10 hills", progress)
    assert float(re.search(r"spans ([\d.]+) kJ/mol", surface)[1]) > 1.0


def test_starts(example, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = example("starts.py", finished_campaign(), 450)
    table = json.loads((tmp_path / "starts-450K" / "starts.json").read_text())
    assert words.startswith(f"{table['valid']} of 4 structures at 450 K are valid.")
    assert table["valid"] >= 1
    assert mdtraj.load(str(tmp_path / "starts-450K" / "start-000.pdb")).n_atoms == 22


def test_campaign(monkeypatch, capsys, tmp_path):
    """On a campaign that is finished already; the example's own takes minutes."""
    monkeypatch.setattr("latf_sampling.campaign.campaign.Campaign._report", lambda *_: None)
    shutil.copytree(finished_campaign(), tmp_path / "run")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["campaign.py", str(tmp_path / "run")])
    main = runpy.run_path(str(ROOT / "examples" / "campaign.py"))["main"]
    assert Protocol.load(main.__globals__["PROTOCOL"]).name == "alanine dipeptide"
    monkeypatch.setitem(main.__globals__, "PROTOCOL", write_protocol(tmp_path / "given"))
    main()
    words = capsys.readouterr().out
    assert "round 2: learn: 100 % finished before" in words
    assert re.search(rf"\n\d states; report: {tmp_path / 'run' / 'report.html'}\n", words)


def test_python_in_the_readme():
    shown = blocks("python")
    assert len(shown) >= 2
    for code in shown:
        assert public_names(code) <= set(latf_sampling.__all__)


def test_commands_in_the_readme():
    commands = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    shown = {match[1] for line in lines if (match := re.match(r"latf (\w+)", line))}
    assert {"run", "status", "starts", "doctor"} <= shown <= commands
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    made = {match[1] for line in lines if (match := re.match(r"make ([\w-]+)", line))}
    assert {"demo", "test"} <= made <= targets


def test_links_in_the_readme():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    for link in links:
        assert link[1:] in headings if link.startswith("#") else (ROOT / link).exists(), link
