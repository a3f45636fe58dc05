"""The doctor reports crashes, hangs, wrong forces and wrong versions, and agrees with what the package refuses."""

import dataclasses
import doctest
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from latf_sampling.cli import doctor
from latf_sampling.core import installation
from latf_sampling.errors import InstallationError

BAD = {**dict.fromkeys(installation.NEEDED, "1.0"), "openmm": "8.4.0", "torch": "2.7.1", "openmmtorch": "1.5"}


@pytest.fixture(scope="module")
def report():
    return doctor.examine()


def text_of(report):
    console = Console(file=io.StringIO(), width=400)
    doctor.render(report, console)
    return console.file.getvalue()


def test_this_machine_is_healthy(report):
    assert report.healthy
    assert report.lane == installation.lane()
    assert {"Reference", "CPU"} <= {platform.name for platform in report.platforms}
    assert report.devices[0] == "cpu"
    status = {(probe.back_end, probe.platform): probe.status for probe in report.probes}
    assert status[report.lane, "Reference"] == status[report.lane, "CPU"] == "works"
    (other,) = set(doctor.BACK_ENDS) - {report.lane}
    assert status[other, "CPU"] == "not tried"


def test_what_is_printed(report):
    text = text_of(report)
    assert report.versions["openmm"] in text
    assert f"lane: {report.lane}" in text
    assert "us an evaluation" in text
    assert "not tried" in text
    assert text.endswith("This installation works.\n")


def test_report_as_json(report):
    again = json.loads(json.dumps(report.as_dict()))
    assert again["healthy"] is True
    assert again["versions"]["numpy"] == np.__version__
    assert again["probes"][0]["back_end"] == "torchforce"


def test_versions_that_crash_are_not_tried_and_refused_in_the_same_words(monkeypatch):
    def never(*arguments):
        raise AssertionError("loaded what is known to crash")

    monkeypatch.setattr(doctor, "probe", never)
    monkeypatch.setattr(doctor, "_survey", lambda timeout: ((), ("cpu",), ()))
    sick = doctor.examine(BAD)
    assert not sick.healthy
    assert {probe.status for probe in sick.probes} == {"not tried"}
    assert {probe.detail for probe in sick.probes} == {"torch 2.7.1 is installed"}

    monkeypatch.setattr(installation, "installed", lambda: BAD)
    installation.check_installation.cache_clear()
    with pytest.raises(InstallationError) as error:
        installation.check_installation()
    text = text_of(sick)
    assert str(error.value) in text
    assert 'pip install "torch==2.9.*"' in text
    assert text.endswith("This installation does not work.\n")


def test_a_crash_is_reported_by_its_signal():
    probe = doctor.probe("crash", "Reference")
    assert probe.status == "crashed"
    assert "SIGSEGV" in probe.detail


def test_a_hang_is_ended():
    probe = doctor.probe("hang", "Reference", timeout=3)
    assert (probe.status, probe.detail) == ("timed out", "no answer after 3 s")


def test_wrong_forces_are_noticed():
    probe = doctor.probe("wrong", "Reference")
    assert probe.status == "wrong"
    assert "are off by" in probe.detail


def test_an_error_is_reported_in_its_words():
    probe = doctor.probe("wrong", "Abacus")
    assert probe.status == "failed"
    assert "Abacus" in probe.detail


def test_a_child_that_ends_without_an_answer_is_reported():
    probe = doctor.probe("nonsense", "Reference")
    assert probe.status == "crashed"
    assert "code 2" in probe.detail


def test_truth_is_the_gradient_of_its_energy():
    _, forces = doctor.truth(doctor.POSITIONS)
    step = 1e-5
    for particle in range(3):
        for axis in range(3):
            shift = np.zeros((3, 3))
            shift[particle, axis] = step
            above, below = doctor.truth(doctor.POSITIONS + shift)[0], doctor.truth(doctor.POSITIONS - shift)[0]
            assert forces[particle, axis] == pytest.approx(-(above - below) / (2 * step), rel=1e-6)


def with_probes(report, *changes):
    """The report with the lane's result on a platform replaced."""
    probes = {(probe.back_end, probe.platform): probe for probe in report.probes}
    for platform, status in changes:
        probes[report.lane, platform] = doctor.Probe(report.lane, platform, status, "")
    return dataclasses.replace(report, probes=tuple(probes.values()))


@pytest.mark.parametrize(
    ("changes", "healthy"),
    [
        ([("CPU", "works")], True),
        ([("CUDA", "works")], True),
        ([("CUDA", "failed")], True),  # no bias there, but the CPU does it
        ([("CUDA", "wrong")], False),
        ([("CUDA", "crashed")], False),
        ([("OpenCL", "timed out")], False),
        ([("CPU", "failed")], False),
        ([("Reference", "wrong")], False),
        ([("Reference", "not tried")], False),
    ],
)
def test_what_healthy_means(report, changes, healthy):
    assert with_probes(report, *changes).healthy is healthy


def test_a_fatal_fault_is_not_healthy_whatever_works(report):
    assert not dataclasses.replace(report, lane=None).healthy


def test_plugins_of_absent_platforms_are_one_harmless_line():
    absent = "cannot open shared object file: No such file or directory"
    failures = [
        f"Error loading library /p/libOpenMMOpenCL.so: libOpenCL.so.1: {absent}",
        f"Error loading library /p/libOpenMMDrudeOpenCL.so: libOpenCL.so.1: {absent}",
        f"Error loading library /p/libOpenMMAmoebaOpenCL.so: libOpenMMOpenCL.so: {absent}",
        f"Error loading library /p/libOpenMMCUDA.so: libcuda.so.1: {absent}",
        f"Error loading library /p/libOpenMMTorchReference.so: libtorch_cuda.so: {absent}",
    ]
    opencl, cuda, other = doctor.plugin_notes(failures)
    assert opencl.startswith("OpenCL: 3 plugins not loaded, since libOpenCL.so.1 is absent. Harmless")
    assert cuda.startswith("CUDA: 1 plugin not loaded, since libcuda.so.1 is absent. Harmless")
    assert other == f"Plugin not loaded: {failures[-1]}"
    assert doctor.plugin_notes([]) == []


def test_a_survey_that_dies_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "_child", lambda *arguments: ({}, ("crashed", "the process was ended by SIGSEGV")))
    sick = doctor.examine(installation.installed())
    assert not sick.healthy
    assert sick.notes == ("Platforms and devices cannot be listed: the process was ended by SIGSEGV",)
    assert {probe.status for probe in sick.probes if probe.back_end == installation.lane()} == {"crashed"}


def test_run_as_a_module_offers_help_without_internals():
    command = [sys.executable, "-m", "latf_sampling.cli.doctor", "--help"]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--json" in child.stdout
    assert "--probe" not in child.stdout


def test_examples_in_docstrings():
    assert doctest.testmod(doctor).failed == 0
