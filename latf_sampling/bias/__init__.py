"""From the collective variable to forces that drive OpenMM: metadynamics, OPES, flow bias, umbrellas and windows."""

from latf_sampling.bias.base import Bias, step_together
from latf_sampling.bias.flow_bias import FlowBias
from latf_sampling.bias.metadynamics import Metadynamics
from latf_sampling.bias.opes import OPES
from latf_sampling.bias.path import even_path, free_energy_path
from latf_sampling.bias.respa import respa_integrator
from latf_sampling.bias.trust_region import TrustRegion
from latf_sampling.bias.umbrella import Umbrella
from latf_sampling.bias.windows import UmbrellaWindows

__all__ = [
    "OPES",
    "Bias",
    "FlowBias",
    "Metadynamics",
    "TrustRegion",
    "Umbrella",
    "UmbrellaWindows",
    "even_path",
    "free_energy_path",
    "respa_integrator",
    "step_together",
]
