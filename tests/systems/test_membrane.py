"""Membranes of OpenMM's Modeller: what it is asked for, and what is refused; its own simulation takes a minute."""

from __future__ import annotations

import pytest
from helpers.molecules import STRUCTURE
from openmm import app, unit

from latf_sampling.errors import SettingsError
from latf_sampling.settings import SystemSettings
from latf_sampling.systems import build

FIELD = ("amber14/protein.ff14SB.xml", "amber14/lipid17.xml", "amber14/tip3p.xml")
PME = {"nonbonded": "PME", "cutoff": "0.9 nm"}


def settings(membrane: dict, **changes) -> SystemSettings:
    return SystemSettings(
        **{"structure": STRUCTURE, "force_field": FIELD, "prepare": {"membrane": membrane}, **PME, **changes}
    )


def test_the_membrane_is_what_the_settings_say(monkeypatch):
    asked = {}

    def add(self, field, **options):
        asked.update(options)
        self.addSolvent(field, boxSize=unit.Quantity((2.2, 2.2, 2.2), unit.nanometer), neutralize=False)

    monkeypatch.setattr(app.Modeller, "addMembrane", add)
    molecule = build(
        settings(
            {"lipid": "DOPC", "center": "-1.2 nm", "padding": "1.5 nm", "ionic_strength": "0.1 M", "positive_ion": "K+"}
        )
    )
    assert molecule.system.usesPeriodicBoundaryConditions()
    assert (asked["lipidType"], asked["positiveIon"], asked["negativeIon"]) == ("DOPC", "K+", "Cl-")
    assert asked["membraneCenterZ"] == -1.2 * unit.nanometer
    assert asked["minimumPadding"] == 1.5 * unit.nanometer
    assert asked["ionicStrength"] == 0.1 * unit.molar


@pytest.mark.parametrize(
    ("membrane", "changes", "words"),
    [
        ({}, {"nonbonded": "no cutoff", "cutoff": None}, r"prepare\.membrane: a membrane needs nonbonded: PME"),
        ({"lipid": "CHL1"}, {}, r"prepare\.membrane\.lipid: must be .POPC., "),
        ({"lipids": "POPC"}, {}, r"prepare\.membrane\.lipids: no such key"),
    ],
)
def test_what_is_no_membrane_is_refused(membrane, changes, words):
    with pytest.raises(SettingsError, match=words):
        settings(membrane, **changes)


def test_a_membrane_brings_its_water():
    with pytest.raises(SettingsError, match="membrane: brings its water; remove solvent"):
        settings({}, prepare={"membrane": {}, "solvent": {"padding": "1 nm"}})


def test_a_force_field_without_lipids_is_named(monkeypatch):
    def add(self, field, **options):
        field.createSystem(app.PDBFile(STRUCTURE).topology, unknown=1)

    monkeypatch.setattr(app.Modeller, "addMembrane", add)
    with pytest.raises(
        SettingsError, match=r"^system\.prepare\.membrane: .* Does the force field have POPC, TIP3P water"
    ):
        build(settings({}))
