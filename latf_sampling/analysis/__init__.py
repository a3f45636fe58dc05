"""From finished frames to numbers: weights, free energies with errors, and whether they have converged."""

from __future__ import annotations

from latf_sampling.analysis.blocks import statistical_inefficiency
from latf_sampling.analysis.convergence import Convergence
from latf_sampling.analysis.differences import Difference, free_energy_difference
from latf_sampling.analysis.surfaces import Profile, Surface, free_energy_profile, free_energy_surface
from latf_sampling.analysis.torsions import crossings, depth, torsion_values
from latf_sampling.analysis.weights import (
    FILLING,
    STAGES,
    balanced,
    last_bias_weights,
    offset_weights,
    settled,
    stages,
)

__all__ = [
    "FILLING",
    "STAGES",
    "Convergence",
    "Difference",
    "Profile",
    "Surface",
    "balanced",
    "crossings",
    "depth",
    "free_energy_difference",
    "free_energy_profile",
    "free_energy_surface",
    "last_bias_weights",
    "offset_weights",
    "settled",
    "stages",
    "statistical_inefficiency",
    "torsion_values",
]
