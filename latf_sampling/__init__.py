"""Latent Thermodynamic Flows that drive OpenMM: learn collective variables, bias along them, start at any temperature.

The names below are the public ones. Each is loaded when it is first used, so that ``import latf_sampling`` costs
nothing and ``latf doctor`` can examine an installation that crashes when it is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = {
    "KB": "units",
    "Campaign": "campaign",
    "Dataset": "dataset",
    "Features": "features",
    "FlowBias": "bias",
    "LaTF": "model",
    "LatentCV": "cv",
    "Metadynamics": "bias",
    "ModelSettings": "settings",
    "Opes": "bias",
    "Protocol": "settings",
    "Series": "dataset",
    "TrainingSettings": "settings",
    "TrustRegion": "bias",
    "Umbrella": "bias",
    "UmbrellaWindows": "bias",
    "evaluate": "evaluation",
    "even_path": "bias",
    "free_energy_path": "bias",
    "generate_starts": "starts",
    "rank_descriptors": "relevance",
    "respa_integrator": "bias",
    "scan_lags": "lags",
    "select_columns": "selection",
    "step_together": "bias",
    "structures_at": "starts",
    "structures_between": "starts",
    "train": "trainer",
}

__all__ = [
    "KB",
    "Campaign",
    "Dataset",
    "Features",
    "FlowBias",
    "LaTF",
    "LatentCV",
    "Metadynamics",
    "ModelSettings",
    "Opes",
    "Protocol",
    "Series",
    "TrainingSettings",
    "TrustRegion",
    "Umbrella",
    "UmbrellaWindows",
    "evaluate",
    "even_path",
    "free_energy_path",
    "generate_starts",
    "rank_descriptors",
    "respa_integrator",
    "scan_lags",
    "select_columns",
    "step_together",
    "structures_at",
    "structures_between",
    "train",
]

if TYPE_CHECKING:
    from latf_sampling.bias import (
        FlowBias,
        Metadynamics,
        Opes,
        TrustRegion,
        Umbrella,
        UmbrellaWindows,
        even_path,
        free_energy_path,
        respa_integrator,
        step_together,
    )
    from latf_sampling.campaign import Campaign
    from latf_sampling.cv import LatentCV
    from latf_sampling.dataset import Dataset, Series
    from latf_sampling.evaluation import evaluate
    from latf_sampling.features import Features
    from latf_sampling.lags import scan_lags
    from latf_sampling.model import LaTF
    from latf_sampling.relevance import rank_descriptors
    from latf_sampling.selection import select_columns
    from latf_sampling.settings import ModelSettings, Protocol, TrainingSettings
    from latf_sampling.starts import generate_starts, structures_at, structures_between
    from latf_sampling.trainer import train
    from latf_sampling.units import KB


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'latf_sampling' has no attribute {name!r}")
    value = getattr(import_module(f"latf_sampling.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
