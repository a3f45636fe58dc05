"""What may change in the protocol of a campaign that has results: one table, with every key of every section."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from latf_sampling.settings import system
from latf_sampling.settings.bias import (
    BiasSettings,
    FlowBiasSettings,
    MetadynamicsSettings,
    OPESSettings,
    TrustSettings,
)
from latf_sampling.settings.equilibration import EquilibrationSettings
from latf_sampling.settings.execution import DeviceSettings, ExecutorSettings
from latf_sampling.settings.fields import Location
from latf_sampling.settings.protocol import (
    EvaluateSettings,
    ExchangeSettings,
    IntegratorSettings,
    ObserveSettings,
    Protocol,
    RoundSettings,
    StartsSettings,
    TrajectoriesSettings,
)
from latf_sampling.settings.stored import models_of
from latf_sampling.settings.training import LearningSettings, ModelSettings, SelectSettings

Change = Literal["free", "learn", "starts", "extends", "fixed"]
"""What a change of a key means for what a campaign has done.

- "free": nothing that was simulated or learned depends on it; the report is written anew.
- "learn": the last model is trained again, with what was made from it.
- "starts": the structures at the end are made again.
- "extends": what was simulated stays, and what is missing is simulated.
- "fixed": it determines what was simulated, and cannot change.
"""


def _all(change: Change, *keys: str) -> dict[str, Change]:
    return dict.fromkeys(keys, change)


_BIAS: dict[str, Change] = {
    **dict.fromkeys(("interval", "stride", "variable", "trust"), "fixed"),
    "backend": "free",
}

CHANGES: dict[type[BaseModel], dict[str, Change]] = {
    Protocol: {
        "name": "free",
        "seed": "fixed",
        "system": "fixed",
        "integrator": "fixed",
        "frame_interval": "fixed",
        "segment": "fixed",
        "equilibrate": "fixed",
        "stalled_after": "free",
        "executor": "free",
        "devices": "free",
        "features": "learn",
        "model": "learn",
        "learning": "learn",
        "from_trajectories": "extends",
        "rounds": "extends",
        "evaluate": "extends",
        "starts": "starts",
        "observe": "free",
    },
    system.SystemSettings: {
        "platform": "free",
        **_all(
            "fixed",
            *("name", "structure", "model", "amber", "gromacs", "charmm", "openmm", "force_field", "implicit_solvent"),
            *("implicit_salt", "nonbonded", "cutoff", "switching_distance", "constraints", "hydrogen_mass", "prepare"),
            *("barostat", "restraints", "conformations", "temperature_dependent"),
        ),
    },
    system.PrepareSettings: _all(
        "fixed",
        *("pH", "missing_residues", "alternate_locations", "chains", "replace", "remove", "protonation"),
        *("disulfides", "ligands", "solvent", "membrane"),
    ),
    system.MembraneSettings: _all(
        "fixed", "lipid", "center", "padding", "ionic_strength", "positive_ion", "negative_ion"
    ),
    system.SolventSettings: _all(
        "fixed",
        *("model", "padding", "box", "shape", "ionic_strength", "positive_ion", "negative_ion"),
    ),
    system.AmberSettings: _all("fixed", "topology", "coordinates"),
    system.GromacsSettings: _all("fixed", "topology", "coordinates", "include", "defines"),
    system.CharmmSettings: _all("fixed", "topology", "coordinates", "parameters", "box"),
    system.OpenmmSettings: _all("fixed", "system", "topology"),
    system.BarostatSettings: _all("fixed", "pressure", "interval"),
    system.RestraintSettings: _all("fixed", "atoms", "stiffness"),
    IntegratorSettings: _all("fixed", "timestep", "friction"),
    EquilibrationSettings: _all("fixed", "heating", "release", "length", "stiffness", "pressure"),
    ExecutorSettings: _all("free", "local", "dask", "parsl", "executorlib"),
    DeviceSettings: _all("free", "use", "walkers"),
    ModelSettings: _all(
        "learn",
        *("latent_dim", "reference_temperature", "temperature_mode", "encoder_hidden", "decoder_hidden", "beta", "tau"),
        *("flow", "flow_transforms", "flow_hidden", "flow_bins"),
    ),
    LearningSettings: _all(
        "learn",
        *(
            "lag",
            "select",
            "warm_start",
            "retrain",
            "initial_states",
            "batch_size",
            "learning_rate",
            "encoder_decay",
            "slowness",
            "evenness",
        ),
        *("restarts", "refinements", "refinement_epochs", "label_change", "minimum_population", "joint_epochs"),
        *("flow_epochs", "patience", "ensemble", "ensemble_epochs", "balance_temperatures", "validation_fraction"),
    ),
    SelectSettings: _all("learn", "keep", "correlation"),
    TrajectoriesSettings: _all(
        "extends", "files", "topology", "temperature", "weights", "energies", "interval", "chain"
    ),
    RoundSettings: {
        **_all("extends", "walkers", "length"),
        **_all("fixed", "restart", "bias", "exchange"),
    },
    ExchangeSettings: _all("fixed", "interval"),
    MetadynamicsSettings: {
        **_BIAS,
        **_all("fixed", "kind", "bias_factor", "height", "width", "start"),
    },
    OPESSettings: {
        **_BIAS,
        **_all("fixed", "kind", "barrier", "bias_factor", "width", "narrowest", "explore"),
    },
    FlowBiasSettings: {**_BIAS, **_all("fixed", "kind", "bias_factor")},
    BiasSettings: _BIAS,
    TrustSettings: _all("fixed", "threshold", "on_leaving"),
    EvaluateSettings: _all("extends", "temperatures", "length"),
    StartsSettings: _all(
        "starts",
        *("temperature", "count", "thermalise", "release", "tolerance", "allow_cis", "allow_inversion"),
    ),
    ObserveSettings: _all("free", "torsion", "descriptor", "above", "reference"),
}
"""What a change of each key means, by section. What is "fixed" or "extends" in a round is so once it has begun: the
settings of a round that has not may change."""


def change_of(location: Location) -> Change:
    """What a change of the key at a location means: that of the innermost section that the key belongs to.

    Examples
    --------
    >>> change_of(("learning", "lag")), change_of(("rounds", 1, "bias", "height")), change_of(("rounds", 2))
    ('learn', 'fixed', 'extends')
    """
    models: list[type[BaseModel]] = [Protocol]
    change: Change = "fixed"
    for part in location:
        if isinstance(part, int):
            continue
        owner = next((model for model in models if part in model.model_fields), None)
        if owner is None:  # inside of a descriptor
            break
        change = CHANGES[owner][part]
        models = models_of(owner.model_fields[part])
    return change
