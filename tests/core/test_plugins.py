"""Processes of this package load OpenMM's plugin for TorchForce, and with it torch, only where it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from latf_sampling.core import backends
from latf_sampling.core.processes import LocalExecutor

KERNELS = ("CalcNonbondedForce", "CalcCustomCVForce", "CalcDrudeForce", "CalcAmoebaVdwForce", "CalcPmeReciprocalForce")
"""Of OpenMM itself, of the plugins Drude and Amoeba, and of the plugin for PME."""
NO_TORCHFORCE = pytest.mark.skipif(bool(backends.torchforce_trouble()), reason="no TorchForce")


def kernels() -> dict[str, list[str]]:
    """Platforms of OpenMM in this process, and which of the kernels they have."""
    import openmm

    platforms = map(openmm.Platform.getPlatform, range(openmm.Platform.getNumPlatforms()))
    return {each.getName(): [kernel for kernel in KERNELS if each.supportsKernels([kernel])] for each in platforms}


def torch_libraries() -> bool:
    return "libtorch" in Path("/proc/self/maps").read_text()


def has_torch_kernels() -> list[bool]:
    return [backends.has_torchforce_kernels(name) for name in ("Reference", "CPU")]


def forces_of(text: str) -> list[str]:
    system = backends.read_system(text)  # whose forces live as long as it does
    return [force.getName() for force in system.getForces()]


@pytest.fixture(scope="module")
def pool():
    with LocalExecutor(1) as executor:
        yield executor


def test_a_process_has_all_platforms_and_kernels_without_libraries_of_torch(pool):
    assert pool.submit(os.getenv, "OPENMM_PLUGIN_DIR").result() is None
    assert pool.submit(kernels).result() == kernels()
    assert not pool.submit(torch_libraries).result()


@NO_TORCHFORCE
def test_a_torchforce_of_the_potential_energy_is_read_there(pool):
    import openmm
    import torch

    system = openmm.System()
    system.addForce(backends.torchforce()(torch.jit.trace(torch.nn.Tanh(), torch.zeros(1, 3))))
    assert pool.submit(forces_of, openmm.XmlSerializer.serialize(system)).result() == ["TorchForce"]
    assert pool.submit(has_torch_kernels).result() == [True, True]
    assert pool.submit(torch_libraries).result()


@pytest.mark.parametrize("before", ["", "import openmm"])
def test_plugins_are_those_of_the_user(before, tmp_path):
    """Whoever chooses the plugins, or has imported OpenMM, keeps what there is."""
    code = f"{before}\nfrom latf_sampling.core.plugins import import_openmm\nimport_openmm()\nimport openmm\n"
    code += "print([openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())])"
    environment = {**os.environ, "OPENMM_PLUGIN_DIR": str(tmp_path)}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert child.stdout.strip() == "['Reference']"
