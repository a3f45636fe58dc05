"""Every key of a protocol has a rule for what its change means for a campaign that has results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
from pydantic import BaseModel

from latf_sampling.settings import Protocol
from latf_sampling.settings.changes import CHANGES, Change, change_of
from latf_sampling.settings.stored import IRRELEVANT, models_of


def sections(model: type[BaseModel] = Protocol) -> Iterator[type[BaseModel]]:
    """All sections of a protocol, several times if they stand in several places."""
    yield model
    for field in model.model_fields.values():
        for inner in models_of(field):
            yield from sections(inner)


@pytest.mark.parametrize("section", sorted(set(sections()), key=lambda section: section.__name__))
def test_every_key_has_a_rule(section):
    rules = CHANGES.get(section, {})
    missing, unknown = section.model_fields.keys() - rules.keys(), rules.keys() - section.model_fields.keys()
    assert not missing, f"settings/changes.py: say what a change of {section.__name__}.{sorted(missing)[0]} means"
    assert not unknown
    assert set(rules.values()) <= set(get_args(Change))


def test_what_is_no_difference_is_free():
    assert {change_of(location) for location in IRRELEVANT if location[0] in Protocol.model_fields} == {"free"}


@pytest.mark.parametrize(
    ("location", "change"),
    [
        (("seed",), "fixed"),
        (("frame_interval",), "fixed"),
        (("system", "prepare", "solvent", "padding"), "fixed"),
        (("system", "restraints", 0, "stiffness"), "fixed"),
        (("integrator", "timestep"), "fixed"),
        (("features", 0, "torsions"), "learn"),
        (("learning", "select", "keep"), "learn"),
        (("learning", "select"), "learn"),
        (("model", "latent_dim"), "learn"),
        (("rounds", 3), "extends"),
        (("rounds", 1, "length"), "extends"),
        (("rounds", 1, "bias"), "fixed"),
        (("rounds", 1, "bias", "barrier"), "fixed"),
        (("rounds", 1, "bias", "trust", "threshold"), "fixed"),
        (("rounds", 1, "bias", "backend"), "free"),
        (("evaluate",), "extends"),
        (("starts", "count"), "starts"),
        (("observe", "descriptor", "distances"), "free"),
    ],
)
def test_what_a_change_means(location, change):
    assert change_of(location) == change
