"""Walkers that explode, really: rolled back, with half the time step, retired, and the same after an interruption."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openmm
import pytest
from helpers.explosive import UNSTABLE, write_explosive
from helpers.molecules import random_model
from openmm.app import PDBFile

from latf_sampling.bias.history import History, Reader
from latf_sampling.core import streams
from latf_sampling.core.storage import checksum
from latf_sampling.core.tasks import MAX_LOST, WorkerDied
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data.failures import Failure, WalkerFailures
from latf_sampling.data.layout import LearningDirectory, WalkerDirectory
from latf_sampling.errors import FailureWarning, SimulationError, StoreError
from latf_sampling.features import Features
from latf_sampling.settings import IntegratorSettings, Protocol
from latf_sampling.simulation.dynamics import divided_integrator, integrator
from latf_sampling.simulation.explosion import KineticLimit
from latf_sampling.simulation.retirement import refuse_too_many, retire_lost
from latf_sampling.simulation.runner import run_walkers
from latf_sampling.simulation.walker import WalkerJob, run_walker
from latf_sampling.units import KB

RARE = {"cliff": 1.5, "seed": 5}
"""A place that the particle reaches rarely, and a seed with which it does so once in its four segments, the second."""


def job(folder: Path, walker: int = 0, **changes) -> WalkerJob:
    protocol = Protocol.load(write_explosive(folder / "given", **changes))
    return WalkerJob(protocol, 0, walker, folder / f"walker-{walker:02d}")


def directory(made: WalkerJob) -> WalkerDirectory:
    return WalkerDirectory(made.directory)


def content(made: WalkerJob) -> dict[str, str]:
    """Everything that a walker wrote, to the last bit, but when it did."""
    files = sorted(made.directory.iterdir())
    return {file.name: checksum(file) for file in files if file.suffix in (".npz", ".xml") or "failures" in file.name}


class Interrupted(BaseException):
    pass


@pytest.fixture(scope="module")
def recovered(tmp_path_factory) -> WalkerJob:
    made = job(tmp_path_factory.mktemp("recovered"), **RARE)
    run_walker(made)
    return made


@pytest.fixture(scope="module")
def retired(tmp_path_factory) -> WalkerJob:
    made = job(tmp_path_factory.mktemp("retired"), stiffness=UNSTABLE)
    run_walker(made)
    return made


def test_an_explosion_is_rolled_back_with_another_random_stream(recovered, tmp_path):
    failures = directory(recovered).failures()
    (failure,) = failures.failures
    assert (failure.cause, failure.segment, failure.attempt) == ("explosion", 1, 0) and 500 < failure.step <= 1000
    assert list(failure.stream) == ["segment", 0, 0, 1] and failure.timestep == 0.02
    assert "the simulation exploded near step" in failure.reason and failures.retired is None
    assert failures.summary == "rolled back in segment 1"
    manifests = directory(recovered).finished_segments()
    assert [manifest.content.get("attempt") for manifest in manifests] == [None, 1, None, None]
    assert [manifest.content["step"] for manifest in manifests] == [500, 1000, 1500, 2000]
    # The first segment is that of a walker that does not explode, and the second one is not.
    calm = job(tmp_path, **{**RARE, "cliff": 9.0})
    run_walker(calm)
    assert not directory(calm).failures_file.exists()
    one, other = (
        [np.load(directory(made).segment(k).frames)["energy"][:10] for k in (0, 1)] for made in (recovered, calm)
    )
    assert np.allclose(one[0], other[0], atol=0.05)
    assert not np.allclose(one[1], other[1], atol=0.5)


def test_the_third_attempt_has_half_the_time_step_for_one_segment_and_the_third_explosion_retires(retired):
    failures = directory(retired).failures()
    assert [(entry.segment, entry.attempt, entry.timestep) for entry in failures.failures] == [
        (0, 0, 0.02), (0, 1, 0.02), (1, 0, 0.02)
    ]  # fmt: skip
    assert len({tuple(entry.stream) for entry in failures.failures}) == 3
    (kept,) = directory(retired).finished_segments()  # which counts
    assert (kept.content["step"], kept.content["frames"], kept.content["timestep"]) == (500, 50, 0.01)
    assert failures.retired is not None and failures.retired.startswith(
        "exploded 3 times, the last time in segment 1: "
    )
    assert directory(retired).is_finished(retired.segments)
    diagnosis = failures.failures[-1].diagnosis
    assert failures.failures[0].diagnosis is None and diagnosis is not None
    assert diagnosis.force == "CustomExternalForce" and diagnosis.bias is None
    assert isinstance(diagnosis.energy, float) and diagnosis.energy > 100 > abs(float(diagnosis.energy_before))
    ((name, size),) = diagnosis.atoms
    assert name == "AR 1 AR (atom 0)" and size > 1000


def test_a_force_that_is_no_number_is_named(tmp_path):
    made = job(tmp_path, cliff=1.3, rounds=[{"walkers": ["3000 K"], "length": "40 ps"}])
    run_walker(made)
    with pytest.raises(SimulationError) as raised:
        refuse_too_many([made])
    assert "Cliff has nan kJ/mol" in str(raised.value) and "AR 1 AR (atom 0): nan kJ/mol/nm" in str(raised.value)
    assert not directory(made).markers()


ROOT = """
import torch
class Root(torch.nn.Module):
    def __init__(self, topology):
        super().__init__()
        self.atoms, self.names, self.units = [0], ["root"], [""]
    def forward(self, positions, box: torch.Tensor | None = None):
        return torch.sqrt(1.5 - positions[..., 0, :1])
