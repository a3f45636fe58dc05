"""A proposal for the section `system` of a protocol, from the files of a molecule alone.

Each rule is the comment beside the key that follows from it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app
from pydantic import ValidationError

from latf_sampling.campaign.proposed_yaml import Key, as_dict
from latf_sampling.errors import LatfError, SettingsError
from latf_sampling.settings.fields import explain
from latf_sampling.settings.system import WATERS, PrepareSettings, SystemSettings
from latf_sampling.systems import Molecule, build, mmcif, pdb
from latf_sampling.systems.alternate_locations import HIGHEST
from latf_sampling.systems.build import SOURCES
from latf_sampling.systems.contents import Contents
from latf_sampling.systems.force_field import add_template_bonds, load_force_field
from latf_sampling.systems.molecule import box_vectors
from latf_sampling.systems.replacement import edited
from latf_sampling.systems.structure import LONGEST_LINK, Structure, links, parse, read_text
from latf_sampling.systems.structure_text import StructureText, format_of

STRUCTURES = (".pdb", ".ent", ".cif", ".mmcif", ".pdbx")
COORDINATES = {
    "amber": (".inpcrd", ".rst7", ".ncrst", ".rst", ".crd"),
    "gromacs": (".gro",),
    "charmm": (".crd", ".cor", *STRUCTURES),
    "openmm": STRUCTURES,
}
"""Suffixes of coordinates that go with the topology of a program."""
PARAMETERS = (".prm", ".rtf", ".str", ".par", ".inp", ".top")
"""Suffixes of CHARMM's parameters."""
TITLES = {"amber": "Amber", "gromacs": "GROMACS", "charmm": "CHARMM", "openmm": "OpenMM"}
INCLUDES = ("/usr/share/gromacs/top", "/usr/local/gromacs/share/gromacs/top")
"""Where the force fields of GROMACS are usually installed, besides $GMXDATA."""
FULL = 0.3
"""Share of a unit cell that water fills, from which on it counts as a box of water and not as a crystal."""
THIN = 20.0
"""Atoms per nm^3; water and proteins have a hundred. A thinner unit cell holds a molecule in a vacuum: GROMACS's files
always have a cell, and a barostat would let an empty one collapse."""
ADDITIVES = frozenset([
    "SO4", "PO4", "NO3", "NH4", "CO3", "BCT", "SCN", "AZI", "ACT", "ACY", "FMT", "CIT", "FLC", "TLA", "MLI", "MLA",
    "TRS", "EPE", "MES", "CAC", "IMD", "GOL", "EDO", "PGO", "PGR", "PDO", "MPD", "MRD", "PEG", "PGE", "PG4", "1PE",
    "2PE", "P6G", "DMS", "IPA", "EOH", "MOH", "CCN", "BME", "DTT", "UNX",
])  # fmt: skip
"""Names in the PDB of what is added for crystallization: salts, buffers, cryoprotectants, polymers, solvents, reducing
agents; UNX is an unknown atom. The force fields that are proposed have none of them."""
MOST_AMINO_ACIDS, MOST_NUCLEOTIDES = 40, 20
"""Larger molecules are put into water."""
CUTOFF = 1.0
"""nm."""
CHARMM_CUTOFF = 1.2
"""nm; CHARMM's parameters were made with it."""
OF_BOX = 0.45
"""A cutoff may be this share of the least width of a box whose volume changes."""
SEED = 1


@dataclass(frozen=True)
class ProposedSystem:
    """The section `system`, and the molecule that it results in.

    Attributes
    ----------
    keys : list of Key
    title : str
        Name of the file that the molecule is from.
    contents : Contents
        Of the molecule as it is simulated.
    given : Contents
        Of the files.
    molecule : Molecule
        Where it was refused, the atoms of the file, without forces.
    added_water : bool
        Whether a box of water was added.
    refusal : LatfError or None
        Why the molecule cannot be built by these keys.
    """

    keys: list[Key]
    title: str
    given: Contents
    molecule: Molecule
    added_water: bool
    refusal: LatfError | None = None
    contents: Contents = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "contents", Contents.from_topology(self.molecule.topology))

    @property
    def periodic(self) -> bool:
        return self.molecule.system.usesPeriodicBoundaryConditions()


