"""What a user may set: one frozen model per stage, and the protocol that holds them.

A protocol is a YAML file. Every quantity in it carries its unit; every key that is not known is refused; files
are looked up next to the protocol and must exist. All faults of a file are reported at once, each with its key,
before any work starts; whether keys fit together is checked once each is right by itself. From Python, the same
models take floats in the units of `latf_sampling.units` or ``openmm.unit`` quantities.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

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


def _existing(file: Path, info: ValidationInfo) -> Path:
    directory = (info.context or {}).get("directory")
    if directory is None:
        return file
    found = (directory / file).resolve()
    if not found.is_file():
        raise SettingsError(f"there is no file {found}; paths are relative to the protocol.")
    return found


File = Annotated[Path, AfterValidator(_existing)]
"""A file; in a protocol it must exist, and a relative path is relative to the protocol."""


class _RefusingType(type(BaseModel)):
    """Turns pydantic's error into this package's where a model is made by calling its class.

    An `__init__` would be called for nested models too: the outer one would lose their faults, and they the context.
    """

    def __call__(cls, *args: Any, **data: Any) -> Any:
        try:
            return super().__call__(*args, **data)
        except ValidationError as error:
            raise SettingsError(_explain(error, cls.__name__)) from error


class Settings(BaseModel, metaclass=_RefusingType):
    """Frozen, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


class SystemSettings(Settings):
    """The molecule, its force field and where it is computed; or a model system by its name."""

    name: str | None = None
    """A model system of `latf_sampling.systems`, which brings its own potential and structure."""
    structure: File | None = None
    """PDB or PDBx/mmCIF file with all atoms; relative paths are relative to the protocol."""
    force_field: tuple[str, ...] = ()
    """Force field files as `openmm.app.ForceField` takes them."""
    nonbonded: Literal["no cutoff", "cutoff", "PME"] = "no cutoff"
    cutoff: Length | None = Field(default=None, validate_default=True)
    """Nonbonded cutoff; needed with `cutoff` and `PME`, refused with `no cutoff`."""
    constraints: Literal["none", "h-bonds", "all-bonds", "h-angles"] = "h-bonds"
    hydrogen_mass: Mass | None = None
    """Mass of hydrogens (repartitioned from their heavy atoms); none leaves the force field's."""
    platform: str | None = None
    """OpenMM platform; none picks the fastest for the system's size."""

    @model_validator(mode="after")
    def _one_kind(self) -> SystemSettings:
        if self.name is None:
            faults = [f"{key}: this key is missing." for key in ("structure", "force_field") if not getattr(self, key)]
        else:
            of_molecules = self.model_fields_set - {"name", "platform"}
            faults = [f"{key}: goes with a structure, not with a model system by name." for key in sorted(of_molecules)]
        if faults:
            raise SettingsError("\n".join(faults))
        return self

    @field_validator("cutoff")
    @classmethod
    def _cutoff_fits(cls, cutoff: float | None, info: ValidationInfo) -> float | None:
        nonbonded = info.data.get("nonbonded", "")  # empty where that key is at fault itself
        if cutoff is not None and nonbonded == "no cutoff":
            raise SettingsError("nonbonded 'no cutoff' takes none; remove the key.")
        if cutoff is None and nonbonded in ("cutoff", "PME"):
            raise SettingsError(f"nonbonded '{nonbonded}' needs one, like '1 nm'.")
        return cutoff


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
    temperature: Literal["reweighted", "steered"] = "reweighted"
    """How the flow follows temperature. "reweighted": it is trained at all temperatures that MBAR weights of the
    frames reach, which needs their potential energies. "steered": through the width of the prior alone, as in the
    paper."""
    encoder_hidden: tuple[PositiveInt, ...] = (32, 32)
    decoder_hidden: tuple[PositiveInt, ...] = (32,)
    beta: float = Field(default=1e-4, gt=0)
    """Weight of log q(u|x) - log p(u|T) against the prediction of the future state."""
    tau: float = Field(default=2.0, ge=0)
    """Tilt of the prior exp(tau |z| - |z|^2 / 2s); 0 makes it a Gaussian."""
    flow: Literal["spline", "realnvp"] = "spline"
    """Over five seeds splines came nearer to the reference than RealNVP in the same time: KL of 0.020 to 0.025 against
    0.031 to 0.070 on the Lennard-Jones cluster (benchmarks/learning.md)."""
    flow_transforms: int = Field(default=3, ge=1)
    flow_hidden: tuple[PositiveInt, ...] = (48, 48)
    flow_bins: int = Field(default=8, ge=2)
    """Bins of each rational-quadratic spline; unused by RealNVP."""


