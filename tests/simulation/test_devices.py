"""GPUs and threads of walkers that run together: what OpenMM is given, without a GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.explosive import write_explosive
from helpers.molecules import InThisProcess

from latf_sampling.campaign import executors
from latf_sampling.campaign.check import check
from latf_sampling.core import devices, platforms, processes
from latf_sampling.core.devices import devices_of, properties, visible_devices
from latf_sampling.errors import SettingsError
from latf_sampling.records.setup import Setup
from latf_sampling.settings import Protocol
from latf_sampling.simulation import segment
from latf_sampling.simulation.runner import run_walkers
from latf_sampling.simulation.walker import WalkerJob

VARIABLES = (*devices.VISIBLE, *devices.GRANTED, "SLURM_CPUS_PER_TASK", "OPENMM_CPU_THREADS")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "_count", lambda: 0)


@pytest.mark.parametrize(
    ("variables", "count", "expected"),
    [
        ({}, 0, None),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, 2, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-3a, MIG-7b ,1"}, 3, [0, 1, 2]),
        ({"CUDA_VISIBLE_DEVICES": "1,-1,2"}, 1, [0]),
        ({"CUDA_VISIBLE_DEVICES": "0,,1"}, 1, [0]),
        ({"CUDA_VISIBLE_DEVICES": "1,0,1"}, 0, []),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0, []),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, []),
        ({"HIP_VISIBLE_DEVICES": "5"}, 1, [0]),
        ({"CUDA_VISIBLE_DEVICES": "7", "SLURM_JOB_GPUS": "4-7"}, 1, [0]),
        ({"SLURM_JOB_GPUS": "0,2-3"}, 4, [0, 2, 3]),
        ({"SLURM_JOB_GPUS": "0-3", "SLURM_STEP_GPUS": "1"}, 4, [1]),
        ({"SLURM_STEP_GPUS": "2,3"}, 2, [0, 1]),  # confined by Slurm to these two, which it sees as 0 and 1
        ({"SLURM_JOB_GPUS": "gpu:2"}, 2, None),
    ],
)
def test_what_is_visible(monkeypatch, variables, count, expected):
    monkeypatch.setattr(devices, "_count", lambda: count)
    assert visible_devices(variables) == expected


def test_devices_and_threads_in_turn(monkeypatch):
    assert devices_of("auto") == [0]
    monkeypatch.setattr(devices, "_count", lambda: 3)
    assert devices_of("auto") == [0, 1, 2] and devices_of((2, 0)) == [2, 0]
    for platform in platforms.GPU_PLATFORMS:
        given = [properties(platform, number=number)["DeviceIndex"] for number in range(5)]
        assert given == ["0", "1", "2", "0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    assert [properties("CUDA", (1,), number) for number in range(2)] == [{"DeviceIndex": "1"}] * 2
    with pytest.raises(
        SettingsError, match=r"devices: there is no GPU 2 here; with CUDA_VISIBLE_DEVICES=6,7 .* 0, 1\."
    ):
        properties("CUDA", (0, 2))
    monkeypatch.setattr(processes, "_slot", 3)  # a process of the pool: its own number counts, not the walker's
    assert properties("CUDA", "auto", 0) == {"DeviceIndex": "1"}
    monkeypatch.setattr(devices, "available_cores", lambda: 8)
    assert properties("CPU", at_once=3) == {"Threads": "2"} and properties("CPU", at_once=20) == {"Threads": "1"}
    assert properties("CPU") == {} and properties("Reference", at_once=3) == {}
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert properties("CPU") == {"Threads": "4"}
    monkeypatch.setenv("OPENMM_CPU_THREADS", "2")  # which OpenMM reads by itself
    assert properties("CPU") == {}


class Given(Exception):
    pass


def protocol(folder: Path, **changes) -> Protocol:
    return Protocol.load(write_explosive(folder, rounds=[{"walkers": ["300 K"] * 4, "length": "40 ps"}], **changes))


@pytest.mark.parametrize(
    ("use", "expected"), [("auto", ["0", "1", "2", "0"]), ([2, 1], ["2", "1", "2", "1"]), ({"use": [1]}, ["1"] * 4)]
)
def test_what_walkers_give_to_openmm(tmp_path, monkeypatch, use, expected):
    """Each on the platform that it picks by itself, whose trial uses the same GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5")
    tried, given = [], []

    def simulation(topology, system, integrator, platform, properties):
        given.append((platform.getName(), properties))
        raise segment.SimulationError("as far as this")

    def pick(name, particles, own):
        tried.append(own("CUDA"))
        return SimpleNamespace(getName=lambda: "CUDA")

    monkeypatch.setattr(segment.app, "Simulation", simulation)
    monkeypatch.setattr(platforms, "pick_platform", pick)
    made = protocol(tmp_path / "given", devices=use)
    for number in range(4):
        with pytest.raises(segment.SimulationError, match="as far as this"):
            run_walkers(
                [WalkerJob(made, 0, number, tmp_path / f"walker-{number:02d}")], lambda *_: None, InThisProcess()
            )
    assert [entry["DeviceIndex"] for _, entry in given] == expected == [entry["DeviceIndex"] for entry in tried]


