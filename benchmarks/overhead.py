"""What a tiny campaign takes besides simulating and learning: imports, processes, report; and memory of its processes.

    python benchmarks/overhead.py                       # this checkout
    python benchmarks/overhead.py --package /tmp/old    # another one, such as a worktree of an earlier commit
    python benchmarks/overhead.py --driver              # only what the driver takes while two walkers simulate

runs alanine dipeptide with two rounds of two walkers of four segments of 100 ps, the second round biased, and two
structures, by `latf run`. It prints the time on the clock and of the processor, how much of it was for steps of the
integrator and for training, the largest resident memory of the driver and of its children, and what importing takes.
Other processes on the machine make the clock useless; processor time and memory hardly depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PROTOCOL = """
name: tiny
seed: 1
system:
  structure: {structure}
  force_field: [amber14/protein.ff14SB.xml]
  nonbonded: no cutoff
  constraints: h-bonds
  hydrogen_mass: 3 amu
  platform: Reference
integrator: {{timestep: 4 fs, friction: 1 / ps}}
frame_interval: 0.4 ps
segment: 100 ps
features:
  - distances: element != H
learning: {{lag: 2 ps}}
rounds:
  - {{walkers: [600 K, 600 K], length: 400 ps}}
  - walkers: [300 K, 300 K]
    length: 400 ps
    bias: {{kind: metadynamics, bias_factor: 10, height: 1 kJ/mol, interval: 1 ps}}
starts: {{temperature: 450 K, count: 2}}
observe: {{torsion: phi ALA 2, above: 0 degree}}
"""
IMPORTS = {
    "latf --version": "latf_sampling.cli.main",
    "a plain walker": "latf_sampling.simulation.walker",
    "a biased walker": "latf_sampling.simulation.walker, latf_sampling.bias.from_settings, "
    "latf_sampling.cv.compiled_variable",
    "the driver": "latf_sampling.campaign.campaign",
}
"""Modules of each kind of process."""
PLUGINS = "latf_sampling/core/plugins.py"
CHILD = "from latf_sampling.core.plugins import import_openmm; import_openmm(); "
"""What processes of the package do first, in checkouts that have it."""
INTERVAL = 0.02
"""s between two looks at the processes."""


def environment(package: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}


def children(process: int) -> list[int]:
    """The processes that a process has started, and those started by these."""
    found = []
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    except OSError:
        return []
    return [*found, *(each for child in found for each in children(child))]


def peak(process: int) -> int:
    """Largest resident memory of a process so far, MB."""
    try:
        match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return 0
    return int(match[1]) // 1024 if match else 0


def run(package: Path, directory: Path) -> dict[str, float]:
    """Run the campaign; seconds and MB by what they are."""
    protocol = directory / "tiny.yaml"
    protocol.write_text(PROTOCOL.format(structure=HERE / "protocols" / "alanine-dipeptide.pdb"))
    out = directory / "run"
    command = [sys.executable, "-m", "latf_sampling.cli.main", "run", str(protocol), "-o", str(out)]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, env=environment(package), cwd=directory, stderr=subprocess.DEVNULL)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for each in (process.pid, *children(process.pid)):
            peaks[each] = max(peaks.get(each, 0), peak(each))
        time.sleep(INTERVAL)
    clock, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"the campaign ended with exit code {process.returncode}")
    segments = [json.loads(path.read_text()) for path in out.glob("rounds/*/walker-*/segment-*.json")]
    trainings = [json.loads(path.read_text()) for path in out.glob("rounds/*/learning/history.json")]
    return {
        "clock, s": clock,
        "processor, s": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "segments, s on the clock of each walker": sum(entry["seconds"] for entry in segments) / 2,
        "training, s on the clock": sum(entry["seconds"] for entry in trainings),
        "memory of the driver, MB": peaks.pop(process.pid),
        "memory of the largest child, MB": max(peaks.values(), default=0),
    }


def processor(process: int) -> float:
    """Processor time of a process so far, s."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def driver(package: Path, directory: Path) -> dict[str, float]:
    """Two plain walkers of 60 segments of 100 ps: from the end of their first ones to that of the last one."""
    protocol = directory / "plain.yaml"
    first_round = PROTOCOL[: PROTOCOL.index("  - walkers: [300 K")].replace("length: 400 ps", "length: 6 ns")
    protocol.write_text(first_round.format(structure=HERE / "protocols" / "alanine-dipeptide.pdb"))
    out = directory / "plain"
    command = [sys.executable, "-m", "latf_sampling.cli.main", "run", str(protocol), "-o", str(out)]
    process = subprocess.Popen(command, env=environment(package), cwd=directory, stderr=subprocess.DEVNULL)
    marks = []
    for expected in (2, 120):
        while len(list(out.glob("rounds/*/walker-*/segment-*.json"))) < expected:
            if process.poll() is not None:
                raise SystemExit(f"the campaign ended early, with exit code {process.returncode}")
            time.sleep(INTERVAL)
        marks.append((time.perf_counter(), processor(process.pid)))
    process.terminate()
    process.wait()
    clock, used = (late - early for early, late in zip(*marks, strict=True))
    files = sorted(out.glob("rounds/*/walker-*/segment-*.json"), key=lambda path: path.stat().st_mtime_ns)
    inside = sum(json.loads(path.read_text())["seconds"] for path in files[2:]) / 2
    return {
        "clock, s": clock,
        "of it in segments, s of each walker": inside,
        "processor of the driver, s": used,
        "share of the two cores that the driver takes, %": 100 * used / (2 * clock),
        "share of the clock outside of segments, %": 100 * (1 - inside / clock),
    }


def imports(package: Path) -> dict[str, tuple[float, int]]:
    """Processor time, s, and largest resident memory, MB, of importing what each kind of process needs."""
    code = "{}import resource, {}; u = resource.getrusage(resource.RUSAGE_SELF); "
    code += "print(u.ru_utime + u.ru_stime, u.ru_maxrss // 1024)"
    found = {}
    for name, modules in IMPORTS.items():
        child = CHILD if name != "latf --version" and (package / PLUGINS).exists() else ""
        command = [sys.executable, "-c", code.format(child, modules)]
        subprocess.run(command, env=environment(package), cwd="/", check=True, capture_output=True)  # into the cache
        done = subprocess.run(command, env=environment(package), cwd="/", check=True, capture_output=True, text=True)
        seconds, size = done.stdout.split()
        found[name] = float(seconds), int(size)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=HERE, help="Checkout to measure; default: this one.")
    parser.add_argument("--imports", action="store_true", help="Only what importing takes.")
    parser.add_argument("--driver", action="store_true", help="Only what the driver takes while two walkers simulate.")
    options = parser.parse_args()
    package = options.package.resolve()
    print(f"{package}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} hardware threads")
    if not options.driver:
        for name, (seconds, size) in imports(package).items():
            print(f"  importing for {name}: {seconds:.1f} s of processor time, {size} MB")
    if options.imports:
        return
    with tempfile.TemporaryDirectory(prefix="latf-overhead-") as folder:
        for name, value in (driver if options.driver else run)(package, Path(folder)).items():
            print(f"  {name}: {value:.2f}" if "%" in name else f"  {name}: {value:.0f}")


if __name__ == "__main__":
    main()
