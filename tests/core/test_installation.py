"""Which installations are refused, what is picked, and random streams that stay what they are."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch

from latf_sampling.core import installation, platforms, streams
from latf_sampling.errors import InstallationError, SettingsError

OTHERS = dict.fromkeys(installation.NEEDED, "1.0")


def versions(openmm=None, torch=None, openmmtorch=None, nvrtc="12.8.93", **others):
    named = {name.replace("_", "-"): version for name, version in others.items()}
    return {**OTHERS, "openmm": openmm, "torch": torch, "openmmtorch": openmmtorch, installation.NVRTC: nvrtc, **named}


@pytest.mark.parametrize(
    ("found", "lane"),
    [
        (versions("8.4", "2.9.0", "1.5"), "torchforce"),
        (versions("8.4.0.post2", "2.9.1", "1.5"), "torchforce"),
        (versions("8.4.0.post2", "2.9.1+cu128", "1.5"), "torchforce"),
        (versions("8.4.0", "2.9.1", "1.5", nvrtc="not needed"), "torchforce"),  # macOS
        (versions("8.5.0", "2.9.0"), "pythonforce"),
        (versions("8.6.1", "2.13.0+cpu", nvrtc=None), "pythonforce"),
        (versions("8.10.0", "2.10.0"), "pythonforce"),
        (versions("9.0.0", "3.0.0"), "pythonforce"),
    ],
)
def test_good_versions_have_no_fault(found, lane):
    assert installation.faults(found) == []
    assert installation.lane_of(found) == lane


@pytest.mark.parametrize(
    ("found", "what", "why", "mend"),
    [
        (versions(None, "2.9.1"), "OpenMM is not installed", "nothing can be simulated", "openmm==8.4.*"),
        (versions("8.3.1", "2.9.1", "1.5"), "OpenMM 8.3.1 is installed", "8.4, or 8.5 and later", "openmm==8.4.*"),
        (versions("8.4.0.post2", "2.9.1"), "without openmmtorch", "nothing can carry a bias", "openmmtorch==1.5"),
        (versions("8.4", "2.7.1", "1.5"), "torch 2.7.1 is installed", "crashes", '"torch==2.9.*"'),
        (versions("8.4", "2.8.0", "1.5"), "torch 2.8.0 is installed", "2.9 or later", '"torch==2.9.*"'),
        (versions("8.4", "2.11.0", "1.5"), "torch 2.11.0 is installed beside", "evaluation", '"torch==2.9.*"'),
        (versions("8.4", "2.90.0", "1.5"), "torch 2.90.0 is installed beside", "evaluation", '"torch==2.9.*"'),
        (versions("8.4", "2.9.1+cpu", "1.5"), "CPU-only torch", "libnvrtc.so.12", '"torch==2.9.1"'),
        (versions("8.4", "2.9.1", "1.5", nvrtc=None), "CPU-only torch", "libnvrtc.so.12", '"torch==2.9.1"'),
        (versions("8.4", None, "1.5"), "torch is not installed", "learned", '"torch==2.9.*"'),
        (versions("8.6.1", None), "torch is not installed", "learned", '"torch>=2.9"'),
        (versions("8.6.1", "2.8.0"), "torch 2.8.0", "2.9 or later", '"torch>=2.9"'),
        (versions("8.6.1", "2.13.0", zuko=None), "zuko is not installed", "needs it", "pip install zuko"),
    ],
)
def test_versions_that_cannot_work_are_fatal(found, what, why, mend):
    (fault,) = installation.faults(found)
    assert fault.fatal
    assert what in fault.what
    assert why in fault.why
    assert mend in fault.mend
    assert fault.mend.startswith("pip install ")
    assert installation.lane_of(found) is None


@pytest.mark.parametrize(
    ("found", "what", "lane"),
    [
        (versions("8.6.1", "2.13.0", "1.5"), "openmmtorch 1.5 is installed beside OpenMM 8.6.1", "pythonforce"),
        (versions("8.4.1", "2.9.1", "1.6"), "openmmtorch 1.6", "torchforce"),
        (versions("8.4.0", "2.9.1", "1.5", openmm_cuda_12="8.6.1"), "OpenMM-CUDA-12 8.6.1", "torchforce"),
        (versions("8.4.0", "2.9.1", "1.5", openmm_cuda_12="8.4.0"), "without OpenMM-Torch-CUDA-12", "torchforce"),
    ],
)
def test_versions_that_need_a_warning_still_have_a_lane(found, what, lane):
    (fault,) = installation.faults(found)
    assert not fault.fatal
    assert what in fault.what
    assert installation.lane_of(found) == lane


def test_matching_cuda_plugins_are_no_fault():
    plugins = {"openmm_cuda_12": "8.4.0.post2", "openmm_torch_cuda_12": "1.5"}
    assert installation.faults(versions("8.4.0.post2", "2.9.1", "1.5", **plugins)) == []
    assert installation.faults(versions("8.6.1", "2.13.0", openmm_cuda_12="8.6.1")) == []


def test_several_faults_are_all_named_the_fatal_ones_first():
    found = installation.faults(versions("8.4.0", "2.7.1", "1.5", scipy=None, openmm_cuda_12="8.6.1"))
    assert [fault.fatal for fault in found] == [True, True, False]
    assert len(installation.faults({})) == 2 + len(installation.NEEDED)


def test_a_faulty_installation_is_refused_in_the_words_of_its_faults(monkeypatch):
    found = versions("8.4.0", "2.7.1", "1.5", scipy=None)
    installation.check_installation.cache_clear()
    monkeypatch.setattr(installation, "installed", lambda: found)
    for refuses in (installation.check_installation, installation.lane):
        with pytest.raises(InstallationError) as error:
            refuses()
        assert str(error.value).splitlines() == [str(fault) for fault in installation.faults(found)]
    installation.torchforce.cache_clear()
    with pytest.raises(InstallationError, match=r"torch 2\.7\.1"):
        installation.torchforce()


def test_this_installation_has_a_lane():
    installation.check_installation.cache_clear()
    installation.check_installation()
    assert installation.lane() == ("pythonforce" if hasattr(openmm, "PythonForce") else "torchforce")
    assert installation.installed()["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_what_is_needed_is_what_gets_installed():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)[1]
    assert set(re.findall(r'^ *"([a-z0-9]+)', listed, re.MULTILINE)) == {*installation.NEEDED, "torch"}


def test_installed_imports_nothing_heavy():
    code = (
        "import sys; from latf_sampling.core import installation; installation.faults(installation.installed());"
        "print({'torch', 'openmm', 'openmmtorch', 'mdtraj'} & set(sys.modules))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "set()"


def test_torchforce_works_although_openmm_was_imported_first():
    if installation.lane() != "torchforce":
        with pytest.raises(InstallationError, match="PythonForce"):
            installation.torchforce()
        return
    code = """