def test_threads_of_walkers_and_where_it_is_recorded(tmp_path):
    """The CPU platform with the share of one of two processes."""
    made = protocol(tmp_path / "given", system={**SYSTEM, "platform": "CPU"}, segment="0.4 ps", devices="auto")
    made = made.model_copy(update={"rounds": (made.rounds[0].model_copy(update={"length": 0.4}),)})
    job = WalkerJob(made, 0, 0, tmp_path / "walker-00")
    run_walkers([job], lambda *_: None, processes=2)
    state = segment.WalkerDirectory(job.directory).segment(0).marker.read_text()
    assert f'"device": "{processes.available_cores()} threads"' in state and '"platform": "CPU"' in state


SYSTEM = {"openmm": {"system": "system.xml", "topology": "particle.pdb"}}


def test_places_on_gpus(monkeypatch):
    """As many processes as there are places, and a place keeps its GPU whichever walker comes."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(executors, "platform", lambda setup: "CUDA")
    for use, count in (("auto", 3), ({"walkers": 2}, 6), ({"use": [1], "walkers": 4}, 4)):
        from_settings = Setup(
            EXAMPLE.model_copy(update={"devices": Protocol(**{**dict(EXAMPLE), "devices": use}).devices})
        )
        with executors.open_executor(from_settings) as executor:
            assert executor.processes == count
    given = Counter()
    for place in range(6):
        monkeypatch.setattr(processes, "_slot", place)
        given[properties("CUDA", number=0)["DeviceIndex"]] += 1
    assert given == {"0": 2, "1": 2, "2": 2}


EXAMPLE = Protocol(
    name="any",
    system={"name": "three-hole"},
    frame_interval="1 ps",
    segment="1 ps",
    features=[{"coordinates": {"of": "all"}}],
    learning={"lag": "1 ps"},
    rounds=[{"walkers": ["1 kJ/mol"], "length": "10 ps"}],
)


def test_a_named_gpu_that_is_missing_is_refused(monkeypatch):
    """Where a walker would run on cores instead; another executor may have the GPU."""

    def setup(**changes) -> Setup:
        given = {**EXAMPLE.model_dump(mode="json"), "devices": [0, 7], **changes}
        return Setup(Protocol.model_validate(given))

    with pytest.raises(SettingsError, match=r"devices: GPU 7 is named, and no GPU of that number works here"):
        devices.pick(None, 22, [0, 7], number=1)
    assert devices.pick(None, 22)[0].getName() == "Reference"
    with pytest.raises(SettingsError, match=r"devices: GPU 0 is named"):
        check(setup())
    check(setup(executor={"dask": "tcp://a:1"}))
    monkeypatch.setattr(platforms, "pick_platform", lambda *_: SimpleNamespace(getName=lambda: "CUDA"))
    monkeypatch.setattr(
        platforms, "usable", lambda name, DeviceIndex: "no such device." if DeviceIndex == "7" else None
    )
    with pytest.raises(SettingsError, match=r"devices: GPU 7 does not work on CUDA \(no such device\)\."):
        check(setup())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("all", "use"),
        ([0, 0], "must be auto or different indices of GPUs"),
        ([], "must be auto or different indices of GPUs"),
        ([-1], "greater than or equal to 0"),
        ({"walkers": 0}, "walkers.*greater than or equal to 1"),
        ({"gpus": 1}, "no such key"),
    ],
)
def test_devices_that_cannot_be(value, words):
    with pytest.raises(SettingsError, match=f"(?s)devices.*{words}"):
        Protocol(**{**dict(EXAMPLE), "devices": value})
