"""A minimization tells how far it is, and ends where whoever is told raises an error."""

from __future__ import annotations

import pytest
from helpers.molecules import alanine_simulation, alanine_system, frames
from openmm import unit

from latf_sampling.core.lease import Superseded
from latf_sampling.simulation.minimization import minimize


def test_minimization_gets_on_and_changes_no_bit():
    energies, told = [], []
    for told_to in (None, told.append):
        simulation = alanine_simulation(alanine_system())
        simulation.context.setPositions(frames(1)[0])
        simulation.minimizeEnergy() if told_to is None else minimize(simulation, 100_000, told_to)
        state = simulation.context.getState(energy=True)
        energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
    assert energies[0] == energies[1]
    assert len(told) > 20 and told == sorted(set(told)) and told[0] > 0 and told[-1] < 1


def test_an_attempt_that_must_not_go_on_ends_in_the_middle():
    simulation = alanine_simulation(alanine_system())

    def report(share: float) -> None:
        raise Superseded

    with pytest.raises(Superseded):
        minimize(simulation, 100_000, report)


def test_about_as_many_iterations_at_most_as_steps_that_follow(monkeypatch):
    monkeypatch.setattr("latf_sampling.simulation.minimization.LEAST", 4)
    simulation, told = alanine_simulation(alanine_system()), {}
    for steps in (1, 40, 100_000):
        simulation.context.setPositions(frames(1)[0])
        before = simulation.context.getState(energy=True).getPotentialEnergy()
        told[steps] = []
        minimize(simulation, steps, told[steps].append)
        assert simulation.context.getState(energy=True).getPotentialEnergy() < before
    assert len(told[1]) < 10 and len(told[40]) < 80 < len(told[100_000])
