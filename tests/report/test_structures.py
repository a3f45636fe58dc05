"""Structures on the page of a campaign: the right atoms at the right places, and what a browser makes of them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from helpers import browser, molecules

from latf_sampling.records.records import Records
from latf_sampling.report import structures, structures_drawing
from latf_sampling.report.structures_drawing import Drawing

PROTEIN = ("N", "CA", "C", "O", "CB", "H")


def system(residues: int, waters: int = 3) -> mdtraj.Topology:
    """A protein of alanines without most hydrogens, with a ligand, an ion, many molecules of a solvent, and water."""
    topology = mdtraj.Topology()
    chain, last = topology.add_chain(), None
    for number in range(residues):
        residue = topology.add_residue("ALA", chain, resSeq=number + 1)
        atoms = {name: topology.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue) for name in PROTEIN}
        for first, second in (("N", "CA"), ("CA", "C"), ("C", "O"), ("CA", "CB"), ("N", "H")):
            topology.add_bond(atoms[first], atoms[second])
        if last is not None:
            topology.add_bond(last, atoms["N"])
        last = atoms["C"]
    chain = topology.add_chain()
    for name, symbols, copies in (("L<>", "CNHH", 1), ("CA", "Ca", 1), ("MOH", "COHH", 30), ("HOH", "OHH", waters)):
        for _ in range(copies):
            residue, symbols_ = topology.add_residue(name, chain), re.findall("[A-Z][a-z]?", symbols)
            atoms = [
                topology.add_atom(f"{s}{k}", mdtraj.element.get_by_symbol(s), residue) for k, s in enumerate(symbols_)
            ]
            for atom in atoms[1:]:
                topology.add_bond(atoms[1] if symbols == "CNHH" and atom.element.symbol == "H" else atoms[0], atom)
    return topology


@pytest.mark.parametrize(("residues", "drawn"), [(3, 3 * 6 + 4), (20, 20 * 5 + 4), (100, 100 * 4 + 4)])
def test_solvent_and_ions_are_left_out(residues, drawn):
    """Sticks with polar hydrogens, cartoons with side chains, and of many residues the backbone alone."""
    drawing = Drawing.from_topology(system(residues))
    assert len(drawing.atoms) == drawn
    assert len(drawing.cartoon) == (0 if residues < 5 else residues)
    lines = drawing.pdb.splitlines()
    atoms = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
    assert len(atoms) == drawn and {len(line) for line in atoms} == {78}
    assert {line[17:20].strip() for line in atoms} == {"ALA", "L"}
    assert sum(line.startswith("ATOM") for line in atoms) == (0 if residues < 5 else drawn - 4)
    read = {
        tuple(sorted((int(line[6:11]), int(k)))) for line in lines if line[:6] == "CONECT" for k in line[11:].split()
    }
    serial = {int(index): number for number, index in enumerate(drawing.atoms, 1)}
    bonds = [(serial.get(a.index), serial.get(b.index)) for a, b in drawing.topology.bonds]
    assert read == {tuple(sorted(pair)) for pair in bonds if None not in pair}


def test_a_large_system_is_thinned(monkeypatch):
    monkeypatch.setattr(structures_drawing, "MOST_ATOMS", 200)
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(100):
        residue = topology.add_residue("GLY", chain)
        for name in PROTEIN[:4]:
            topology.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue)
    drawing = Drawing.from_topology(topology)
    assert (drawing.style, len(drawing.atoms)) == ("trace", 100)
    assert {topology.atom(k).name for k in drawing.atoms} == {"CA"}


def test_nothing_but_solvent_is_not_drawn():
    assert Drawing.from_topology(system(0).subset(range(4, 4 + 1 + 30 * 4))) is None


def test_molecules_are_whole_together_and_aligned():
    """Cut by the faces of a box, turned and moved, structures are what they were before."""
    rng = np.random.default_rng(3)
    topology = system(8).subset(range(8 * 6 + 4))
    drawing = Drawing.from_topology(topology)
    whole = np.cumsum(rng.normal(scale=0.06, size=(topology.n_atoms, 3)), axis=0)
    turns = np.linalg.qr(rng.normal(size=(5, 3, 3)))[0]
    turns *= np.sign(np.linalg.det(turns))[:, None, None]
    frames = whole @ turns + rng.uniform(0, 4, size=(5, 1, 3))
    box = 4.0
    trajectory = mdtraj.Trajectory((frames % box).astype(np.float32), topology)
    trajectory.unitcell_lengths, trajectory.unitcell_angles = np.full((5, 3), box), np.full((5, 3), 90.0)
    assert np.abs(trajectory.xyz - frames).max() > 1
    x = drawing.aligned(drawing.positions(trajectory))
    assert np.abs(x - x[0]).max() < 1e-4
    expected = whole[drawing.atoms]
    for first, second in combinations(range(len(expected)), 2):
        distance = np.linalg.norm(expected[first] - expected[second])
        assert np.linalg.norm(x[0, first] - x[0, second]) == pytest.approx(distance, abs=1e-4)


@pytest.fixture(scope="module")
def records() -> Records:
    return Records.load(molecules.finished_campaign())


@pytest.fixture(scope="module")
def data(records) -> dict:
    source = records.directory.report.read_text()
    return json.loads(re.search(r'id="structures-data">(.*?)</script>', source, re.S)[1])


def test_the_page_has_the_archived_structures(data, records):
    """Every structure is the frame that its label names, in its state, and paths begin and end in their states."""
    atoms = data["atoms"]
    x = np.frombuffer(base64.b64decode(data["coordinates"]), "<i2").reshape(-1, atoms, 3) * data["step"]
    assert data["step"] == 0.001
    assert len(x) == len(data["labels"]) == len(data["places"]) == len(data["states"]) <= structures.FRAMES
    drawing = Drawing.from_topology(records.topology)
    model, cv = records.model(records.last_learned())
    walkers = {walker.frames.label: walker for walker in records.walkers}
    compared = [k for k, archived in enumerate(data["archived"]) if archived][::9]
    assert len(compared) > 10
    for k in compared:
        name, time = re.fullmatch(r"(round \d+, walker \d+), ([\d.]+ [pn]s), \d+ K", data["labels"][k]).groups()
        walker = walkers[name]
        value, unit = time.split()
        frame = round(float(value) * {"ps": 1, "ns": 1000}[unit] / walker.interval) - 1
        trajectory = walker.frames.take([frame])
        original = trajectory.xyz[0, drawing.atoms]
        for first, second in combinations(range(atoms), 2):
            distance = np.linalg.norm(original[first] - original[second])
            assert np.linalg.norm(x[k, first] - x[k, second]) == pytest.approx(distance, abs=0.002)
        latent = model.encode(records.features_of(cv).transform(trajectory))
        assert model.state_probabilities(latent).argmax() == data["states"][k]
    sets = {entry["name"]: entry for entry in data["sets"]}
    assert "prepared structure" in sets and "starts at 450 K" in sets and "starts of round 1" in sets
    for name, entry in sets.items():
        inside = [data["states"][k] for k in entry["frames"]]
        if entry["kind"] == "state":
            assert set(inside) == {entry["state"]}
        if entry["kind"] == "path":
            assert [inside[0], inside[-1]] == [int(word) for word in re.findall(r"\d+", name)]


def test_what_names_contain_does_not_end_the_data(records, monkeypatch):
    drawing = Drawing.from_topology(records.topology)
    empty = structures._Archive(np.zeros((1, len(drawing.atoms), 3)), ["</script><script>alert(1)"], None, None, [], 0)
    empty.groups.append(("</script>", np.array([0])))
    text = "".join(structures._parts(records, drawing, empty, None))
    assert text.count("</script>") == 1 and "<script>alert" not in text
    assert json.loads(re.search(r'data">(.*)</script>', text)[1])["sets"][0]["name"] == "</script>"


def test_the_license_of_the_library_is_in_the_page(records):
    library, program = structures.scripts(['id="structures-data"'])
    assert "Redistribution and use in source and binary forms" in library[:2000]
    assert "</script" not in library + program
    assert structures.scripts(["<section></section>"]) == []


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[browser.Browser]:
    if browser.PROGRAM is None:
        pytest.skip(browser.MISSING)
    with browser.browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


def test_in_a_browser(records, data, page):
    """Loads without a complaint or a request; draws; map and structures are linked; a phone, the dark and paper."""
    page.open(records.directory.report, width=800, height=600)
    shown = "document.getElementById('structures')"
    first = int(page.evaluate(f"{shown}.dataset.frame"))
    assert first == data["sets"][0]["frames"][0]
    assert drawn(page) > 100
    x, y = page.evaluate("""(() => {
        const svg = document.querySelector("figure.map svg");
        svg.scrollIntoView({block: "center", behavior: "instant"});
        const box = svg.getBoundingClientRect();
        return [box.x + 0.45 * box.width, box.y + 0.3 * box.height];
    })()""")
    page.click(x, y)
    after = int(page.evaluate(f"{shown}.dataset.frame"))
    matrix = page.evaluate(f"""(() => {{
        const m = document.querySelector("figure.map svg").getScreenCTM().inverse();
        return [m.a * {x} + m.e, m.d * {y} + m.f];
    }})()""")
    distances = np.linalg.norm(np.array(data["places"]) - matrix, axis=1)
    distances[~np.array(data["archived"])] = np.inf
    assert distances[after] == distances.min()
    assert after != first
    assert data["labels"][after] in page.evaluate("document.querySelector('.viewer .caption').textContent")
    # A state, by its button: its place is marked.
    page.evaluate("document.querySelector('.chips button').click()")
    assert int(page.evaluate(f"{shown}.dataset.frame")) == first
    ring = page.evaluate("['cx', 'cy'].map(key => Number(document.querySelector('.ring').getAttribute(key)))")
    assert ring == data["places"][first]
    assert drawn(page) > 100
    assert page.evaluate("document.querySelectorAll('canvas').length") == 1
    page.resize(390, 700)
    page.media(scheme="dark")
    page.settle()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # Tables that are wider scroll in their own boxes and say so, others do not.
    tables = page.evaluate("""[...document.querySelectorAll(".wide")].filter(box => box.checkVisibility()).map(
        box => [box.scrollWidth > box.clientWidth, getComputedStyle(box, "::after").visibility === "visible"])""")
    assert [True, True] in tables and all(wider == hinted for wider, hinted in tables), tables
    dark, ink = page.evaluate("['backgroundColor', 'color'].map(key => getComputedStyle(document.body)[key])")
    assert luminance(dark) < 40 and luminance(ink) > 200
    page.resize(718, 1000)  # a page of A4 within its margins
    page.media("print", scheme="dark")
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 250
    assert page.evaluate("getComputedStyle(document.querySelector('.steps')).display") == "none"
    wide = "[...document.querySelectorAll('.wide, pre')].filter(part => part.scrollWidth > part.clientWidth).length"
    assert page.evaluate(wide) == 0
    assert page.evaluate("document.querySelector('details:not([open]) pre').getBoundingClientRect().height") > 100
    assert len(page.send("Page.printToPDF", pageRanges="1")["data"]) > 10_000
    assert page.complaints == []
    assert page.requests == [Path(records.directory.report).as_uri()]


def drawn(page: browser.Browser) -> int:
    """Number of pixels of the canvas that are not transparent."""
    return page.evaluate("""(() => {
        const from = document.querySelector(".canvas canvas"), to = document.createElement("canvas");
        [to.width, to.height] = [from.width, from.height];
        const context = to.getContext("2d");
        context.drawImage(from, 0, 0);
        const {data} = context.getImageData(0, 0, to.width, to.height);
        return data.filter((value, k) => k % 4 === 3 && value > 0).length;
    })()""")


def luminance(color: str) -> float:
    return float(np.mean([int(number) for number in re.findall(r"\d+", color)][:3]))


def test_without_webgl_a_sentence_says_so(records, page, tmp_path):
    source = records.directory.report.read_text()
    file = tmp_path / "report.html"
    file.write_text(source.replace('"use strict";', "HTMLCanvasElement.prototype.getContext = () => null;", 1))
    page.media()
    page.open(file, width=800, height=600)
    assert "no WebGL" in page.evaluate("document.querySelector('.canvas').textContent")
    assert page.complaints == []
