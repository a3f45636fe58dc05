"""The same campaign on every executor, although workers are killed; what cannot work is one sentence."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from helpers.clusters import dask_cluster, parsl_configuration, worker_killed
from helpers.explosive import write_explosive
from helpers.molecules import InThisProcess, finished_campaign, write_protocol

from latf_sampling.campaign.campaign import Campaign
from latf_sampling.campaign.executors import EXECUTORLIB, EXECUTORS, open_executor
from latf_sampling.core.storage import checksum
from latf_sampling.errors import FailureWarning, InstallationError, SettingsError, StoreError
from latf_sampling.records.records import Records
from latf_sampling.records.setup import Setup
from latf_sampling.settings import ExecutorSettings, Protocol
from latf_sampling.settings.changes import change_of
from latf_sampling.settings.execution import BACKENDS
from latf_sampling.simulation.runner import run_walkers
from latf_sampling.simulation.walker import WalkerJob
from latf_sampling.starts import Starts

LONG = {
    "segment": "600 ps",
    "frame_interval": "6 ps",
    "learning": {"lag": "6 ps"},
    "rounds": [{"walkers": ["300 K", "350 K"], "length": "4.8 ns"}],
}
"""Two walkers that take long enough to be killed."""


PROTOCOL = Protocol(
    name="any",
    system={"name": "three-hole"},
    frame_interval="1 ps",
    segment="1 ps",
    features=[{"coordinates": {"of": "all"}}],
    learning={"lag": "1 ps"},
    rounds=[{"walkers": ["1 kJ/mol"], "length": "10 ps"}],
)


def jobs(folder: Path) -> list[WalkerJob]:
    protocol = Protocol.load(write_explosive(folder / "given", **LONG))
    return [WalkerJob(protocol, 0, number, folder / f"walker-{number:02d}") for number in range(2)]


def content(folder: Path) -> dict[str, str]:
    """Everything that walkers wrote, to the last bit, but when they did."""
    files = sorted(path for path in folder.rglob("segment-*") if path.suffix in (".npz", ".xml"))
    return {str(path.relative_to(folder)): checksum(path) for path in files}


def setup(**executor) -> Setup:
    return Setup(PROTOCOL.model_copy(update={"executor": ExecutorSettings(**executor)}))


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("here")
    run_walkers(jobs(folder), lambda fraction, words: None, InThisProcess())
    return content(folder)


@pytest.mark.parametrize("kind", ["dask", "parsl", "executorlib"])
def test_a_killed_worker_changes_no_bit(kind, tmp_path, here):
    with ExitStack() as stack:
        values = {
            "dask": lambda: str(stack.enter_context(dask_cluster(tmp_path))),
            "parsl": lambda: str(parsl_configuration(tmp_path)),
            "executorlib": lambda: {"backend": "local", "max_workers": 2},
        }
        executor = stack.enter_context(open_executor(setup(**{kind: values[kind]()})))
        with worker_killed(tmp_path / "running") as killed, warnings.catch_warnings():
            warnings.simplefilter("ignore", FailureWarning)  # Dask submits a task again by itself
            run_walkers(jobs(tmp_path), lambda fraction, words: None, executor)
    assert len(killed) == 1
    assert content(tmp_path) == here and not (tmp_path / "running").exists()


# ------------------------------------------------------------------------------------------------ one sentence for each


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ({"dask": "tcp://127.0.0.1:9"}, r"executor\.dask: no scheduler answers at tcp://127\.0\.0\.1:9 \("),
        ({"dask": "nonsense://x"}, r"executor\.dask: no scheduler answers at nonsense://x \(ValueError"),
        ({"dask": "missing.json"}, r"executor\.dask: there is no file .*missing\.json"),
        (
            {"executorlib": {"backend": "local", "max_wrkers": 2}},
            "SingleNodeExecutor cannot be used",
        ),
    ],
)
def test_what_cannot_work(executor, words, monkeypatch):
    monkeypatch.setattr("latf_sampling.campaign.executors.DASK_TIMEOUT", 0.5)
    with pytest.raises(SettingsError, match=words), open_executor(setup(**executor)):
        pass


@pytest.mark.parametrize(
    ("answer", "reason"), [(b"", "TimeoutError"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", r"MemoryError: .*")]
)
def test_something_else_than_a_scheduler(answer, reason, monkeypatch):
    """What accepts connections and says nothing, as a tunnel does whose other end is gone, and Dask's own web page."""
    monkeypatch.setattr("latf_sampling.campaign.executors.DASK_TIMEOUT", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connections.append(server.accept()[0])
                    connections[-1].sendall(answer)
                except OSError:  # it is closed
                    return

        connections: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(SettingsError, match=rf"no scheduler answers at {address} \({reason}\); begin one with"):
            open_executor(setup(dask=address)).__enter__()
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config = 1", "must define 'config', a parsl.Config"),
        ("1 / 0", r"fails \(ZeroDivisionError: division by zero\)"),
        ("config = (", r"fails \(SyntaxError"),
        ("raise SystemExit('set ACCOUNT')", r"fails \(SystemExit: set ACCOUNT\)"),
    ],
)
def test_a_configuration_of_parsl_that_cannot_work(tmp_path, text, words):
    (tmp_path / "config.py").write_text(text)
    with (
        pytest.raises(SettingsError, match=rf"executor\.parsl: .*config\.py {words}"),
        open_executor(setup(parsl=tmp_path / "config.py")),
    ):
        pass


