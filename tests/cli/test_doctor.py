"""The doctor reports crashes, hangs, wrong forces and wrong versions, and agrees with what the package refuses."""

import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from latf_sampling.cli import doctor, probe
from latf_sampling.core import installation
from latf_sampling.core.backends import BACKENDS
from latf_sampling.errors import InstallationError

BAD = {**dict.fromkeys(installation.NEEDED, "1.0"), "openmm": "8.4.0", "torch": "2.7.1"}
FITS = {**dict.fromkeys(installation.NEEDED, "1.0"), "openmm": "8.5.2", "torch": "2.12.1"}


@pytest.fixture(scope="module")
def report():
    return doctor.examine()


def text_of(report):
    console = Console(file=io.StringIO(), width=400)
    doctor.render(report, console)
    return console.file.getvalue()


def test_this_machine_is_healthy(report):
    assert report.healthy, text_of(report)
    assert {"Reference", "CPU"} <= {platform.name for platform in report.platforms}
    assert report.devices[0] == "cpu"
    for backend in BACKENDS:
        assert {"Reference", "CPU"} <= set(report.works(backend))


def test_what_is_printed(report):
    text = text_of(report)
    assert report.versions["openmm"] in text
    assert "torchforce: works on Reference, CPU" in text
    assert "bare, fixed and nested" in text and "us an evaluation" in text
    assert text.endswith("This installation works.\n")


def test_report_as_json(report):
    again = json.loads(json.dumps(report.as_dict()))
    assert again["healthy"] is True
    assert again["versions"]["numpy"] == np.__version__
    assert again["probes"][0]["backend"] == "torchforce"


def never(*arguments):
    raise AssertionError("loaded what is known to crash")


def test_versions_that_crash_are_not_tried_and_refused_in_the_same_words(monkeypatch):
    monkeypatch.setattr(doctor, "probe", never)
    monkeypatch.setattr(doctor, "_survey", lambda timeout: ((), ("cpu",), ()))
    sick = doctor.examine(BAD)
    assert not sick.healthy
    assert {probe.status for probe in sick.probes} == {"not tried"}
    assert all(probe.detail.startswith("OpenMM 8.4.0 is installed: ") for probe in sick.probes)

    monkeypatch.setattr(installation, "installed", lambda: BAD)
    installation.check_installation.cache_clear()
    with pytest.raises(InstallationError) as error:
        installation.check_installation()
    installation.check_installation.cache_clear()
    text = text_of(sick)
    assert str(error.value) in text
    assert "pip install" in text
    assert text.endswith("This installation does not work.\n")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"openmm": "8.6.1", "acellera-openmmtorch-cpu": "1.10"}, "segmentation fault"),
        ({"torch": "2.13.0", "acellera-openmmtorch-cpu": "1.10"}, "every evaluation of a TorchForce fails"),
        ({}, "No plugin for TorchForce is installed"),
    ],
)
def test_a_plugin_that_does_not_fit_is_not_tried_and_never_works(monkeypatch, changes, words):
    def works(backend, platform, timeout):
        assert backend == "pythonforce"
        return doctor.Probe(backend, platform, "works", "")

    monkeypatch.setattr(doctor, "probe", works)
    monkeypatch.setattr(doctor, "_survey", lambda timeout: ((), ("cpu",), ()))
    report = doctor.examine({**FITS, **changes})
    assert report.healthy and report.works("torchforce") == []
    assert words in " ".join(probe.detail for probe in report.probes if probe.backend == "torchforce")
    assert "torchforce: works on no platform" in text_of(report)


# ---------------------------------------------------------------------------------------------- the child process