"""


def test_a_descriptor_that_has_no_value_is_named(tmp_path):
    """Positions and forces are finite where a variable is not: not the time step is at fault."""
    (tmp_path / "root.py").write_text(ROOT)
    bias = {"kind": "metadynamics", "bias_factor": 5, "height": "1 kJ/mol", "interval": "0.2 ps"}
    rounds = [{"walkers": ["300 K"], "length": "10 ps"}, {"walkers": ["3000 K"], "length": "40 ps", "bias": bias}]
    made = dataclasses.replace(job(tmp_path, rounds=rounds), round_index=1, learning=tmp_path, hills=tmp_path / "hills")
    topology = PDBFile(str(tmp_path / "given" / "particle.pdb")).topology
    features = Features(topology, [{"custom": {"file": str(tmp_path / "root.py"), "class": "Root"}}])
    cv = LatentCV.from_model(random_model(features, np.linspace(0, 1.6, 50, dtype=np.float32)[:, None], 1), features)
    assert cv.undefined(np.zeros((1, 3))) == [] and cv.undefined(np.full((1, 3), 2.0)) == ["root"]
    cv.save(LearningDirectory(tmp_path).cv)
    run_walker(made)
    with pytest.raises(SimulationError, match="the bias is nan kJ/mol, since 'root' has no finite value there"):
        refuse_too_many([made])


@pytest.mark.parametrize("name", ["recovered", "retired"])
@pytest.mark.parametrize("moment", ["frame", "rolled back", "recorded"])
def test_going_on_after_an_interruption_at_any_moment_changes_no_bit(name, moment, request, tmp_path, monkeypatch):
    made = request.getfixturevalue(name)
    again = job(tmp_path, **(RARE if name == "recovered" else {"stiffness": UNSTABLE}))
    write, calls = WalkerFailures.write, []

    def interrupt(failures: WalkerFailures) -> None:
        calls.append(moment)
        if moment == "recorded":
            write(failures)
        if len(calls) % 2 or moment == "recorded":
            raise Interrupted
        write(failures)

    def progress(fraction: float) -> None:
        if moment == "frame" and not calls and fraction > 0.3:
            calls.append(moment)
            raise Interrupted

    if moment != "frame":
        monkeypatch.setattr(WalkerFailures, "write", interrupt)
    interruptions = 0
    while not directory(again).is_finished(again.segments):
        try:
            run_walker(again, progress)
        except Interrupted:
            interruptions += 1
    assert interruptions == {"recovered": 1, "retired": 3}[name] or moment == "frame"
    assert content(again) == content(made)


def test_lost_segments_of_a_retired_walker_are_made_again(retired, tmp_path):
    again = job(tmp_path, stiffness=UNSTABLE)
    run_walker(again)
    directory(again).segment(0).marker.unlink()
    assert not directory(again).is_finished(again.segments)
    run_walker(again)
    assert content(again) == content(retired)


def test_more_than_half_retired_is_one_diagnosis(tmp_path):
    jobs = [job(tmp_path, walker, rounds=[{"walkers": ["300 K"] * 4, "length": "40 ps"}]) for walker in range(4)]
    for made in jobs[:2]:
        retire_lost(made, "its process ended by SIGKILL 3 times")
    refuse_too_many(jobs)  # half of them may be
    explosion = Failure("explosion", 0, 2, 30, "the simulation exploded near step 30 (x); y", 0.01, ["segment"])
    directory(jobs[2]).failures().add(explosion, "exploded 3 times: z").write()
    with pytest.raises(SimulationError) as raised:
        refuse_too_many(jobs)
    assert str(raised.value) == (
        "round 0: 3 walkers of 4 had to be retired, and the campaign stops; round 0, walker 2 exploded 3 times: z. "
        "Finished segments are kept; change its cause in the protocol, and begin the campaign in another directory."
    )


def test_processes_of_walkers_that_are_killed_are_started_again(tmp_path):
    """Two real processes, one killed; a walker at 3000 K falls off the cliff and is retired. The bits do not differ."""
    rounds = [{"walkers": ["300 K", "3000 K"], "length": "40 ps"}]
    here, there = ([job(tmp_path / name, k, **RARE, rounds=rounds) for k in range(2)] for name in ("here", "there"))
    for made in there:
        run_walker(made)

    others = set(multiprocessing.active_children())  # of earlier tests

    def kill() -> None:
        while not (children := set(multiprocessing.active_children()) - others):
            time.sleep(0.01)
        time.sleep(0.2)  # it has its task by now, and still imports OpenMM; without a task nothing would be lost
        os.kill(children.pop().pid, signal.SIGKILL)

    killer, words = threading.Thread(target=kill), []
    killer.start()
    with pytest.warns(FailureWarning) as warned:
        run_walkers(here, lambda fraction, text: words.append(text), processes=2)
    killer.join()
    assert [content(made) for made in here] == [content(made) for made in there]
    assert directory(here[0]).failures().retired is None
    said = sorted(str(entry.message) for entry in warned)
    killed = [text for text in said if "its process ended" in text]  # of whichever walker began first
    assert len(killed) == 1 and re.fullmatch(
        r"round 0, walker [01]: its process ended by SIGKILL in segment 0; it is started again, attempt 2 of 10\.",
        killed[0],
    )
    said.remove(killed[0])
    assert [text.partition(": ")[2].partition(" (")[0].partition(" near")[0] for text in said] == [
        "segment 1 was rolled back: the simulation exploded",
        "exploded 3 times, the last time in segment 0: the simulation exploded",
        *["segment 0 was rolled back: the simulation exploded"] * 2,
    ]
    assert said[1].startswith("round 0, walker 1 is retired: ")
    assert words[-1] == "2 of 2 walkers finished"
    run_walkers(here, lambda fraction, text: None)  # no process is begun for what is finished


@pytest.mark.parametrize("hills", [False, True])
def test_a_walker_whose_process_is_lost_again_and_again_is_retired(tmp_path, monkeypatch, hills):
    """Without processes: what is done about workers that die, and that another run tries again."""
    rounds = [{"walkers": ["300 K"] * 3, "length": "20 ps"}]
    jobs = [job(tmp_path, k, rounds=rounds, stalled_after="30 min") for k in range(3)]
    if hills:
        jobs = [dataclasses.replace(made, hills=tmp_path / "hills") for made in jobs]
        history = History(tmp_path / "hills" / "walker-01.hills", ["step", "u0"], {})
        neighbor = Reader(tmp_path / "hills" / "walker-01.hills", ["step", "u0"], {})
    again = []

    def tasks_of_which_one_dies(make_worker, setup, tasks, executor, *, begin_again, pulse, patience, submitted, **_):
        assert patience == 1800
        for number, task in tasks:
            made, lease = submitted(number, task)
            assert pulse(number) is None and lease.is_valid()
            if number != 1 or again[-1:] == [False]:
                run_walker(made, lambda fraction: None)
                yield number, None
                continue
            if hills:
                history.add([10, 1.5])
                history.write()
                assert len(neighbor.read_new()) == 1
                history.close()
            again.extend(begin_again(number, "SIGKILL", death) for death in range(1, MAX_LOST + 1))
            yield number, WorkerDied("SIGKILL")

    monkeypatch.setattr("latf_sampling.simulation.leased_jobs.run_tasks", tasks_of_which_one_dies)
    with pytest.warns(
        FailureWarning, match="walker 1 is retired: its process ended by SIGKILL 10 times in segment 0. The"
    ):
        run_walkers(jobs, lambda fraction, text: None)
    assert again == [True] * (MAX_LOST - 1) + [False]
    (failure,) = directory(jobs[1]).failures().failures
    assert (failure.cause, failure.segment, failure.step) == ("process", 0, 0)
    if hills:
        generation = neighbor.generation
        assert len(neighbor.read_new()) == 0 and neighbor.generation == generation + 1  # its hills are taken back
    run_walkers(jobs, lambda fraction, text: None)  # what killed it may be gone
    assert not directory(jobs[1]).failures_file.exists() and len(directory(jobs[1]).markers()) == 2


class Lossy(Executor):
    """An executor that forgets its first task, runs the others, and never says what became of any."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(self, fn, /, *args, **kwargs) -> Future:
        self.submitted += 1
        if self.submitted > 1:
            fn(*args, **kwargs)
        return Future()


