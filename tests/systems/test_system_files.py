"""Systems from the files of other programs: all sources have the same energies, and bad files are refused."""

from __future__ import annotations

import re
import shutil
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import openmm
import parmed
import pytest
import yaml
from helpers.molecules import STRUCTURE, alanine, positions
from openmm import app, unit

from latf_sampling.data import layout
from latf_sampling.errors import SettingsError
from latf_sampling.settings import Protocol
from latf_sampling.systems import build
from latf_sampling.systems.force_field import refuse_unnamed_nucleotides

FIELD = "amber14/protein.ff14SB.xml"
WATER = "amber14/tip3p.xml"
PROGRAMS = {
    "amber": {"topology": "a.prmtop", "coordinates": "a.inpcrd"},
    "gromacs": {"topology": "a.top", "coordinates": "a.gro"},
    "charmm": {"topology": "a.psf", "coordinates": "a.crd", "parameters": ["a.rtf", "a.prm"]},
    "openmm": {"system": "a.xml", "topology": "alanine-dipeptide.pdb"},
}
PME = {"nonbonded": "PME", "cutoff": "0.5 nm"}
pytestmark = pytest.mark.filterwarnings("ignore::parmed.exceptions.ParmedWarning")


def plain(system: dict) -> dict:
    """A source that ignores the box that ParmEd writes into every gro file."""
    return {**system, "nonbonded": "no cutoff"} if "gromacs" in system else system


def protocol(folder: Path, system: dict) -> Protocol:
    content = {
        "name": "test",
        "system": system,
        "frame_interval": "1 ps",
        "segment": "2 ps",
        "features": [{"distances": {"between": "index 0 1 2 3"}}],
        "learning": {"lag": "1 ps"},
        "rounds": [{"walkers": ["300 K"], "length": "4 ps"}],
    }
    (folder / "protocol.yaml").write_text(yaml.safe_dump(content))
    return Protocol.load(folder / "protocol.yaml")


def built(folder: Path, system: dict):
    return build(protocol(folder, system).system)


@cache
def reference(charmm: bool = False) -> openmm.System:
    """Alanine dipeptide without constraints; with what CHARMM's files can say, its 1-4 pairs are not scaled and it has
    no improper torsions, which are harmonic there."""
    system = app.ForceField(FIELD).createSystem(alanine().topology, constraints=None, rigidWater=False)
    if not charmm:
        return system
    forces = {type(force): force for force in system.getForces()}
    nonbonded, torsions = forces[openmm.NonbondedForce], forces[openmm.PeriodicTorsionForce]
    for index in range(nonbonded.getNumExceptions()):
        first, second, _, _, epsilon = nonbonded.getExceptionParameters(index)
        if epsilon._value:
            (q1, s1, e1), (q2, s2, e2) = map(nonbonded.getParticleParameters, (first, second))
            nonbonded.setExceptionParameters(index, first, second, q1 * q2, (s1 + s2) / 2, (e1 * e2).sqrt())
    bonded = {frozenset((bond.atom1.index, bond.atom2.index)) for bond in alanine().topology.bonds()}
    for index in range(torsions.getNumTorsions()):
        a, b, c, d, n, phase, k = torsions.getTorsionParameters(index)
        if not {frozenset(pair) for pair in ((a, b), (b, c), (c, d))} <= bonded:
            torsions.setTorsionParameters(index, a, b, c, d, n, phase, 0 * k)
    return system


