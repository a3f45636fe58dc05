"""Weightings of the frames that disagree: what the report, the log and `latf status` say of them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from latf_sampling.campaign import learning
from latf_sampling.report import weights


def by(**estimates: tuple[float, float]) -> Any:
    names = {"ct": "c(t)", "last": "last bias", "mbar": "MBAR"}
    return [
        (SimpleNamespace(name=names[name]), SimpleNamespace(value=value, error=error))
        for name, (value, error) in estimates.items()
    ]


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        (by(ct=(8.4, 0.4), last=(20.0, 0.1), mbar=(9.0, 0.3)), None),  # errors by the last bias are too small
        (by(ct=(8.4, 0.4), last=(8.4, 0.4), mbar=(12.0, 0.3)), "by c(t) 8.4 ± 0.4 kJ/mol, by MBAR 12.0 ± 0.3 kJ/mol"),
        (by(ct=(8.4, math.inf), mbar=(12.0, 0.3)), None),
        ([*by(ct=(8.4, 0.4)), (SimpleNamespace(name="MBAR"), None)], None),
    ],
)
def test_weightings_that_disagree_are_told_in_one_sentence(differences, words):
    sentence = weights.disagreement(differences)
    assert (sentence is None) == (words is None)
    if sentence is not None and words is not None:
        assert words in sentence and sentence.endswith("until they agree.")


@pytest.mark.parametrize(
    ("flow", "errors", "told"),
    [
        ([0.97, 0.03], [0.004, 0.004], False),
        ([0.92, 0.08], [0.004, 0.004], True),
        ([0.92, 0.08], None, False),  # without an ensemble nothing is known
    ],
)
def test_a_flow_that_disagrees_with_the_frames_is_told(monkeypatch, flow, errors, told):
    from latf_sampling.learning.evaluation import populations

    monkeypatch.setattr(populations, "model_populations", lambda model, temperature: (flow, errors))
    states = [
        {"state": state, "population at 300": population, "error at 300": 0.005, "population at 450": 0.5}
        for state, population in enumerate([0.97, 0.03])
    ]
    model: Any = SimpleNamespace(provenance={"temperatures": [450.0, 300.0]})
    sentence = learning._disagreement(model, states)
    assert (sentence is not None) == told
    if sentence is not None:
        assert "state 0 at 300 K, 92.0 ± 0.4 % and 97.0 ± 0.5 %" in sentence