def propose_system(files: Sequence[Path], folder: Path) -> ProposedSystem:
    """A section `system` for the files of a molecule.

    Parameters
    ----------
    files
        A structure (PDB or PDBx/mmCIF); or the topology of Amber, GROMACS or CHARMM with coordinates and, for CHARMM,
        parameters; or a serialized system of OpenMM with a structure; in any order. Coordinates of the same name beside
        a topology are found.
    folder
        Of the protocol, which paths are relative to.

    Raises
    ------
    SettingsError
        The files are not those of one molecule, or cannot be simulated, with the sentence of `latf check`.
    InstallationError
        The structure has to be completed, and PDBFixer is missing.
    """
    for file in files:
        if not file.is_file():
            raise SettingsError(f"there is no file {file}{', which is a folder' if file.is_dir() else ''}.")
    engine = [(kind, file) for file in files if (kind := _engine(file)) is not None]
    if not engine:
        if len(files) != 1 or format_of(files[0]) not in STRUCTURES:
            odd = next((file for file in files if format_of(file) not in STRUCTURES), files[-1])
            raise SettingsError(
                f"{odd}: give one structure (.pdb, .cif), or the topology of Amber (.prmtop), GROMACS (.top) or CHARMM "
                "(.psf) with its coordinates."
            )
        return _from_structure(files[0], folder)
    (kind, topology), *more = engine
    if more:
        raise SettingsError(f"{more[0][1]}: is a second topology beside {topology}; give one.")
    return _from_engine(kind, topology, [file for file in files if file != topology], folder)


def _engine(file: Path) -> str | None:
    """The program that a file is a topology of."""
    with open(file, "rb") as handle:
        begin = handle.read(80)
    suffix = file.suffix.lower()
    if begin.startswith(b"%VERSION") or suffix in (".prmtop", ".parm7", ".prm7"):
        return "amber"
    if suffix == ".top" and not begin.startswith(b"*"):  # a title, of CHARMM
        return "gromacs"
    return {".psf": "charmm", ".xml": "openmm"}.get(suffix)


def _path(file: Path, folder: Path) -> str:
    return os.path.relpath(file.resolve(), folder.resolve())


def _settings(keys: Sequence[Key], folder: Path) -> SystemSettings:
    try:
        return SystemSettings.model_validate(as_dict(keys), context={"from_file": True, "directory": folder})
    except ValidationError as error:
        raise SettingsError(explain(error, "system", SystemSettings, nested=True)) from error


def _refuse_empty(contents: Contents, file: Path) -> None:
    if not contents.units and not contents.others:
        raise SettingsError(
            f"{file}: holds {contents or 'nothing that is known'}; there is no molecule in it whose motion could be "
            "learned."
        )


# ------------------------------------------------------------------------------------------------------ structures


def _from_structure(file: Path, folder: Path) -> ProposedSystem:
    key = "system.structure"
    loaded = StructureText.load(file, key)
    reader = mmcif if loaded.is_mmcif else pdb
    single = reader.one_model(loaded, 1)
    several = single.text != loaded.text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again when the molecule is built
        source, prepare = _edited(file, single)
        structure = parse(source)
    contents = Contents.from_topology(structure.topology)
    _refuse_empty(contents, file)
    keys = [Key("structure", _path(file, folder))]
    if several:
        keys.append(Key("model", 1, "the file holds several; the first is the best one by custom"))
    box, water = _full_box(structure, contents), _why_water(contents)
    fields = _force_field(contents, bool(box is not None or water))
    is_complete = not prepare and _is_complete(source, structure, load_force_field(tuple(fields.value)))
    why = "atoms, hydrogens, and loops inside chains that are missing are added; missing ends of chains stay so"
    prepare.append(Key("missing_residues", "inside", why))
    keys.append(fields)
    if box is not None:
        keys += _periodic_keys(_cutoff(box, CUTOFF), "the file has a box of water")
    elif water:
        keys += _periodic_keys(CUTOFF, "water around the molecule")
        solvent = {"padding": "1 nm", "ionic_strength": "0.15 mol/l"}
        prepare.append(Key("solvent", solvent, f"a box of water with salt, since {water}"))
    else:
        keys.append(Key("nonbonded", "no cutoff", "all pairs: the molecule is small"))
        keys += _hydrogen_keys()
    added_water = bool(water and box is None)
    if added_water or not is_complete:
        keys.append(Key("prepare", inner=prepare))
    try:
        molecule = build(_settings(keys, folder), SEED)
    except LatfError as refusal:
        molecule = _without_forces(structure, bool(box is not None or water))
        return ProposedSystem(keys, file.name, contents, molecule, added_water, refusal)
    return ProposedSystem(keys, file.name, contents, molecule, added_water)


