"""Tells whether this machine can run the package, and if not, which command mends it.

Whatever might crash is tried in a child process, which runs this module and answers with one line of JSON: the
platforms and devices are listed there, and each back end of the bias evaluates, on each platform, a small anharmonic
energy with a known gradient, alone and inside a `CustomCVForce`, as metadynamics nests it. A segmentation fault is then
a line in the report. What the versions alone tell to crash is not tried at all.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from latf_sampling.core import installation
from latf_sampling.errors import LatfError

TOLERANCE = 1e-4
"""Relative to the largest force; single precision on a GPU stays well below."""

BACK_ENDS = ("torchforce", "pythonforce")

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
    """What one back end of the bias did on one platform.

    Parameters
    ----------
    back_end, platform
        Which one, where.
    status
        "works", "wrong" (energy or forces are not the known ones), "failed" (raised an error), "crashed",
        "timed out" or "not tried".
    detail
        Relative error and time of an evaluation, or what happened, in words.
    """

    back_end: str
    platform: str
    status: str
    detail: str


@dataclass(frozen=True)
class Report:
    """What `examine` found.

    Parameters
    ----------
    system
        Operating system, processor and Python.
    versions
        As from `installation.installed`.
    lane
        "torchforce", "pythonforce", or None when a fault is fatal.
    faults
        Wrong combinations of versions, the fatal ones first.
    platforms, devices
        OpenMM's platforms and torch's devices here.
    notes
        Plugins of OpenMM that do not load, and anything that could not be found out, a line each.
    probes
        Each back end on each platform.
    """

    system: str
    versions: Mapping[str, str | None]
    lane: str | None
    faults: tuple[installation.Fault, ...]
    platforms: tuple[Platform, ...]
    devices: tuple[str, ...]
    notes: tuple[str, ...]
    probes: tuple[Probe, ...]

    @property
    def healthy(self) -> bool:
        """Whether the lane's back end works on Reference and CPU, and nowhere crashes, hangs or gives wrong forces."""
        status = {probe.platform: probe.status for probe in self.probes if probe.back_end == self.lane}
        works = {name for name, each in status.items() if each == "works"}
        dangerous = {"wrong", "crashed", "timed out"} & set(status.values())
        return self.lane is not None and works >= {"Reference", "CPU"} and not dangerous

    def as_dict(self) -> dict[str, Any]:
        """Everything in the report and `healthy`, ready for JSON."""
        return {"healthy": self.healthy, **dataclasses.asdict(self)}


def examine(versions: Mapping[str, str | None] | None = None, timeout: float = 120.0) -> Report:
    """Examine this machine; takes some seconds, since every back end is tried in a process of its own.

    Parameters
    ----------
    versions
        What to take for installed, instead of what is.
    timeout
        Seconds each child process may take.

    Returns
    -------
    Report
        Never raises for what is wrong with an installation: that is in the report.
    """
    versions = dict(installation.installed() if versions is None else versions)
    faults = tuple(installation.faults(versions))
    platforms, devices, notes = _survey(timeout)
    probes = []
    for back_end in BACK_ENDS:
        reason = _not_tried(back_end, versions, faults)
        for name in [platform.name for platform in platforms if not platform.trouble] or ["Reference", "CPU"]:
            probes.append(Probe(back_end, name, "not tried", reason) if reason else probe(back_end, name, timeout))
    return Report(
        platforms.system_name(),
        versions,
        installation.lane_of(versions),
        faults,
        platforms,
        devices,
        notes,
        tuple(probes),
    )


def _not_tried(back_end: str, versions: Mapping[str, str | None], faults: tuple[installation.Fault, ...]) -> str:
    lane = installation.lane_of(versions)
    if lane == back_end:
        return ""
    if lane == "pythonforce":
        return f"with OpenMM {versions['openmm']} the bias is in PythonForce"
    if lane == "torchforce":
        return f"OpenMM {versions['openmm']} has no PythonForce, which came with 8.5"
    return faults[0].what


def _survey(timeout: float) -> tuple[tuple[Platform, ...], tuple[str, ...], tuple[str, ...]]:
    answer, trouble = _child("survey", "", timeout)
    if trouble:
        return (), (), (f"Platforms and devices cannot be listed: {trouble[1]}",)
    platforms = tuple(Platform(**platform) for platform in answer["platforms"])
    return platforms, tuple(answer["devices"]), tuple(plugin_notes(answer["plugin_failures"]) + answer["notes"])