class TrainingSettings(Settings):
    """How a model is trained; the stages are described in `latf_sampling.trainer.stages`."""

    initial_states: int = Field(default=20, ge=2)
    """Number of small clusters that the refinement starts from, where the data carry no labels."""
    batch_size: int = Field(default=4096, ge=2)
    """At most so many pairs per batch; fewer where there are few in all."""
    learning_rate: float = Field(default=2e-3, gt=0)
    encoder_decay: float = Field(default=3.0, ge=0)
    """Decoupled weight decay of the encoder (Loshchilov and Hutter, arXiv:1711.05101). It keeps the variable smooth
    between states, where frames are few: without it the variable jumps there, and hills shake the molecule apart."""
    refinements: int = Field(default=12, ge=1)
    """At most so many rounds of training and relabelling in the first stage."""
    refinement_epochs: int = Field(default=5, ge=1)
    label_change: float = Field(default=0.01, gt=0, lt=1)
    """Labels are self-consistent once a smaller fraction of the frames changes its state."""
    minimum_population: float = Field(default=0.0005, ge=0, lt=1)
    """States with a smaller fraction of the frames are dropped when labels are refined."""
    joint_epochs: int = Field(default=6, ge=0)
    """Epochs of encoder, decoder and flow together; 0 fits the flow afterwards only."""
    flow_epochs: int = Field(default=40, ge=0)
    """At most so many epochs of the flow alone, on the finished encoder. Without these and the joint ones, states are
    learned and no density."""
    patience: int = Field(default=4, ge=1)
    """Where held-out blocks have gained nothing for so many epochs the learning rate falls, and then the stage ends."""
    ensemble: int = Field(default=4, ge=0)
    """Number of further flows, trained on bootstrap samples of the frames, whose spread is the standard error."""
    ensemble_epochs: int = Field(default=2, ge=1)
    balance_temperatures: bool = False
    """Whether every temperature weighs the same, however many frames it has."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of the blocks held out for validation."""


class LearningSettings(TrainingSettings):
    """Training as part of a campaign: the lag is a time there."""

    lag: Time


class TrustSettings(Settings):
    """The part of latent space that the model knows, and what happens to a walker that leaves it."""

    threshold: float = Field(default=30.0, gt=0)
    """kT; a walker is outside where the flow's free energy is so far above its lowest value."""
    on_leaving: Literal["hold", "stop"] = "hold"
    """A wall, or the end of this walker, whose frames are learned from."""


class BiasSettings(Settings):
    """What all kinds of bias have in common."""

    interval: Time
    """Time between hills, or between looks at where a walker is."""
    stride: int = Field(default=1, ge=1, le=10)
    """The bias is evaluated every so many time steps, all other forces at each."""
    trust: TrustSettings | None = None
    """None trusts the model everywhere between the walls."""


class MetadynamicsSettings(BiasSettings):
    """Well-tempered metadynamics in the learned collective variables."""

    kind: Literal["metadynamics"] = "metadynamics"
    bias_factor: float = Field(gt=1)
    height: Energy
    """Height of the first hills."""
    width: Annotated[float, Field(gt=0)] | Literal["adaptive"] = 1.0
    """Hill width in units of the width that the CV suggests, or adapted to how steep the CV is."""
    start: Literal["nothing", "flow"] = "nothing"
    """Whether the bias starts from the free energy that the model has learned."""


class OpesSettings(BiasSettings):
    """OPES in the learned collective variables."""

    kind: Literal["opes"] = "opes"
    barrier: Energy
    """Highest barrier to be crossed."""
    bias_factor: float | None = Field(default=None, gt=1)
    """None is barrier / kT."""
    width: float = Field(default=1.0, gt=0)
    """Width of the first kernels in units of the width that the CV suggests."""


class FlowBiasSettings(BiasSettings):
    """The free energy that the model has learned, as a static bias."""

    kind: Literal["flow"] = "flow"
    bias_factor: float = Field(gt=1)


