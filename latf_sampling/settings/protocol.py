"""What a user may set: one frozen model per stage, and the protocol that holds them.

A protocol is a YAML file. Every quantity in it carries its unit; every key that is not known is refused; files
are looked up next to the protocol and must exist. All faults of a file are reported at once, each with its key,
before any work starts; whether keys fit together is checked once each is right by itself. From Python, the same
models take floats in the units of `latf_sampling.units` or ``openmm.unit`` quantities.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from latf_sampling.errors import SettingsError
from latf_sampling.settings.bias import AnyBiasSettings
from latf_sampling.settings.fields import (
    Dimension,
    File,
    Friction,
    Location,
    Settings,
    Temperature,
    Time,
    existing,
    explain,
    files_of,
    read,
    spell,
)
from latf_sampling.settings.system import SystemSettings
from latf_sampling.settings.training import LearningSettings, ModelSettings


def _found(value: Any, info: ValidationInfo) -> list[str]:
    """Whole paths of files given by names or by patterns, in the order given, those of one pattern sorted."""
    directory = Path((info.context or {}).get("directory") or ".")
    found: list[str] = []
    for name in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(name, (str, Path)):
            raise SettingsError(f"{name!r} is not the name of a file.")
        path = directory / name
        matches = [path] if path.is_file() else [Path(match) for match in sorted(glob.glob(str(path)))]
        if not matches:
            raise SettingsError(f"there is no file {path.resolve()}; paths are relative to the protocol.")
        found += [str(match.resolve()) for match in matches]
    if twice := [path for path, times in Counter(found).items() if times > 1]:
        raise SettingsError(f"{twice[0]} is named twice.")
    return found


LargeFiles = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_found)]
"""One file or several, by names or by patterns like "run*.xtc". They stay where they are: a campaign keeps absolute
paths and no copies."""


class IntegratorSettings(Settings):
    """Langevin dynamics (LangevinMiddleIntegrator, Zhang et al., doi:10.1021/acs.jpca.9b02771)."""

    timestep: Time = 0.002
    friction: Friction = 1.0


class RoundSettings(Settings):
    """One round: its walkers run at the same time, each at its temperature, and share one bias."""

    walkers: tuple[Temperature, ...] = Field(min_length=1)
    """Temperature of each walker."""
    length: Time
    """Simulated time of each walker."""
    bias: AnyBiasSettings | None = None
    """None is plain dynamics. The first round has no model yet and cannot be biased."""


class TrajectoriesSettings(Settings):
    """Trajectories of the whole system that were there before; they are read where they lie, and not copied."""

    files: LargeFiles
    """In any format that MDTraj reads; each is one continuous trajectory."""
    topology: File | None = None
    """Whose atoms must be the system's; none takes the system's own."""
    temperature: Temperature
    weights: LargeFiles | None = None
    """Weight of each frame: NPY, NPZ or text, one file for all trajectories in their order, or one for each."""
    energies: LargeFiles | None = None
    """Potential energy of each frame, kJ/mol, in the same way; none computes them with the system's force field."""
    interval: Time | None = None
    """Time between frames; needed where the format has no times."""

    @model_validator(mode="after")
    def _one_or_each(self) -> TrajectoriesSettings:
        for key in ("weights", "energies"):
            given = getattr(self, key)
            if given is not None and len(given) not in (1, len(self.files)):
                raise SettingsError(
                    f"{key}: {len(given)} files for {len(self.files)} trajectories; give one for all, or one for each."
                )
        return self


class ExternalRound(Settings):
    """Round 0 of a campaign that starts from trajectories: one walker for each of them."""

    walkers: tuple[Temperature, ...]
    bias: None = None


class StartsSettings(Settings):
    """Structures generated at the end of the campaign. How they are made holds for those of the rounds too."""

    temperature: Temperature
    count: int = Field(ge=1)
    thermalise: Time = 4.0
    """Time at the temperature, held at its target."""
    release: Annotated[float, Dimension("time", 0.0)] = 0.1
    """Time without umbrella after that."""
    tolerance: float = Field(default=4.0, gt=0)
    """Distance from the target, in units of what the encoder and the motion in the time of the release leave open."""
    allow_cis: bool = False
    """Whether peptide bonds may go between cis and trans."""
    allow_inversion: bool = False
    """Whether stereocentres may change their handedness."""