def plugin_notes(failures: list[str]) -> list[str]:
    """OpenMM's plugin load failures in a line for each harmless cause, and one for each of the others.

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


# --------------------------------------------------------------------------------------------- the child, from outside


def probe(back_end: str, platform: str, timeout: float = 120.0) -> Probe:
    """Try one back end on one platform in a child process.

    Parameters
    ----------
    back_end
        "torchforce" or "pythonforce".
    platform
        OpenMM's name of it.
    timeout
        Seconds until the child is ended.
    """
    answer, trouble = _child(back_end, platform, timeout)
    status, detail = trouble or (answer["status"], answer["detail"])
    return Probe(back_end, platform, status, detail)


def _child(what: str, platform: str, timeout: float) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The child's answer, or the status and detail of what happened to it."""
    command = [sys.executable, "-m", "latf_sampling.cli.doctor", "--probe", what, "--platform", platform]
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
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
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
        if child.returncode == 0 and isinstance(answer, dict):
            return answer, None
    except (IndexError, ValueError):
        pass
    last = (child.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {}, ("crashed", f"the process ended with code {child.returncode}: {last}")


# --------------------------------------------------------------------------------------------- the child, from inside


POSITIONS = np.array([[0.31, -0.12, 0.05], [-0.22, 0.27, 0.41], [0.08, 0.19, -0.33]])
STIFFNESS = np.array([[100.0], [250.0], [400.0]])


def truth(positions: np.ndarray) -> tuple[float, np.ndarray]:
    """The energy every back end is asked for, and its forces worked out by hand.

    E = sum_i k_i |r_i|^2 / 2 + 1000 sum_i |r_i|^4

    Parameters
    ----------
    positions
        Three particles, nm, (3, 3).

    Returns
    -------
    tuple
        Energy in kJ/mol and forces in kJ/mol/nm, (3, 3).
    """
    square = (positions**2).sum(axis=1, keepdims=True)
    energy = (STIFFNESS * square / 2 + 1000.0 * square**2).sum()
    return float(energy), -(STIFFNESS + 4000.0 * square) * positions


@cache
def _energy_module() -> Any:
    import torch

    class Energy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("stiffness", torch.tensor(STIFFNESS))

        def forward(self, positions):
            square = (positions**2).sum(dim=1, keepdim=True)
            return (self.stiffness.to(positions) * square / 2 + 1000.0 * square**2).sum()

    return torch.jit.script(Energy())


def _torchforce() -> Any:
    return installation.torchforce()(_energy_module())


def _pythonforce() -> Any:
    import openmm

    return openmm.PythonForce(_compute)


def _compute(state: Any) -> tuple[float, np.ndarray]:
    """PythonForce's function; at the top level, since CustomCVForce copies the force inside it by pickling."""
    import torch
    from openmm import unit

    x = torch.tensor(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer), requires_grad=True)
    energy = _energy_module()(x)
    (gradient,) = torch.autograd.grad(energy, x)
    return float(energy.detach()), -gradient.numpy()


def _wrong() -> Any:
    """A force that is off by one per cent: the probe has to notice."""
    import openmm

    force = openmm.CustomExternalForce("k*r2/2 + 1010*r2^2; r2 = x^2 + y^2 + z^2")
    force.addPerParticleParameter("k")
    for particle, (stiffness,) in enumerate(STIFFNESS):
        force.addParticle(particle, [stiffness])
    return force


def _crash() -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> Any:
    time.sleep(3600)


_BUILDERS: dict[str, Callable[[], Any]] = {
    "torchforce": _torchforce,
    "pythonforce": _pythonforce,
    # What the tests try the probes with:
    "wrong": _wrong,
    "crash": _crash,
    "hang": _hang,
}


def _evaluate(build: Callable[[], Any], platform: str) -> dict[str, str]:
    """Energy and forces of the back end alone, and of v^2/2 with the back end as the variable v."""
    value, forces = truth(POSITIONS)
    alone = build()
    nested = _nest(build())
    error, seconds = _compare(alone, platform, value, forces)
    nested_error, _ = _compare(nested, platform, value**2 / 2, value * forces)
    worst = max(error, nested_error)
    if not worst < TOLERANCE:  # also when it is not a number
        where = "" if not error < TOLERANCE else " inside CustomCVForce"
        return {"status": "wrong", "detail": f"energy or forces{where} are off by {worst:.2g} of the largest"}
    return {"status": "works", "detail": f"{seconds * 1e6:.0f} us an evaluation, relative error {worst:.1g}"}


