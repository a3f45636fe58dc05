"""From the collective variable to forces that drive OpenMM: metadynamics, OPES, flow bias, umbrellas and windows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latf_sampling.bias.base import Bias, step_together
    from latf_sampling.bias.flow_bias import FlowBias
    from latf_sampling.bias.metadynamics import Metadynamics
    from latf_sampling.bias.opes import OPES
    from latf_sampling.bias.path import even_path, free_energy_path
    from latf_sampling.bias.respa import respa_integrator
    from latf_sampling.bias.trust_region import TrustRegion
    from latf_sampling.bias.umbrella import Umbrella
    from latf_sampling.bias.windows import UmbrellaWindows

_MODULES = {
    "OPES": "opes",
    "Bias": "base",
    "FlowBias": "flow_bias",
    "Metadynamics": "metadynamics",
    "TrustRegion": "trust_region",
    "Umbrella": "umbrella",
    "UmbrellaWindows": "windows",
    "even_path": "path",
    "free_energy_path": "path",
    "respa_integrator": "respa",
    "step_together": "base",
}
"""Module of each name, which is loaded when the name is first used: files of hills are read without torch."""

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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'latf_sampling.bias' has no attribute {name!r}")
    return getattr(import_module(f"latf_sampling.bias.{_MODULES[name]}"), name)