class ObserveSettings(Settings):
    """A free-energy difference that the report states: a torsion, or what a descriptor measures, above `above` against
    the rest."""

    torsion: str | None = None
    """Name of a torsion as descriptors name it, like 'phi ALA 2'."""
    descriptor: dict[str, Any] | None = None
    """One entry as under `features`, which makes one column, or sine and cosine of one torsion."""
    above: float | str = 0.0
    """Radians for a torsion. For a descriptor text with its unit, or a number where its column has none: which it is,
    only the molecule says."""
    reference: File | None = None
    """JSON file with an independent value, as `protocols/reference_alanine.py` writes it."""

    @field_validator("descriptor")
    @classmethod
    def _files_of_descriptor(cls, descriptor: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        return descriptor and _existing_files([((), descriptor)], info)[0]

    @field_validator("above", mode="before")
    @classmethod
    def _angle_or_as_it_stands(cls, above: Any, info: ValidationInfo) -> Any:
        if info.data.get("descriptor", above) is None:  # a faulty one is no torsion
            return read(above, "angle", info)
        if hasattr(above, "in_unit_system"):
            from openmm import unit

            return str(above.in_unit_system(unit.md_unit_system))  # whose names pint knows
        return above

    @model_validator(mode="after")
    def _one_variable(self) -> ObserveSettings:
        if (self.torsion is None) == (self.descriptor is None):
            both = self.torsion is not None
            raise SettingsError(
                f"torsion: {'and descriptor are both there; give one of them' if both else 'this key is missing'}; "
                "write torsion: phi ALA 2, or descriptor: {distances: {pairs: [[4, 6]]}}."
            )
        if self.descriptor is not None and "above" not in self.model_fields_set:
            raise SettingsError("above: this key is missing; a descriptor has no value that parts states by itself.")
        return self


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
    integrator: IntegratorSettings = Field(default_factory=IntegratorSettings)
    frame_interval: Time
    """Time between saved frames."""
    segment: Time
    """Length of the pieces that a walker finishes one by one; an interruption loses at most one."""
    features: tuple[dict[str, Any], ...] = Field(min_length=1)
    model: ModelSettings = Field(default_factory=ModelSettings)
    learning: LearningSettings
    from_trajectories: tuple[TrajectoriesSettings, ...] = ()
    """Trajectories to learn from first: they are round 0, and `rounds` are numbered from 1."""
    rounds: tuple[RoundSettings, ...] = ()
    evaluate: EvaluateSettings | None = None
    starts: StartsSettings | None = None
    observe: ObserveSettings | None = None

    @field_validator("features")
    @classmethod
    def _files_of_features(cls, features: tuple[dict[str, Any], ...], info: ValidationInfo) -> tuple[dict, ...]:
        return _existing_files([((index,), entry) for index, entry in enumerate(features)], info)

    @model_validator(mode="after")
    def _fits_together(self) -> Protocol:
        step, faults = self.integrator.timestep, []
        if not self.rounds and not self.from_trajectories:
            faults.append("rounds: give at least one, or trajectories to learn from under from_trajectories.")
        if self.rounds and not self.from_trajectories and self.rounds[0].bias is not None:
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
            if (number > 0 or self.from_trajectories) and len(set(entry.walkers)) > 1:
                faults.append(
                    f"rounds[{number}].walkers: once there is a model, walkers share their starts and their bias and "
                    f"must share a temperature; got {sorted(set(entry.walkers))} K."
                )
        if self.evaluate is not None:
            intervals["evaluate.length"] = (self.evaluate.length, self.segment, "segment")
        for key, (value, base, what) in intervals.items():
            if steps(value, base) is None:
                faults.append(f"{key}: {value:g} ps is not a multiple of {what} ({base:g} ps).")
        files = Counter(file for entry in self.from_trajectories for file in entry.files)
        faults += [f"from_trajectories: {file} is named twice." for file, times in files.items() if times > 1]
        if self.rounds and self.learning.lag >= min(entry.length for entry in self.rounds):
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
            raise SettingsError(explain(error, str(path), cls)) from error

    @property
    def all_rounds(self) -> tuple[RoundSettings | ExternalRound, ...]:
        """What is learned from, by the number of the round: given trajectories are round 0, if there are any."""
        if not self.from_trajectories:
            return self.rounds
        given = ExternalRound(walkers=[entry.temperature for entry in self.from_trajectories for _ in entry.files])
        return (given, *self.rounds)

    @property
    def runs(self) -> tuple[RoundSettings | ExternalRound, ...]:
        """All rounds and, as one more, the references of `evaluate`."""
        if self.evaluate is None:
            return self.all_rounds
        return (*self.all_rounds, RoundSettings(walkers=self.evaluate.temperatures, length=self.evaluate.length))

    @property
    def files(self) -> list[Path]:
        """The files that the protocol refers to."""
        return list(dict.fromkeys(file for _, file in self._named()))

    def inputs(self) -> dict[str, bytes]:
        """What a copy of the files holds, by name: all that `restore` needs.

        Raises
        ------
        SettingsError
            A file is missing.
        """
        return {name: content for _, name, content in self._inputs()}

    def _named(self) -> list[tuple[Location, Path]]:
        """Each file that the protocol refers to, with the place where it does."""
        found = list(files_of(self))
        described: list[tuple[Location, dict]] = [(("features", k), entry) for k, entry in enumerate(self.features)]
        if self.observe is not None and self.observe.descriptor is not None:
            described.append((("observe", "descriptor"), self.observe.descriptor))
        for where, entry in described:
            _with_files(entry, where, lambda file, location: found.append((location, Path(file))))
        return found

    def _inputs(self) -> list[tuple[Location, str, bytes]]:
        """Where each file is named, what its copy is called, and what that holds."""
        found, taken = [], {}
        for location, file in self._named():
            try:
                content = self.system.content(file)
            except OSError as error:
                raise SettingsError(f"{spell(location)}: {file} cannot be read ({error.strerror}).") from error
            name, number = file.name, 1
            while taken.setdefault(name, content) != content:  # files of one name from several folders
                name, number = f"{file.stem}-{number}{file.suffix}", number + 1
            found.append((location, name, content))
        return found

    @classmethod
    def restore(cls, content: dict[str, Any], directory: Path) -> Protocol:
        """The protocol that `canonical` described (as read from its JSON), with its `inputs` in a directory."""
        try:
            return cls.model_validate(_names_of_files(content), context={"directory": directory})
        except ValidationError as error:
            raise SettingsError(explain(error, str(directory), cls)) from error

    def canonical(self) -> str:
        """The settings as JSON, the same text for the same campaign.

        A file stands there by its name and the SHA-256 of its contents, wherever it lies.

        Raises
        ------
        SettingsError
            A file is missing.
        """
        return json.dumps(self._content(), indent=1, sort_keys=True)

    def made_from(self) -> str:
        """The part of `canonical` that decides what molecule there is, in one line."""
        content = self._content()
        return json.dumps({"system": content["system"], "seed": self.seed}, sort_keys=True)

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json")
        for (*parents, last), name, data in self._inputs():
            place = content
            for part in parents:
                place = place[part]
            place[last] = {"name": name, "sha256": hashlib.sha256(data).hexdigest()}
        return content


def steps(time: float, step: float) -> int | None:
    """Number of steps in a time, or None where it is no whole number."""
    count = round(time / step)
    return count if count >= 1 and abs(count * step - time) <= 1e-6 * time else None


def _with_files(entry: dict[str, Any], where: Location, change: Callable[[str, Location], Any]) -> dict[str, Any]:
    """A descriptor with its files replaced: what stands under "reference", one or a list, and under "file".

    What is given in place of files, such as positions, stays as it is; so does what is no descriptor at all, which
    `latf_sampling.Features` refuses.
    """

    def changed(value: Any, location: Location) -> Any:
        if isinstance(value, (list, tuple)):
            return [changed(item, (*location, index)) for index, item in enumerate(value)]
        return change(value, location) if isinstance(value, str) else value

    return {
        kind: {
            key: changed(item, (*where, kind, key)) if key in ("reference", "file") else item
            for key, item in value.items()
        }
        if isinstance(value, dict)
        else value
        for kind, value in entry.items()
    }


def _existing_files(entries: Sequence[tuple[Location, dict[str, Any]]], info: ValidationInfo) -> tuple[dict, ...]:
    """Descriptors, each with where it stands, with whole paths of the files that they name."""
    faults = []

    def found(file: str, location: Location) -> str:
        try:
            return str(existing(Path(file), info))
        except SettingsError as error:
            faults.append(f"{spell(location)}: {error}")
            return file

    made = tuple(_with_files(entry, where, found) for where, entry in entries)
    if faults:
        raise SettingsError("\n".join(faults))
    return made


def _names_of_files(content: Any) -> Any:
    """What `canonical` wrote, with the bare name of each file instead of its name and sum."""
    if isinstance(content, dict):
        if content.keys() == {"name", "sha256"}:
            return content["name"]
        return {key: _names_of_files(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_names_of_files(value) for value in content]
    return content