@cache
def solvated() -> tuple[app.Topology, np.ndarray, openmm.System]:
    """Alanine dipeptide in a truncated octahedron of water."""
    field = app.ForceField(FIELD, WATER)
    modeller = app.Modeller(alanine().topology, alanine().positions)
    modeller.addSolvent(field, boxShape="octahedron", padding=0.55 * unit.nanometer)
    system = field.createSystem(
        modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.5, constraints=None, rigidWater=False
    )
    return modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer)), system


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The same molecules as files of every program."""
    directory = tmp_path_factory.mktemp("files")
    shutil.copy(STRUCTURE, directory)
    for charmm in (False, True):
        system = openmm.XmlSerializer.clone(reference(charmm))
        if charmm:
            torsions = next(force for force in system.getForces() if isinstance(force, openmm.PeriodicTorsionForce))
            terms_of_file = [torsions.getTorsionParameters(index) for index in range(torsions.getNumTorsions())]
            system.removeForce(list(map(type, system.getForces())).index(openmm.PeriodicTorsionForce))
            torsions = openmm.PeriodicTorsionForce()
            for entry in terms_of_file:
                if entry[-1]._value:
                    torsions.addTorsion(*entry)
            system.addForce(torsions)
        structure = parmed.openmm.load_topology(alanine().topology, system, alanine().positions)
        parmed.tools.changeRadii(structure, "mbondi3").execute()
        if charmm:
            structure.save(str(directory / "a.psf"))
            structure.save(str(directory / "a.crd"))
            written = parmed.charmm.CharmmParameterSet.from_structure(structure)
            written.write(par=str(directory / "a.prm"), top=str(directory / "a.rtf"))
        else:
            for suffix in ("prmtop", "inpcrd", "top", "gro"):
                structure.save(str(directory / f"a.{suffix}"))
    (directory / "a.xml").write_text(openmm.XmlSerializer.serialize(reference()))
    topology, places, system = solvated()
    structure = parmed.openmm.load_topology(topology, system, places * unit.nanometer)
    for suffix in ("prmtop", "inpcrd", "top", "gro"):
        structure.save(str(directory / f"box.{suffix}"))
    (directory / "box.xml").write_text(openmm.XmlSerializer.serialize(system))
    with open(directory / "box.cif", "w") as handle:
        app.PDBxFile.writeFile(topology, places * unit.nanometer, handle)
    with open(directory / "box.pdb", "w") as handle:
        app.PDBFile.writeFile(topology, places * unit.nanometer, handle)
    return directory


def terms(system: openmm.System, places: np.ndarray) -> dict[str, float]:
    """Energy of each kind of force, kJ/mol; those that are zero are left away."""
    system = openmm.XmlSerializer.clone(system)
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
        if isinstance(force, openmm.NonbondedForce):
            force.setReciprocalSpaceForceGroup(group)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference"))
    context.setPositions(places)
    computed: dict[str, float] = {}
    for group, force in enumerate(system.getForces()):
        energy = context.getState(getEnergy=True, groups={group}).getPotentialEnergy()._value
        if energy:
            computed[type(force).__name__] = computed.get(type(force).__name__, 0.0) + energy
    return computed


def assert_same(computed: dict[str, float], expected: dict[str, float]) -> None:
    assert computed.keys() == expected.keys()
    for name, value in expected.items():
        assert computed[name] == pytest.approx(value, rel=1e-5, abs=1e-3), name


# --------------------------------------------------------------------------------------------------------- energies


@pytest.mark.parametrize(("implicit", "salt"), [(None, None), ("GBn2", None), ("OBC2", "0.2 mol/l")])
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_source_gives_the_same_energies(folder, program, implicit, salt):
    if program == "openmm" and implicit:
        pytest.skip("a serialized system has its solvent in it")
    system = plain({program: PROGRAMS[program]})
    if program != "openmm":
        system |= {"constraints": "none"}
    if implicit:
        system |= {"implicit_solvent": implicit, **({"implicit_salt": salt} if salt else {})}
    molecule = built(folder, system)
    expected = terms(reference(program == "charmm"), positions())
    if implicit:
        field = [FIELD, f"implicit/{implicit.lower()}.xml"]
        own = {"structure": STRUCTURE.name, "force_field": field, "constraints": "none"}
        own |= {"implicit_salt": salt} if salt else {}
        expected["CustomGBForce"] = terms(built(folder, own).system, positions())["CustomGBForce"]
    assert_same(terms(molecule.system, positions()), expected)
    assert np.abs(molecule.positions - positions()).max() < 6e-4  # a gro file has three digits
    assert [atom.name for atom in molecule.topology.atoms()] == [atom.name for atom in alanine().topology.atoms()]


@pytest.mark.parametrize("program", ["amber", "gromacs", "charmm"])
def test_masses_and_constraints_of_every_program(folder, program):
    heavy = built(folder, plain({program: PROGRAMS[program], "hydrogen_mass": "3 amu"})).system
    masses = [heavy.getParticleMass(index)._value for index in range(22)]
    light = [reference().getParticleMass(index)._value for index in range(22)]
    hydrogens = [index for index, mass in enumerate(light) if mass < 2]
    assert heavy.getNumConstraints() == len(hydrogens) == 12
    assert [masses[index] for index in hydrogens] == pytest.approx([3.0] * 12)
    assert sum(masses) == pytest.approx(sum(light), abs=0.1)


@pytest.mark.parametrize(
    ("source", "digits"),
    [
        ({"amber": {"topology": "box.prmtop", "coordinates": "box.inpcrd"}}, 1e-6),
        ({"gromacs": {"topology": "box.top", "coordinates": "box.gro"}}, 6e-4),
        ({"structure": "box.cif", "force_field": [FIELD, WATER]}, 1e-4),
        ({"openmm": {"system": "box.xml", "topology": "box.pdb"}}, 1e-4),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_triclinic_box_comes_from_the_files(folder, source, digits):
    _, places, expected = solvated()
    molecule = built(folder, source if "openmm" in source else {**source, **PME, "constraints": "none"})
    assert molecule.system.usesPeriodicBoundaryConditions()
    computed, wanted = (
        np.array([vector._value for vector in system.getDefaultPeriodicBoxVectors()])
        for system in (molecule.system, expected)
    )
    assert abs(wanted[1, 0]) > 0.1
    assert np.abs(computed - wanted).max() < 3 * digits
    assert np.abs(molecule.positions - places).max() < 1.1 * digits
    molecule.system.setDefaultPeriodicBoxVectors(*expected.getDefaultPeriodicBoxVectors())
    ours, theirs = terms(molecule.system, places), terms(expected, places)
    ours.pop("HarmonicBondForce"), theirs.pop("HarmonicBondForce")  # of rigid waters: zero in some
    assert sum(ours.values()) == pytest.approx(sum(theirs.values()), rel=1e-5)


def test_a_box_for_charmm_files_that_hold_none(folder):
    """CHARMM's own coordinates have no unit cell; PDB files have one."""
    molecule = built(folder, {"charmm": {**PROGRAMS["charmm"], "box": ["2 nm", "2.1 nm", "22 angstrom"]}, **PME})
    expected = openmm.XmlSerializer.clone(reference(charmm=True))
    expected.setDefaultPeriodicBoxVectors([2, 0, 0], [0, 2.1, 0], [0, 0, 2.2])
    nonbonded = next(force for force in expected.getForces() if isinstance(force, openmm.NonbondedForce))
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.PME)
    nonbonded.setCutoffDistance(0.5)
    nonbonded.setUseDispersionCorrection(False)  # CHARMM has none
    computed, wanted = (terms(system, positions())["NonbondedForce"] for system in (molecule.system, expected))
    assert computed == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(SettingsError, match=r"system\.charmm\.box: .*box\.pdb has a unit cell; remove the key"):
        files = {**PROGRAMS["charmm"], "coordinates": "box.pdb", "box": ["2 nm"] * 3}
        built(folder, {"charmm": files, **PME})