def _nest(force: Any) -> Any:
    import openmm

    outer = openmm.CustomCVForce("v^2/2")
    outer.addCollectiveVariable("v", force)
    return outer


def _compare(force: Any, platform: str, energy: float, forces: np.ndarray) -> tuple[float, float]:
    """Largest relative error of energy and forces, and the seconds of one evaluation."""
    import openmm
    from openmm import unit

    system = openmm.System()
    for _ in POSITIONS:
        system.addParticle(1.0)
    system.addForce(force)
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(POSITIONS)
    for _ in range(5):  # torch compiles during the first evaluations
        context.getState(energy=True, forces=True)
    start, repeats = time.perf_counter(), 20
    for _ in range(repeats):
        state = context.getState(energy=True, forces=True)
    seconds = (time.perf_counter() - start) / repeats
    got = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    energy_error = abs(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) - energy) / abs(energy)
    force_error = np.abs(got - forces).max() / np.abs(forces).max()
    return float(np.maximum(energy_error, force_error)), seconds


def _list_machine() -> dict[str, Any]:
    """Platforms and devices. torch comes first, as in every run: OpenMM's torch plugins do not load without it."""
    notes, devices, platforms, failures = [], [], [], []
    try:
        import torch

        devices = platforms.devices()
        devices = [f"{d} ({torch.cuda.get_device_name(d)})" if d.startswith("cuda") else d for d in devices]
    except Exception as error:  # a broken torch shows itself in many ways
        notes.append(f"torch does not load: {error}")
    try:
        import openmm

        for index in range(openmm.Platform.getNumPlatforms()):
            platform = openmm.Platform.getPlatform(index)
            name = platform.getName()
            platforms.append({"name": name, "speed": platform.getSpeed(), "trouble": platforms.usable(name) or ""})
        failures = list(openmm.Platform.getPluginLoadFailures())
    except Exception as error:
        notes.append(f"OpenMM does not load: {error}")
    return {"platforms": platforms, "devices": devices, "plugin_failures": failures, "notes": notes}


def _answer(what: str, platform: str) -> dict[str, Any]:
    with contextlib.suppress(ImportError, ValueError, OSError):  # no core file when it crashes
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if what == "survey":
        return _list_machine()
    try:
        return _evaluate(_BUILDERS[what], platform)
    except LatfError as error:
        return {"status": "failed", "detail": str(error)}
    except Exception as error:
        return {"status": "failed", "detail": f"{type(error).__name__}: {error}"}


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
        if version is not None or name in ("openmm", "torch", "openmmtorch", *installation.NEEDED):
            versions.add_row(name, Text(version) if version else Text("not installed", "dim"))
    console.print(versions)

    platforms = _table("OpenMM platform", "speed", "state")
    for platform in report.platforms:
        state = Text(f"not usable: {platform.trouble}", "yellow") if platform.trouble else Text("usable")
        platforms.add_row(platform.name, f"{platform.speed:g}", state)
    console.print(platforms)
    console.print(Text(f"torch devices: {', '.join(report.devices) or 'none'}"))
    for note in report.notes:
        console.print(Text(note, "dim"))

    probes = _table("bias back end", "on", "result", "detail")
    style = {"works": "green", "not tried": "dim", "failed": "yellow"}
    for each in report.probes:
        status = Text(each.status, style.get(each.status, "red"))
        probes.add_row(each.back_end, each.platform, status, Text(each.detail))
    console.print(probes)
    console.print(Text(f"lane: {report.lane or 'none, see below'}"))
    for fault in report.faults:
        console.print(Text(str(fault), "bold red" if fault.fatal else "yellow"))
    verb, colour = ("works", "green") if report.healthy else ("does not work", "bold red")
    console.print(Text(f"This installation {verb}.", colour))


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def main() -> int:
    """Print the report, or, with ``--probe``, be the child."""
    parser = argparse.ArgumentParser(
        prog="python -m latf_sampling.cli.doctor", description=examine.__doc__.splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--probe", choices=["survey", *_BUILDERS], help=argparse.SUPPRESS)
    parser.add_argument("--platform", default="Reference", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        print(json.dumps(_answer(arguments.probe, arguments.platform)))
        return 0
    report = examine()
    if arguments.json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        render(report, Console())
    return 0 if report.healthy else 1


if __name__ == "__main__":
    sys.exit(main())
