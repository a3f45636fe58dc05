"""The protocol of a campaign: one frozen model of settings per stage.

A protocol is a YAML file. Every quantity in it has a unit, unknown keys are refused, and files must exist, relative to
the protocol. All faults of a file are reported at once, each with its key, before any work starts; combinations of keys
are checked once each key is valid by itself. From Python, the same models take floats in the units of
`latf_sampling.units` or ``openmm.unit`` quantities.
"""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from latf_sampling import __version__
from latf_sampling.core import arguments
from latf_sampling.core.words import plural
from latf_sampling.errors import SettingsError
from latf_sampling.settings import stored
from latf_sampling.settings.bias import AnyBiasSettings
from latf_sampling.settings.equilibration import Equilibrate
from latf_sampling.settings.execution import Devices, DeviceSettings, Executor, ExecutorSettings
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
    is_stored,
    read,
    shown,
    spell,
)
from latf_sampling.settings.system import SystemSettings
from latf_sampling.settings.training import LearningSettings, ModelSettings
from latf_sampling.settings.yaml_file import read_yaml
from latf_sampling.units import KB, SECOND

MAX_GRID_DIMENSION = 3
"""Every bias is a spline on a grid in latent space, which fits into memory in up to so many dimensions."""
MAX_SEGMENTS = 100_000
"""Segments of a round, each of which has four files."""
MAX_FRAMES = 1_000_000_000
"""Frames of a campaign."""


def _matching(value: Any, info: ValidationInfo) -> list[str]:
    """Absolute paths of files from names or patterns, in this order; the matches of a pattern are sorted."""
    directory = Path((info.context or {}).get("directory") or ".")
    paths: list[str] = []
    for name in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(name, (str, Path)):
            raise SettingsError(f"{shown(name)} is not the name of a file.")
        path = directory / name
        matches = [path] if path.is_file() else [Path(match) for match in sorted(glob.glob(str(path)))]
        matches = [match for match in matches if match.is_file()]
        if not matches:
            where = (
                "where it was moved, give `latf run` a protocol that names its new place"
                if is_stored(info)
                else "paths are relative to the protocol"
            )
            raise SettingsError(f"there is no file {path.resolve()}; {where}.")
        paths += [str(match.resolve()) for match in matches]
    if twice := [path for path, times in Counter(paths).items() if times > 1]:
        raise SettingsError(f"{twice[0]} is named twice.")
    return paths


_ONE_OR_MORE = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
LargeFiles = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_matching), WithJsonSchema(_ONE_OR_MORE)]
"""One or more files, by names or by patterns like "run*.xtc". A campaign stores their absolute paths and copies none
of them."""


class IntegratorSettings(Settings):
    """Langevin dynamics (LangevinMiddleIntegrator, Zhang et al., doi:10.1021/acs.jpca.9b02771)."""

    timestep: Annotated[float, Dimension("time", 1e-6, 1.0)] = 0.002
    """Time step of the integrator."""
    friction: Friction = 1.0
    """Friction coefficient of the Langevin thermostat."""


class ExchangeSettings(Settings):
    """Replica exchange (doi:10.1016/S0009-2614(99)01123-9): walkers at neighboring temperatures try to exchange their
    configurations, under their biases where these have any. All walkers of the round run at once, whatever the number
    of cores, since they wait for each other."""

    interval: Time
    """Time between two attempts, at which every other pair of neighboring temperatures tries."""


class RoundSettings(Settings):
    """One round of simulations: its walkers run at the same time, each at its temperature. Those at the same
    temperature share one bias."""

    walkers: tuple[Temperature, ...] = Field(min_length=1, max_length=10_000)
    """Temperature of each walker."""
    length: Time
    """Simulated time of each walker."""
    restart: Literal["flow", "archive", "uniform", "counts", "frontier", "disagreement", "continue"] = "flow"
    """Where walkers start once there is a model: at samples of its flow ("flow"), or from archived frames: drawn with
    their weights ("archive") or all with the same probability ("uniform"), of the states with the fewest frames
    ("counts"), at the border of what was visited ("frontier"), where the flows of the ensemble disagree
    ("disagreement"), or where the walkers of the round before ended ("continue")."""
    bias: AnyBiasSettings | None = None
    """Bias along the collective variable learned from the rounds before; None is plain dynamics. The first round has no
    collective variable and cannot be biased."""
    exchange: ExchangeSettings | None = None
    """Replica exchange between the temperatures of the walkers; None lets each walker go on by itself."""


