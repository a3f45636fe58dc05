"""Notebooks: code that no file holds starts processes like any other, and objects and progress are shown."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.molecules import alanine_cv, alanine_system, alanine_topology, write_protocol

import latf_sampling as ls
from latf_sampling.core import notebook
from latf_sampling.starts import Starts

CELL = """
del __file__  # which no notebook has
from latf_sampling.core.processes import LocalExecutor

print("the cell runs")
started = lambda: None  # cannot be passed to another process, and need not be
with LocalExecutor(1) as executor:
    print(executor.submit(len, "abc").result())
"""


def test_a_cell_needs_no_guard():
    done = subprocess.run([sys.executable, "-"], input=CELL, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "the cell runs\n3\n"), done.stderr
    assert "Traceback" not in done.stderr


# ----------------------------------------------------------------------------------------------------- how it looks


class Kernel:
    """What IPython has in a notebook, as far as it is asked for."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.kernel = object()

    def display(self, content: str, display_id: bool) -> Kernel:
        assert display_id
        self.update(content)
        return self

    def update(self, content: str) -> None:
        self.shown.append(content)


@pytest.fixture
def kernel(monkeypatch) -> Kernel:
    kernel = Kernel()
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    monkeypatch.setattr(ipython, "get_ipython", lambda: kernel, raising=False)
    monkeypatch.setattr(display, "HTML", str, raising=False)
    monkeypatch.setattr(display, "display", kernel.display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return kernel


def test_bars_of_steps_in_a_notebook(kernel):
    with notebook.shown_progress() as show:
        show("round 0: learn", 0.25, "<b> 2 states")
        show("round 0: learn", 0.5, "too soon to be drawn")
        show("report", 1.0, "done")
    assert len(kernel.shown) == 2
    assert "value='0.250'" in kernel.shown[0] and "&lt;b&gt; 2 states" in kernel.shown[0]
    assert "round 0: learn" in kernel.shown[1] and "report" in kernel.shown[1]


def test_a_training_shows_its_bar_in_a_notebook_and_prints_nothing(kernel, capfd):
    rng = np.random.default_rng(0)
    x = np.sign(np.sin(np.arange(400) / 20))[:, None] + 0.1 * rng.normal(size=(400, 2))
    quick = {"initial_states": 2, "refinements": 1, "refinement_epochs": 1, "joint_epochs": 1, "flow_epochs": 1}
    dataset = ls.Dataset([ls.Series(x)], lag=5)
    model = ls.LaTF(latent_dim=1, temperature_mode="steered", flow_transforms=1)
    result = ls.train(model, dataset, ensemble=0, **quick)
    assert kernel.shown and "train" in kernel.shown[-1] and "<progress" in kernel.shown[-1]
    assert capfd.readouterr() == ("", "")
    for entry in (dataset, result, model):
        assert_table(entry)


def test_a_terminal_has_bars_and_other_outputs_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with notebook.shown_progress() as show:
        show("train", 0.5, "[brackets] are no markup")
        show("train", 1.0, "[brackets] are no markup")
    assert "train: [brackets]" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with notebook.shown_progress() as show:
        show("train", 0.5, "flow")
    assert capsys.readouterr() == ("", "")


def assert_table(shown) -> str:
    page = shown._repr_html_()
    root = ElementTree.fromstring(page.replace("<br>", "<br/>"))  # well-formed, so everything is escaped
    assert root.tag == "table" and root.find("caption").text == repr(shown) and len(root.findall("tr")) >= 1
    assert len(repr(shown)) < 400 and "\n" not in repr(shown)
    return page


def test_objects_show_themselves(tmp_path):
    cv = alanine_cv()
    features = ls.Features(alanine_topology(), [{"torsions": "phi psi"}, {"distances": "element != H"}])
    for shown in (cv, features, ls.LaTF(latent_dim=2)):
        assert_table(shown)
    bias = ls.Metadynamics(alanine_system(), cv, "300 K", bias_factor=10, height="1 kJ/mol", frequency=250)
    assert "<th>bias_factor</th><td>10</td>" in assert_table(bias)
    assert "<th>components</th>" in assert_table(bias)
    assert "sin phi ALA 2" in assert_table(features) and "... 41 more" in assert_table(features)
    points = np.zeros((1, 2))
    starts = Starts(
        450.0, alanine_topology(), np.zeros((1, 22, 3)), np.zeros((1, 22, 3)), points, points, np.zeros(1, int),
        np.zeros(1), [{"target": [1.0, 2.0], "reasons": ["<a> & b"]}], 2, 4.0,
    )  # fmt: skip
    assert "&lt;a&gt; &amp; b" in assert_table(starts)
    campaign = ls.Campaign(write_protocol(tmp_path / "p", name="<script>alert(1)</script>"), tmp_path / "run")
    page = assert_table(campaign)
    assert "<script>" not in page and "round 0" in page
