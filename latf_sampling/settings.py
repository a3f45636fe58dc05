"""What a user may set: one frozen model per stage, and the protocol that holds them.

A protocol is a YAML file. Every quantity in it carries its unit; every key that is not known is refused; files
are looked up next to the protocol and must exist. All errors of a file are reported at once, each with its key,
before any work starts. From Python, the same models take floats in the units of `latf_sampling.units` or
``openmm.unit`` quantities.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from latf_sampling import units
from latf_sampling.errors import SettingsError


def _quantity(dimension: str, minimum: float | None = None, exclusive: bool = False):
    """A float field that takes text with a unit, an openmm quantity or, from Python, a bare float."""

    def convert(value: Any, info: ValidationInfo) -> float:
        from_file = bool(info.context and info.context.get("from_file"))
        read = units.parse if from_file or isinstance(value, str) else units.to_float
        number = read(value, dimension, info.field_name or dimension)
        if minimum is not None and (number < minimum or (exclusive and number == minimum)):
            raise SettingsError(
                f"{value!r} is too small; it must be {'more than' if exclusive else 'at least'} {minimum:g}."
            )
        return number

    return Annotated[float, BeforeValidator(convert)]


Time = _quantity("time", 0.0, exclusive=True)
Temperature = _quantity("temperature", 0.0, exclusive=True)
Energy = _quantity("energy", 0.0, exclusive=True)
Mass = _quantity("mass", 0.0, exclusive=True)
Friction = _quantity("friction", 0.0, exclusive=True)
Length = _quantity("length", 0.0, exclusive=True)


class Settings(BaseModel):
    """Frozen, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise SettingsError(_explain(error, type(self).__name__)) from error


class SystemSettings(Settings):
    """The molecule, its force field and where it is computed."""

    structure: Path
    """PDB or PDBx/mmCIF file with all atoms; relative paths are relative to the protocol."""
    force_field: tuple[str, ...] = Field(min_length=1)
    """Force field files as `openmm.app.ForceField` takes them."""
    nonbonded: Literal["no cutoff", "cutoff", "PME"] = "no cutoff"
    cutoff: Length | None = None
    """Nonbonded cutoff; needed with `cutoff` and `PME`, refused with `no cutoff`."""
    constraints: Literal["none", "h-bonds", "all-bonds", "h-angles"] = "h-bonds"
    hydrogen_mass: Mass | None = None
    """Mass of hydrogens (repartitioned from their heavy atoms); none leaves the force field's."""
    platform: str | None = None
    """OpenMM platform; none picks the fastest for the system's size."""

    @model_validator(mode="after")
    def _cutoff_fits(self) -> SystemSettings:
        if (self.nonbonded == "no cutoff") != (self.cutoff is None):
            wanted = "no cutoff takes none" if self.cutoff is not None else f"{self.nonbonded} needs one, like '1 nm'"
            raise SettingsError(f"cutoff does not fit nonbonded: {wanted}.")
        return self


class IntegratorSettings(Settings):
    """Langevin dynamics (LangevinMiddleIntegrator, Zhang et al., doi:10.1021/acs.jpca.9b02771)."""

    timestep: Time = 0.002
    friction: Friction = 1.0


class ModelSettings(Settings):
    """Shape and objective of a `LaTF` model."""

    latent_dim: int = Field(default=2, ge=1, le=10)
    """Dimension d of the latent space, that is of the collective variable."""
    reference_temperature: Temperature = 300.0
    """T0: the prior at temperature T has the scale s = T / T0."""
    encoder_hidden: tuple[int, ...] = (32, 32)
    decoder_hidden: tuple[int, ...] = (32,)
    beta: float = Field(default=1e-3, gt=0)
    """Weight of log q(u|x) - log p(u|T) against the prediction of the future state."""
    tau: float = Field(default=2.0, ge=0)
    """Tilt of the prior exp(tau |z| - |z|^2 / 2s); 0 makes it a Gaussian."""
    flow: Literal["spline", "realnvp"] = "spline"
    flow_transforms: int = Field(default=4, ge=1)
    flow_hidden: tuple[int, ...] = (64, 64)
    flow_bins: int = Field(default=8, ge=2)
    """Bins of each rational-quadratic spline; unused by RealNVP."""


