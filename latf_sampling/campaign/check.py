"""Everything that the protocol and its files tell, before anything is simulated or written."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from latf_sampling.core import devices, platforms
from latf_sampling.core.space import RESERVE, free_space, spelled
from latf_sampling.core.words import plural
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.data.sizes import missing_size
from latf_sampling.errors import LatfError, SettingsError, SpaceWarning
from latf_sampling.records.setup import Setup
from latf_sampling.settings import ExecutorSettings, ExternalRound, RoundSettings, n_steps
from latf_sampling.settings.equilibration import EquilibrationSettings
from latf_sampling.simulation.explosion import usual_timestep

LONGEST_LAG = 0.25
"""Share of the shortest run that a lag should not exceed."""
OWN = "custom"
"""Kind of the descriptors whose code is the user's."""


def check(setup: Setup, is_read: Callable[[int], bool] = lambda number: False) -> None:
    """Refuse a protocol that cannot work, in seconds; what a `Protocol` checks itself is taken for granted.

    Parameters
    ----------
    setup
        The protocol.
    is_read
        Whether an external trajectory, by its number, was read before; its first frames are not looked at.

    Raises
    ------
    SettingsError, DataError, InstallationError
        Reference, system, descriptors, observed variable, platform or an external trajectory are at fault; names the
        key or the file.

    Examples
    --------
    >>> from latf_sampling.settings import Protocol
    >>> check(Setup(Protocol.load("protocols/three-hole.yaml")))  # doctest: +SKIP
    """
    _ = setup.reference
    _ = platform(setup)
    _check_devices(setup)
    _ = setup.features
    _ = setup.observed
    _check_own_descriptors(setup)
    if any(entry.bias is not None and entry.bias.variable is not None for entry in setup.protocol.rounds):
        from latf_sampling.campaign.external_variable import check_variables  # which needs torch

        check_variables(setup)
    _check_timestep(setup)
    check_lag(setup)
    _check_equilibration(setup)
    if setup.protocol.from_trajectories:
        _check_external(setup, is_read)


def platform(setup: Setup) -> str:
    """Name of OpenMM's platform that walkers will run on."""
    wanted = setup.protocol.system.platform
    if wanted is None:
        return platforms.pick_platform(None, setup.molecule.system.getNumParticles()).getName()
    try:
        return platforms.pick_platform(wanted).getName()
    except SettingsError as error:
        raise SettingsError(f"system.{error}") from error


def _check_devices(setup: Setup) -> None:
    """Refuse GPUs that are named and do not work here; workers of other executors may have them."""
    use, wanted = setup.protocol.devices.use, setup.protocol.system.platform
    if use == "auto" or setup.protocol.executor.kind != "local":
        return
    for place in range(len(use)):
        name, properties = devices.pick(wanted, setup.molecule.system.getNumParticles(), use, place)
        if (why := platforms.usable(name.getName(), **properties)) is not None:
            raise SettingsError(f"devices: GPU {use[place]} does not work on {name.getName()} ({why.rstrip('.')}).")


def _own_descriptors(setup: Setup) -> Iterator[tuple[str, dict[str, Any]]]:
    """Keys and entries of the descriptors whose code is the user's."""
    for number, entry in enumerate(setup.protocol.features):
        if OWN in entry:
            yield f"features[{number}].{OWN}", entry
    observe = setup.protocol.observe
    if observe is not None and observe.descriptor is not None and OWN in observe.descriptor:
        yield f"observe.descriptor.{OWN}", observe.descriptor


def _check_own_descriptors(setup: Setup) -> None:
    """Hold the user's descriptors to the contract of all descriptors, on the first structure."""
    entries = list(_own_descriptors(setup))
    if not entries:
        return
    import mdtraj

    from latf_sampling.testing import check_descriptors

    positions = [conformation.positions for conformation in setup.molecule.conformations] or [setup.molecule.positions]
    frames = mdtraj.Trajectory(positions[:1], setup.topology)
    for key, entry in entries:
        name = f"{entry[OWN]['class']} of {entry[OWN]['file']}"
        try:
            check_descriptors(frames, [entry], floating=False, periodic=setup.periodic)
        except LatfError:
            raise
        except AssertionError as error:
            raise SettingsError(f"{key}: {name}: {_brief(error)}") from error
        except Exception as error:  # the user's code may raise any type
            raise SettingsError(f"{key}: {name} fails: {type(error).__name__}: {_brief(error)}") from error


