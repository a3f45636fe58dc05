"""What is special about a bias in a PythonForce."""

from __future__ import annotations

import subprocess
import sys

import openmm
import pytest
from helpers.molecules import alanine_cv, alanine_system, context, energy, frames

from latf_sampling.bias import Umbrella

READ = """
import sys
import openmm
system, state = (openmm.XmlSerializer.deserialize(open(file).read()) for file in sys.argv[1:3])
context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
context.setState(state)
print(context.getState(getEnergy=True, groups={int(sys.argv[3])}).getPotentialEnergy()._value)
"""
"""No array reaches OpenMM before the force is evaluated."""


@pytest.mark.parametrize("backend", ["pythonforce", "torchforce"])
def test_a_state_can_be_loaded_in_a_new_process(tmp_path, backend):
    """OpenMM 8.5.2 ends in a segmentation fault there, unless it got an array before."""
    system = alanine_system()
    bias = Umbrella(system, alanine_cv(2), [0.3, -0.2], 10.0, backend=backend)
    here = context(system, frames(1)[0])
    files = [tmp_path / "system.xml", tmp_path / "state.xml"]
    parameters = backend == "pythonforce"  # the table of a TorchForce that was never changed goes along
    for file, content in zip(files, (system, here.getState(positions=True, parameters=parameters))):
        file.write_text(openmm.XmlSerializer.serialize(content))
    code = ("import openmmtorch\n" if backend == "torchforce" else "") + READ
    command = [sys.executable, "-c", f"import torch\n{code}", *map(str, files), str(bias.group)]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert float(child.stdout.splitlines()[0]) == pytest.approx(energy(here, bias.group), rel=1e-12)
