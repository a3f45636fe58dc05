"""From the collective variable to forces that drive OpenMM: metadynamics, OPES, umbrella and flow bias."""

from latf_sampling.bias.flow_bias import FlowBias
from latf_sampling.bias.metadynamics import Metadynamics
from latf_sampling.bias.opes import Opes
from latf_sampling.bias.respa import respa_integrator
from latf_sampling.bias.trust import TrustRegion
from latf_sampling.bias.umbrella import Umbrella

__all__ = ["FlowBias", "Metadynamics", "Opes", "TrustRegion", "Umbrella", "respa_integrator"]
