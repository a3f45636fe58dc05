"""The examples for Slurm as far as they can be tested without it: scripts, configuration and protocols."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import time
from pathlib import Path

import executorlib
import parsl
import pytest

from latf_sampling.campaign.executors import EXECUTORLIB, _run_file
from latf_sampling.settings import Protocol
from latf_sampling.settings.stored import without_version

SLURM = Path(__file__).parents[2] / "examples" / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sh"))
LATF = """#!/usr/bin/env bash
echo "$@" > "$OUT/arguments"
trap 'exit 75' USR1
trap 'exit 143' TERM
touch "$OUT/ready"
[ -n "${LONG:-}" ] || exit "${STATUS:-0}"
while true; do sleep 0.05; done
"""


def test_the_protocols_differ_in_where_they_run_alone():
    protocols = [Protocol.load(SLURM / f"{name}.yaml") for name in ("gpus", "parsl", "executorlib")]
    assert [protocol.executor.kind for protocol in protocols] == ["local", "parsl", "executorlib"]
    first = protocols[0].model_dump(mode="json")
    for protocol in protocols[1:]:
        assert protocol.changes(without_version(first)) == []


def test_the_configuration_of_parsl_is_one():
    file = Protocol.load(SLURM / "parsl.yaml").executor.parsl
    config = _run_file(Path(str(file))).config
    (executor,) = config.executors
    assert isinstance(config, parsl.Config) and config.retries == 0 and executor.drain_period == 10800


def test_the_options_of_executorlib_exist():
    options = dict(Protocol.load(SLURM / "executorlib.yaml").executor.executorlib or {})
    kind = getattr(executorlib, EXECUTORLIB[options.pop("backend")])
    inspect.signature(kind).bind(**options)
    assert all(f"* {key} (int)" in kind.__doc__ for key in options["resource_dict"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    text = script.read_text()
    assert "#SBATCH --requeue" in text and (script.name == "driver.sh" or "#SBATCH --signal=B:USR1@300" in text)


def begin(tmp_path: Path, script: str, **variables: str) -> subprocess.Popen:
    """A script with stand-ins for latf and scontrol."""
    for name, text in (("latf", LATF), ("scontrol", '#!/bin/sh\necho "$@" > "$OUT/requeued"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OUT": str(tmp_path), "SLURM_JOB_ID": "17", **variables}
    return subprocess.Popen(["bash", SLURM / script, "a.yaml", "runs/a"], env=environment)


@pytest.mark.parametrize(
    ("script", "status", "requeued"), [("driver.sh", 75, True), ("driver.sh", 2, False), ("gpus.sh", 0, False)]
)
def test_a_campaign_with_more_to_do_is_queued_again(tmp_path, script, status, requeued):
    assert begin(tmp_path, script, STATUS=str(status)).wait(60) == status
    assert (tmp_path / "arguments").read_text().startswith("run a.yaml -o runs/a")
    assert (tmp_path / "requeued").exists() == requeued


@pytest.mark.parametrize(("number", "status", "requeued"), [(signal.SIGUSR1, 75, True), (signal.SIGTERM, 143, False)])
def test_the_signal_of_slurm_reaches_latf(tmp_path, number, status, requeued):
    process = begin(tmp_path, "gpus.sh", LONG="1")
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(60) == status
    assert (tmp_path / "requeued").exists() == requeued
    assert not requeued or (tmp_path / "requeued").read_text() == "requeue 17\n"