def _check_timestep(setup: Setup) -> None:
    """Warn of a time step at which bonds and angles of hydrogens are likely to explode."""
    usual = usual_timestep(setup.molecule.system, setup.molecule.topology)
    timestep = 1000 * setup.protocol.integrator.timestep
    if usual is not None and timestep > 1.5 * usual[0]:
        warnings.warn(
            f"integrator.timestep: {timestep:g} fs will probably make the simulation explode; {usual[0]:g} fs is the "
            f"longest that is usual with {usual[1]}.",
            stacklevel=3,
        )


def check_lag(setup: Setup) -> None:
    """Warn of a lag at which hardly any two pairs of frames of a run are independent of each other."""
    simulated = [entry for entry in setup.protocol.rounds if isinstance(entry, RoundSettings)]
    shortest = min((entry.length for entry in simulated), default=math.inf)
    lag = setup.protocol.learning.lag
    if lag > LONGEST_LAG * shortest:
        warnings.warn(
            f"learning.lag: {_span(lag)} is more than a quarter of the shortest run, {_span(shortest)}: hardly any two "
            "pairs of its frames are independent of each other. Take a lag that is shorter than that, and longer than "
            "motions within a state; `latf lags` compares several.",
            stacklevel=3,
        )


def _check_equilibration(setup: Setup) -> None:
    """Warn of a box that was just filled with water and is not relaxed before its frames count."""
    protocol = setup.protocol
    prepare = protocol.system.prepare
    if prepare is None or prepare.solvent is None or protocol.from_trajectories:
        return
    if protocol.equilibrate is None:
        warnings.warn(
            "equilibrate: is missing, and the first picoseconds of a box that was just filled with water would count "
            "as equilibrium; add 'equilibrate: true'.",
            stacklevel=3,
        )
    elif protocol.system.barostat is None and protocol.equilibrate.pressure is None:
        warnings.warn(
            "equilibrate.pressure: is missing, and the box keeps the density that it was filled with; add "
            "'pressure: 1 bar' there, or a barostat to the system.",
            stacklevel=3,
        )