def test_molecules_that_the_box_cuts_are_made_whole(folder, tmp_path):
    topology, places, system = solvated()
    box = np.array([vector._value for vector in system.getDefaultPeriodicBoxVectors()])
    shift = np.random.default_rng(1).integers(-1, 2, size=(len(places), 3)) @ box
    with open(tmp_path / "cut.cif", "w") as handle:
        app.PDBxFile.writeFile(topology, (places + shift) * unit.nanometer, handle)
    molecule = built(tmp_path, {"structure": "cut.cif", "force_field": [FIELD, WATER], **PME})
    lengths = [
        np.linalg.norm(molecule.positions[bond.atom1.index] - molecule.positions[bond.atom2.index])
        for bond in topology.bonds()
    ]
    assert max(lengths) < 0.2
    moved = (molecule.positions - places) @ np.linalg.inv(box)
    assert np.abs(moved - np.round(moved)).max() < 1e-3


# ----------------------------------------------------------------------------------------------------------- mistakes


def cut(name: str, share: float = 0.5):
    """A file that ends somewhere in the middle."""

    def change(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: int(share * len(content))])

    return change


def exchange(name: str, other: str):
    return lambda directory: shutil.copy(directory / other, directory / name)


def replace(name: str, old: str, new: str):
    def change(directory: Path) -> None:
        content = (directory / name).read_text()
        assert old in content
        (directory / name).write_text(content.replace(old, new))

    return change


