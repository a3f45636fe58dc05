"""Weights of frames, free energies with errors, and whether these have converged."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latf_sampling.analysis.blocks import statistical_inefficiency
    from latf_sampling.analysis.convergence import Convergence
    from latf_sampling.analysis.crossing_cells import Hills, LatentSeries
    from latf_sampling.analysis.crossing_rates import CrossingRate, expected_crossings
    from latf_sampling.analysis.differences import Difference, free_energy_difference
    from latf_sampling.analysis.surfaces import Profile, Surface, free_energy_profile, free_energy_surface
    from latf_sampling.analysis.torsions import crossings, signed_distance, torsion_values
    from latf_sampling.analysis.weights import (
        FILLING,
        STAGES,
        after_filling,
        last_bias_weights,
        normalized_together,
        offset_weights,
        stages,
    )

_MODULES = {
    "statistical_inefficiency": "blocks",
    "Convergence": "convergence",
    "CrossingRate": "crossing_rates",
    "Hills": "crossing_cells",
    "LatentSeries": "crossing_cells",
    "expected_crossings": "crossing_rates",
    "Difference": "differences",
    "free_energy_difference": "differences",
    "Profile": "surfaces",
    "Surface": "surfaces",
    "free_energy_profile": "surfaces",
    "free_energy_surface": "surfaces",
    "crossings": "torsions",
    "signed_distance": "torsions",
    "torsion_values": "torsions",
    "FILLING": "weights",
    "STAGES": "weights",
    "after_filling": "weights",
    "last_bias_weights": "weights",
    "normalized_together": "weights",
    "offset_weights": "weights",
    "stages": "weights",
}
"""Module of each name, which is loaded when the name is first used: the statistics of scipy take half a second."""

__all__ = [
    "FILLING",
    "STAGES",
    "Convergence",
    "CrossingRate",
    "Difference",
    "Hills",
    "LatentSeries",
    "Profile",
    "Surface",
    "after_filling",
    "crossings",
    "expected_crossings",
    "free_energy_difference",
    "free_energy_profile",
    "free_energy_surface",
    "last_bias_weights",
    "normalized_together",
    "offset_weights",
    "signed_distance",
    "stages",
    "statistical_inefficiency",
    "torsion_values",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'latf_sampling.analysis' has no attribute {name!r}")
    return getattr(import_module(f"latf_sampling.analysis.{_MODULES[name]}"), name)