def test_walkers_that_an_executor_lost_or_does_not_tell_of(tmp_path, monkeypatch):
    """The first is submitted again, with a lease of its own; of both it is seen in their files that they are done."""
    monkeypatch.setattr("latf_sampling.core.tasks.SILENCE", 0.6)
    rounds, executor = [{"walkers": ["300 K"] * 2, "length": "20 ps"}], Lossy()
    jobs = [job(tmp_path, k, rounds=rounds, stalled_after="1 s") for k in range(2)]
    with pytest.warns(FailureWarning, match="round 0, walker 0: no worker has begun it for 1 s"):
        run_walkers(jobs, lambda fraction, text: None, executor)
    assert executor.submitted == 3 and all(directory(made).is_finished(made.segments) for made in jobs)
    assert not directory(jobs[0]).failures_file.exists() and not (tmp_path / "running").exists()


def test_a_changed_record_is_refused(tmp_path):
    made = job(tmp_path)
    retire_lost(made, "its process ended by SIGKILL 3 times")
    file = directory(made).failures_file
    file.write_text(json.dumps({**json.loads(file.read_text()), "retired": None}))
    with pytest.raises(StoreError, match=r"failures\.json: was changed"):
        run_walker(made)


def test_divided_steps_are_the_same_dynamics():
    """Without friction, twice as many steps of half the length end where they should, and count as half as many."""
    system = openmm.System()
    system.addParticle(2.0)
    spring = openmm.CustomExternalForce("50*(x^2+y^2+z^2)")
    spring.addParticle(0, [])
    system.addForce(spring)
    settings = IntegratorSettings(timestep=0.005, friction=1e-6)
    ends = []
    for dynamics in (integrator(settings, 300.0, 1), divided_integrator(0.01, 2, 1e-6, 300.0, 1)):
        context = openmm.Context(system, dynamics, openmm.Platform.getPlatformByName("Reference"))
        context.setPositions([[0.1, 0.2, 0.3]])
        context.setVelocities([[0.0, 1.0, 0.0]])
        dynamics.step(round(1.0 / dynamics.getStepSize()._value))
        ends.append(context.getState(getPositions=True).getPositions(asNumpy=True)._value)
    assert np.abs(ends[0] - ends[1]).max() < 1e-2