def in_another_order(name: str, pattern: str, count: int = 3):
    """The first lines that match exchanged with the next ones, names and positions together."""

    def change(directory: Path) -> None:
        lines = (directory / name).read_text().splitlines(True)
        for index in [index for index, line in enumerate(lines) if re.search(pattern, line)][:count]:
            lines[index], lines[index + 1] = lines[index + 1], lines[index]
        (directory / name).write_text("".join(lines))

    return change


def written(name: str, make):
    return lambda directory: (directory / name).write_text(openmm.XmlSerializer.serialize(make()))


def with_barostat() -> openmm.System:
    system = openmm.XmlSerializer.clone(solvated()[2])
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    return system


def with_drude() -> openmm.System:
    system = openmm.XmlSerializer.clone(reference())
    force = openmm.DrudeForce()
    force.addParticle(1, 0, -1, -1, -1, -1.0, 0.001, 1.0, 1.0)
    system.addForce(force)
    return system


AMBER, GROMACS, CHARMM, OPENMM = ({name: PROGRAMS[name]} for name in PROGRAMS)
BOX = {"amber": {"topology": "box.prmtop", "coordinates": "box.inpcrd"}}
WRONG = {
    "inpcrd of another molecule": (AMBER, exchange("a.inpcrd", "box.inpcrd"), r"a\.prmtop has 22 atoms, .*a\.inpcrd"),
    "half a prmtop": (AMBER, cut("a.prmtop"), r"system\.amber"),
    "half an inpcrd": (AMBER, cut("a.inpcrd"), r"system\.amber\.coordinates: .*a\.inpcrd cannot be read"),
    "another file as a prmtop": (AMBER, exchange("a.prmtop", "a.gro"), r"system\.amber\.topology: .*a\.prmtop"),
    "gro of another molecule": (plain(GROMACS), exchange("a.gro", "box.gro"), r"a\.top has 22 atoms, .*a\.gro has"),
    "half a gro": (plain(GROMACS), cut("a.gro"), r"system\.gromacs\.coordinates: .*a\.gro cannot be read"),
    "a top without its include": (
        plain(GROMACS),
        replace("a.top", "[ moleculetype ]", '#include "elsewhere.itp"\n[ moleculetype ]'),
        r"system\.gromacs\.topology: .*elsewhere\.itp",
    ),
    "half a psf": (CHARMM, cut("a.psf"), r"system\.charmm\.topology: .*a\.psf cannot be read"),
    "crd of another molecule": (CHARMM, replace("a.crd", "22", "21"), r"a\.psf has 22 atoms, .*a\.crd has 21"),
    "no parameters": (CHARMM, cut("a.prm", 0.3), r"system\.charmm"),
    "half a system": (OPENMM, cut("a.xml"), r"system\.openmm\.system: .*a\.xml cannot be read"),
    "no system": (OPENMM, written("a.xml", lambda: openmm.VerletIntegrator(0.001)), r"holds VerletIntegrator, not"),
    "another system": (OPENMM, exchange("a.xml", "box.xml"), r"a\.xml has \d+ atoms, .*dipeptide\.pdb has 22"),
    "its own barostat": (
        {"openmm": {"system": "a.xml", "topology": "box.pdb"}},
        written("a.xml", with_barostat),
        r"holds a MonteCarloBarostat of its own; .* set barostat in the protocol",
    ),
    "a box and no method": (BOX, lambda _: None, r"system\.amber: the files have a unit cell; say nonbonded: PME"),
    "PME without a box": ({**AMBER, **PME}, lambda _: None, r"system\.nonbonded: PME needs a unit cell"),
    "PME for CHARMM without a box": ({**CHARMM, **PME}, lambda _: None, r"has none; give .* or box: with its lengths"),
    "parameters without their types": (
        {"charmm": {**PROGRAMS["charmm"], "parameters": ["a.prm"]}},
        replace("a.prm", "MASS ", "!MASS "),
        r"cannot be read \(.*not present in AtomType list; name the rtf file that defines it before",
    ),
    "Drude particles": (OPENMM, written("a.xml", lambda: with_drude()), r"a\.xml: has Drude particles, which need"),
    "a long cutoff": (
        {**BOX, "nonbonded": "PME", "cutoff": "1.2 nm"},
        lambda _: None,
        r"system\.cutoff: 1\.2 nm is too long for a box whose least width is .* may be at most",
    ),
    "bonds of other coordinates": (
        {"openmm": {"system": "a.xml", "topology": "alanine-dipeptide.pdb"}},
        lambda directory: (directory / "alanine-dipeptide.pdb").write_text(swapped()),
        r"system\.openmm: the bond of \S+ of \w+ \d \(chain A\) and .* is .* nm long",
    ),
    "waters of a gro in another order": (
        {"gromacs": {"topology": "box.top", "coordinates": "box.gro"}, **PME},
        in_another_order("box.gro", r"HOH      O"),
        r"^system\.gromacs\.coordinates: atom 23 is 'H1' in .*box\.gro, and 'O' of HOH \d* in .*box\.top; both need",
    ),
    "a carbon of a gro for an oxygen": (
        plain(GROMACS),
        replace("a.gro", "    C    5", "    O    5"),
        r"^system\.gromacs\.coordinates: atom 5 is 'O' in .*a\.gro, and 'C' of ACE",
    ),
    "a crd in another order": (
        CHARMM,
        in_another_order("a.crd", r"ALA       CA ", 1),
        r"^system\.charmm\.coordinates: atom 9 is 'HA' in .*a\.crd, and 'CA' of ALA 2 in .*a\.psf; both need the same",
    ),
    "a PDB file for a psf in another order": (
        {"charmm": {**PROGRAMS["charmm"], "coordinates": "alanine-dipeptide.pdb"}},
        in_another_order("alanine-dipeptide.pdb", r" CA  ALA", 1),
        r"^system\.charmm\.coordinates: atom 9 is 'HA' in .*dipeptide\.pdb, and 'CA' of ALA 2 in .*a\.psf",
    ),
    "a conformation in another order": (
        {**AMBER, "conformations": ["a.gro"]},
        in_another_order("a.gro", r"ALA     CA", 1),
        r"^system\.conformations\[0\]: atom 9 is 'HA' in .*a\.gro, and 'CA' of ALA 2 in the molecule",
    ),
    "waters of an inpcrd in another order": (
        {"amber": {"topology": "box.prmtop", "coordinates": "box.inpcrd"}, **PME, "constraints": "h-bonds"},
        lambda directory: (directory / "box.inpcrd").write_text(water_in_another_order(directory / "box.inpcrd")),
        r"^system\.amber: the bond of O of HOH \d+ .* and H2 of HOH .* is 0\.15 nm long, .* in another order",
    ),
    "position restraints of GROMACS": (
        {"gromacs": {**PROGRAMS["gromacs"], "defines": {"POSRES": ""}}, "nonbonded": "no cutoff"},
        None,
        r"system\.gromacs\.defines: POSRES is not read from files of GROMACS; use system\.restraints",
    ),
    "position restraints that a top defines": (
        plain(GROMACS),
        replace("a.top", "[ moleculetype ]", "#define POSRES\n[ moleculetype ]"),
        r"system\.gromacs\.topology: .*a\.top defines POSRES, .* use system\.restraints",
    ),
    "flexible water and constraints": (
        {"gromacs": {**PROGRAMS["gromacs"], "defines": {"FLEXIBLE": ""}}, "nonbonded": "no cutoff"},
        None,
        r"system\.constraints: FLEXIBLE is defined for .*a\.top; set constraints: none",
    ),
    "implicit solvent in a box": ({**BOX, **PME, "implicit_solvent": "GBn2"}, None, r"implicit_solvent: goes without"),
    "a force field": (
        {**AMBER, "force_field": [FIELD]},
        None,
        r"system\.force_field: does not go with files of Amber; remove the key",
    ),
    "constraints of a system": ({**OPENMM, "constraints": "none"}, None, r"constraints: does not go with"),
    "two sources": ({**AMBER, **GROMACS}, None, r"gromacs: a system comes from one source; 'amber'"),
    "no file": (
        {"amber": {"topology": "no.prmtop", "coordinates": "a.inpcrd"}},
        None,
        r"system\.amber\.topology: there is no file",
    ),
    "an unknown key": ({"amber": {**PROGRAMS["amber"], "box": 1}}, None, r"system\.amber\.box: no such key"),
}  # fmt: skip