class TrajectoriesSettings(Settings):
    """External trajectories of the whole system, at one temperature. They are not copied."""

    files: LargeFiles
    """Trajectories, by names or by patterns like "run*.xtc", in any format that MDTraj reads; each is continuous."""
    topology: File | None = None
    """File with the topology of the trajectories, whose atoms must be the system's; None takes the system's own."""
    temperature: Temperature
    """Temperature of the simulations."""
    weights: LargeFiles | None = None
    """Files (NPY, NPZ or text) with the weight of each frame: one for all trajectories in their order, or one for
    each; None weights all frames equally."""
    energies: LargeFiles | None = None
    """Files with the potential energy of each frame in kJ/mol, in the same way; None computes the energies with the
    force field of the system."""
    interval: Time | None = None
    """Time between frames; needed for formats without times. It overrules the times of a file, which may begin anew."""
    chain: bool = False
    """Whether the files are parts of one run in this order, each of which may begin with frames that the one before it
    has too, by their times, or by their positions where `interval` is given or the format has no times. These frames
    are left out. Pairs of frames a lag apart are made within each file."""

    @model_validator(mode="after")
    def _one_or_each(self) -> TrajectoriesSettings:
        for key in ("weights", "energies"):
            files = getattr(self, key)
            if files is not None and len(files) not in (1, len(self.files)):
                raise SettingsError(
                    f"{key}: {plural(len(files), 'file')} for {plural(len(self.files), 'trajectory')}; give one for "
                    "all, or one for each."
                )
        return self


class ExternalRound(Settings):
    """Round 0 of a campaign that starts from external trajectories: one walker for each of them."""

    walkers: tuple[Temperature, ...]
    """Temperature of each trajectory."""
    bias: None = None
    """External trajectories count as plain dynamics, with the weights that come with them."""


class StartsSettings(Settings):
    """Structures that are generated at the end of the campaign. All keys but the first two also apply to the structures
    that biased rounds start from."""

    temperature: Temperature
    """Temperature of the structures; it need not be one that was simulated."""
    count: int = Field(ge=1, le=1_000_000)
    """Number of structures."""
    thermalise: Annotated[float, Dimension("time", 1e-6, 1e6)] = 4.0
    """Time of dynamics at the temperature under an umbrella that holds the structure at its latent target."""
    release: Annotated[float, Dimension("time", 0.0, 1e6)] = 0.1
    """Time of dynamics without the umbrella after that."""
    tolerance: float = Field(default=4.0, gt=0, le=1000)
    """Largest allowed distance from the latent target: in standard deviations of the encoder under the umbrella, and of
    the motion during the release after it."""
    allow_cis: bool = False
    """Whether peptide bonds may change between cis and trans."""
    allow_inversion: bool = False
    """Whether stereocenters may change their handedness."""


class ObserveSettings(Settings):
    """A free-energy difference for the report: frames in which a torsion or a descriptor is above `above` against the
    other frames."""

    torsion: str | None = None
    """Name of a torsion as descriptors name it, like 'phi ALA 2'."""
    descriptor: dict[str, Any] | None = None
    """One entry as under `features`, which results in one column, or in sine and cosine of one torsion."""
    above: float | str = 0.0
    """Threshold: an angle like '90 degree' for a torsion. For a descriptor text with the unit of its column, or a
    number for a column without unit."""
    reference: File | None = None
    """JSON file with an independent value for comparison, as `protocols/reference_alanine.py` writes it."""

    @field_validator("descriptor")
    @classmethod
    def _files_of_descriptor(cls, descriptor: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        return descriptor and _existing_files([((), descriptor)], info)[0]

    @field_validator("above", mode="before")
    @classmethod
    def _angle_or_unchanged(cls, above: Any, info: ValidationInfo) -> Any:
        if info.data.get("descriptor", above) is None:  # an invalid descriptor is missing in the data
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
                f"torsion: {'and descriptor exclude each other; give one of them' if both else 'this key is missing'}; "
                "write torsion: phi ALA 2, or descriptor: {distances: {pairs: [[4, 6]]}}."
            )
        if self.descriptor is not None and "above" not in self.model_fields_set:
            raise SettingsError("above: this key is missing; a descriptor has no default threshold.")
        return self

    def what(self) -> dict[str, Any]:
        """What is observed, with the names of files alone: a campaign has copies of them in a folder of its own."""
        content = self.model_dump(mode="json", exclude={"reference"})
        if content["descriptor"] is not None:
            content["descriptor"] = _with_files(content["descriptor"], (), lambda file, _: Path(file).name)
        return content