def child(tmp_path, monkeypatch, code, timeout=60.0):
    (tmp_path / "child.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return doctor.run_child([], timeout, "child")


def test_a_crash_is_reported_by_its_signal(tmp_path, monkeypatch):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
    assert child(tmp_path, monkeypatch, code) == ({}, ("crashed", "the process was ended by SIGSEGV"))


def test_a_hang_is_ended(tmp_path, monkeypatch):
    answer = child(tmp_path, monkeypatch, "import time\ntime.sleep(3600)", timeout=2)
    assert answer == ({}, ("timed out", "no answer after 2 s"))


@pytest.mark.parametrize("code", ["import sys\nsys.exit('bad luck')", "print('no JSON')", "print('[1]')", ""])
def test_a_child_that_ends_without_an_answer_is_reported(tmp_path, monkeypatch, code):
    _, (status, detail) = child(tmp_path, monkeypatch, code)
    assert status == "crashed"
    assert ("code 1: bad luck" if "luck" in code else "code 0") in detail


def test_an_error_is_reported_in_its_words():
    result = doctor.probe("pythonforce", "Abacus")
    assert result.status == "failed"
    assert "Abacus" in result.detail


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_forces_are_noticed(backend, monkeypatch):
    energy, forces = probe.expected(probe.POSITIONS, probe.CENTERS)
    assert probe.evaluate(backend, "Reference")["status"] == "works"
    monkeypatch.setattr(probe, "nested", lambda positions: (energy, forces))
    result = probe.evaluate(backend, "Reference")
    assert result["status"] == "wrong"
    assert "a variable inside CustomCVForce are off by" in result["detail"]


@pytest.mark.parametrize("energy", [lambda x: probe.expected(x, probe.CENTERS), probe.nested])
def test_expected_forces_are_the_gradient_of_the_expected_energy(energy):
    _, forces = energy(probe.POSITIONS)
    step = 1e-5
    for particle in range(3):
        for axis in range(3):
            shift = np.zeros((3, 3))
            shift[particle, axis] = step
            above, below = energy(probe.POSITIONS + shift)[0], energy(probe.POSITIONS - shift)[0]
            assert forces[particle, axis] == pytest.approx(-(above - below) / (2 * step), rel=1e-6, abs=1e-6)


def with_probes(report, *changes):
    """The report with the result of a backend on a platform replaced."""
    probes = {(entry.backend, entry.platform): entry for entry in report.probes}
    for backend, platform, status in changes:
        probes[backend, platform] = doctor.Probe(backend, platform, status, "")
    return dataclasses.replace(report, probes=tuple(probes.values()))


@pytest.mark.parametrize(
    ("change", "healthy"),
    [
        (("pythonforce", "CPU", "works"), True),
        (("torchforce", "CUDA", "works"), True),
        (("torchforce", "CUDA", "failed"), True),  # no bias there, but the CPU does it
        (("torchforce", "CPU", "not tried"), True),
        (("torchforce", "CUDA", "wrong"), False),
        (("pythonforce", "CUDA", "crashed"), False),
        (("torchforce", "OpenCL", "timed out"), False),
        (("pythonforce", "CPU", "failed"), False),
        (("pythonforce", "Reference", "wrong"), False),
        (("pythonforce", "Reference", "not tried"), False),
    ],
)
def test_what_healthy_means(report, change, healthy):
    assert with_probes(report, change).healthy is healthy


def test_a_fatal_fault_is_not_healthy_whatever_works(report):
    fault = installation.Fault("a thing", "it is wrong", "pip install another")
    assert not dataclasses.replace(report, faults=(fault,)).healthy


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
    monkeypatch.setattr(doctor, "run_child", lambda *arguments: ({}, ("crashed", "the process was ended by SIGSEGV")))
    sick = doctor.examine(installation.installed())
    assert not sick.healthy
    assert sick.notes == ("Platforms and devices cannot be listed: the process was ended by SIGSEGV",)
    assert {entry.status for entry in sick.probes} == {"crashed"}


def test_run_as_a_module():
    command = [sys.executable, "-m", "latf_sampling.cli.doctor", "--help"]
    assert "--json" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