import openmm
from latf_sampling.core import installation, platforms, streams
TorchForce = installation.torchforce()
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


def test_platform_of_a_name():
    assert platforms.pick_platform("Reference").getName() == "Reference"
    assert platforms.pick_platform("cpu").getName() == "CPU"


def test_unknown_platform_names_those_there_are():
    with pytest.raises(SettingsError, match=r"'Abacus'.*Reference, CPU"):
        platforms.pick_platform("Abacus")


def test_platform_that_is_not_here(monkeypatch):
    monkeypatch.setattr(platforms, "GPU_PLATFORMS", ("Connemara",))
    with pytest.raises(InstallationError, match=r"Connemara is not available here.*Reference, CPU"):
        platforms.pick_platform("connemara")


def test_platform_without_a_gpu_depends_on_size(monkeypatch):
    monkeypatch.setattr(platforms, "GPU_PLATFORMS", ())
    assert platforms.pick_platform(particles=22).getName() == "Reference"
    assert platforms.pick_platform(particles=platforms.SMALL).getName() == "Reference"
    assert platforms.pick_platform(particles=platforms.SMALL + 1).getName() == "CPU"
    assert platforms.pick_platform().getName() == "CPU"


def test_a_gpu_is_picked_only_if_it_works_and_carries_a_bias(monkeypatch):
    monkeypatch.setattr(platforms, "GPU_PLATFORMS", ("CPU",))  # stands in for one
    assert platforms.pick_platform(particles=2).getName() == "CPU"
    monkeypatch.setattr(platforms, "_carries_bias", lambda platform: False)
    assert platforms.pick_platform(particles=2).getName() == "Reference"
    monkeypatch.undo()
    monkeypatch.setattr(platforms, "GPU_PLATFORMS", ("CPU",))
    monkeypatch.setattr(platforms, "usable", lambda platform: "No compatible device is available")
    assert platforms.pick_platform(particles=2).getName() == "Reference"