def _kind(bias: Any) -> Any:
    return bias.get("kind", "metadynamics") if isinstance(bias, dict) else getattr(bias, "kind", None)


AnyBiasSettings = Annotated[
    Annotated[MetadynamicsSettings, Tag("metadynamics")]
    | Annotated[OpesSettings, Tag("opes")]
    | Annotated[FlowBiasSettings, Tag("flow")],
    Discriminator(_kind),
]


class RoundSettings(Settings):
    """One round: its walkers run at the same time, each at its temperature, and share one bias."""

    walkers: tuple[Temperature, ...] = Field(min_length=1)
    """Temperature of each walker."""
    length: Time
    """Simulated time of each walker."""
    bias: AnyBiasSettings | None = None
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
    reference: File | None = None
    """JSON file with an independent value, as `protocols/reference_alanine.py` writes it."""


class EvaluateSettings(Settings):
    """Plain simulations that the last model is judged by; nothing is learned from them."""

    temperatures: tuple[Temperature, ...] = Field(min_length=1)
    length: Time
    """Simulated time at each temperature."""


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
    evaluate: EvaluateSettings | None = None
    starts: StartsSettings | None = None
    observe: ObserveSettings | None = None

    @field_validator("features")
    @classmethod
    def _files_of_features(cls, features: tuple[dict[str, Any], ...], info: ValidationInfo) -> tuple[dict, ...]:
        return _with_files(features, lambda file, key: str(_existing(Path(file), info)))

    @model_validator(mode="after")
    def _fits_together(self) -> Protocol:
        step, faults = self.integrator.timestep, []
        if self.rounds[0].bias is not None:
            faults.append("rounds[0].bias: the first round has no learned variable to bias; remove the key.")
        intervals = {
            "frame_interval": (self.frame_interval, step, "integrator.timestep"),
            "segment": (self.segment, self.frame_interval, "frame_interval"),
            "learning.lag": (self.learning.lag, self.frame_interval, "frame_interval"),
        }
        for number, entry in enumerate(self.rounds):
            intervals[f"rounds[{number}].length"] = (entry.length, self.segment, "segment")
            if entry.bias is not None:
                key, stride = f"rounds[{number}].bias", entry.bias.stride
                base = "integrator.timestep" if stride == 1 else f"{key}.stride x integrator.timestep"
                intervals[f"{key}.interval"] = (entry.bias.interval, stride * step, base)
                if stride > 1:
                    intervals[f"frame_interval, in round {number}"] = (self.frame_interval, stride * step, base)
            if number > 0 and len(set(entry.walkers)) > 1:
                faults.append(
                    f"rounds[{number}].walkers: after the first round, walkers share their starts and their bias and "
                    f"must share a temperature; got {sorted(set(entry.walkers))} K."
                )
        if self.evaluate is not None:
            intervals["evaluate.length"] = (self.evaluate.length, self.segment, "segment")
        for key, (value, base, what) in intervals.items():
            if steps(value, base) is None:
                faults.append(f"{key}: {value:g} ps is not a multiple of {what} ({base:g} ps).")
        if self.learning.lag >= min(entry.length for entry in self.rounds):
            faults.append("learning.lag: as long as a walker's whole trajectory; no pair of frames would be left.")
        if faults:
            raise SettingsError("\n".join(faults))
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
            return cls.model_validate(data, context={"from_file": True, "directory": path.parent})
        except ValidationError as error:
            raise SettingsError(_explain(error, str(path))) from error

    @property
    def runs(self) -> tuple[RoundSettings, ...]:
        """All that is simulated: the rounds and, as one more, the references of `evaluate`."""
        if self.evaluate is None:
            return self.rounds
        return (*self.rounds, RoundSettings(walkers=self.evaluate.temperatures, length=self.evaluate.length))

    @property
    def files(self) -> list[Path]:
        """The files that the protocol refers to."""
        reference = self.observe.reference if self.observe is not None else None
        files = [file for file in (self.system.structure, reference) if file is not None]
        _with_files(self.features, lambda file, key: files.append(Path(file)))
        return files

    @classmethod
    def restore(cls, content: dict[str, Any], directory: Path) -> Protocol:
        """The protocol that `canonical` described (as read from its JSON), with copies of its files in a directory."""
        content = copy.deepcopy(content)
        if content["system"]["structure"] is not None:
            content["system"]["structure"] = content["system"]["structure"]["name"]
        if content["system"]["name"] is not None:  # takes no keys of a molecule, not even their defaults
            content["system"] = {key: content["system"][key] for key in ("name", "platform")}
        if content["observe"] is not None and content["observe"]["reference"] is not None:
            content["observe"]["reference"] = content["observe"]["reference"]["name"]
        content["features"] = _with_files(content["features"], lambda identity, key: identity["name"])
        try:
            return cls.model_validate(content, context={"directory": directory})
        except ValidationError as error:
            raise SettingsError(_explain(error, str(directory))) from error

    def canonical(self) -> str:
        """The settings as JSON, the same text for the same campaign.

        A file stands there by its name and the SHA-256 of its contents, wherever it lies.

        Raises
        ------
        SettingsError
            A file is missing.
        """
        content = self.model_dump(mode="json")
        if self.system.structure is not None:
            content["system"]["structure"] = _identity(self.system.structure, "system.structure")
        if self.observe is not None and self.observe.reference is not None:
            content["observe"]["reference"] = _identity(self.observe.reference, "observe.reference")
        content["features"] = _with_files(self.features, lambda file, key: _identity(Path(file), key))
        return json.dumps(content, indent=1, sort_keys=True)