def test_the_kinetic_limit_is_far_from_fluctuations():
    system = openmm.System()
    for mass in (1.0, 0.0, 2.0):
        system.addParticle(mass)
    system.addConstraint(0, 2, 0.1)
    limit = KineticLimit(system, 300.0)
    assert limit.energy == pytest.approx((10 * 2.5 + 50) * KB * 300)
    assert limit.excess(limit.energy) is None
    assert limit.excess(1.01 * limit.energy) is not None


def test_streams_of_first_attempts_are_as_ever(recovered):
    assert streams.stream_seed(5, *recovered.stream(1, 0)) == streams.stream_seed(5, "segment", 0, 0, 1)
    assert recovered.stream(1, 2) == ("segment", 0, 0, 1, "attempt", 2)


def test_walkers_on_other_nodes_end_with_the_run(tmp_path):
    """No signal reaches them: they see that their leases are void, and a later run goes on without a difference."""
    rounds = [{"walkers": ["300 K", "310 K"], "length": "200 ns"}]
    changes = {"rounds": rounds, "segment": "2 ns", "frame_interval": "20 ps", "learning": {"lag": "20 ps"}}
    jobs = [job(tmp_path, k, **changes) for k in range(2)]

    def progress(fraction: float, words: str) -> None:
        if fraction > 0:
            raise Interrupted

    with ThreadPoolExecutor(2) as threads:
        began = time.monotonic()
        with pytest.raises(Interrupted):
            run_walkers(jobs, progress, threads)
        assert threads.submit(int).result(timeout=30) == 0 and time.monotonic() - began < 60
    assert not any(directory(made).is_finished(made.segments) for made in jobs)
    assert not (tmp_path / "running").exists()