def test_platform_that_makes_no_context_is_not_usable():
    assert platforms.usable("CPU") is None
    assert "Abacus" in platforms.usable("Abacus")


def test_devices():
    assert platforms.pick_device("cpu") == torch.device("cpu")
    assert platforms.pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(SettingsError, match="'gpu'"):
        platforms.pick_device("gpu")
    with pytest.raises(InstallationError, match=r"'cuda:99' is not available here; available: cpu"):
        platforms.pick_device("cuda:99")


def test_streams_never_change():
    """Were one of these to change, no campaign could be repeated with the seed it was run with."""
    assert streams.stream_seed(0) == 2091804249
    assert streams.stream_seed(0, "simulate", "round", 1) == 1272719149
    assert streams.stream_seed(2026, "walker", 3) == 1584271183
    np.testing.assert_allclose(streams.stream(7, "a", 1).random(3), [0.59096112, 0.21437882, 0.03480084], atol=1e-8)


def test_every_seed_and_every_name_has_its_own_stream():
    keys = [(0,), (1,), (-1,), (0, "a"), (0, "b"), (0, "a", "b"), (0, "ab"), (0, "b", "a"), (0, 3), (0, "3"), (3, 0)]
    keys += [(2**70,), (0, "é"), (0, ""), (0, "a\x00b"), (0, '"a", "b"')]
    first = {streams.stream(*key).bytes(16) for key in keys}
    assert len(first) == len(keys)
    assert len({streams.stream_seed(*key) for key in keys}) == len(keys)


def test_streams_look_independent():
    many = np.array([streams.stream(0, "walker", index).standard_normal(2000) for index in range(30)])
    correlation = np.corrcoef(many) - np.eye(30)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)


def test_a_stream_can_be_drawn_again_and_numpy_integers_are_integers():
    assert streams.stream(5, "x").random() == streams.stream(np.int64(5), "x").random()
    assert streams.stream_seed(5, 1) == streams.stream_seed(5, np.uint8(1))


def test_seeds_suit_openmm():
    seeds = np.array([streams.stream_seed(0, index) for index in range(3000)])
    assert seeds.min() >= 1
    assert seeds.max() <= 2**31 - 1
    assert abs(seeds.mean() / 2**30 - 1) < 0.05
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.002)
    integrator.setRandomNumberSeed(int(seeds.max()))
    assert integrator.getRandomNumberSeed() == seeds.max()


@pytest.mark.parametrize("key", [(1.5,), ("1",), (None,), (True,), (0, 1.5), (0, None), (0, ("a",))])
def test_what_is_no_seed_is_refused(key):
    for make in (streams.stream, streams.stream_seed):
        with pytest.raises(SettingsError, match="is not an integer"):
            make(*key)


def test_examples_in_docstrings():
    installation.check_installation.cache_clear()
    assert doctest.testmod(installation).failed == 0
