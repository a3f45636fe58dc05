"""What the pages in docs/ say exists: their code runs or compiles, their commands and protocols are valid.

Links between pages, and what is made from docstrings and settings, are checked where `make docs` builds the pages.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import latf_sampling
from latf_sampling.cli.main import app
from latf_sampling.settings import Protocol
from latf_sampling.settings.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = {str(page.relative_to(ROOT / "docs")): page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))}
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
FILE = re.compile(r"[\w./-]+\.(?:pdb|xtc|dcd|nc|prmtop|inpcrd|top|gro|psf|crd|rtf|prm|json|py|pt)\b|system\.xml")


def blocks(language: str, marker: str = "") -> list[tuple[str, str]]:
    """Page and text of each block of code in a language, in a list too, after a marker if one is given."""
    fence = re.compile(rf"{re.escape(marker)}^( *)```{language}\n(.*?)^ *```", flags=re.M | re.S)
    return [
        (page, "\n".join(line.removeprefix(match[1]) for line in match[2].splitlines()))
        for page, text in PAGES.items()
        for match in fence.finditer(text)
    ]


RUNNABLE = blocks("python", "<!-- runnable -->\n")


def commands() -> list[tuple[str, list[str]]]:
    """Each line of a shell block that calls latf, as its page and arguments."""
    lines = [(page, line) for page, text in blocks("sh") for line in text.splitlines() if line.startswith("latf ")]
    return [(page, shlex.split(line.split(" > ")[0], comments=True)[1:]) for page, line in lines]


@pytest.mark.parametrize(("page", "code"), RUNNABLE, ids=[page for page, _ in RUNNABLE])
def test_code_that_is_marked_runs(page, code, tmp_path):
    script = tmp_path / "script.py"  # TorchScript reads the source of classes
    script.write_text(code)
    runpy.run_path(str(script))


def test_all_code_compiles_and_uses_public_names():
    assert len(RUNNABLE) >= 4
    for page, code in blocks("python"):
        nodes = list(ast.walk(ast.parse(code, page)))
        used = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ls"
        }
        assert used <= set(latf_sampling.__all__), page


def test_commands_exist_with_their_options():
    found = commands()
    assert len(found) > 20
    for _, (name, *arguments) in found:
        COMMANDS[name].make_context(name, arguments)  # raises for an option that does not exist


def test_commands_in_sentences_exist_with_their_options():
    for page, text in PAGES.items():
        for name, rest in re.findall(r"`latf (\w+)([^`\n]*)`", text):
            known = {option for part in COMMANDS[name].params for option in part.opts}
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= known, f"{page}: latf {name}{rest}"


def test_protocols_and_parts_of_protocols_are_valid(tmp_path):
    """Parts replace the same keys of the protocol of alanine dipeptide; the files that they name are empty here."""
    base = {**read_yaml(ROOT / "protocols" / "alanine-dipeptide.yaml"), "observe": None, "starts": None}
    found = blocks("yaml")
    assert len(found) >= 10
    for page, text in found:
        for name in FILE.findall(text + (ROOT / "protocols" / "alanine-dipeptide.yaml").read_text()):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "more").mkdir(exist_ok=True)
        (tmp_path / "more" / "a.dcd").touch()
        part = yaml.safe_load(text)
        assert part.keys() <= Protocol.model_fields.keys(), page
        # A part with a biased first round belongs after a plain one.
        rounds = part.get("rounds") or []
        if rounds and "from_trajectories" not in part and "bias" in rounds[0]:
            part["rounds"] = [*base["rounds"][:1], *rounds]
        (tmp_path / "protocol.yaml").write_text(yaml.safe_dump({**base, **part}))
        Protocol.load(tmp_path / "protocol.yaml")


def test_pages_from_settings_and_commands(monkeypatch):
    """What the build fills in has every key and every command."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    import reference  # pyright: ignore[reportMissingImports]

    monkeypatch.delitem(sys.modules, "reference")
    keys = reference.protocol_keys()
    assert "`timestep`\n: Time step of the integrator.\n\n  *a time like `2 fs`" in keys
    assert "default: `0.002 ps`" in keys
    assert "## `rounds[].bias` with `kind: opes`" in keys
    text = reference.commands()
    assert all(f"## `latf {name}`" in text for name in COMMANDS)
    assert "`-o, --output PATH`" in text
    assert "autoclass:: latf_sampling.LaTF" in reference.public_names()


def test_pictures_are_drawn_from_their_tables(monkeypatch, tmp_path):
    """Each picture that a page shows is drawn and not blank, and each table says how it was made."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    import figures  # pyright: ignore[reportMissingImports]

    monkeypatch.delitem(sys.modules, "figures")
    figures.make(tmp_path)
    shown = {name for text in PAGES.values() for name in re.findall(r"\]\(\.\./_figures/([\w-]+)\.svg\)", text)}
    drawn = {path.stem: path.read_text() for path in tmp_path.iterdir()}
    assert drawn.keys() == shown
    assert all(len(re.findall("<path", svg)) > 20 for svg in drawn.values())
    for table in (ROOT / "docs" / "figures").iterdir():
        assert re.match(r"# (latf|python (benchmarks|examples|protocols)/\w+\.py) ", table.read_text()), table
