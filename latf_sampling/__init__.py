"""Latent Thermodynamic Flows that drive OpenMM: learn collective variables, bias along them, start at any temperature.

The names below are the public ones. Each is loaded when it is first used, so that ``import latf_sampling`` costs
nothing and ``latf doctor`` can examine an installation that crashes when it is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_MODULES = {
    "CVError": "errors",
    "Campaign": "campaign.campaign",
    "DataError": "errors",
    "Dataset": "data.dataset",
    "Features": "features",
    "FlowBias": "bias",
    "InstallationError": "errors",
    "KB": "units",
    "LaTF": "learning.model",
    "LatentCV": "cv.latent_cv",
    "LatfError": "errors",
    "Metadynamics": "bias",
    "ModelSettings": "settings",
    "OPES": "bias",
    "Protocol": "settings",
    "Series": "data.dataset",
    "SettingsError": "errors",
    "SimulationError": "errors",
    "SingleStateError": "errors",
    "StoreError": "errors",
    "TrainingError": "errors",
    "TrainingSettings": "settings",
    "TrustRegion": "bias",
    "Umbrella": "bias",
    "UmbrellaWindows": "bias",
    "evaluate": "learning.evaluation",
    "even_path": "bias",
    "expected_crossings": "analysis",
    "free_energy_path": "bias",
    "generate_starts": "starts",
    "rank_descriptors": "learning.sensitivity",
    "rank_models": "learning.training",
    "respa_integrator": "bias",
    "scan_lags": "learning.lag_scan",
    "select_columns": "data.selection",
    "step_together": "bias",
    "structures_at": "starts",
    "structures_between": "starts",
    "train": "learning.training",
}

__all__ = [
    "KB",
    "OPES",
    "CVError",
    "Campaign",
    "DataError",
    "Dataset",
    "Features",
    "FlowBias",
    "InstallationError",
    "LaTF",
    "LatentCV",
    "LatfError",
    "Metadynamics",
    "ModelSettings",
    "Protocol",
    "Series",
    "SettingsError",
    "SimulationError",
    "SingleStateError",
    "StoreError",
    "TrainingError",
    "TrainingSettings",
    "TrustRegion",
    "Umbrella",
    "UmbrellaWindows",
    "evaluate",
    "even_path",
    "expected_crossings",
    "free_energy_path",
    "generate_starts",
    "rank_descriptors",
    "rank_models",
    "respa_integrator",
    "scan_lags",
    "select_columns",
    "step_together",
    "structures_at",
    "structures_between",
    "train",
]

if TYPE_CHECKING:
    from latf_sampling.analysis import expected_crossings
    from latf_sampling.bias import (
        OPES,
        FlowBias,
        Metadynamics,
        TrustRegion,
        Umbrella,
        UmbrellaWindows,
        even_path,
        free_energy_path,
        respa_integrator,
        step_together,
    )
    from latf_sampling.campaign.campaign import Campaign
    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.data.dataset import Dataset, Series
    from latf_sampling.data.selection import select_columns
    from latf_sampling.errors import (
        CVError,
        DataError,
        InstallationError,
        LatfError,
        SettingsError,
        SimulationError,
        SingleStateError,
        StoreError,
        TrainingError,
    )
    from latf_sampling.features import Features
    from latf_sampling.learning.evaluation import evaluate
    from latf_sampling.learning.lag_scan import scan_lags
    from latf_sampling.learning.model import LaTF
    from latf_sampling.learning.sensitivity import rank_descriptors
    from latf_sampling.learning.training import rank_models, train
    from latf_sampling.settings import ModelSettings, Protocol, TrainingSettings
    from latf_sampling.starts import generate_starts, structures_at, structures_between
    from latf_sampling.units import KB


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'latf_sampling' has no attribute {name!r}")
    value = getattr(import_module(f"latf_sampling.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