class TrainingSettings(Settings):
    """How a model is trained; the two stages are described in `latf_sampling.trainer`."""

    initial_states: int = Field(default=20, ge=2)
    """Number of small clusters that the refinement starts from, where the data carry no labels."""
    batch_size: int = Field(default=2048, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    refinements: int = Field(default=12, ge=1)
    """At most so many rounds of training and relabelling in the first stage."""
    refinement_epochs: int = Field(default=4, ge=1)
    label_change: float = Field(default=0.01, gt=0, lt=1)
    """Labels are self-consistent once a smaller fraction of the frames changes its state."""
    minimum_population: float = Field(default=0.002, ge=0, lt=1)
    """States with a smaller fraction of the frames are dropped when labels are refined."""
    flow_epochs: int = Field(default=30, ge=1)
    """At most so many epochs of the second stage, encoder, decoder and flow together."""
    patience: int = Field(default=6, ge=1)
    """The second stage stops when the validation loss has not improved for so many epochs."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of the blocks held out for validation."""


class LearningSettings(TrainingSettings):
    """Training as part of a campaign: the lag is a time there."""

    lag: Time


class MetadynamicsSettings(Settings):
    """Well-tempered metadynamics in the learned collective variables."""

    kind: Literal["metadynamics"] = "metadynamics"
    bias_factor: float = Field(gt=1)
    height: Energy
    """Height of the first hills."""
    interval: Time
    """Time between hills of one walker."""
    width: float | None = Field(default=None, gt=0)
    """Hill width in units of the width that the CV suggests; none is 1."""


class RoundSettings(Settings):
    """One round: its walkers run at the same time, each at its temperature, and share one bias."""

    walkers: tuple[Temperature, ...] = Field(min_length=1)
    """Temperature of each walker."""
    length: Time
    """Simulated time of each walker."""
    bias: MetadynamicsSettings | None = None
    """None is plain dynamics. The first round has no model yet and cannot be biased."""


class StartsSettings(Settings):
    """Structures generated at the end of the campaign."""

    temperature: Temperature
    count: int = Field(ge=1)


class ObserveSettings(Settings):
    """A free-energy difference that the report states: `torsion` above `above` against the rest."""

    torsion: str
    """Name of a torsion as descriptors name it, like 'phi ALA 2'."""
    above: _quantity("angle") = 0.0
    reference: Path | None = None
    """JSON file with an independent value, as `protocols/reference_alanine.py` writes it."""


class Protocol(Settings):
    """A whole campaign.

    Examples
    --------
    >>> protocol = Protocol.read("protocols/alanine-dipeptide.yaml")  # doctest: +SKIP
    >>> protocol.integrator.timestep  # doctest: +SKIP
    0.004
    """

    name: str = Field(min_length=1)
    seed: int = Field(default=0, ge=0)
    system: SystemSettings
    integrator: IntegratorSettings = IntegratorSettings()
    frame_interval: Time
    """Time between saved frames."""
    segment: Time
    """Length of the pieces that a walker finishes one by one; an interruption loses at most one."""
    features: tuple[dict[str, Any], ...] = Field(min_length=1)
    model: ModelSettings = ModelSettings()
    learning: LearningSettings
    rounds: tuple[RoundSettings, ...] = Field(min_length=1)
    starts: StartsSettings | None = None
    observe: ObserveSettings | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Protocol:
        step = self.integrator.timestep
        if self.rounds[0].bias is not None:
            raise SettingsError("rounds[0].bias: the first round has no learned variable to bias; remove the key.")
        intervals = {
            "frame_interval": (self.frame_interval, step, "integrator.timestep"),
            "segment": (self.segment, self.frame_interval, "frame_interval"),
            "learning.lag": (self.learning.lag, self.frame_interval, "frame_interval"),
        }
        for number, entry in enumerate(self.rounds):
            intervals[f"rounds[{number}].length"] = (entry.length, self.segment, "segment")
            if entry.bias is not None:
                intervals[f"rounds[{number}].bias.interval"] = (entry.bias.interval, step, "integrator.timestep")
                if len(set(entry.walkers)) > 1:
                    raise SettingsError(
                        f"rounds[{number}].walkers: walkers that share a bias must share a temperature; "
                        f"got {sorted(set(entry.walkers))} K."
                    )
        for key, (value, base, what) in intervals.items():
            if steps(value, base) is None:
                raise SettingsError(f"{key}: {value:g} ps is not a multiple of {what} ({base:g} ps).")
        if self.learning.lag >= self.segment and self.learning.lag >= min(entry.length for entry in self.rounds):
            raise SettingsError(
                "learning.lag: longer than a walker's whole trajectory; no pair of frames would be left."
            )
        return self

    @classmethod
    def read(cls, path: str | Path) -> Protocol:
        """Read a protocol from a YAML file; relative paths in it are relative to the file.

        Raises
        ------
        SettingsError
            The file is missing or no YAML, or keys in it are unknown, missing or impossible; names each.
        """
        path = Path(path)
        try:
            data = yaml.safe_load(path.read_text())
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read ({error.strerror}).") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: not a YAML file ({' '.join(str(error).split())}).") from error
        if not isinstance(data, dict):
            raise SettingsError(f"{path}: a protocol is a mapping of keys to values; got {type(data).__name__}.")
        try:
            protocol = cls.model_validate(data, context={"from_file": True})
        except ValidationError as error:
            raise SettingsError(_explain(error, str(path))) from error
        system = protocol.system.model_copy(
            update={"structure": _existing(path, protocol.system.structure, "system.structure")}
        )
        update: dict[str, Any] = {"system": system}
        if protocol.observe is not None and protocol.observe.reference is not None:
            reference = _existing(path, protocol.observe.reference, "observe.reference")
            update["observe"] = protocol.observe.model_copy(update={"reference": reference})
        return protocol.model_copy(update=update)

    def canonical(self) -> str:
        """The settings as JSON, the same text for the same campaign."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True)


def steps(time: float, step: float) -> int | None:
    """Number of steps in a time, or None where it is no whole number."""
    count = round(time / step)
    return count if count >= 1 and abs(count * step - time) <= 1e-6 * time else None


def _existing(protocol: Path, file: Path, key: str) -> Path:
    found = file if file.is_absolute() else protocol.parent / file
    if not found.is_file():
        raise SettingsError(f"{protocol}: {key}: there is no file {found}; paths are relative to the protocol.")
    return found.resolve()


def _explain(error: ValidationError, where: str) -> str:
    """One line per fault, each with the key as it stands in the file."""
    lines = []
    for fault in error.errors():
        key = ""
        for part in fault["loc"]:
            key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
        kind, message = fault["type"], fault["msg"]
        if kind == "extra_forbidden":
            message = "no such key."
        elif kind == "missing":
            message = "this key is missing."
        message = message.removeprefix("Value error, ").removeprefix(f"{fault['loc'][-1]}: " if fault["loc"] else "")
        lines.append(f"{where}: {key + ': ' if key else ''}{message}")
    return "\n".join(lines)
