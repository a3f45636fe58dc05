"""Settings: frozen models of everything that a user may set, and the protocol that consists of them."""

from latf_sampling.settings.bias import (
    AnyBiasSettings,
    BiasSettings,
    FlowBiasSettings,
    MetadynamicsSettings,
    OPESSettings,
    TrustSettings,
)
from latf_sampling.settings.execution import DeviceSettings, ExecutorSettings
from latf_sampling.settings.protocol import (
    EvaluateSettings,
    ExchangeSettings,
    ExternalRound,
    IntegratorSettings,
    LargeFiles,
    ObserveSettings,
    Protocol,
    RoundSettings,
    StartsSettings,
    TrajectoriesSettings,
    n_steps,
    steps,
)
from latf_sampling.settings.system import SystemSettings
from latf_sampling.settings.training import LearningSettings, ModelSettings, SelectSettings, TrainingSettings

__all__ = [
    "AnyBiasSettings",
    "BiasSettings",
    "DeviceSettings",
    "EvaluateSettings",
    "ExchangeSettings",
    "ExecutorSettings",
    "ExternalRound",
    "FlowBiasSettings",
    "IntegratorSettings",
    "LargeFiles",
    "LearningSettings",
    "MetadynamicsSettings",
    "ModelSettings",
    "OPESSettings",
    "ObserveSettings",
    "Protocol",
    "RoundSettings",
    "SelectSettings",
    "StartsSettings",
    "SystemSettings",
    "TrainingSettings",
    "TrajectoriesSettings",
    "TrustSettings",
    "n_steps",
    "steps",
]