def water_in_another_order(file: Path) -> str:
    """Coordinates of Amber, oxygen and first hydrogen of the first water exchanged."""
    lines = file.read_text().splitlines(True)
    x = re.findall(r".{12}", "".join(line.rstrip("\n") for line in lines[2:14]))
    x[66:69], x[69:72] = x[69:72], x[66:69]
    body = ["".join(x[k : k + 6]) + "\n" for k in range(0, len(x), 6)]
    return "".join(lines[:2] + body + lines[14:])


def swapped() -> str:
    """Alanine dipeptide with the lines of two atoms exchanged but for their names."""
    lines = STRUCTURE.read_text().splitlines(True)
    first, second = (next(i for i, line in enumerate(lines) if f" {name} " in line) for name in ("CH3 ACE", "CB  ALA"))
    a, b = lines[first], lines[second]
    lines[first], lines[second] = a[:30] + b[30:54] + a[54:], b[:30] + a[30:54] + b[54:]
    return "".join(lines)


FILES = [
    (program, name)
    for program, files in PROGRAMS.items()
    for entry in files.values()
    for name in (entry if isinstance(entry, list) else [entry])
    if name != "a.rtf"  # the molecule needs nothing of it
]


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\0\xe9", b"****\n" * 9], ids=["empty", "binary", "text"])
@pytest.mark.parametrize(("program", "name"), FILES, ids=lambda value: value)
def test_files_of_another_kind_are_refused_in_words_about_the_file(folder, tmp_path, capfd, program, name, content):
    shutil.copytree(folder, tmp_path / "files")
    (tmp_path / "files" / name).write_bytes(content)
    with pytest.raises(SettingsError, match=rf"^system\.{program}") as refused:
        built(tmp_path / "files", plain({program: PROGRAMS[program]}))
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert name in sentence or program == "charmm"  # without one of its parameters, the topology is at fault
    assert not re.search(r"index|NoneType|codec|could not convert|invalid literal|object|to unpack|Error", sentence)
    assert capfd.readouterr() == ("", "")