def test_parsl_without_a_strategy_is_warned_of(tmp_path, monkeypatch):
    """Walkers would wait for workers that nobody begins."""
    monkeypatch.setattr("parsl.concurrent.ParslPoolExecutor", lambda config: 1 / 0)
    file = parsl_configuration(tmp_path)
    for text, warned in ((file.read_text(), False), (file.read_text().replace('"simple"', '"none"'), True)):
        file.write_text(text)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with pytest.raises(SettingsError, match="cannot be used"), open_executor(setup(parsl=file)):
                pass
        assert [each.category for each in told] == [FailureWarning] * warned


def test_a_configuration_of_somebody_else_does_not_run(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("raise SystemExit")
    received = setup(parsl=file)
    received.trust = False
    words = r"executor\.parsl: .*config\.py is a program that you have not run before"
    with pytest.raises(StoreError, match=words), open_executor(received):
        pass
    file.unlink()
    with pytest.raises(StoreError, match=r"executor\.parsl: .*config\.py cannot be read"), open_executor(received):
        pass


@pytest.mark.parametrize(("kind", "package"), [("dask", "distributed"), ("parsl", "parsl"), ("executorlib",) * 2])
def test_without_the_package_the_extra_is_named(kind, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = rf"executor\.{kind}: {package} is not installed; install it with pip install 'latf_sampling\[{kind}\]'"
    with pytest.raises(InstallationError, match=words), EXECUTORS[kind]("x"):
        pass


def test_the_executor_of_a_protocol(tmp_path):
    def load(executor, **context) -> ExecutorSettings:
        text = PROTOCOL.model_dump(mode="json") | {"executor": executor}
        return Protocol.model_validate(text, context={"directory": tmp_path, **context} if context else None).executor

    (tmp_path / "config.py").touch()
    for value, kind, entry in (
        ("local", "local", None),
        ({"local": 3}, "local", 3),
        ({"dask": "tcp://a:1"}, "dask", "tcp://a:1"),
        ({"dask": "s.json"}, "dask", str(tmp_path / "s.json")),
        ({"parsl": "config.py"}, "parsl", str(tmp_path / "config.py")),
        ({"executorlib": {"backend": "slurm_job"}}, "executorlib", {"backend": "slurm_job"}),
    ):
        executor = load(value, from_file=False)
        assert (executor.kind, executor.value) == (kind, entry)
        assert load(executor.model_dump(mode="json"), stored=True) == executor  # also where the file is gone
    assert PROTOCOL.executor.kind == "local" and set(BACKENDS) == set(EXECUTORLIB)
    for value, words in (
        ("cloud", "there is no 'cloud'; write local, {dask: tcp"),
        ({"dask": "tcp://a:1", "local": 2}, "local and dask exclude each other"),
        ({"dsk": "tcp://a:1"}, "did you mean 'dask'"),
        ({"parsl": "none.py"}, "there is no file /.*none.py"),
        ({"executorlib": {}}, "executorlib.backend: this key is missing; give one of local"),
        ({"executorlib": {"backend": "pbs"}}, "executorlib.backend: there is no 'pbs'; give one of local"),
        ({"executorlib": {"backend": "local", "max_workers": -1}}, "executorlib.max_workers: -1 is not a number of at"),
        ({"executorlib": {"backend": "local", "max_cores": "all"}}, "executorlib.max_cores: 'all' is not a number of"),
        ({"local": 0}, "greater than or equal to 1"),
    ):
        with pytest.raises(SettingsError, match=f"(?s)executor.*{words}"):
            Protocol(**{**dict(PROTOCOL), "executor": value})
    assert change_of(("executor", "dask")) == "free" and change_of(("devices",)) == "free"
    other = PROTOCOL.model_copy(update={"executor": ExecutorSettings(dask="tcp://a:1")})
    assert not other.changes(PROTOCOL.model_dump(mode="json") | {"version": "0.2.0"})


def test_run_takes_executors_alone(tmp_path):
    campaign = Campaign(PROTOCOL, tmp_path / "run")
    with pytest.raises(SettingsError, match=r"executor: must be a concurrent\.futures\.Executor, .* got 'dask'"):
        campaign.run(executor="dask")
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------- a whole campaign


@pytest.mark.timeout(900)  # it may have to run the tiny campaign first
def test_bias_training_and_starts_on_dask_are_those_of_processes(tmp_path):
    """The last round of the tiny campaign again, on two workers of which one is killed in the middle of a training."""
    directory = Path(shutil.copytree(finished_campaign(), tmp_path / "run"))
    for name in ("rounds/02", "starts"):
        shutil.rmtree(directory / name)
    began: list[str] = []
    with dask_cluster(tmp_path) as file:
        protocol = write_protocol(tmp_path / "given", executor={"dask": str(file)})
        with worker_killed(directory / "rounds" / "02" / "running", "learning") as killed, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Campaign(protocol, directory).run(lambda step, fraction, words: began.append(step))
    assert len(killed) == 1 and {"round 2: simulate", "round 2: learn", "starts"} <= set(began)
    again, once = Records.load(directory, trust=True), Records.load(finished_campaign(), trust=True)
    assert content(directory) == content(finished_campaign())
    (hills,) = (directory / "rounds" / "02").rglob("*.hills")
    assert hills.read_bytes() == (finished_campaign() / hills.relative_to(directory)).read_bytes()
    assert [part.fingerprint() for part in again.model(2)] == [part.fingerprint() for part in once.model(2)]
    for folder in ("rounds/02/starts", "starts"):
        one, other = (Starts.load(path / folder, once.molecule.topology) for path in (directory, finished_campaign()))
        assert np.array_equal(one.positions, other.positions) and np.array_equal(one.velocities, other.velocities)
    assert not list(directory.rglob("running"))
