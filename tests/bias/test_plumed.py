"""Biases on values of a variable against PLUMED 2.11, hill by hill; helpers/plumed_reference.py wrote its numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers.molecules import pairs
from helpers.plumed_reference import CASES, KT, REFERENCE, SIGMA, values

from latf_sampling.bias import OPES, Metadynamics
from latf_sampling.units import KB

RESULTS = json.loads(REFERENCE.read_text())
ADAPTIVE = {"width": "adaptive"}
BOX = {"excluded_region": [[0.9, 1.05]]}
ARGUMENTS = {
    "opes": {},
    "opes, 2-D": {},
    "opes, 3-D": {},
    "opes, bias factor": {"barrier": 30.0, "bias_factor": 5.0},
    "opes, uniform": {"bias_factor": math.inf},
    "opes, narrowest": {"narrowest": 0.6},
    "opes, adaptive": ADAPTIVE,
    "opes, adaptive, 2-D": ADAPTIVE,
    "opes, excluded": BOX,
    "explore": {"explore": True},
    "explore, 2-D": {"explore": True, "bias_factor": 6},
    "explore, adaptive": {"explore": True, **ADAPTIVE},
    "explore, excluded, adaptive": {"explore": True, **ADAPTIVE, **BOX},
}
"""What `OPES` is called with for the same bias."""


@pytest.mark.parametrize("case", ARGUMENTS)
def test_opes(case):
    """From the kernels themselves to the last digits, on the grid nearly, and kernels are merged at the same steps."""
    dim, plumed = CASES[case][0], RESULTS[case]
    _, system, cv = pairs(dim, "r")
    assert np.array_equal(cv.sigma, [SIGMA] * dim) and abs(KT - KB * 300.0) < 1e-12
    bias = OPES(system, cv, 300.0, **{"barrier": 25.0, "frequency": 1, **ARGUMENTS[case]}, read_only=True)
    prefactor = KT * (bias.bias_factor - 1 if bias.explore else 1 - 1 / bias.bias_factor)
    epsilon = math.exp(-bias.barrier / prefactor)
    exact, on_grid = np.empty(len(plumed["bias"])), np.empty(len(plumed["bias"]))
    for step, u in enumerate(values(dim)):
        density = bias.kernels(u[None])[0] / bias.state.mean if len(bias.kernels) else 0.0
        exact[step] = prefactor * math.log(density + epsilon)
        on_grid[step] = bias.grid.interpolate(u[None], bias._coefficients_of(bias.state))[0] - bias.barrier
        if step > 0:
            kernel = np.array([step, *bias._new_kernel(None, u, exact[step] + bias.barrier, True)])
            bias.history.add([*kernel, step])
            bias._add_kernel(bias.state, kernel)
        assert len(bias.kernels) == plumed["kernels"][step]
    assert np.ptp(plumed["bias"]) > 20 and plumed["kernels"][-1] < 190
    assert np.abs(exact - plumed["bias"]).max() < 2e-6
    away = np.abs(on_grid - plumed["bias"])
    assert np.quantile(away, 0.9) < 0.15 and away.max() < 1.0  # most where a kernel ends with a kink
    if "excluded" in case:
        rows = bias.own_kernels
        inside = (rows[:, 1] >= 0.9) & (rows[:, 1] <= 1.05)
        without = inside | (np.arange(len(rows)) < 9) if "adaptive" in case else inside
        assert np.array_equal(rows[:, 2] == 0, without) and 10 < inside.sum() < 190


@pytest.mark.parametrize("dim", [1, 2])
def test_metadynamics(dim):
    """PLUMED cuts hills off where they are 0.002 of their height."""
    _, system, cv = pairs(dim, "r")
    bias = Metadynamics(system, cv, 300.0, bias_factor=8, height=1.2, frequency=1, read_only=True)
    plumed = RESULTS["metadynamics" if dim == 1 else f"metadynamics, {dim}-D"]["bias"]
    found = np.empty(len(plumed))
    for step, u in enumerate(values(dim)):
        found[step] = bias.grid.interpolate(u[None], bias.state)[0]
        if step > 0:
            kernel = np.array([step, *bias._new_kernel(None, u, found[step], True)])
            bias._add_kernel(bias.state, kernel)
    assert max(plumed) > 10
    assert np.abs(found - plumed).max() < 0.03