class EvaluateSettings(Settings):
    """Plain simulations that the last model is evaluated against; the model is not trained on them."""

    temperatures: tuple[Temperature, ...] = Field(min_length=1, max_length=1000)
    """Temperatures of the simulations."""
    length: Time
    """Simulated time at each temperature."""


class Protocol(Settings):
    """All settings of a campaign.

    Examples
    --------
    >>> protocol = Protocol(
    ...     name="three holes",
    ...     system={"name": "three-hole"},
    ...     integrator={"timestep": "10 fs"},
    ...     frame_interval="50 fs",
    ...     segment="1 ns",
    ...     features=[{"coordinates": {"of": "all", "axes": "xy"}}],
    ...     learning={"lag": "0.5 ps"},
    ...     rounds=[{"walkers": ["1 kJ/mol", "2 kJ/mol"], "length": "10 ns"}],
    ... )
    >>> protocol.integrator.timestep, protocol.rounds[0].length
    (0.01, 10000.0)
    """

    name: str = Field(min_length=1)
    """Title of the campaign, for the report."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of all random numbers."""
    system: SystemSettings
    """The molecule and its force field."""
    integrator: IntegratorSettings = Field(default_factory=IntegratorSettings)
    """Langevin dynamics of all walkers."""
    frame_interval: Time
    """Time between saved frames."""
    segment: Time
    """Length of a segment; a walker saves its state after each, so that an interruption costs at most one."""
    stalled_after: Annotated[float, Dimension("time", SECOND, 1e9 * SECOND)] | None = None
    """Time on the clock without a new frame, like '30 min', after which the process of a walker is killed and started
    again. The start of a process and the first minimization have to fit into it too. On a cluster, a walker or a
    training that no worker has begun for so long is submitted once more, in case its executor lost it. None waits
    without limit, since how long a frame may take depends on the system and the machine."""
    executor: Executor = Field(default_factory=ExecutorSettings)
    """Where walkers, training and the making of structures run: local, or an executor on a cluster."""
    devices: Devices = Field(default_factory=DeviceSettings)
    """GPUs that walkers are simulated on, in turn: auto, a list of indices, or a mapping with `walkers` of each GPU."""
    features: tuple[dict[str, Any], ...] = Field(min_length=1)
    """Descriptors that the model is trained on, one kind in each entry; docs/descriptors.md lists them."""
    model: ModelSettings = Field(default_factory=ModelSettings)
    """Shape and objective of the model."""
    learning: LearningSettings
    """Lag time and training of the model."""
    equilibrate: Equilibrate = None
    """Heating and relaxation of a system that was just built, before the first round; true takes the defaults, None
    begins with the minimized structure."""
    from_trajectories: tuple[TrajectoriesSettings, ...] = ()
    """External trajectories that the first model is trained on: they are round 0, and `rounds` are numbered from 1."""
    rounds: tuple[RoundSettings, ...] = ()
    """Rounds of simulations; a model is trained after each of them."""
    evaluate: EvaluateSettings | None = None
    """Simulations that the last model is evaluated against; None runs none."""
    starts: StartsSettings | None = None
    """Structures at a new temperature, generated after the last round; None generates none."""
    observe: ObserveSettings | None = None
    """Free-energy difference for the report; None states none."""

    @field_validator("features")
    @classmethod
    def _files_of_features(cls, features: tuple[dict[str, Any], ...], info: ValidationInfo) -> tuple[dict, ...]:
        return _existing_files([((index,), entry) for index, entry in enumerate(features)], info)

    @model_validator(mode="before")
    @classmethod
    def _steered_where_energies_depend_on_temperature(cls, data: Any) -> Any:
        system = data.get("system") if isinstance(data, dict) else None
        get = system.get if isinstance(system, dict) else partial(getattr, system)
        model = data.get("model", {}) if isinstance(data, dict) else None
        if get("temperature_dependent", False) is True and isinstance(model, dict):
            return {**data, "model": {"temperature_mode": "steered", **model}}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Protocol:
        step, faults = self.integrator.timestep, []
        if not self.rounds and not self.from_trajectories:
            faults.append("rounds: give at least one, or external trajectories under from_trajectories.")
        if self.rounds and not self.from_trajectories and self.rounds[0].bias is not None:
            faults.append("rounds[0].bias: the first round has no learned collective variable to bias; remove the key.")
        if self.rounds and not self.from_trajectories and self.rounds[0].restart != "flow":
            faults.append("rounds[0].restart: the first round has no earlier frames to restart from; remove the key.")
        intervals = {
            "frame_interval": (self.frame_interval, step, "integrator.timestep"),
            "segment": (self.segment, self.frame_interval, "frame_interval"),
            "learning.lag": (self.learning.lag, self.frame_interval, "frame_interval"),
        }
        if self.equilibrate is not None and self.equilibrate.pressure is not None and self.system.barostat is not None:
            faults.append("equilibrate.pressure: the system has a barostat, whose pressure counts; remove the key.")
        if self.system.temperature_dependent:
            faults += self._impossible_at_a_temperature_of_its_own()
        faults += self._impossible_biases() + self._impossible_exchanges()
        for number, entry in enumerate(self.rounds):
            intervals[f"rounds[{number}].length"] = (entry.length, self.segment, "segment")
            if entry.bias is not None:
                key, stride = f"rounds[{number}].bias", entry.bias.stride
                base = "integrator.timestep" if stride == 1 else f"{key}.stride x integrator.timestep"
                intervals[f"{key}.interval"] = (entry.bias.interval, stride * step, base)
                if stride > 1:
                    intervals[f"frame_interval, in round {number}"] = (self.frame_interval, stride * step, base)
            if entry.exchange is not None:
                interval = entry.exchange.interval
                intervals[f"rounds[{number}].exchange.interval"] = (interval, self.frame_interval, "frame_interval")
        if self.evaluate is not None:
            intervals["evaluate.length"] = (self.evaluate.length, self.segment, "segment")
        barostat = self.system.barostat
        if barostat is not None and any(barostat.interval * step > entry.length for entry in self.rounds):
            faults.append(
                f"system.barostat.interval: {barostat.interval} time steps are {barostat.interval * step:g} ps, longer "
                "than a round: the volume would never change."
            )
        for key, (value, base, what) in intervals.items():
            if steps(value, base) is None:
                below = max(int(value / base), 1)
                near = f"{below * base:g} or {(below + 1) * base:g} ps would be"
                faults.append(f"{key}: {value:g} ps is not a multiple of {what} ({base:g} ps); {near}.")
        if not faults:
            faults += self._too_large()
        files = Counter(file for entry in self.from_trajectories for file in entry.files)
        faults += [f"from_trajectories: {file} is named twice." for file, times in files.items() if times > 1]
        if self.rounds and self.learning.lag >= min(entry.length for entry in self.rounds):
            faults.append("learning.lag: as long as a walker's whole trajectory; no pair of frames would be left.")
        if faults:
            raise SettingsError("\n".join(faults))
        return self

    def _impossible_biases(self) -> list[str]:
        """Faults of biases, and of what else needs a density, that a model of these settings could not have."""
        faults = []
        has_density = self.learning.joint_epochs > 0 or self.learning.flow_epochs > 0
        needs_density = [] if has_density or self.starts is None else ["starts"]
        for number, entry in enumerate(self.rounds):
            key, bias = f"rounds[{number}]", entry.bias
            if entry.restart == "flow" and (number > 0 or self.from_trajectories):
                needs_density += [] if has_density else [f"{key}.restart"]
            if entry.restart == "disagreement":
                needs_density += [] if has_density else [f"{key}.restart"]
                if self.learning.ensemble < 2:
                    faults.append(
                        f"{key}.restart: flows disagree where there are several; set learning.ensemble to 2 at least, "
                        f"not {self.learning.ensemble}."
                    )
            if bias is None:
                continue
            if bias.interval > entry.length:
                faults.append(
                    f"{key}.bias.interval: {bias.interval:g} ps is longer than the round ({entry.length:g} ps); "
                    "give a shorter one, or no hill is ever added."
                )
            hottest = KB * max(entry.walkers)
            if bias.kind == "opes" and bias.bias_factor is None and bias.barrier <= hottest:
                faults.append(
                    f"{key}.bias.barrier: {bias.barrier:g} kJ/mol is not more than kT = {hottest:.3g} kJ/mol of the "
                    "hottest walker; give a higher one, or a bias_factor."
                )
            if (self.model.latent_dim or 1) > MAX_GRID_DIMENSION:
                faults.append(
                    f"model.latent_dim: a bias needs a grid in latent space, which has at most {MAX_GRID_DIMENSION} "
                    f"dimensions; got {self.model.latent_dim}, with {key}.bias."
                )
            from_flow = bias.kind == "flow" or (bias.kind == "metadynamics" and bias.start == "flow")
            if bias.variable is not None and (from_flow or bias.trust is not None):
                what = "kind: flow" if bias.kind == "flow" else "start: flow" if from_flow else "trust"
                faults.append(
                    f"{key}.bias.variable: {what} needs the density of the learned variable, and not of another one; "
                    "remove one of the two."
                )
            if not has_density and (from_flow or bias.trust is not None):
                needs_density.append(f"{key}.bias{'' if from_flow else '.trust'}")
        faults += [
            f"{key}: needs the density of the flow, which is not trained with learning.flow_epochs: 0 and "
            "learning.joint_epochs: 0; train it, or remove what needs it."
            for key in needs_density
        ]
        return list(dict.fromkeys(faults))

    def _impossible_at_a_temperature_of_its_own(self) -> list[str]:
        """Faults of what takes energies at one temperature for those at another."""
        why = "the potential energy depends on temperature (system.temperature_dependent)"
        faults = []
        if self.model.temperature_mode != "steered":
            faults.append(f"model.temperature_mode: {why}; the only possible one is steered.")
        for number, entry in enumerate(self.rounds):
            if entry.exchange is not None:
                faults.append(f"rounds[{number}].exchange: {why}; remove the key.")
        return faults

    def _impossible_exchanges(self) -> list[str]:
        """Faults of rounds whose walkers exchange configurations."""
        faults = []
        for number, entry in enumerate(self.rounds):
            key, bias = f"rounds[{number}]", entry.bias
            if entry.exchange is None:
                continue
            if len(set(entry.walkers)) < 2:
                faults.append(
                    f"{key}.exchange: all walkers are at {entry.walkers[0]:g} K; give walkers at two temperatures at "
                    "least, or remove the key."
                )
            if entry.exchange.interval >= entry.length:
                faults.append(
                    f"{key}.exchange.interval: {entry.exchange.interval:g} ps is not shorter than the round "
                    f"({entry.length:g} ps); give a shorter one, or no walker ever tries."
                )
            if bias is not None and bias.kind == "opes" and bias.width == "adaptive":
                faults.append(
                    f"{key}.bias.width: adaptive widths come from how far a walker moves between kernels, which an "
                    f"exchange is no part of; give a number, or remove {key}.exchange."
                )
        return faults

    def _too_large(self) -> list[str]:
        """Faults of sizes that are possible one by one, and whose files or processes no machine would hold."""
        walkers = [entry for entry in self.runs if isinstance(entry, RoundSettings)]
        segments = max((len(entry.walkers) * entry.length / self.segment for entry in walkers), default=0)
        frames = sum(len(entry.walkers) * entry.length / self.frame_interval for entry in walkers)
        faults = []
        if segments > MAX_SEGMENTS:
            faults.append(
                f"segment: a round would have {segments:.3g} segments, each with its files, more than "
                f"{MAX_SEGMENTS:,}; make segments longer."
            )
        if frames > MAX_FRAMES:
            faults.append(
                f"frame_interval: the campaign would have {frames:.3g} frames, more than {MAX_FRAMES:,}; save fewer, "
                "or simulate less."
            )
        return faults

    @classmethod
    def load(cls, path: str | Path, copies: tuple[dict[str, Any], Path] | None = None) -> Protocol:
        """Load a protocol from a YAML file; relative paths in it are relative to the file.

        Parameters
        ----------
        path
            The file.
        copies
            What `canonical` wrote for a campaign, and the folder of its `inputs`, which stand for files that are gone.

        Raises
        ------
        SettingsError
            The file is missing or not YAML, or keys in it are unknown, missing or impossible; names each.

        Examples
        --------
        >>> protocol = Protocol.load("protocols/alanine-dipeptide.yaml")  # doctest: +SKIP
        >>> protocol.integrator.timestep  # doctest: +SKIP
        0.004
        """
        path = arguments.path("Protocol", "path", path, "a protocol")
        data = read_yaml(path)
        if copies is not None:
            data = stored.with_copies(data, copies[0], path.parent, copies[1])
        try:
            return cls.model_validate(data, context={"from_file": True, "directory": path.parent})
        except ValidationError as error:
            raise SettingsError(explain(error, str(path), cls)) from error

    @property
    def patience(self) -> float | None:
        """`stalled_after` in seconds."""
        return None if self.stalled_after is None else self.stalled_after / SECOND

    @property
    def all_rounds(self) -> tuple[RoundSettings | ExternalRound, ...]:
        """The rounds that models are trained on, by number; round 0 is that of external trajectories, if any."""
        if not self.from_trajectories:
            return self.rounds
        temperatures = tuple(entry.temperature for entry in self.from_trajectories for _ in entry.files)
        return (ExternalRound(walkers=temperatures), *self.rounds)

    @property
    def runs(self) -> tuple[RoundSettings | ExternalRound, ...]:
        """All rounds and, as the last one, the simulations of `evaluate`."""
        if self.evaluate is None:
            return self.all_rounds
        return (*self.all_rounds, RoundSettings(walkers=self.evaluate.temperatures, length=self.evaluate.length))

    def run_name(self, index: int) -> str:
        """Name of one of `runs` for people."""
        return f"round {index}" if index < len(self.all_rounds) else "references"

    @property
    def files(self) -> list[Path]:
        """The files that the protocol refers to."""
        return list(dict.fromkeys(file for _, file in self._named()))

    def inputs(self) -> dict[str, bytes]:
        """The contents of the files that a campaign copies, by their names: `restore` needs these files.

        Raises
        ------
        SettingsError
            A file is missing.
        """
        return {name: content for _, name, content in self._inputs()}

    def _named(self) -> list[tuple[Location, Path]]:
        """Each file that the protocol refers to, with its location."""
        files = list(files_of(self))
        descriptors: list[tuple[Location, dict]] = [(("features", k), entry) for k, entry in enumerate(self.features)]
        if self.observe is not None and self.observe.descriptor is not None:
            descriptors.append((("observe", "descriptor"), self.observe.descriptor))
        for where, entry in descriptors:
            _with_files(entry, where, lambda file, location: files.append((location, Path(file))))
        return files

    def _inputs(self) -> list[tuple[Location, str, bytes]]:
        """Location, name of the copy and content of each file."""
        inputs: list[tuple[Location, str, bytes]] = []
        taken: dict[str, bytes] = {}
        for location, file in self._named():
            try:
                content = self.system.content(file)
            except OSError as error:
                raise SettingsError(f"{spell(location)}: {file} cannot be read ({error.strerror}).") from error
            name, number = file.name, 1
            while taken.setdefault(name, content) != content:  # files of the same name from several folders
                name, number = f"{file.stem}-{number}{file.suffix}", number + 1
            inputs.append((location, name, content))
        return inputs

    @classmethod
    def restore(cls, content: dict[str, Any], directory: Path) -> Protocol:
        """The protocol from the JSON content that `canonical` wrote, with its `inputs` in a directory.

        Raises
        ------
        SettingsError
            A key is unknown or impossible, or a file is missing or not in the directory; names the key.
        StoreError
            The content was written by a later version of the package, or is damaged.
        """
        where = str(directory.parent / "protocol.json")
        content = stored.current(content, where)
        context = {"directory": directory, "stored": True}
        try:
            return cls.model_validate(stored.without_version(content), context=context)
        except ValidationError as error:
            raise SettingsError(explain(error, where, cls)) from error

    def canonical(self) -> str:
        """The settings as JSON with the version of the package, the same text for the same campaign.

        Files are represented by their names and the SHA-256 of their contents, not by their folders.

        Raises
        ------
        SettingsError
            A file is missing.
        """
        return json.dumps({**self._content(), stored.VERSION: __version__}, indent=1, sort_keys=True)

    def differences(self, content: dict[str, Any]) -> list[str]:
        """Keys in which the protocol of a campaign differs from this one in what is simulated or reported.

        Keys that an earlier version of the package did not have yet count as their defaults. No difference are the
        title of the campaign, the platform, the folders and names of files that a campaign copies, and remarks and
        titles in PDB files. External trajectories, which are not copied, are told apart by their paths; a campaign that
        has read them goes on with the same files in another place.

        Parameters
        ----------
        content
            The JSON content that `canonical` wrote, by this version of the package or an earlier one.

        Raises
        ------
        StoreError
            It was written by a later version, has a key that no longer exists, or is damaged.

        Examples
        --------
        >>> protocol = Protocol.load("protocols/alanine-dipeptide.yaml")  # doctest: +SKIP
        >>> protocol.differences(json.loads(protocol.canonical()))  # doctest: +SKIP
        []
        """
        return [spell(location) for location in self.changes(content)]

    def changes(self, content: dict[str, Any]) -> list[Location]:
        """As `differences`, the locations of the keys; sections that one of two lists lacks have a location each.

        Raises
        ------
        StoreError
            As by `differences`.
        """
        return list(stored.differences(self._content(), stored.current(content, "protocol.json"), [Protocol]))

    def with_rounds(self, count: int) -> Protocol:
        """This protocol with so many more rounds, copies of the last one.

        Raises
        ------
        SettingsError
            There is no round to repeat, or the last one cannot be repeated; names the key.
        """
        if count and not self.rounds:
            raise SettingsError("rounds: there is none to repeat; the protocol only reads external trajectories.")
        return Protocol(**{**dict(self), "rounds": (*self.rounds, *self.rounds[-1:] * count)}) if count else self

    def made_from(self) -> str:
        """The part of `canonical` that the molecule depends on, in one line."""
        content = self._content()
        system = {key: value for key, value in content["system"].items() if key != "platform"}
        return json.dumps({"system": system, "seed": self.seed}, sort_keys=True)

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json")
        for (*parents, last), name, data in self._inputs():
            place: Any = content
            for part in parents:
                place = place[part]
            place[last] = stored.file_content(name, data)
        return content


