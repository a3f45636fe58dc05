"""Replica exchange: populations and acceptance against exact ones, and the same exchanges after kills."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkProcess as Process
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
import yaml
from helpers.explosive import write_explosive
from helpers.molecules import TINY_WELLS, finished_wells
from openmm import app, unit

from latf_sampling.analysis.exchange import acceptance, partners, round_trips
from latf_sampling.bias.from_settings import BiasTask, make_bias
from latf_sampling.campaign.extend import preview
from latf_sampling.campaign.repair import repair_round
from latf_sampling.core.storage import checksum
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data.exchanges import exchanges_of
from latf_sampling.data.failures import Failure
from latf_sampling.data.layout import CampaignDirectory, RoundDirectory, WalkerDirectory
from latf_sampling.data.trajectories import WalkerFrames
from latf_sampling.errors import FailureWarning, RepairWarning, SimulationError, StoreError
from latf_sampling.learning.model import LaTF
from latf_sampling.records.records import Records
from latf_sampling.settings import Protocol
from latf_sampling.simulation import runner
from latf_sampling.simulation.retirement import give_another_chance
from latf_sampling.simulation.segment import load_molecule
from latf_sampling.simulation.walker import WalkerJob, run_walker
from latf_sampling.systems.potentials import double_well
from latf_sampling.units import KB

LADDER = ["1.5 kJ/mol", "2.5 kJ/mol", "4 kJ/mol"]
KELVIN = [1.5 / KB, 2.5 / KB, 4 / KB]
WELLS = {
    **{key: value for key, value in TINY_WELLS.items() if key not in ("observe", "evaluate")},
    "system": {"name": "double-well", "platform": "Reference"},
    "integrator": {"timestep": "20 fs"},
    "frame_interval": "0.2 ps",
    "segment": "8 ps",
    "learning": {**TINY_WELLS["learning"], "lag": "0.4 ps"},
    "rounds": [{"walkers": LADDER, "length": "24 ps", "exchange": {"interval": "0.6 ps"}}],
}


def jobs(folder: Path, index: int = 0, **changes) -> list[WalkerJob]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "protocol.yaml").write_text(yaml.safe_dump({**WELLS, **changes}))
    protocol, files = Protocol.load(folder / "protocol.yaml"), RoundDirectory(folder / "rounds" / f"{index:02d}")
    return [WalkerJob(protocol, index, k, files.walker(k).path) for k in range(len(protocol.rounds[index].walkers))]


def run(walkers: list[WalkerJob], kill: dict[int, float] | None = None, all_together: bool = True) -> None:
    """Run walkers at the same time, each in a process of its own: OpenMM's Reference platform has one random stream.

    Parameters
    ----------
    kill
        Share of its segments after which a walker is killed, by its number. Then it is started again.
    all_together
        Whether the others are killed with it and started again, as where a machine ends.
    """
    context, kill = multiprocessing.get_context("fork"), dict(kill or {})

    def simulate(job: WalkerJob, end: float) -> None:
        def progress(fraction: float) -> None:
            if fraction > end:
                os.kill(os.getpid(), signal.SIGKILL)

        run_walker(job, progress)
        os._exit(0)  # without the end of pytest in this process

    def start(job: WalkerJob) -> Process:
        process = context.Process(target=simulate, args=(job, kill.pop(job.walker, 2.0)))
        process.start()
        return process

    processes = [start(job) for job in walkers]
    while any(process.exitcode != 0 for process in processes):
        time.sleep(0.005)
        dead = [k for k, process in enumerate(processes) if process.exitcode not in (None, 0)]
        if dead and all_together:
            for process in processes:
                process.kill()
                process.join()
            processes = [start(job) for job in walkers]
        else:
            for k in dead:
                processes[k] = start(walkers[k])


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Files need not survive a power cut here, which takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latf_sampling.core.storage.os.fsync", lambda handle: None)
        yield


def content(walkers: list[WalkerJob]) -> dict[str, object]:
    """Everything that walkers computed, to the last bit."""
    found: dict[str, object] = {}
    for job in walkers:
        segments = WalkerDirectory(job.directory).finished_segments()
        found[f"{job.walker}"] = [segment.content["exchanges"] for segment in segments]
        for index in range(len(segments)):
            files = WalkerDirectory(job.directory).segment(index)
            found[f"{job.walker} {files.frames.name}"] = checksum(files.frames)
            # How often the bias was changed, a parameter of the context, depends on how often it was read anew.
            found[f"{job.walker} {files.state.name}"] = re.sub("<Parameters .*?/>", "", files.state.read_text())
    return found


@pytest.fixture(scope="module")
def ladder(tmp_path_factory) -> list[WalkerJob]:
    made = jobs(tmp_path_factory.mktemp("ladder"))
    run(made)
    return made


# --------------------------------------------------------------------------------------------- pairs and probabilities


def test_pairs_of_neighbors_take_turns():
    ladder = [300.0, 400.0, 350.0, 500.0]
    assert partners(ladder, 0) == {0: 2, 2: 0, 1: 3, 3: 1}
    assert partners(ladder, 1) == {2: 1, 1: 2}
    assert partners([400.0, 300.0], 0) == partners([400.0, 300.0], 1) == {0: 1, 1: 0}
    # Two walkers on a rung below one: they take turns.
    assert [partners([300.0, 300.0, 400.0], n)[2] for n in (0, 2, 4)] == [0, 1, 0]
    assert partners([300.0, 400.0, 300.0, 400.0], 0) == {0: 1, 1: 0, 2: 3, 3: 2}
    assert partners([300.0, 300.0], 0) == {}


def test_acceptance_obeys_detailed_balance():
    """p(x, y) a(x, y) is the same after the exchange, for energies and biases at random."""
    rng = np.random.default_rng(0)
    cold, hot = 300.0, 450.0

    def log_p(energies: np.ndarray, bias: np.ndarray, x: int, y: int) -> float:
        return -(energies[x] + bias[0, x]) / (KB * cold) - (energies[y] + bias[1, y]) / (KB * hot)

    for _ in range(50):
        energies, bias = rng.normal(0, 10, 2), rng.normal(0, 5, (2, 2))  # of walker i at configuration j
        (one, other), change = energies, (bias[0, 1] - bias[0, 0], bias[1, 0] - bias[1, 1])
        there = acceptance((cold, hot), (one, other), change)
        back = acceptance((cold, hot), (other, one), (-change[0], -change[1]))
        after = log_p(energies, bias, 1, 0) + np.log(back)
        assert log_p(energies, bias, 0, 1) + np.log(there) == pytest.approx(after)


def test_round_trips_follow_configurations():
    up, down = [(0, 1), (1, 2)], [(1, 2), (0, 1)]
    assert round_trips([1.0, 2.0, 3.0], [*up, *down, *up]).tolist() == [1, 0, 0]
    assert round_trips([1.0, 2.0, 3.0], [*up, *down] * 2).sum() == 2
    assert round_trips([1.0, 2.0], [(0, 1), (0, 1)]).tolist() == [1, 1]
    assert round_trips([1.0, 2.0], []).tolist() == [0, 0]


# ------------------------------------------------------------------------------------------------------- exact answers


def test_frames_are_of_the_ensemble_of_their_walker_and_exchanges_as_frequent_as_they_should_be(tmp_path):
    """The barrier is 6.7 kT at the lowest temperature, which is not crossed without exchange in this time."""
    long = [{"walkers": LADDER, "length": "400 ps", "exchange": {"interval": "0.6 ps"}}]
    made = jobs(tmp_path, rounds=long, segment="400 ps")
    run(made)
    well, bins = double_well(), np.linspace(-2, 2, 9)
    topology = mdtraj.Topology.from_openmm(well.topology)
    walkers = [WalkerFrames.load(job.directory, topology, 0, job.walker) for job in made]
    for walker in walkers:
        centers, exact = well.cells(walker.temperature)
        x = walker.trajectory.xyz[:, 0, 0]
        found = np.histogram(x, bins)[0] / len(x)
        expected = np.histogram(centers[:, 0], bins, weights=exact)[0]
        assert found == pytest.approx(expected, abs=0.12)
        energy = well.potential(centers[:, None])
        assert walker.energies.mean() == pytest.approx(exact @ energy, abs=0.5)
    rng = np.random.default_rng(0)
    for lower, upper in ((0, 1), (1, 2)):
        attempts = [e for e in exchanges_of(WalkerDirectory(made[lower].directory).finished_segments())
                    if e.partner == upper]  # fmt: skip
        assert len(attempts) in (332, 333, 334)
        samples = [well.potential(well.exact_samples(4000, KELVIN[k], rng)[:, None]) for k in (lower, upper)]
        kelvin = KELVIN[lower], KELVIN[upper]
        exact = np.mean([acceptance(kelvin, energies) for energies in zip(*samples)])
        assert np.mean([entry.accepted for entry in attempts]) == pytest.approx(exact, abs=0.08)
        assert np.mean([entry.probability for entry in attempts]) == pytest.approx(exact, abs=0.06)


def assert_probabilities(made: list[WalkerJob], difference=lambda job, other, frame: 0.0, rel: float = 1e-9) -> int:
    """Compare probabilities with those from the energies of the frames before; returns how many were accepted."""
    topology = mdtraj.Topology.from_openmm(load_molecule(made[0]).topology)
    walkers = [WalkerFrames.load(job.directory, topology, job.round_index, job.walker) for job in made]
    attempts = [
        {entry.frame: entry for entry in exchanges_of(WalkerDirectory(job.directory).finished_segments())}
        for job in made
    ]
    accepted = 0
    for number, own in enumerate(attempts):
        for frame, entry in own.items():
            other = attempts[entry.partner][frame]
            assert (other.partner, other.accepted) == (number, entry.accepted)
            assert other.probability == pytest.approx(entry.probability)
            pair = walkers[number], walkers[entry.partner]
            expected = acceptance(
                (pair[0].temperature, pair[1].temperature),
                (pair[0].energies[frame - 1], pair[1].energies[frame - 1]),
                (difference(*pair, frame), difference(*pair[::-1], frame)),
            )
            assert entry.probability == pytest.approx(expected, rel=rel)
            accepted += entry.accepted
    for walker, own in zip(walkers, attempts):
        assert walker.breaks.tolist() == sorted(frame for frame, entry in own.items() if entry.accepted)
    return accepted


def test_probabilities_are_those_of_the_frames_and_breaks_are_where_trajectories_jump(ladder):
    assert assert_probabilities(ladder) > 10
    for job in ladder:
        assert {frame % 3 for frame in attempted(job)} == {0} and max(attempted(job)) <= 117


def attempted(job: WalkerJob) -> list[int]:
    """Frames before the exchanges of a walker."""
    return [entry.frame for entry in exchanges_of(WalkerDirectory(job.directory).finished_segments())]


def test_enthalpies_are_exchanged_at_constant_pressure(tmp_path):
    """Eight particles without forces in a box: the volume alone differs."""
    system, topology = openmm.System(), app.Topology()
    system.setDefaultPeriodicBoxVectors(*(2 * np.eye(3)))
    chain, force = topology.addChain(), openmm.CustomNonbondedForce("0")
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(0.5)
    for _ in range(8):
        system.addParticle(1.0)
        force.addParticle([])
        topology.addAtom("AR", app.element.argon, topology.addResidue("AR", chain))
    system.addForce(force)
    topology.setPeriodicBoxVectors(2 * np.eye(3) * unit.nanometer)
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    with open(tmp_path / "gas.pdb", "w") as file:
        app.PDBFile.writeFile(topology, np.random.default_rng(0).uniform(0, 2, (8, 3)) * unit.nanometer, file)
    made = jobs(
        tmp_path,
        system={
            "openmm": {"system": "system.xml", "topology": "gas.pdb"},
            "barostat": {"pressure": "30 bar", "interval": 5},
            "platform": "Reference",
        },
        rounds=[{"walkers": ["300 K", "500 K"], "length": "16 ps", "exchange": {"interval": "0.2 ps"}}],
    )
    run(made)
    assert 5 < assert_probabilities(made, rel=1e-5) < 158
    topology = mdtraj.Topology.from_openmm(topology)
    volumes = [
        WalkerFrames.load(job.directory, topology, 0, k).trajectory.unitcell_volumes for k, job in enumerate(made)
    ]
    assert volumes[0].std() > 0.1 and volumes[0].mean() < volumes[1].mean()


def test_biases_are_part_of_the_exchange(tmp_path):
    """Each walker is under the hills of its own temperature, which are rebuilt here up to the step of each exchange."""
    biased = {
        "walkers": ["1 kJ/mol", "1.6 kJ/mol"],
        "length": "16 ps",
        "bias": {"bias_factor": 6, "height": "1 kJ/mol", "interval": "0.4 ps"},
        "exchange": {"interval": "0.4 ps"},
    }
    learned = finished_wells() / "rounds" / "00" / "learning"

    def biased_jobs(folder: Path) -> list[WalkerJob]:
        content = {"system": {"name": "three-hole", "platform": "Reference"}}
        made = jobs(folder, rounds=[*WELLS["rounds"], biased], index=1, **content)
        files = RoundDirectory(made[0].directory.parent)
        return [
            dataclasses.replace(job, learning=learned, hills=files.hills_of(job.temperatures, job.walker))
            for job in made
        ]

    made = biased_jobs(tmp_path / "one")
    run(made)
    molecule = load_molecule(made[0])
    cv = LatentCV.load(learned / "cv.pt", molecule.topology)
    biases = [
        make_bias(
            job.bias,
            BiasTask(molecule.system, cv, lambda: LaTF.load(learned / "model.pt"), job.temperature, job.timestep,
                     directory=job.hills, walker=job.bias_name, read_only=True),
        )
        for job in made
    ]  # fmt: skip

    def difference(own: WalkerFrames, other: WalkerFrames, frame: int) -> float:
        x = np.array([walker.trajectory.xyz[frame - 1] for walker in (own, other)], float)
        (energies,) = biases[own.walker].past_energy(cv(x), [10 * frame])
        return float(energies[1] - energies[0])

    assert assert_probabilities(made, difference, rel=2e-3) > 3
    without = [entry.probability for entry in exchanges_of(WalkerDirectory(made[0].directory).finished_segments())]
    with pytest.raises(AssertionError):
        assert_probabilities(made, rel=2e-3)
    assert min(without) < 1
    again = biased_jobs(tmp_path / "killed")
    run(again, {0: 0.7})
    assert content(again) == content(made)
    names = [[job.hills / f"{job.bias_name}.hills" for job in walkers] for walkers in (made, again)]
    assert [np.loadtxt(path).tolist() for path in names[0]] == [np.loadtxt(path).tolist() for path in names[1]]


def test_what_walkers_told_each_other_is_removed(ladder):
    assert not list(RoundDirectory(ladder[0].directory.parent).exchange.glob("*"))


# ---------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize(
    ("kill", "all_together"), [({0: 0.5}, True), ({1: 0.35, 2: 0.7}, False), ({2: 0.98, 0: 0.2}, False)]
)
def test_a_round_that_was_killed_ends_with_the_same_bits(ladder, tmp_path, kill, all_together):
    made = jobs(tmp_path)
    run(made, kill, all_together)
    assert content(made) == content(ladder)


def test_a_longer_round_goes_on_with_its_exchanges(ladder, tmp_path):
    made = jobs(tmp_path, rounds=[{**WELLS["rounds"][0], "length": "16 ps"}])
    run(made)
    longer = [dataclasses.replace(job, protocol=ladder[0].protocol) for job in made]
    run(longer)
    assert content(longer) == content(ladder)


@pytest.mark.parametrize("kept", [0, 1])
def test_all_go_on_together_where_a_walker_lost_segments_whose_exchanges_are_gone(ladder, tmp_path, kept):
    made = jobs(tmp_path)
    shutil.copytree(ladder[0].directory.parent, made[0].directory.parent)
    for segment in range(kept, 3):
        WalkerDirectory(made[1].directory).segment(segment).marker.unlink()
    with pytest.raises(SimulationError, match="walker 0 has gone on|walker 2 has gone on"):
        run_walker(made[1])
    with pytest.warns(RepairWarning, match=f"Segments of a walker from {kept} on are missing"):
        repair_round(Records(made[0].protocol, CampaignDirectory(tmp_path)), 0)
    assert [len(WalkerDirectory(job.directory).markers()) for job in made] == [kept] * 3
    run(made)
    assert content(made) == content(ladder)


def test_no_walker_joins_those_that_have_exchanged(ladder, tmp_path):
    files, rounds = CampaignDirectory(tmp_path / "run"), WELLS["rounds"][0]
    with files.acquire(jobs(tmp_path / "given")[0].protocol):
        shutil.copytree(ladder[0].directory.parent, files.round(0).path)
    assert preview(files, jobs(tmp_path / "longer", rounds=[{**rounds, "length": "32 ps"}])[0].protocol)
    for walkers in ([*LADDER, "5 kJ/mol"], [*LADDER[:2], "5 kJ/mol"]):
        other = jobs(tmp_path / "other", rounds=[{**rounds, "walkers": walkers}])[0].protocol
        with pytest.raises(StoreError, match=r"rounds\[0\]\.walkers: its 3 walkers have exchanged configurations"):
            preview(files, other)


def test_a_walker_that_explodes_repeats_its_exchanges_and_is_retired_while_the_others_go_on(tmp_path):
    """The hottest of three walkers explodes in its first segment, and then three times in all."""

    def explosive(folder: Path) -> list[WalkerJob]:
        rounds = [{"walkers": ["300 K", "600 K", "1000 K"], "length": "40 ps", "exchange": {"interval": "1 ps"}}]
        protocol = Protocol.load(write_explosive(folder, cliff=1.7, seed=1, rounds=rounds))
        return [WalkerJob(protocol, 0, k, RoundDirectory(folder / "rounds" / "00").walker(k).path) for k in range(3)]

    made = explosive(tmp_path / "one")
    run(made)
    failures = [WalkerDirectory(job.directory).failures() for job in made]
    assert [(entry.segment, entry.attempt) for entry in failures[2].failures] == [(0, 0), (1, 0), (1, 1)]
    assert failures[2].retired is not None and not failures[0].failures and not failures[1].failures
    assert [len(WalkerDirectory(job.directory).markers()) for job in made] == [4, 4, 1]
    entries = [exchanges_of(WalkerDirectory(job.directory).finished_segments()) for job in made]
    # What the others went on with remained true in the segment that was repeated.
    again = {entry.frame: entry for entry in entries[1] if entry.partner == 2}
    assert entries[2] and all(
        (entry.accepted, entry.probability)
        == (again[entry.frame].accepted, pytest.approx(again[entry.frame].probability))
        for entry in entries[2]
    )
    # Nobody exchanges with the walker after it was retired, in its second segment, and the others do with each other.
    assert max(again) < 100 < max(entry.frame for entry in entries[1])
    killed = explosive(tmp_path / "other")
    run(killed, {0: 0.6}, all_together=False)
    assert content(killed) == content(made)


def test_nobody_exchanges_with_a_walker_that_has_ended(tmp_path):
    """Walker 1 is retired after one of three segments, since its processes were lost."""
    made = jobs(tmp_path, rounds=[{**WELLS["rounds"][0], "length": "8 ps"}])
    run(made)
    failure = Failure("process", 1, 0, 1000, "its process ended by SIGKILL", 0.02, ["segment"])
    WalkerDirectory(made[1].directory).failures().add(failure, retired="its process ended by SIGKILL").write()
    longer = [dataclasses.replace(job, protocol=jobs(tmp_path / "longer")[0].protocol) for job in made]
    run(longer)
    for walker in (0, 2):
        directory = WalkerDirectory(made[walker].directory)
        assert max(attempted(made[walker])) < 40 and directory.is_finished(3)
    assert len(WalkerDirectory(made[1].directory).markers()) == 1
    give_another_chance(longer)  # it finds that nobody waited for it
    run(longer)
    assert len(WalkerDirectory(made[1].directory).markers()) == 3
    assert max(attempted(made[1])) < 40


def test_an_executor_with_too_few_workers_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ALL_BEGIN", 0.0)
    walkers, calls = jobs(tmp_path), []

    def progress(fraction: float, words: str) -> None:
        calls.append(words)
        if len(calls) > 1:  # or they would wait for good
            raise KeyboardInterrupt

    words = r"\d of 3 walkers run.* give the executor 3 workers"
    with (
        ThreadPoolExecutor(2) as executor,
        pytest.warns(FailureWarning, match=words),
        pytest.raises(KeyboardInterrupt),
    ):
        runner.run_walkers(walkers, progress, executor)


def test_too_few_workers_are_told_of_again_once_a_walker_is_lost(tmp_path):
    """It waits for a worker while the others wait for it."""
    made = jobs(tmp_path)
    walkers = runner._Round(made, lambda fraction, words: None)
    for _ in range(2):
        walkers.submitted(0, (made[0], None))
        assert math.isfinite(walkers.waits_until)
        walkers.waits_until = math.inf