def _brief(error: Exception) -> str:
    """The message of an error in one line; torch's fill pages."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _check_external(setup: Setup, is_read: Callable[[int], bool]) -> None:
    """Look at the first frames of external trajectories."""
    from latf_sampling.data.external import ExternalTrajectory, stride_of

    for number, external in enumerate(ExternalTrajectory.from_settings(setup.protocol.from_trajectories)):
        if not is_read(number):
            stride_of(external, setup.topology, setup.periodic, setup.protocol.frame_interval, setup.frame_checks)


def warn_of_space(setup: Setup, directory: CampaignDirectory) -> None:
    """Warn where the disk has less space than the campaign will still write."""
    wanted = missing_size(setup.protocol, directory, setup.molecule.system.getNumParticles(), setup.periodic)
    space, files = free_space(directory.path)
    words = None
    if space < wanted.size + RESERVE:
        words = f"{spelled(space)} are free, and the campaign will still write about {spelled(wanted.size)}"
    elif files is not None and files < wanted.files:
        words = f"its disk can take {files:,} more files, and the campaign will still write about {wanted.files:,}"
    if words is not None:
        warnings.warn(
            f"{directory.path}: {words}; it stops before the disk is full, and the same command goes on when there is "
            "space again.",
            SpaceWarning,
            stacklevel=3,
        )


def summary(setup: Setup, directory: CampaignDirectory | None = None) -> list[tuple[str, str]]:
    """What would run: pairs of a word and what belongs to it.

    Parameters
    ----------
    setup
        The protocol.
    directory
        Where it would run, if that is known.

    Examples
    --------
    >>> from latf_sampling.settings import Protocol
    >>> dict(summary(Setup(Protocol.load("protocols/three-hole.yaml"))))["descriptors"]  # doctest: +SKIP
    '2 columns (coordinates)'
    """
    protocol, molecule = setup.protocol, setup.molecule
    box = "periodic" if setup.periodic else "not periodic"
    kinds = ", ".join(dict.fromkeys(kind for entry in protocol.features for kind in entry if kind != "columns"))
    rows = [
        ("system", f"{protocol.system.title}: {plural(molecule.system.getNumParticles(), 'atom')}, {box}"),
        ("platform", platform(setup)),
        ("descriptors", f"{plural(len(setup.features.names), 'column')} ({kinds})"),
    ]
    if protocol.equilibrate is not None:
        rows.append(("equilibration", _equilibration(protocol.equilibrate)))
    simulated = frames = 0.0
    for index, entry in enumerate(protocol.runs):
        restart = ""
        if isinstance(entry, RoundSettings) and 0 < index < len(protocol.all_rounds):
            restart = f", restart: {entry.restart}"
        rows.append((protocol.run_name(index), _round(setup, entry) + restart))
        if isinstance(entry, RoundSettings):
            simulated += len(entry.walkers) * entry.length
            frames += len(entry.walkers) * entry.length / protocol.frame_interval
    learning = protocol.learning
    selected = "" if learning.select is None else f", from {plural(learning.select.keep, 'column')} at most"
    rows.append(("learning", f"lag {_span(learning.lag)}, retrain: {learning.retrain}{selected}"))
    if protocol.starts is not None:
        count, temperature = protocol.starts.count, protocol.starts.temperature
        rows.append(("starts", f"{plural(count, 'structure')} at {temperature:g} K"))
    if setup.observed is not None:
        reference = ", with a reference" if setup.reference is not None else ""
        rows.append(("observed", f"{setup.observed.state}{reference}"))
    rows.append(("executor", _executor(protocol.executor)))
    rows.append(("in all", f"{_span(simulated)} of simulation, {plural(round(frames), 'frame')}"))
    wanted = missing_size(protocol, directory, molecule.system.getNumParticles(), setup.periodic)
    free = "" if directory is None else f"; {spelled(free_space(directory.path)[0])} are free"
    rows.append(("disk", f"about {spelled(wanted.size)} in {plural(wanted.files, 'file')} to write{free}"))
    return rows


def _executor(settings: ExecutorSettings) -> str:
    """Where tasks run."""
    if settings.dask is not None:
        return f"dask, {settings.dask}"
    if settings.parsl is not None:
        return f"parsl, {settings.parsl}"
    if settings.executorlib is not None:
        return f"executorlib, {settings.executorlib['backend']}"
    return "local" if settings.local is None else f"local, {plural(settings.local, 'process')}"


def _round(setup: Setup, entry: RoundSettings | ExternalRound) -> str:
    """Walkers, temperatures and bias of a round."""
    counts = Counter(entry.walkers)
    temperatures = ", ".join(f"{temperature:g} K" for temperature in sorted(counts))
    if isinstance(entry, ExternalRound):
        return f"{plural(len(entry.walkers), 'external trajectory')} at {temperatures}"
    words = f"{plural(len(entry.walkers), 'walker')} x {_span(entry.length)} at {temperatures}"
    if entry.exchange is not None:
        words += f", exchange every {_span(entry.exchange.interval)}"
    if entry.bias is None:
        return f"{words}, plain dynamics"
    hills = n_steps(entry.length, setup.protocol.integrator.timestep) // n_steps(
        entry.bias.interval, setup.protocol.integrator.timestep
    )
    noun = {"metadynamics": "hill", "opes": "kernel"}.get(entry.bias.kind)
    return f"{words}, {entry.bias.kind}" + (f", {plural(hills, noun)} each" if noun else "")


def _span(picoseconds: float) -> str:
    """A simulated time."""
    unit, size = next(((unit, size) for unit, size in (("us", 1e6), ("ns", 1e3)) if picoseconds >= size), ("ps", 1.0))
    return f"{picoseconds / size:.4g} {unit}"


def _equilibration(settings: EquilibrationSettings) -> str:
    time = settings.heating + settings.release + (1 if settings.pressure is None else 2) * settings.length
    found = "" if settings.pressure is None else f", at the mean volume at {settings.pressure:g} bar"
    return f"{_span(time)} for each temperature and conformation{found}; none of its frames counts"