def steps(time: float, step: float) -> int | None:
    """Number of steps in a time, or None where it is not a whole number.

    Examples
    --------
    >>> steps(10.0, 0.002), steps(0.25, 0.1)
    (5000, None)
    """
    count = round(time / step)
    return count if count >= 1 and abs(count * step - time) <= 1e-6 * time else None


def n_steps(time: float, step: float) -> int:
    """Number of steps in a time which is a multiple of the step, as `Protocol` checks.

    Raises
    ------
    SettingsError
        It is not a multiple.
    """
    count = steps(time, step)
    if count is None:
        raise SettingsError(f"{time:g} ps is not a multiple of {step:g} ps.")
    return count


def _with_files(entry: dict[str, Any], where: Location, change: Callable[[str, Location], Any]) -> dict[str, Any]:
    """A descriptor with its files replaced: those under "reference", one or a list, and under "file".

    Values that are not file names, such as positions, are unchanged; so are entries that are not descriptors, which
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
    """Descriptors, from pairs of location and descriptor, with absolute paths of the files that they name."""
    faults = []

    def absolute(file: str, location: Location) -> str:
        try:
            return str(existing(Path(file), info))
        except SettingsError as error:
            faults.append(f"{spell(location)}: {error}")
            return file

    descriptors = tuple(_with_files(entry, where, absolute) for where, entry in entries)
    if faults:
        raise SettingsError("\n".join(faults))
    return descriptors
