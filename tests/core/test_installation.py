"""Which installations are refused, in which words, and which of them carry a TorchForce."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from latf_sampling.core import backends, installation
from latf_sampling.errors import InstallationError

OTHERS = dict.fromkeys(installation.NEEDED, "1.0")


def versions(openmm=None, torch=None, cpu=None, **others):
    named = {name.replace("_", "-"): version for name, version in others.items()}
    return {**OTHERS, "openmm": openmm, "torch": torch, "acellera-openmmtorch-cpu": cpu, **named}


GOOD = [
    versions("8.5.2", "2.12.1", "1.10"),
    versions("8.5.2", "2.11.0+cpu", "1.10"),
    versions("8.5.0", "2.10.0", "1.10"),
    versions("8.5.2", "2.11.0", acellera_openmmtorch_cu13="1.10", openmm_cuda_13="8.5.2"),
    versions("8.5.2", "2.11.0", "1.10", acellera_openmmtorch_cu12="1.10", openmm_cuda_12="8.5.2"),
]
WITHOUT_PLUGIN = [
    versions("8.5.2", "2.12.1"),
    versions("8.6.1", "2.13.0+cpu"),
    versions("8.10.0", "2.90.0"),
    versions("9.0.0", "3.0.0", openmm_cuda_12="9.0.0"),
]
NO_TORCHFORCE = [
    (versions("8.6.1", "2.12.1", "1.10"), "beside OpenMM 8.6.1", "segmentation fault", '"openmm==8.5.2"'),
    (versions("8.7.0", "2.12.1", "1.10"), "beside OpenMM 8.7.0", "not tested", '"openmm==8.5.2"'),
    (versions("8.5.2", "2.13.0", "1.10"), "beside torch 2.13.0", "every evaluation", '"torch>=2.11,<2.13"'),
    (versions("8.5.2", "2.13.0+cpu", "1.10"), "beside torch 2.13.0+cpu", "every evaluation", '"torch>=2.11,<2.13"'),
    (versions("8.5.2", "2.12.1", "1.11"), "openmmtorch-cpu 1.11", "tested with release 1.10", "==1.10"),
    (versions("8.5.2", "2.12.1", openmmtorch="1.5"), "openmmtorch 1.5", "built for OpenMM 8.4", "uninstall"),
]


@pytest.mark.parametrize("good", GOOD)
def test_good_versions_have_no_fault_and_both_backends(good):
    assert installation.faults(good) == []
    assert installation.torchforce_fault(good) is None


@pytest.mark.parametrize("plain", WITHOUT_PLUGIN)
def test_without_a_plugin_pythonforce_carries_the_bias_and_nothing_is_wrong(plain):
    assert installation.faults(plain) == []
    assert "No plugin for TorchForce is installed" in installation.torchforce_fault(plain).what


@pytest.mark.parametrize(("bad", "what", "why", "repair"), NO_TORCHFORCE)
def test_a_plugin_that_does_not_fit_is_named_and_not_fatal(bad, what, why, repair):
    (fault,) = installation.faults(bad)
    assert not fault.fatal
    assert what in fault.what and why in fault.why and "PythonForce carries every bias" in fault.why
    assert repair in fault.repair
    assert installation.torchforce_fault(bad) == fault


@pytest.mark.parametrize(
    ("bad", "what", "why", "repair"),
    [
        (versions(None, "2.12.1"), "OpenMM is not installed", "nothing can be simulated", "openmm==8.5.2"),
        (versions("8.4.0.post2", "2.12.1"), "OpenMM 8.4.0.post2 is installed", "8.5 or later", "openmm==8.5.2"),
        (versions("8.5.2", None, "1.10"), "torch is not installed", "learned", '"torch>=2.11,<2.13"'),
        (versions("8.5.2", "2.9.1", "1.10"), "torch 2.9.1 is installed", "2.10 or later", '"torch>=2.11,<2.13"'),
        (versions("8.6.1", "2.13.0", zuko=None), "zuko is not installed", "needs it", "pip install zuko"),
        (versions("8.6.1", "2.13.0", numba=None), "numba is not installed", "needs it", "pip install numba"),
    ],
)
def test_versions_that_cannot_work_are_fatal(bad, what, why, repair):
    (fault,) = installation.faults(bad)
    assert fault.fatal
    assert what in fault.what
    assert why in fault.why
    assert repair in fault.repair
    assert fault.repair.startswith("pip install ")


@pytest.mark.parametrize("cuda", installation.CUDA)
def test_a_cuda_platform_of_another_release_is_named(cuda):
    (fault,) = installation.faults({**GOOD[0], cuda: "8.6.1"})
    assert not fault.fatal
    assert "8.6.1 is installed beside OpenMM 8.5.2" in fault.what
    assert fault.repair == f'pip install "{cuda}==8.5.2"'


def test_several_faults_are_all_named_the_fatal_ones_first():
    faults = installation.faults(versions("8.4.0", "2.7.1", "1.10", scipy=None, openmm_cuda_12="8.6.1"))
    assert [fault.fatal for fault in faults] == [True, True, True, False]
    assert len(installation.faults({})) == 2 + len(installation.NEEDED)


def test_a_faulty_installation_is_refused_in_the_words_of_its_faults(monkeypatch):
    bad = versions("8.4.0", "2.7.1", "1.10", scipy=None)
    installation.check_installation.cache_clear()
    monkeypatch.setattr(installation, "installed", lambda: bad)
    for refuses in (installation.check_installation, backends.choose_backend):
        with pytest.raises(InstallationError) as error:
            refuses()
        assert str(error.value).splitlines() == [str(fault) for fault in installation.faults(bad)]


def test_this_installation_is_without_fault():
    installation.check_installation.cache_clear()
    installation.check_installation()
    assert installation.installed()["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_needed_packages_are_those_that_get_installed():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)[1]
    names = set(re.findall(r'^ *"([a-z0-9-]+)', listed, re.MULTILINE))
    assert names == {*installation.NEEDED, "openmm", "torch", installation.PLUGINS[0]}
    assert f'"openmm=={installation.OPENMM}"' in listed
    assert f'"torch>={installation.TORCH[0]},<{installation.TORCH[1]}"' in listed


def test_versions_are_read_without_importing_anything_heavy():
    code = (
        "import sys; from latf_sampling.core import installation; installation.faults(installation.installed());"
        "print({'torch', 'openmm', 'openmmtorch', 'mdtraj'} & set(sys.modules))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "set()"
