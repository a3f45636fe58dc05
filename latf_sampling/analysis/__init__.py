"""Weights of frames, free energies with errors, and whether these have converged."""

from __future__ import annotations

from latf_sampling.analysis.blocks import statistical_inefficiency
from latf_sampling.analysis.convergence import Convergence
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

__all__ = [
    "FILLING",
    "STAGES",
    "Convergence",
    "Difference",
    "Profile",
    "Surface",
    "after_filling",
    "crossings",
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
