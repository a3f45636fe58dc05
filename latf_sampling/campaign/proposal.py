"""A protocol for a molecule that nobody has simulated here before: each value by a rule, which stands beside it.

The rules are those of docs/howto/choices.md. They are a beginning: a protocol that runs, and whose first round tells
more about the molecule than its files do.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latf_sampling import __version__
from latf_sampling.campaign.check import check
from latf_sampling.campaign.proposed_features import named_atoms, proposed_features, specification, those_that_exist
from latf_sampling.campaign.proposed_system import ProposedSystem, propose_system
from latf_sampling.campaign.proposed_yaml import Key, comment
from latf_sampling.campaign.speed import SECONDS, Speed, measure_speed
from latf_sampling.core import storage
from latf_sampling.errors import SettingsError, StoreError
from latf_sampling.features import Features, as_mdtraj
from latf_sampling.records.setup import Setup
from latf_sampling.settings import Protocol
from latf_sampling.simulation.explosion import usual_timestep

COLUMNS, KEPT = 500, 100
"""From so many columns on, those that are used are selected, and so many are kept."""
TEMPERATURE = 300
"""K."""
EXPANDED, COMPACT = 1.2, 0.8
"""Radii of gyration so many times that of the file count as expanded, and up to which as compact."""
SPACING = {"CA": 0.38, "C1'": 0.6}
"""Distance between such atoms of neighbors in a stretched chain, nm."""
LONG = 7 * 86400.0
"""s; a campaign that takes longer is said to be long."""


@dataclass(frozen=True)
class Scale:
    """Times for a molecule of up to a number of amino acids or nucleotides.

    Attributes
    ----------
    units : float
    motion : str
        Which motions within a state the lag has to outlast.
    frame_interval, lag, segment, length, hills : str
        Values of the protocol.
    """

    units: float
    motion: str
    frame_interval: str
    lag: str
    segment: str
    length: str
    hills: str


SCALES = (
    Scale(3, "torsions of a small molecule relax within a few ps", "0.5 ps", "5 ps", "500 ps", "5 ns", "1 ps"),
    Scale(8, "a few residues relax within some 10 ps", "2 ps", "10 ps", "500 ps", "20 ns", "1 ps"),
    Scale(20, "loops of a short chain relax within some 100 ps", "10 ps", "100 ps", "1 ns", "50 ns", "2 ps"),
    Scale(np.inf, "loops of a long chain relax within some 100 ps", "20 ps", "500 ps", "2 ns", "100 ns", "5 ps"),
)


@dataclass(frozen=True)
class Proposal:
    """A protocol that was written for a molecule.

    Attributes
    ----------
    path : pathlib.Path
    setup : Setup
        The protocol, which has passed `check`.
    contents : str
        What the molecule consists of.
    speed : Speed or None
        `None` where it was not measured.
    """

    path: Path
    setup: Setup
    contents: str
    speed: Speed | None

    @property
    def advice(self) -> str | None:
        """What to do about a campaign that takes long."""
        if self.speed is None or self.speed.seconds(self.setup.protocol) < LONG:
            return None
        return (
            "That is long: run it on a GPU, or make each 'length' shorter, and 'learning.lag' with it, which has to "
            "stay below a quarter of the shortest length."
        )


def propose(
    files: Sequence[str | Path],
    output: str | Path,
    force: bool = False,
    seconds: float = SECONDS,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Proposal:
    """Write a commented protocol for a molecule, which passes `check`.

    Where the molecule of a structure file is refused, the protocol is written all the same, with what was refused on
    top, for its section `system` to be edited.

    Parameters
    ----------
    files
        The molecule, as `propose_system` takes it.
    output
        The protocol to write.
    force
        Whether a file that exists is replaced.
    seconds
        s of dynamics by which the time on this machine is estimated; 0 estimates none.
    progress
        Called with the fraction done and a few words.

    Raises
    ------
    StoreError
        The protocol exists, or cannot be written.
    SettingsError
        The molecule cannot be simulated; the sentence is that of `latf check`, and names the protocol to be edited.

    Examples
    --------
    >>> proposal = propose(["protein.pdb"], "protocol.yaml")  # doctest: +SKIP
    >>> proposal.setup.protocol.learning.lag  # doctest: +SKIP
    100.0
    """
    path, files = Path(output), [Path(file) for file in files]
    if path.exists() and not force:
        raise StoreError(f"{path}: exists already; give --force to replace it, or another name with -o.")
    if path.resolve() in [file.resolve() for file in files]:
        raise StoreError(f"{path}: is a file of the molecule; give another name with -o.")
    progress(0.0, "reads and builds the molecule")
    system = propose_system(files, path.absolute().parent)
    try:
        keys = _protocol(system, path)
    except SettingsError as error:
        raise (system.refusal or error) from None
    if system.refusal is not None:
        storage.write_text(path, _text(keys, _header(system, path)))
        raise SettingsError(
            f"{str(system.refusal).rstrip('.')}. {path}: written all the same; edit its section 'system', then latf "
            f"check {shlex.quote(str(path))}."
        ) from system.refusal
    with storage.atomic_write(path) as temporary:
        temporary.write_text(_text(keys, _header(system, path)), encoding="utf-8")
        setup = Setup(Protocol.load(temporary))
        vars(setup)["molecule"] = system.molecule  # which takes minutes to build where it is large
        progress(0.3, "checks the protocol")
        check(setup)
        speed = None
        if seconds > 0:
            progress(0.5, f"simulates for {seconds:g} s, to see how long the campaign will take")
            speed = measure_speed(setup, seconds)
        temporary.write_text(_text(keys, _header(system, path, setup, speed)), encoding="utf-8")
    progress(1.0, str(system.contents))
    return Proposal(path, setup, str(system.contents), speed)


def _text(keys: Sequence[Key], header: Sequence[str]) -> str:
    lines = [line for paragraph in header for line in comment(paragraph)]
    for key in keys:
        lines += [*([""] if key.inner else []), *key.lines()]
    return "\n".join(lines) + "\n"


def _header(system: ProposedSystem, path: Path, setup: Setup | None = None, speed: Speed | None = None) -> list[str]:
    name = shlex.quote(path.name)
    if system.refusal is not None:
        return [
            f"By latf init {__version__} for {' '.join(system.title.split())}: {system.contents}. It is unfinished.",
            f"REFUSED: {' '.join(str(system.refusal).split())}",
            f"Edit the section 'system' until latf check {name} accepts it, and add descriptors of ligands, which are "
            "not known yet. Every other value is a rule's, and every rule stands beside its value.",
        ]
    paragraphs = [
        f"A proposal by latf init {__version__} for {' '.join(system.title.split())}: {system.contents}. Every value "
        "is a rule's, and every rule stands beside its value: read them, and change what you know better.",
        f"latf check {name}; then latf run {name} --smoke; then latf run {name} -o runs/{shlex.quote(path.stem)}",
    ]
    if setup is not None and speed is not None:
        paragraphs.append(f"Time: {speed.words(setup.protocol)}.")
    return paragraphs


# ------------------------------------------------------------------------------------------------------------ rules


def _protocol(system: ProposedSystem, path: Path) -> list[Key]:
    contents = system.contents
    scale = next(scale for scale in SCALES if contents.units <= scale.units)
    features, columns = proposed_features(system)
    hot, why_hot = _hot(system, scale)
    keys = [
        Key("name", Path(system.title).stem or path.stem),
        Key("seed", 1, "the same seed gives the same run"),
        Key("system", inner=system.keys),
        Key(
            "integrator", inner=[_timestep(system), Key("friction", "1 / ps", "keeps the temperature, hinders little")]
        ),
    ]
    if system.periodic:
        why = "heats and relaxes the new box" if system.added_water else "relaxes the box at each temperature"
        keys.append(Key("equilibrate", True, f"{why} before the first round; none of it counts"))
    keys += [
        Key("frame_interval", scale.frame_interval, "a tenth of the lag or less, so that the lag can be changed later"),
        Key("segment", scale.segment, "what an interruption costs at most"),
        Key(
            "features",
            why="what the collective variable may depend on; docs/descriptors.md has all kinds",
            inner=features,
        ),
        _learning(scale, columns),
        Key(
            "rounds",
            inner=[
                Key("- walkers", [f"{TEMPERATURE} K"] * 2 + [f"{hot} K"] * 2, f"plain dynamics; {why_hot}"),
                Key("  length", scale.length, "long enough that the hot walkers cross some times"),
                Key("- walkers", [f"{TEMPERATURE} K"] * 2, "biased along what was learned; both fill one bias"),
                Key("  length", scale.length, "make it longer until walkers went to and fro ten times"),
                Key(
                    "  bias",
                    {"kind": "metadynamics", "bias_factor": 10, "height": "1 kJ/mol", "interval": scale.hills},
                    "a factor of 10 is for barriers up to 40 kJ/mol; the height is less than half a kT",
                ),
            ],
        ),
        Key(
            "starts",
            {"temperature": f"{(TEMPERATURE + hot) // 2} K", "count": 16},
            "structures at a temperature that nothing was simulated at",
        ),
    ]
    observed = observed_key(system)
    return keys if observed is None else [*keys, observed]


def _timestep(system: ProposedSystem) -> Key:
    if system.refusal is not None:
        return Key("timestep", "4 fs", "the longest that is usual with constraints and heavy hydrogens")
    usual = usual_timestep(system.molecule.system, system.molecule.topology)
    if usual is None:
        return Key("timestep", "2 fs", "there are no hydrogens; try more")
    return Key("timestep", f"{usual[0]:g} fs", f"the longest that is usual with {usual[1]}")


def _learning(scale: Scale, columns: int) -> Key:
    inner = [Key("lag", scale.lag, f"{scale.motion}; latf lags compares several after the first round")]
    if columns > COLUMNS:
        why = f"of {columns:,} columns those that are slow and not alike"
        inner.append(Key("select", {"keep": KEPT, "correlation": 0.95}, why))
    return Key("learning", inner=inner)


def _hot(system: ProposedSystem, scale: Scale) -> tuple[int, str]:
    """The temperature at which walkers shall cross, K, and why it is this one."""
    if system.periodic:
        return 370, "the hot walkers cross, the cold ones count; water at 1 bar boils not far above 370 K"
    if scale is SCALES[0]:
        return 600, "the hot walkers cross, the cold ones count; a small molecule stands 600 K"
    return 450, "the hot walkers cross, the cold ones count; at 450 K a chain in implicit solvent unfolds and folds"


def observed_key(system: ProposedSystem) -> Key | None:
    """The free-energy difference of the report."""
    contents = system.contents
    why = "the free-energy difference of the report: name the event that you care about"
    if 0 < contents.units <= SCALES[0].units:
        for key in those_that_exist(system, [Key("- torsions", "phi")]):
            names = Features(system.molecule.topology, specification([key]), periodic=system.periodic).names
            return Key("observe", {"torsion": names[0].removeprefix("sin "), "above": "0 degree"}, why)
    if contents.units <= SCALES[0].units:
        return None
    name, residues = ("CA", contents.amino_acids) if contents.amino_acids else ("C1'", contents.nucleotides)
    selection = named_atoms(system, name, residues, residues)
    gyration = Features(system.molecule.topology, [{"gyration": selection}], periodic=system.periodic)
    radius = float(np.asarray(gyration(system.molecule.positions, _box(system)))[0])
    count = len(as_mdtraj(system.molecule.topology).select(selection))
    straight = SPACING[name] * np.sqrt((count**2 - 1) / 12)  # nothing is longer than the chain in a straight line
    times, what = (EXPANDED, "expansion") if EXPANDED * radius < COMPACT * straight else (COMPACT, "compaction")
    value = {"descriptor": {"gyration": selection}, "above": f"{times * radius:.2g} nm"}
    return Key("observe", value, f"{why}; here, {what} to {times} times the radius in the file")


def _box(system: ProposedSystem) -> np.ndarray | None:
    vectors = system.molecule.system.getDefaultPeriodicBoxVectors()
    return np.array([vector._value for vector in vectors]) if system.periodic else None