def _without_forces(structure: Structure, periodic: bool) -> Molecule:
    """The atoms of a structure: enough to choose descriptors by."""
    system = openmm.System()
    for atom in structure.topology.atoms():
        system.addParticle(0.0 if atom.element is None else atom.element.mass)
    if periodic:
        force = openmm.NonbondedForce()
        force.setNonbondedMethod(openmm.NonbondedForce.PME)
        system.addForce(force)
    return Molecule(system, structure.topology, structure.positions)


def _edited(file: Path, single: StructureText) -> tuple[StructureText, list[Key]]:
    """The text of a structure as it can be simulated, and the keys of `prepare` that make it so.

    Parameters
    ----------
    file
        Its file.
    single
        The text of its first model.
    """
    keys = []
    source = read_text(file, single.key, 1, HIGHEST)
    if source.text != single.text:
        keys.append(Key("alternate_locations", HIGHEST, "of atoms with several locations the most occupied one"))
    names = {residue.name for residue in parse(source).topology.residues()}
    if additives := sorted(names & ADDITIVES):
        source = edited(source, PrepareSettings(remove=tuple(additives)))
        why = "added for crystallization, by their names; what belongs to the molecule needs a force field file"
        keys.append(Key("remove", additives, why))
    if "MSE" in names:
        why = "selenomethionine is there for crystallography, and becomes methionine"
        keys.append(Key("replace", {"MSE": "MET"}, why))
    return source, keys


def _full_box(structure: Structure, contents: Contents) -> np.ndarray | None:
    """The box of a structure (3, 3), nm, that is full of water; `None` for a crystal's, and where there is none."""
    box = box_vectors(structure.topology.getPeriodicBoxVectors() or None)
    full = box is not None and len(contents.waters) > FULL * WATERS * abs(float(np.linalg.det(box)))
    return box if full else None


def _why_water(contents: Contents) -> str | None:
    """Why a molecule is put into water; `None` where an implicit solvent serves."""
    if contents.waters or contents.ions:
        return f"the file has {'water' if contents.waters else 'ions'}, whose place an implicit solvent would not know"
    if contents.others or contents.solvents:
        return "implicit solvents are made for proteins and nucleic acids"
    if len(contents.amino_acids) > MOST_AMINO_ACIDS or len(contents.nucleotides) > MOST_NUCLEOTIDES:
        return "the molecule is too large for an implicit solvent"
    return None


def _force_field(contents: Contents, water: bool) -> Key:
    if water:
        return Key(
            "force_field",
            ["amber14-all.xml", "amber14/tip3p.xml"],
            "Amber's ff14SB, OL3 and OL15 with TIP3P water and its ions",
        )
    names, words = [], []
    if contents.amino_acids or not contents.nucleotides:
        names, words = ["amber14/protein.ff14SB.xml"], ["ff14SB"]
    dna = [residue.name.startswith("D") for residue in contents.nucleotides]
    if dna and not all(dna):
        names, words = [*names, "amber14/RNA.OL3.xml"], [*words, "OL3"]
    if any(dna):
        names, words = [*names, "amber14/DNA.OL15.xml"], [*words, "OL15"]
    return Key(
        "force_field",
        [*names, "implicit/obc2.xml"],
        f"Amber's {' and '.join(words)}; OBC2 is an implicit solvent, much faster than water on few cores, for "
        f"peptides of up to {MOST_AMINO_ACIDS} amino acids and strands of up to {MOST_NUCLEOTIDES} nucleotides",
    )


def _is_complete(source: StructureText, structure: Structure, field: app.ForceField) -> bool:
    """Whether a force field can take a structure as it is."""
    add_template_bonds(field, structure.topology, structure.positions)
    reader = mmcif if source.is_mmcif else pdb
    gaps = any(distance > LONGEST_LINK for *_, distance in links(structure))
    missing = gaps or list(reader.missing(source, structure.topology))
    return not missing and not field.getUnmatchedResidues(structure.topology)


# ----------------------------------------------------------------------------------------------------- engine files