def test_names_that_programs_spell_differently_are_warned_of(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "here")
    replace("a.gro", "   H1    2", "  1HX    2")(tmp_path / "here")
    replace("a.gro", "  CH3    1", "   C1    1")(tmp_path / "here")
    with pytest.warns(
        UserWarning, match=r"^system\.gromacs\.coordinates: atom 1 is 'C1' in .*a\.gro, 'CH3' in .*a\.top"
    ):
        built(tmp_path / "here", plain(GROMACS))
    replace("a.gro", "   C1    1", "  3CH    1")(tmp_path / "here")
    replace("a.gro", "  1HX    2", "   1H    2")(tmp_path / "here")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        built(tmp_path / "here", plain(GROMACS))


def test_flexible_water_of_gromacs_has_no_constraints(folder):
    box = {"topology": "box.top", "coordinates": "box.gro"}
    rigid = built(folder, {"gromacs": box, **PME, "constraints": "none"}).system
    flexible = built(folder, {"gromacs": {**box, "defines": {"FLEXIBLE": ""}}, **PME, "constraints": "none"}).system
    assert rigid.getNumConstraints() > 0 == flexible.getNumConstraints()


def test_nucleotides_that_gbn2_does_not_know_are_refused():
    topology = app.Topology()
    chain = topology.addChain("A")
    for name in ("G", "RG5"):
        residue = topology.addResidue(name, chain, "1")
        for atom in ("C1'", "C3'", "O4'"):
            topology.addAtom(atom, app.Element.getBySymbol(atom[0]), residue)
    with pytest.raises(
        SettingsError, match=r"^key: GBn2 has parameters .* RG5 1 \(chain A\) would get those of proteins"
    ):
        refuse_unnamed_nucleotides(topology, "key", "GBn2")