def steps(time: float, step: float) -> int | None:
    """Number of steps in a time, or None where it is no whole number."""
    count = round(time / step)
    return count if count >= 1 and abs(count * step - time) <= 1e-6 * time else None


def _with_files(features: Sequence[dict[str, Any]], change: Callable[[Any, str], Any]) -> tuple[dict[str, Any], ...]:
    """Descriptors with their files replaced: what stands under "reference", one or a list, and under "file".

    What is given in place of files, such as positions, stays as it is; so does what is no descriptor at all, which
    `latf_sampling.Features` refuses.
    """

    def changed(value: Any, key: str) -> Any:
        if isinstance(value, (list, tuple)):
            return [changed(item, f"{key}[{index}]") for index, item in enumerate(value)]
        is_file = isinstance(value, str) or (isinstance(value, dict) and set(value) == {"name", "sha256"})
        return change(value, key) if is_file else value

    return tuple(
        {
            kind: {
                key: changed(item, f"features[{index}].{kind}.{key}") if key in ("reference", "file") else item
                for key, item in value.items()
            }
            if isinstance(value, dict)
            else value
            for kind, value in entry.items()
        }
        for index, entry in enumerate(features)
    )


def _identity(file: Path, key: str) -> dict[str, str]:
    try:
        return {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    except OSError as error:
        raise SettingsError(f"{key}: {file} cannot be read ({error.strerror}).") from error


def _explain(error: ValidationError, where: str) -> str:
    """One line per fault, each with the key as it stands in the file."""
    lines = []
    faults = error.errors()
    for fault in faults:
        key, depth = "", len(fault["loc"])
        if fault["type"] == "too_short" and any(
            len(other["loc"]) > depth and other["loc"][:depth] == fault["loc"] for other in faults
        ):
            continue  # the list is short only because its faulty entries do not count
        parents = [None, *fault["loc"]]
        for parent, part in zip(parents, fault["loc"]):
            if parent == "bias" and part in ("metadynamics", "opes", "flow"):
                continue  # the kind of bias, which is no key
            key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
        kind, message = fault["type"], fault["msg"]
        if kind == "extra_forbidden":
            message = "no such key."
        elif kind in ("union_tag_invalid", "union_tag_not_found"):
            key, message = f"{key}.kind", "must be 'metadynamics', 'opes' or 'flow'."
        elif kind == "missing":
            message = "this key is missing."
        field = next((part for part in reversed(fault["loc"]) if isinstance(part, str)), "")
        message = message.removeprefix("Value error, ").removeprefix(f"{field}: " if field else "")
        for line in message.splitlines():
            own = re.match(r"[a-z_]+: ", line)  # a check across keys names the one at fault itself
            separator = "" if not key else "." if own else ": "
            lines.append(f"{where}: {key}{separator}{line}")
    return "\n".join(lines)
