"""Parameters of small molecules: the General Amber Force Field with AM1-BCC charges, made by programs of AmberTools.

References
----------
GAFF: Wang and others, doi:10.1002/jcc.20035; the parameters are those of its second version, GAFF2.
AM1-BCC: Jakalian and others, doi:10.1002/jcc.10128.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import openmm
from openmm import app, unit

from latf_sampling.core import storage
from latf_sampling.errors import InstallationError, SettingsError

ELEMENTS = frozenset(["H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"])
"""Elements that GAFF has parameters for."""
_PROGRAMS = ("antechamber", "parmchk2", "tleap")
_SCALES = {"coulomb14scale": "0.8333333333333334", "lj14scale": "0.5"}
"""Factors of interactions of atoms three bonds apart, as in the force fields of Amber."""


def parameters(molfile: str, charge: int, key: str) -> str:
    """The prmtop file of a molecule.

    The charges take from a second for ten atoms to many minutes for a hundred. They are kept, by all that they depend
    on, in latf_sampling/ligands of $XDG_CACHE_HOME, or of ~/.cache.

    Parameters
    ----------
    molfile
        The molecule with all its hydrogens and a conformation, in the format of MDL.
    charge
        Its charge, e.
    key
        Its key in a protocol, for errors.

    Raises
    ------
    InstallationError
        A program of AmberTools is missing.
    SettingsError
        A program fails, or GAFF lacks a parameter.
    """
    programs = {name: _program(name, key) for name in _PROGRAMS}
    digest = hashlib.sha256(f"gaff2 am1-bcc {charge}\n{molfile}".encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latf_sampling" / "ligands"
    stored = cache / f"{digest}.prmtop"
    if stored.is_file():
        return stored.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="latf-ligand-") as name:
        folder = Path(name)
        storage.write_text(folder / "in.sdf", molfile)
        commands = ["source leaprc.gaff2", "loadamberparams lig.frcmod", "lig = loadmol2 lig.mol2"]
        commands += ["saveamberparm lig lig.prmtop lig.inpcrd", "quit", ""]
        storage.write_text(folder / "leap.in", "\n".join(commands))
        files = ["-i", "in.sdf", "-fi", "mdl", "-o", "lig.mol2", "-fo", "mol2"]
        options = ["-at", "gaff2", "-c", "bcc", "-nc", str(charge), "-rn", "LIG", "-pf", "y"]
        _run([programs["antechamber"], *files, *options], folder, "lig.mol2", key)
        files = ["-i", "lig.mol2", "-f", "mol2", "-o", "lig.frcmod"]
        _run([programs["parmchk2"], *files, "-s", "gaff2"], folder, "lig.frcmod", key)
        lacking = re.findall(
            r"^(.*?)\s.*ATTN, need revision", (folder / "lig.frcmod").read_text(encoding="utf-8"), re.MULTILINE
        )
        if lacking:
            raise SettingsError(
                f"{key}: GAFF2 has no parameters for {', '.join(lacking[:3])}, by its types of atoms; give a force "
                "field file with a template of this molecule instead."
            )
        _run([programs["tleap"], "-f", "leap.in"], folder, "lig.prmtop", key)
        content = (folder / "lig.prmtop").read_text(encoding="utf-8")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        storage.write_text(stored, content)
    except OSError:  # a home directory that cannot be written: the charges are made again next time
        return content
    return content


def _program(name: str, key: str) -> str:
    """A program of AmberTools: that of this environment, or of the user's path.

    Raises
    ------
    InstallationError
        There is none.
    """
    file = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if file is None:
        raise InstallationError(
            f"{key}: needs {name} of AmberTools; install it with pip install 'latf_sampling[ligands]'."
        )
    return file


def _run(command: list[str], folder: Path, result: str, key: str) -> None:
    """Run a program of AmberTools, which may fail without an exit code: its result is what counts."""
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace"
    )
    if done.returncode or not (folder / result).is_file() or not (folder / result).stat().st_size:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        words = next((line for line in lines if re.search("error|fatal|cannot|unable", line, re.IGNORECASE)), None)
        raise SettingsError(f"{key}: {Path(command[0]).name} fails: {(words or lines[-1] if lines else 'no words')}")


def template(prmtop: str, residue: str, names: Sequence[str]) -> str:
    """A force field file of OpenMM, in which each atom of a molecule has a type of its own.

    Charges of AM1-BCC are rounded, and their sum misses that of the molecule by some 0.001 e, which is spread over all
    atoms.

    Parameters
    ----------
    prmtop
        The content of the molecule's prmtop file.
    residue
        Name of its residue.
    names
        Names of its atoms.
    """
    with tempfile.TemporaryDirectory(prefix="latf-ligand-") as folder:
        file = Path(folder) / "lig.prmtop"
        storage.write_text(file, prmtop)
        content = app.AmberPrmtopFile(str(file))
    system = content.createSystem(nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False)
    types = [f"{residue}-{name}" for name in names]
    atoms = list(content.topology.atoms())
    bonds = {frozenset((bond[0].index, bond[1].index)) for bond in content.topology.bonds()}
    root = ElementTree.Element("ForceField")
    kinds, residues = _add(root, "AtomTypes"), _add(root, "Residues")
    own = _add(residues, "Residue", name=residue)
    sections = {
        openmm.NonbondedForce: _add(root, "NonbondedForce", **_SCALES),
        openmm.HarmonicBondForce: _add(root, "HarmonicBondForce"),
        openmm.HarmonicAngleForce: _add(root, "HarmonicAngleForce"),
        # In this order, and where no two types are the same, OpenMM puts the atom of an improper torsion that is named
        # first into the third place, where Amber has the central one.
        openmm.PeriodicTorsionForce: _add(root, "PeriodicTorsionForce", ordering="amber"),
    }
    for k, atom in enumerate(atoms):
        values = {"class": types[k], "element": atom.element.symbol, "mass": _number(system.getParticleMass(k))}
        _add(kinds, "Type", name=types[k], **values)
    for first, second in sorted(map(sorted, bonds)):
        _add(own, "Bond", atomName1=names[first], atomName2=names[second])
    for force in system.getForces():
        if type(force) not in sections:
            continue
        section = sections[type(force)]
        if isinstance(force, openmm.NonbondedForce):
            particles = [list(map(_number, force.getParticleParameters(k))) for k in range(len(atoms))]
            total = sum(charge for charge, _, _ in particles)
            excess = (total - round(total)) / len(atoms)
            _add(section, "UseAttributeFromResidue", name="charge")
            for k, (charge, sigma, epsilon) in enumerate(particles):
                _add(section, "Atom", type=types[k], sigma=sigma, epsilon=epsilon)
                _add(own, "Atom", name=names[k], type=types[k], charge=charge - excess)
        elif isinstance(force, openmm.HarmonicBondForce):
            for k in range(force.getNumBonds()):
                *places, length, stiffness = force.getBondParameters(k)
                values = {"length": _number(length), "k": _number(stiffness)}
                _add(section, "Bond", **_types(types, places), **values)
        elif isinstance(force, openmm.HarmonicAngleForce):
            for k in range(force.getNumAngles()):
                *places, angle, stiffness = force.getAngleParameters(k)
                _add(section, "Angle", **_types(types, places), angle=_number(angle), k=_number(stiffness))
        elif isinstance(force, openmm.PeriodicTorsionForce):
            for proper, places, values in _torsions(force, bonds):
                _add(section, "Proper" if proper else "Improper", **_types(types, places), **values)
    return ElementTree.tostring(root, encoding="unicode")


def _add(parent: ElementTree.Element, tag: str, **values: object) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {key: str(value) for key, value in values.items()})


def _types(types: Sequence[str], places: Sequence[int]) -> dict[str, str]:
    return {f"type{k}": types[place] for k, place in enumerate(places, start=1)}


def _number(value: Any) -> float:
    return value.value_in_unit_system(unit.md_unit_system)


def _torsions(
    force: openmm.PeriodicTorsionForce, bonds: set[frozenset[int]]
) -> Iterator[tuple[bool, Sequence[int], dict[str, float]]]:
    """Torsions with all their terms: whether they are proper, atoms in the order of force field files, and values."""
    terms = defaultdict(list)
    for k in range(force.getNumTorsions()):
        *places, periodicity, phase, height = force.getTorsionParameters(k)
        proper = all(frozenset(pair) in bonds for pair in zip(places, places[1:]))
        if not proper and not all(
            frozenset((places[2], place)) in bonds for place in (places[0], places[1], places[3])
        ):
            places.reverse()  # so does tleap where the last atom would be number 0, which no sign can mark
        order = min(places, places[::-1]) if proper else [places[2], places[0], places[1], places[3]]
        terms[proper, tuple(order)].append((periodicity, _number(phase), _number(height)))
    for (proper, places), parts in terms.items():
        values = {}
        for k, (periodicity, phase, height) in enumerate(parts, start=1):
            values |= {f"periodicity{k}": periodicity, f"phase{k}": phase, f"k{k}": height}
        yield proper, places, values
