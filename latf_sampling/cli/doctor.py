"""Tells whether this machine can run the package, and if not, which command repairs it.

Whatever might crash is tried in a child process (`probe`): platforms and devices are listed there, and each backend
evaluates a real bias on each platform. A segmentation fault is then a line in the report. What is known to crash, from
versions alone, is not tried.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from latf_sampling.core import installation, platforms
from latf_sampling.core.backends import BACKENDS

_HARMLESS = {
    "OpenCL": ("libOpenCL", "it only means that there is no OpenCL platform"),
    "CUDA": ("libcuda", "it only means that there is no NVIDIA driver, thus no CUDA platform"),
    "HIP": ("libamdhip", "it only means that there is no AMD driver, thus no HIP platform"),
}


# --------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Platform:
    """One of OpenMM's platforms.

    Parameters
    ----------
    name
        OpenMM's name of it.
    speed
        OpenMM's estimate, relative to Reference.
    trouble
        Why no context can be made on it; empty when one can.
    """

    name: str
    speed: float
    trouble: str = ""


@dataclass(frozen=True)
class Probe:
    """The result of one backend on one platform.

    Parameters
    ----------
    backend, platform
        Which one, where.
    status
        "works", "wrong" (energy or forces are not the known ones), "failed" (raised an error), "crashed",
        "timed out" or "not tried".
    detail
        Relative error and time of an evaluation, or what happened, in words.
    """

    backend: str
    platform: str
    status: str
    detail: str


@dataclass(frozen=True)
class Report:
    """The result of `examine`.

    Parameters
    ----------
    system
        Operating system, processor and Python.
    versions
        As from `installation.installed`.
    faults
        Wrong combinations of versions, the fatal ones first.
    platforms, devices
        OpenMM's platforms and torch's devices here.
    notes
        Plugins of OpenMM that do not load, and anything that could not be found out, a line each.
    probes
        Each backend on each platform.
    """

    system: str
    versions: Mapping[str, str | None]
    faults: tuple[installation.Fault, ...]
    platforms: tuple[Platform, ...]
    devices: tuple[str, ...]
    notes: tuple[str, ...]
    probes: tuple[Probe, ...]

    @property
    def healthy(self) -> bool:
        """Whether PythonForce works on Reference and CPU, and nothing that was tried crashes, hangs or is wrong."""
        status = {(probe.backend, probe.platform): probe.status for probe in self.probes}
        needed = [status.get(("pythonforce", platform)) for platform in ("Reference", "CPU")]
        harmful = {"wrong", "crashed", "timed out"} & set(status.values())
        return not any(fault.fatal for fault in self.faults) and needed == ["works"] * 2 and not harmful

    def works(self, backend: str) -> list[str]:
        """Platforms that a backend works on."""
        return [probe.platform for probe in self.probes if (probe.backend, probe.status) == (backend, "works")]

    def as_dict(self) -> dict[str, Any]:
        """Everything in the report and `healthy`, ready for JSON."""
        return {"healthy": self.healthy, **dataclasses.asdict(self)}


def examine(versions: Mapping[str, str | None] | None = None, timeout: float = 180.0) -> Report:
    """Examine this machine; takes some seconds, since every backend is tried in a process of its own.

    Parameters
    ----------
    versions
        What to take for installed, instead of what is.
    timeout
        Seconds that each child process may take.

    Returns
    -------
    Report
        Never raises for what is wrong with an installation: that is in the report.
    """
    versions = dict(installation.installed() if versions is None else versions)
    faults = tuple(installation.faults(versions))
    listed, devices, notes = _survey(timeout)
    names = [platform.name for platform in listed if not platform.trouble] or ["Reference", "CPU"]
    cases = [(backend, name) for backend in BACKENDS for name in names]
    reasons = {backend: _not_tried(backend, versions, faults) for backend in BACKENDS}

    def result(case: tuple[str, str]) -> Probe:
        reason = reasons[case[0]]
        return Probe(*case, "not tried", reason) if reason else probe(*case, timeout)

    with ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 2) // 2))) as pool:
        probes = tuple(pool.map(result, cases))
    return Report(platforms.system_name(), versions, faults, listed, devices, notes, probes)


def _not_tried(backend: str, versions: Mapping[str, str | None], faults: tuple[installation.Fault, ...]) -> str:
    """Why a backend is not tried: the installation is known not to carry it. Empty where it is tried."""
    if faults and faults[0].fatal:
        return f"{faults[0].what}: {faults[0].why}"
    fault = installation.torchforce_fault(versions) if backend == "torchforce" else None
    return "" if fault is None else f"{fault.what}: {fault.why}"


def _survey(timeout: float) -> tuple[tuple[Platform, ...], tuple[str, ...], tuple[str, ...]]:
    answer, trouble = run_child([], timeout)
    if trouble:
        return (), (), (f"Platforms and devices cannot be listed: {trouble[1]}",)
    listed = tuple(Platform(**platform) for platform in answer["platforms"])
    return listed, tuple(answer["devices"]), tuple(plugin_notes(answer["plugin_failures"]) + answer["notes"])


def plugin_notes(failures: list[str]) -> list[str]:
    """OpenMM's plugin load failures: one line for each harmless cause, and one for each other failure.

    Parameters
    ----------
    failures
        As from ``openmm.Platform.getPluginLoadFailures``.

    Examples
    --------
    >>> plugin_notes(["Error loading library /p/libOpenMMCUDA.so: libnvrtc.so.12: cannot open shared object file"])
    ['Plugin not loaded: Error loading library /p/libOpenMMCUDA.so: libnvrtc.so.12: cannot open shared object file']
    """
    groups: dict[str, list[str]] = {}
    others = []
    for failure in failures:
        match = re.match(r"Error loading library (?P<plugin>.*?): (?P<lacks>[^:\s]+)", failure)
        lacks = match["lacks"] if match else ""
        for platform, (library, _) in _HARMLESS.items():
            if lacks.startswith((f"{library}.", f"{library}64.", f"libOpenMM{platform}.")):
                groups.setdefault(platform, []).append(lacks)
                break
        else:
            others.append(f"Plugin not loaded: {failure}")
    notes = []
    for platform, lacking in groups.items():
        library, meaning = _HARMLESS[platform]
        absent = next((name for name in lacking if name.startswith(library)), lacking[0])
        count = "1 plugin" if len(lacking) == 1 else f"{len(lacking)} plugins"
        notes.append(f"{platform}: {count} not loaded, since {absent} is absent. Harmless: {meaning}.")
    return notes + others


# --------------------------------------------------------------------------------------------- the child process


def probe(backend: str, platform: str, timeout: float = 180.0) -> Probe:
    """Try one backend on one platform in a child process.

    Parameters
    ----------
    backend
        "torchforce" or "pythonforce".
    platform
        OpenMM's name of it.
    timeout
        Seconds until the child is ended.
    """
    answer, trouble = run_child(["--backend", backend, "--platform", platform], timeout)
    status, detail = trouble or (answer["status"], answer["detail"])
    return Probe(backend, platform, status, detail)


def run_child(
    arguments: list[str], timeout: float, module: str = "latf_sampling.cli.probe"
) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """Run a module in a child process; returns its answer, or the status and detail of what happened to it."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        return {}, ("timed out", f"no answer after {timeout:g} s")
    if child.returncode < 0:
        try:
            name = signal.Signals(-child.returncode).name
        except ValueError:
            name = f"signal {-child.returncode}"
        return {}, ("crashed", f"the process was ended by {name}")
    last = (child.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    if child.returncode == 0 and child.stdout.strip():
        try:
            answer = json.loads(child.stdout.splitlines()[-1])
        except ValueError:
            answer = None
        if isinstance(answer, dict):
            return answer, None
    return {}, ("crashed", f"the process ended with code {child.returncode}: {last}")


# --------------------------------------------------------------------------------------------- words


def render(report: Report, console: Console) -> None:
    """Print a report.

    Parameters
    ----------
    report
        From `examine`.
    console
        Where to.
    """
    console.print(report.system, highlight=False, markup=False)
    versions = _table("package", "version")
    for name, version in report.versions.items():
        if version is not None or name in ("openmm", "torch", *installation.NEEDED):
            versions.add_row(name, Text(version) if version else Text("not installed", "dim"))
    console.print(versions)

    listed = _table("OpenMM platform", "speed", "state")
    for platform in report.platforms:
        state = Text(f"not usable: {platform.trouble}", "yellow") if platform.trouble else Text("usable")
        listed.add_row(platform.name, f"{platform.speed:g}", state)
    console.print(listed)
    console.print(Text(f"torch devices: {', '.join(report.devices) or 'none'}"))
    for note in report.notes:
        console.print(Text(note, "dim"))

    probes = _table("backend", "on", "result", "detail")
    style = {"works": "green", "not tried": "dim", "failed": "yellow"}
    for each in report.probes:
        status = Text(each.status, style.get(each.status, "red"))
        probes.add_row(each.backend, each.platform, status, Text(each.detail))
    console.print(probes)
    for fault in report.faults:
        console.print(Text(str(fault), "bold red" if fault.fatal else "yellow"))
    for backend in BACKENDS:
        console.print(Text(f"{backend}: works on {', '.join(report.works(backend)) or 'no platform'}"))
    verb, color = ("works", "green") if report.healthy else ("does not work", "bold red")
    console.print(Text(f"This installation {verb}.", color))


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def main() -> int:
    """Print the report; for where ``latf doctor`` itself does not start."""
    parser = argparse.ArgumentParser(prog="python -m latf_sampling.cli.doctor", description="Examine this machine.")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    report = examine()
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        render(report, Console())
    return 0 if report.healthy else 1


if __name__ == "__main__":
    sys.exit(main())
