"""Replica exchange: populations and acceptance against exact ones, and the same exchanges after kills."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from multiprocessing.context import ForkProcess as Process
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import yaml
from helpers.molecules import TINY_WELLS

from latf_sampling.analysis.exchange import acceptance, partners, round_trips
from latf_sampling.core.storage import checksum
from latf_sampling.data.exchanges import exchanges_of
from latf_sampling.data.failures import Failure
from latf_sampling.data.layout import RoundDirectory, WalkerDirectory
from latf_sampling.data.trajectories import WalkerFrames
from latf_sampling.settings import Protocol
from latf_sampling.simulation.retirement import give_another_chance
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
    "segment": "20 ps",
    "learning": {**TINY_WELLS["learning"], "lag": "0.4 ps"},
    "rounds": [{"walkers": LADDER, "length": "60 ps", "exchange": {"interval": "0.6 ps"}}],
}


def jobs(folder: Path, **changes) -> list[WalkerJob]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "protocol.yaml").write_text(yaml.safe_dump({**WELLS, **changes}))
    protocol, files = Protocol.load(folder / "protocol.yaml"), RoundDirectory(folder / "rounds" / "00")
    return [WalkerJob(protocol, 0, k, files.walker(k).path) for k in range(len(protocol.rounds[0].walkers))]


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
            found |= {f"{job.walker} {path.name}": checksum(path) for path in (files.frames, files.state)}
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
    long = [{"walkers": LADDER, "length": "600 ps", "exchange": {"interval": "0.6 ps"}}]
    made = jobs(tmp_path, rounds=long, segment="600 ps")
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
        assert len(attempts) in (499, 500)
        samples = [well.potential(well.exact_samples(4000, KELVIN[k], rng)[:, None]) for k in (lower, upper)]
        kelvin = KELVIN[lower], KELVIN[upper]
        exact = np.mean([acceptance(kelvin, energies) for energies in zip(*samples)])
        assert np.mean([entry.accepted for entry in attempts]) == pytest.approx(exact, abs=0.08)
        assert np.mean([entry.probability for entry in attempts]) == pytest.approx(exact, abs=0.06)


def test_both_walkers_tell_the_same_and_breaks_are_where_the_trajectory_jumps(ladder):
    attempts = [
        {entry.frame: entry for entry in exchanges_of(WalkerDirectory(job.directory).finished_segments())}
        for job in ladder
    ]
    seen = 0
    for walker, own in enumerate(attempts):
        assert set(own) <= set(range(3, 300, 3))
        for frame, entry in own.items():
            other = attempts[entry.partner][frame]
            assert (other.partner, other.accepted) == (walker, entry.accepted)
            assert other.probability == pytest.approx(entry.probability)
            seen += entry.accepted
    assert seen > 20
    topology = mdtraj.Topology.from_openmm(double_well().topology)
    for job, own in zip(ladder, attempts):
        breaks = WalkerFrames.load(job.directory, topology, 0, job.walker).breaks.tolist()
        assert breaks == sorted(frame for frame, entry in own.items() if entry.accepted)


def test_what_walkers_told_each_other_is_removed(ladder):
    assert not list(RoundDirectory(ladder[0].directory.parent).exchange.glob("*"))


# ---------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("kill", [{0: 0.5}, {1: 0.35, 2: 0.7}, {2: 0.98}])
@pytest.mark.parametrize("all_together", [True, False])
def test_a_round_that_was_killed_ends_with_the_same_bits(ladder, tmp_path, kill, all_together):
    made = jobs(tmp_path)
    run(made, kill, all_together)
    assert content(made) == content(ladder)


def test_a_longer_round_goes_on_with_its_exchanges(ladder, tmp_path):
    made = jobs(tmp_path, rounds=[{**WELLS["rounds"][0], "length": "40 ps"}])
    run(made)
    longer = [dataclasses.replace(job, protocol=ladder[0].protocol) for job in made]
    run(longer)
    assert content(longer) == content(ladder)


def test_nobody_exchanges_with_a_walker_that_has_ended(tmp_path):
    """Walker 1 is retired after one of three segments, since its processes were lost."""
    made = jobs(tmp_path, rounds=[{**WELLS["rounds"][0], "length": "20 ps"}])
    run(made)
    failure = Failure("process", 1, 0, 1000, "its process ended by SIGKILL", 0.02, ["segment"])
    WalkerDirectory(made[1].directory).failures().add(failure, retired="its process ended by SIGKILL").write()
    longer = [dataclasses.replace(job, protocol=jobs(tmp_path / "longer")[0].protocol) for job in made]
    run(longer)
    for walker in (0, 2):
        directory = WalkerDirectory(made[walker].directory)
        frames = [entry.frame for entry in exchanges_of(directory.finished_segments())]
        assert frames and max(frames) < 100 and directory.is_finished(3)
    assert len(WalkerDirectory(made[1].directory).markers()) == 1
    give_another_chance(longer)  # it finds that nobody waited for it
    run(longer)
    assert len(WalkerDirectory(made[1].directory).markers()) == 3
    last = exchanges_of(WalkerDirectory(made[1].directory).finished_segments())
    assert max(entry.frame for entry in last) < 100