def _from_engine(kind: str, topology: Path, others: list[Path], folder: Path) -> ProposedSystem:
    parameters = [file for file in others if kind == "charmm" and file.suffix.lower() in PARAMETERS]
    rest = [file for file in others if file not in parameters] or _beside(topology, COORDINATES[kind])
    if len(rest) != 1:
        several = (
            f"{rest[1]}: is a second file of coordinates beside {rest[0]}" if rest else f"{topology}: is a topology"
        )
        raise SettingsError(f"{several}; give one file of coordinates with it, {' or '.join(COORDINATES[kind])}.")
    files: dict[str, Any] = {"topology": _path(topology, folder), "coordinates": _path(rest[0], folder)}
    if kind == "openmm":
        files = {"system": files["topology"], "topology": files["coordinates"]}
    if kind == "charmm":
        if not parameters:
            raise SettingsError(f"{topology}: CHARMM's parameters are missing; give its .rtf, .prm and .str files too.")
        files["parameters"] = [_path(file, folder) for file in parameters]
    if kind == "gromacs" and (include := _include()) is not None:
        files["include"] = include
    keys = [Key(kind, files)]
    if kind == "openmm":
        molecule = build(_settings(keys, folder), SEED)
        contents = Contents.from_topology(molecule.topology)
        _refuse_empty(contents, topology)
        if molecule.system.usesPeriodicBoundaryConditions():
            keys.append(_barostat())
            molecule = build(_settings(keys, folder), SEED)
        return ProposedSystem(keys, topology.name, contents, molecule, False)
    plain = _settings([*keys, Key("nonbonded", "no cutoff")], folder)
    content = SOURCES[kind](getattr(plain, kind), plain, SEED).topology
    contents, box = Contents.from_topology(content), box_vectors(content.getPeriodicBoxVectors() or None)
    _refuse_empty(contents, topology)
    if box is None and len(contents.waters) + len(contents.solvents) > 0:
        raise SettingsError(
            f"{rest[0]}: has no unit cell, and {contents} need one; give coordinates that have it"
            f"{', like a PDB file with CRYST1' if kind == 'charmm' else ''}."
        )
    thin = box is not None and content.getNumAtoms() < THIN * abs(float(np.linalg.det(box)))
    if box is not None and not thin:
        usual = CHARMM_CUTOFF if kind == "charmm" else CUTOFF
        keys += _periodic_keys(_cutoff(box, usual), "the coordinates have a unit cell", contents)
    else:
        cell = "the unit cell of the coordinates is next to empty" if thin else "the coordinates have no unit cell"
        keys.append(Key("nonbonded", "no cutoff", f"all pairs: {cell}"))
        keys.append(Key("implicit_solvent", "OBC2", "the files have no water; remove this line for a vacuum"))
        keys += _hydrogen_keys(contents)
    return ProposedSystem(keys, topology.name, contents, build(_settings(keys, folder), SEED), False)


def _beside(topology: Path, suffixes: Sequence[str]) -> list[Path]:
    """Coordinates of the same name."""
    return [file for suffix in suffixes if (file := topology.with_suffix(suffix)).is_file()]


def _include() -> str | None:
    """The folder of GROMACS's own force fields, if it is installed."""
    places = [*([f"{os.environ['GMXDATA']}/top"] if "GMXDATA" in os.environ else []), *INCLUDES]
    return next((place for place in places if Path(place).is_dir()), None)


# ------------------------------------------------------------------------------------------------------------ keys


def _cutoff(box: np.ndarray, usual: float) -> float:
    """The usual cutoff, or a shorter one for a small box, nm."""
    return min(usual, int(OF_BOX * float(box.diagonal().min()) / 0.05) * 0.05)


def _periodic_keys(cutoff: float, why: str, contents: Contents | None = None) -> list[Key]:
    return [
        Key("nonbonded", "PME", why),
        Key("cutoff", f"{cutoff:.3g} nm", "the usual one, or less than half of a small box"),
        *_hydrogen_keys(contents),
        _barostat(),
    ]


def _barostat() -> Key:
    return Key("barostat", {"pressure": "1 bar"}, "as in the test tube")


def _hydrogen_keys(contents: Contents | None = None) -> list[Key]:
    """Constraints, and heavy hydrogens."""
    return [
        Key("constraints", "h-bonds", "bonds of hydrogens have fixed lengths"),
        Key("hydrogen_mass", "3 amu", "together with the constraints it makes 4 fs stable"),
    ]
