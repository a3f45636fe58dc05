"""Maps of the latent free energy: what they say of components that are not drawn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from latf_sampling.report import landscapes


def learned(dim: int, used: list[int] | None = None) -> Any:
    """A model of a normal density in so many dimensions."""
    rng = np.random.default_rng(0)
    model = SimpleNamespace(
        used_components=list(range(dim)) if used is None else used,
        latent_dim=dim,
        n_states=2,
        sample=lambda n, temperature, seed: rng.normal(size=(n, dim)),
        free_energy=lambda u, temperature: (u**2).sum(1),
        marginal_log_prob=lambda u, temperature: -(u**2).sum(1),
    )
    return SimpleNamespace(model=model, cv=SimpleNamespace(bounds=np.array([[-1.0, 1.0]] * dim)))


@pytest.mark.parametrize(
    ("dim", "used", "label", "words"),
    [
        (2, None, "latent u₂", ""),
        (3, None, "latent u₂ (summed over u₃)", "summed over u₃."),
        (2, [1], "free energy, kJ/mol", ""),  # a line along the only component that is used
    ],
)
def test_a_map_says_what_it_is_summed_over(monkeypatch, dim, used, label, words):
    monkeypatch.setattr(landscapes, "GRID", 12)
    axes = Figure().subplots()
    landscapes.draw_density(axes, learned(dim, used), 300.0)
    assert axes.get_ylabel() == label
    sentence = landscapes.summed(learned(dim, used))
    assert sentence.endswith(words) and bool(sentence) == bool(words)