@pytest.mark.parametrize("case", WRONG)
def test_bad_files_are_refused_in_one_sentence(folder, tmp_path, case):
    system, change, words = WRONG[case]
    shutil.copytree(folder, tmp_path / "here")
    if change is not None:
        change(tmp_path / "here")
    with pytest.raises(SettingsError, match=words) as refused:
        built(tmp_path / "here", system)
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------------------------------------------- self-contained


def with_includes(directory: Path) -> dict:
    """A topology in three files, two of them in another directory."""
    head, body = (directory / "a.top").read_text().split("[ moleculetype ]")
    (directory / "top" / "deep").mkdir(parents=True)
    (directory / "top" / "types.itp").write_text('#include "deep/types.itp"\n')
    (directory / "top" / "deep" / "types.itp").write_text(head)
    (directory / "molecule.itp").write_text("[ moleculetype ]" + body)
    (directory / "b.top").write_text('#include "types.itp" ; a comment\n#include "molecule.itp"\n')
    return {"topology": "b.top", "coordinates": "a.gro", "include": "top"}


SELF_CONTAINED = {
    "structure": lambda directory: {"structure": STRUCTURE.name, "force_field": [FIELD]},
    "own force field": lambda directory: {"structure": STRUCTURE.name, "force_field": ["own.xml"]},
    "conformations": lambda directory: {
        "structure": STRUCTURE.name,
        "force_field": [FIELD],
        "conformations": ["alanine-dipeptide.pdb", "other/alanine-dipeptide.pdb", "a.gro"],
    },
    "name": lambda directory: {"name": "alanine-dipeptide", "hydrogen_mass": "3 amu"},
    "potential": lambda directory: {"name": "lj7"},
    "amber": lambda directory: AMBER,
    "gromacs": lambda directory: {"gromacs": with_includes(directory), "nonbonded": "no cutoff"},
    "charmm": lambda directory: CHARMM,
    "openmm": lambda directory: OPENMM,
    "box": lambda directory: {**BOX, **PME, "barostat": {"pressure": "1 atm"}},
    "restraints": lambda _: {**AMBER, "restraints": [{"atoms": "name CA", "stiffness": "1 kcal/mol/angstrom^2"}]},
}


@pytest.mark.parametrize("case", SELF_CONTAINED)
def test_a_campaign_needs_no_file_from_elsewhere(folder, tmp_path, case):
    here = tmp_path / "here"
    shutil.copytree(folder, here)
    data = Path(app.forcefield.__file__).parent / "data"
    (here / "own.xml").write_bytes((data / FIELD).read_bytes())
    (here / "other").mkdir()
    with open(here / "other" / "alanine-dipeptide.pdb", "w") as handle:
        app.PDBFile.writeFile(alanine().topology, (positions() + [0.1, 0.2, 0.3]) * unit.nanometer, handle)
    settings = protocol(here, SELF_CONTAINED[case](here))
    before, text = build(settings.system), settings.canonical()
    directory = layout.CampaignDirectory(tmp_path / "run")
    with directory.acquire(settings):
        pass
    shutil.rmtree(here)
    restored = directory.protocol()
    after = build(restored.system)
    assert restored.canonical() == text
    assert str(tmp_path) not in text
    assert openmm.XmlSerializer.serialize(after.system) == openmm.XmlSerializer.serialize(before.system)
    assert np.array_equal(after.positions, before.positions)
    assert len(after.conformations) == len(before.conformations)
    for one, other in zip(after.conformations, before.conformations):
        assert np.array_equal(one.positions, other.positions)


def test_a_campaigns_own_force_field_counts_by_its_contents(folder, tmp_path):
    data = Path(app.forcefield.__file__).parent / "data"
    (tmp_path / "own.xml").write_bytes((data / FIELD).read_bytes())
    shutil.copy(STRUCTURE, tmp_path)
    system = {"structure": STRUCTURE.name, "force_field": ["own.xml"]}
    before = protocol(tmp_path, system).canonical()
    (tmp_path / "own.xml").write_bytes((data / FIELD).read_bytes() + b"\n")
    assert protocol(tmp_path, system).canonical() != before
    (tmp_path / "own.xml").write_text('<ForceField><Include file="other.xml"/></ForceField>')
    with pytest.raises(SettingsError, match=r"^system\.force_field: .*own\.xml includes other files"):
        built(tmp_path, system)
