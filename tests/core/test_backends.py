"""Which backend carries a bias, and why."""

import subprocess
import sys

import pytest

from latf_sampling.core import backends, installation
from latf_sampling.core.backends import choose_backend
from latf_sampling.errors import InstallationError, SettingsError


@pytest.fixture
def compiling(monkeypatch):
    monkeypatch.delenv("LATF_COMPILE", raising=False)


def without_plugin(monkeypatch):
    bare = {**installation.installed(), **dict.fromkeys(installation.PLUGINS)}
    monkeypatch.setattr(installation, "installed", lambda: bare)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_the_compiled_pythonforce_is_the_faster_one_on_a_cpu(compiling, platform):
    assert choose_backend("auto", platform) == ("pythonforce", f"the faster one on {platform}")


def test_torchforce_is_the_faster_one_on_a_gpu(monkeypatch):
    monkeypatch.setattr(backends, "has_torchforce_kernels", lambda platform: True)
    assert choose_backend("auto", "CUDA") == ("torchforce", "the faster one on CUDA")
    monkeypatch.setattr(backends, "has_torchforce_kernels", lambda platform: False)
    assert choose_backend("auto", "CUDA") == ("pythonforce", "TorchForce has no plugin for CUDA here")


def test_without_a_plugin_the_reason_says_so(compiling, monkeypatch):
    without_plugin(monkeypatch)
    backend, reason = choose_backend("auto", "CUDA")
    assert backend == "pythonforce"
    assert "No plugin for TorchForce is installed" in reason and "pip install" in reason
    assert choose_backend("auto", "CPU") == ("pythonforce", "the faster one on CPU")


def test_where_nothing_is_compiled_torchforce_is_taken(monkeypatch):
    monkeypatch.setenv("LATF_COMPILE", "0")
    backend, reason = choose_backend("auto", "CPU")
    assert backend == "torchforce" and "LATF_COMPILE is 0" in reason
    without_plugin(monkeypatch)
    backend, reason = choose_backend("auto", "CPU")
    assert backend == "pythonforce" and "LATF_COMPILE is 0" in reason and "No plugin" in reason


@pytest.mark.parametrize("value", ["0", "no", "No", "false", "FALSE", "off"])
def test_words_for_no_compilation(monkeypatch, value):
    monkeypatch.setenv("LATF_COMPILE", value)
    assert not backends.compiles()
    assert f"LATF_COMPILE is {value}" in choose_backend("auto", "CPU")[1]


@pytest.mark.parametrize("value", ["1", "yes", "True", "on", ""])
def test_words_for_compilation(monkeypatch, value):
    monkeypatch.setenv("LATF_COMPILE", value)
    assert backends.compiles()


@pytest.mark.parametrize("backend", ["auto", *backends.BACKENDS])
@pytest.mark.parametrize("value", ["2", "maybe", " "])
def test_other_words_are_refused(monkeypatch, backend, value):
    monkeypatch.setenv("LATF_COMPILE", value)
    with pytest.raises(
        SettingsError, match=f"LATF_COMPILE in the environment must be one of 1, yes, .*; got '{value}'"
    ):
        choose_backend(backend, "CPU")


def test_the_platform_is_a_gpu_where_one_works(compiling, monkeypatch):
    monkeypatch.setattr(backends, "has_torchforce_kernels", lambda platform: True)
    monkeypatch.setattr(backends, "usable", lambda platform: None if platform == "OpenCL" else "not here")
    assert choose_backend() == ("torchforce", "the faster one on OpenCL")
    monkeypatch.setattr(backends, "usable", lambda platform: "not here")
    assert choose_backend() == ("pythonforce", "the faster one on CPU")


@pytest.mark.parametrize("backend", backends.BACKENDS)
def test_a_backend_that_is_asked_for_is_taken(backend):
    assert choose_backend(backend, "CPU") == (backend, "asked for")


def test_what_does_not_work_is_refused_with_the_reason(monkeypatch):
    with pytest.raises(SettingsError, match="must be 'auto', 'torchforce' or 'pythonforce'; got 'TorchForce'"):
        choose_backend("TorchForce")
    without_plugin(monkeypatch)
    with pytest.raises(InstallationError, match="TorchForce does not work here: No plugin .* pip install"):
        choose_backend("torchforce")


def test_torchforce_works_although_openmm_was_imported_first():
    code = """
import openmm
from latf_sampling.core import backends, platforms
TorchForce = backends.torchforce()
import torch
class Sum(torch.nn.Module):
    def forward(self, positions):
        return positions.sum()
system = openmm.System()
system.addParticle(1.0)
system.addForce(TorchForce(torch.jit.trace(Sum(), torch.zeros(1, 3))))
context = openmm.Context(system, openmm.VerletIntegrator(0.001), platforms.pick_platform("CPU"))
context.setPositions([[1, 2, 3]])
print(context.getState(energy=True).getPotentialEnergy()._value)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "6.0"
    assert "simtk" not in child.stderr
