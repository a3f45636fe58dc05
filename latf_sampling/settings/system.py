"""Settings of the system: its source, its forces beyond the force field, and its preparation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from latf_sampling.errors import SettingsError
from latf_sampling.settings.fields import (
    Concentration,
    Dimension,
    File,
    Length,
    Pressure,
    Settings,
    Stiffness,
    existing,
    is_stored,
    shown,
)

POTENTIALS = ("three-hole", "double-well", "harmonic-well", "lj7")
"""Model systems by name, which define their own potential."""
MOLECULES: dict[str, dict[str, Any]] = {
    "alanine-dipeptide": {"force_field": ("amber14/protein.ff14SB.xml",)},
    "chignolin": {
        "force_field": ("amber14/protein.ff14SB.xml", "implicit/obc2.xml"),
        "constraints": "h-bonds",
        "hydrogen_mass": "3 amu",
    },
}
"""Molecules by name, with the values of keys that a protocol leaves out."""
MODELS: dict[str, frozenset[str]] = {
    "chignolin-go": frozenset({"platform", "conformations"}),
    "gcaa-go": frozenset({"platform", "conformations"}),
    "wca-dimer": frozenset({"platform", "barostat"}),
}
"""Molecular models by name, which define their own forces, with the keys that a protocol may give."""
CONFORMATIONS = {name: ("hairpin", "extended") for name in ("chignolin", "chignolin-go", "gcaa-go")}
"""Conformations of molecules by name that a protocol may choose from."""
MAX_WATERS = 1_000_000
"""Water molecules that a box may hold at most; OpenMM needs a minute and a gigabyte of memory for so many."""
WATERS = 33.4
"""Water molecules in a cubic nanometer at room temperature."""
VOLUMES = {"cube": 1.0, "dodecahedron": 0.5**0.5, "octahedron": 4 * 3**0.5 / 9}
"""Volume of a box, relative to that of the cube whose images have the same distance."""
PERIODIC = ("PME", "LJPME")
"""Nonbonded methods with periodic boundaries."""
HydrogenMass = Annotated[float, Dimension("mass", 1.0, 5.0)]
"""The carbon of a methyl group has 15 amu with its hydrogens, and would be left with nothing at 5 amu."""


@dataclass(frozen=True)
class Source:
    """Marks a field of `SystemSettings` as a source of the system; a protocol names exactly one.

    Parameters
    ----------
    title
        What a system of this source is, for errors.
    keys
        The other keys of `SystemSettings` that are allowed with this source.
    """

    title: str
    keys: frozenset[str]


_ANY_MOLECULE = frozenset({"barostat", "restraints", "conformations", "temperature_dependent", "platform"})
_FORCES = _ANY_MOLECULE | {"nonbonded", "cutoff", "switching_distance", "constraints", "hydrogen_mass"}
_FORCE_FIELD = _FORCES | {"force_field", "prepare", "implicit_salt"}
_ENGINE_FILES = _FORCES | {"implicit_solvent", "implicit_salt"}
_POTENTIAL_KEYS = frozenset({"platform"})


def _beside_or_openmm(entry: Any, info: ValidationInfo) -> Any:
    """A force field file beside the protocol if there is one, otherwise one of OpenMM's by its name."""
    if isinstance(entry, str):
        if is_stored(info) and (Path(entry).is_absolute() or ".." in Path(entry).parts):
            return existing(Path(entry), info)
        beside = Path((info.context or {}).get("directory", ".")) / entry
        return beside.resolve() if beside.is_file() else entry
    if isinstance(entry, Path):
        return existing(entry, info)
    raise SettingsError(f"{shown(entry)} is not a file name.")


ForceFieldFile = Annotated[Path | str, BeforeValidator(_beside_or_openmm), WithJsonSchema({"type": "string"})]
"""A file of the user's, relative to the protocol, or one that comes with OpenMM."""


def _file_or_smiles(entry: Any, info: ValidationInfo) -> Any:
    """A file of a small molecule beside the protocol, by its suffix, or SMILES."""
    if isinstance(entry, Path) or (isinstance(entry, str) and entry.lower().endswith((".sdf", ".mol", ".mol2"))):
        return existing(Path(entry), info)
    if isinstance(entry, str) and entry.strip() and "." not in entry:
        return entry.strip()
    raise SettingsError(f"{shown(entry)} is neither a file .sdf, .mol or .mol2 nor SMILES of one molecule.")


LigandSource = Annotated[Path | str, BeforeValidator(_file_or_smiles), WithJsonSchema({"type": "string"})]
"""A file with a small molecule, relative to the protocol, or its SMILES."""


def _directory(value: Any, info: ValidationInfo) -> Any:
    if is_stored(info) or not isinstance(value, str | Path):
        raise SettingsError(f"{shown(value)} is not the name of a directory beside the protocol.")
    directory = (Path((info.context or {}).get("directory", ".")) / str(value)).resolve()
    if not directory.is_dir():
        raise SettingsError(f"there is no directory {directory}; paths are relative to the protocol.")
    return directory


def _place(place: str) -> str:
    if not re.fullmatch(r"\S+ -?\d+[A-Za-z]?", place):
        raise SettingsError(f"{shown(place)} is no place of a residue; write its chain and number, like 'A 57'.")
    return place


def _location(label: str) -> str:
    if label != "highest" and not re.fullmatch("[A-Za-z0-9]", label):
        raise SettingsError(f"{shown(label)} is no alternate location; write a label, like A, or highest.")
    return label


Place = Annotated[str, AfterValidator(_place)]
"""A residue by its chain, its number, and its insertion code if it has one: A 57, or A 52B."""
StandardResidue = Literal[
    "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE", "LEU", "LYS", "MET", "PHE", "PRO", "SER",
    "THR", "TRP", "TYR", "VAL", "A", "C", "G", "U", "DA", "DC", "DG", "DT",
]  # fmt: skip
"""Residues that PDBFixer completes."""


class SolventSettings(Settings):
    """A box of water with ions, as `openmm.app.Modeller.addSolvent` makes it."""

    model: Literal["tip3p", "spce", "tip4pew", "tip5p", "swm4ndp"] = "tip3p"
    """Water model; the force field has to define the same one."""
    padding: Length | None = None
    """Distance between the molecule and the faces of the box; two periodic images are at least twice this apart."""
    box: tuple[Length, Length, Length] | None = None
    """Edges of a rectangular box, instead of a padding."""
    shape: Literal["cube", "dodecahedron", "octahedron"] = "cube"
    """Shape of the box that a padding results in; the last two hold less water than a cube."""
    ionic_strength: Concentration = 0.0
    """Concentration of the ions beyond those that neutralize the molecule."""
    positive_ion: Literal["Cs+", "K+", "Li+", "Na+", "Rb+"] = "Na+"
    """Kind of the positive ions."""
    negative_ion: Literal["Cl-", "Br-", "F-", "I-"] = "Cl-"
    """Kind of the negative ions."""

    @model_validator(mode="after")
    def _one_size(self) -> SolventSettings:
        if (self.padding is None) == (self.box is None):
            raise SettingsError("padding: give either this or box.")
        if self.box is not None and self.shape != "cube":
            raise SettingsError("shape: goes with padding; a box with edges is rectangular.")
        refuse_too_much_water(*self.size())
        return self

    def size(self, positions: np.ndarray | None = None) -> tuple[float, str]:
        """Volume of the box around positions (N, 3), nm^3, by default around a point, and the key of its size."""
        if self.box is not None:
            return self.box[0] * self.box[1] * self.box[2], "box"
        padding = self.padding or 0.0
        radius = 0.0
        if positions is not None:  # of the sphere around the middle of the molecule, as OpenMM takes it
            middle = 0.5 * (positions.min(axis=0) + positions.max(axis=0))
            radius = float(np.linalg.norm(positions - middle, axis=1).max())
        return VOLUMES[self.shape] * max(2 * radius + padding, 2 * padding) ** 3, "padding"


def refuse_too_much_water(volume: float, key: str) -> None:
    """Refuse a box, by its volume in nm^3, with more than `MAX_WATERS` water molecules.

    Raises
    ------
    SettingsError
        It holds more.
    """
    if (waters := WATERS * volume) > MAX_WATERS:
        raise SettingsError(
            f"{key}: a box of {volume:.3g} nm^3 would hold {waters:.3g} water molecules, more than {MAX_WATERS:,}; "
            "make it smaller."
        )


class MembraneSettings(Settings):
    """A lipid bilayer in the plane of x and y, in water with ions, as `openmm.app.Modeller.addMembrane` makes it.

    The molecule has to stand in it already: oriented along z, with the middle of the membrane at `center`, like files
    of the database Orientations of Proteins in Membranes. The water is TIP3P.
    """

    lipid: Literal["POPC", "POPE", "DLPC", "DLPE", "DMPC", "DOPC", "DPPC"] = "POPC"
    """Kind of the lipids; the force field has to define it, like amber14/lipid17.xml."""
    center: Annotated[float, Dimension("length")] = 0.0
    """Height z of the middle of the membrane in the structure."""
    padding: Length = 1.0
    """Least distance between the molecule and the faces of the box, which holds whole copies of a patch of lipids."""
    ionic_strength: Concentration = 0.0
    """Concentration of the ions beyond those that neutralize the molecule."""
    positive_ion: Literal["Cs+", "K+", "Li+", "Na+", "Rb+"] = "Na+"
    """Kind of the positive ions."""
    negative_ion: Literal["Cl-", "Br-", "F-", "I-"] = "Cl-"
    """Kind of the negative ions."""


class PrepareSettings(Settings):
    """Atoms that are added to a structure once, when the campaign begins: by PDBFixer, and solvent by OpenMM."""

    pH: float = Field(default=7.0, ge=0, le=14)
    """The pH at which hydrogens are added to residues that lack them."""
    missing_residues: Literal["inside", "all"] | None = None
    """Residues of the file's sequence without coordinates that are built: those inside chains, or those at their ends
    too. None refuses a structure that lacks any."""
    alternate_locations: Annotated[str, AfterValidator(_location)] | None = None
    """The alternate location of a residue that is taken: a label like A, where the residue has it, or the one of the
    highest occupancy. None refuses a file with alternate locations."""
    chains: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Letters of the chains that are taken from the file, with their water and ions; None takes all."""
    replace: dict[str, StandardResidue] = {}
    """Residues that are replaced by standard ones, by their name or their place: {MSE: MET, "A 57": ALA}. Heavy atoms
    that both have stay where they are, the others are built."""
    remove: tuple[str, ...] = ()
    """Residues that are left out, by their name or their place, like what a protein was crystallized with: [DMS, PO4,
    "A 301"]."""
    protonation: dict[Place, Literal["ASP", "ASH", "GLU", "GLH", "HID", "HIE", "HIP", "LYS", "LYN"]] = {}
    """States of protonation by the place of the residue, like {"A 57": HIE}; others follow from the pH."""
    disulfides: Literal["auto", "none"] | tuple[tuple[Place, Place], ...] = "auto"
    """Bonds between the sulfurs of cysteines: auto makes one where two are nearer than 0.3 nm, none makes none, and a
    list names the pairs, like [[A 5, A 20]]."""
    ligands: dict[str, LigandSource] = {}
    """Small molecules by the name of their residues, like {LIG: ligand.sdf} or {LIG: "Cc1ccc(C)cc1"}, which get
    parameters of GAFF2 and charges by AM1-BCC from AmberTools. Bonds, charges and hydrogens come from the SDF, mol or
    mol2 file or from SMILES, positions from the structure."""
    solvent: SolventSettings | None = None
    """Box of water around the molecule; None adds no water."""
    membrane: MembraneSettings | None = None
    """Lipid bilayer around the molecule, with its water, in place of `solvent`; None adds none."""

    @model_validator(mode="after")
    def _one_surrounding(self) -> PrepareSettings:
        if self.solvent is not None and self.membrane is not None:
            raise SettingsError("membrane: brings its water; remove solvent.")
        return self


class AmberSettings(Settings):
    """Files of Amber."""

    topology: File
    """Topology and parameters, a prmtop file."""
    coordinates: File
    """Positions, an inpcrd or rst7 file, with the unit cell of a periodic system."""


class GromacsSettings(Settings):
    """Files of GROMACS."""

    topology: File
    """Topology and parameters, a top file. Files that it includes are searched beside it and in `include`; a campaign
    stores them inside it."""
    coordinates: File
    """Positions, a gro file, with the unit cell of a periodic system."""
    include: Annotated[Path, BeforeValidator(_directory)] | None = Field(default=None, exclude=True)
    """Directory of included files, like GROMACS's share/gromacs/top."""
    defines: dict[str, str] = {}
    """Macros of the topology, like {FLEXIBLE: ""}, which makes water flexible and goes with constraints: none. Position
    restraints (POSRES) are not read from GROMACS's files; use restraints."""

    @field_validator("defines")
    @classmethod
    def _no_position_restraints(cls, defines: dict[str, str]) -> dict[str, str]:
        if names := [name for name in defines if name.upper().startswith("POSRES")]:
            raise SettingsError(f"{names[0]} is not read from files of GROMACS; use system.restraints.")
        return defines

    @field_validator("topology")
    @classmethod
    def _no_includes_in_copies(cls, topology: Path, info: ValidationInfo) -> Path:
        """A copy holds its includes; one that names other files was changed, and is not followed to them."""
        if is_stored(info) and (names := _included(topology)):
            raise SettingsError(f"{topology} includes '{names[0]}'; the copy of a campaign includes no other file.")
        return topology


class CharmmSettings(Settings):
    """Files of CHARMM."""

    topology: File
    """Topology, a psf file."""
    coordinates: File
    """Positions, a crd, PDB or PDBx/mmCIF file; the latter two with the unit cell of a periodic system."""
    parameters: tuple[File, ...] = Field(min_length=1)
    """Parameters, rtf, prm and str files in the order in which CHARMM would read them."""
    box: tuple[Length, Length, Length] | None = None
    """Edges of a rectangular unit cell, for coordinates without one."""


class OpenmmSettings(Settings):
    """A serialized OpenMM system."""

    system: File
    """XML file, as `openmm.XmlSerializer` writes it."""
    topology: File
    """PDB or PDBx/mmCIF file with the names and positions of the same atoms."""


class BarostatSettings(Settings):
    """Constant pressure at the temperature of each walker.

    OpenMM's MonteCarloBarostat (Chow and Ferguson, doi:10.1016/0010-4655(95)00059-O), for periodic systems.
    The energy of a frame is then U + pV, the potential energy and the work against the pressure: the density at any
    temperature and this pressure is proportional to exp(-(U + pV) / kT), so that frames at constant pressure are
    reweighted from one temperature to another like those at constant volume. Energies of external trajectories have
    to be U + pV, too.
    """

    pressure: Pressure = 1.0
    """Pressure of the barostat."""
    interval: int = Field(default=25, ge=1, le=1_000_000_000)
    """Time steps between attempts to change the volume."""


class RestraintSettings(Settings):
    """Harmonic restraints of atoms to their positions in the structure: stiffness / 2 times the distance squared."""

    atoms: str
    """The restrained atoms, as an MDTraj selection."""
    stiffness: Stiffness
    """Force constant k of the energy k d^2 / 2 of an atom at the distance d from its position in the structure."""


class SystemSettings(Settings):
    """The molecule, its forces and where they are computed; or a model system by its name."""

    name: Annotated[str | None, Source("a molecule by name", _FORCE_FIELD)] = None
    """A molecule or model system that the package knows: alanine-dipeptide, chignolin, the Go models chignolin-go
    and gcaa-go, the dimer in a fluid wca-dimer, or one of the potentials three-hole, double-well, harmonic-well and
    lj7. A molecule by name takes the same keys as a structure."""
    structure: Annotated[File | None, Source("a structure", _FORCE_FIELD | {"model"})] = None
    """PDB or PDBx/mmCIF file; relative paths are relative to the protocol."""
    model: int | None = Field(default=None, ge=1, le=1_000_000)
    """Number of the model, from 1, where the structure's file holds several; None refuses such a file."""
    amber: Annotated[AmberSettings | None, Source("files of Amber", _ENGINE_FILES)] = None
    """Files of Amber, in place of a structure and a force field."""
    gromacs: Annotated[GromacsSettings | None, Source("files of GROMACS", _ENGINE_FILES)] = None
    """Files of GROMACS, in place of a structure and a force field."""
    charmm: Annotated[CharmmSettings | None, Source("files of CHARMM", _ENGINE_FILES)] = None
    """Files of CHARMM, in place of a structure and a force field."""
    openmm: Annotated[
        OpenmmSettings | None,
        Source("a serialized system, which holds its forces, constraints and masses", _ANY_MOLECULE),
    ] = None
    """A serialized OpenMM system, in place of a structure and a force field."""
    force_field: tuple[ForceFieldFile, ...] = ()
    """Force field files as `openmm.app.ForceField` takes them: of OpenMM by name, or of the user beside the
    protocol."""
    implicit_solvent: Literal["HCT", "OBC1", "OBC2", "GBn", "GBn2"] | None = None
    """Generalized-Born model for files of Amber, GROMACS and CHARMM; for a structure it is a force field file instead,
    like implicit/gbn2.xml."""
    implicit_salt: Concentration = 0.0
    """Concentration of a monovalent salt in the implicit solvent, which screens charges by the Debye length at 298 K; a
    force field needs a file of OpenMM's implicit/. OpenMM has no native force for it: steps take several times as long
    as OBC2 without salt."""
    nonbonded: Literal["no cutoff", "cutoff", "PME", "LJPME"] = "no cutoff"
    """Nonbonded method: all pairs, pairs within a cutoff without periodic boundaries, or particle-mesh Ewald, of
    charges with PME, and of dispersion too with LJPME."""
    cutoff: Length | None = Field(default=None, validate_default=True)
    """Nonbonded cutoff; needed with `cutoff`, `PME` and `LJPME`, refused with `no cutoff`."""
    switching_distance: Length | None = None
    """Distance from which on Lennard-Jones interactions are switched off smoothly up to the cutoff; None cuts them off,
    and corrects the energy for what is beyond."""
    constraints: Literal["none", "h-bonds", "all-bonds", "h-angles"] = "h-bonds"
    """Bonds whose lengths are fixed: those to hydrogens, all, or all and the angles H-X-H and H-O-X."""
    hydrogen_mass: HydrogenMass | None = None
    """Mass of hydrogens, taken from the heavy atoms that they are bonded to; None leaves the force field's."""
    prepare: PrepareSettings | None = None
    """Completion and solvation of the structure; None takes it as it is, and refuses one that lacks atoms."""
    barostat: BarostatSettings | None = None
    """Constant pressure; None is constant volume."""
    restraints: tuple[RestraintSettings, ...] | None = None
    """Harmonic restraints of atoms to their positions in the structure; None is unrestrained."""
    conformations: tuple[str | Path, ...] | None = Field(default=None, min_length=1)
    """Structures that walkers of the first round start from in turn: files with the same atoms, or names for a
    molecule by name. None is the structure itself."""
    temperature_dependent: bool = False
    """Whether the potential energy itself depends on temperature, as in the coarse-grained models TIS and 3SPN2 and in
    implicit solvents fitted for each temperature. Energies of frames at one temperature then say nothing about another:
    each temperature is weighted by itself, without MBAR between them, models are of `temperature_mode: steered`, and
    configurations are not exchanged."""
    platform: str | None = None
    """OpenMM platform; None picks the fastest for the size of the system."""

    @property
    def source(self) -> str:
        """The key that says where the system comes from."""
        return next(key for key in SOURCES if getattr(self, key) is not None)

    @property
    def is_potential(self) -> bool:
        """Whether this is a potential by name, whose density in the plane is known."""
        return self.name in POTENTIALS

    @property
    def is_model(self) -> bool:
        """Whether this is a model system by name, which has no force field."""
        return self.is_potential or self.name in MODELS

    @property
    def title(self) -> str:
        """The system in a few words: its name, or that of its topology's file."""
        if self.name is not None:
            return f"model system {self.name}" if self.is_model else self.name
        files = getattr(self, self.source)
        return files.name if isinstance(files, Path) else files.topology.name

    @property
    def force_field_names(self) -> tuple[str, ...]:
        """Names of the force field files and of the implicit solvent."""
        names = tuple(file.name if isinstance(file, Path) else file for file in self.force_field)
        return names if self.implicit_solvent is None else (*names, self.implicit_solvent)

    def content(self, file: Path) -> bytes:
        """The bytes of a file as a campaign stores them: a copy that needs no other file."""
        if self.gromacs is not None and file == self.gromacs.topology:
            return _with_includes(file, [self.gromacs.include] if self.gromacs.include else []).encode()
        return file.read_bytes()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_molecule(cls, data: Any) -> Any:
        return {**MOLECULES.get(str(data.get("name")), {}), **data} if isinstance(data, dict) else data

    @field_validator("cutoff")
    @classmethod
    def _cutoff_fits(cls, cutoff: float | None, info: ValidationInfo) -> float | None:
        nonbonded = info.data.get("nonbonded", "")  # empty where that key is at fault itself
        if cutoff is not None and nonbonded == "no cutoff":
            raise SettingsError("nonbonded 'no cutoff' takes none; remove the key.")
        if cutoff is None and nonbonded in ("cutoff", *PERIODIC):
            raise SettingsError(f"nonbonded '{nonbonded}' needs one, like '1 nm'.")
        return cutoff

    @field_validator("conformations")
    @classmethod
    def _conformations_known(cls, entries: tuple | None, info: ValidationInfo) -> tuple | None:
        name = info.data.get("name")
        if entries is None or name in POTENTIALS:
            return entries
        if name is None:
            return tuple(existing(Path(entry), info) for entry in entries)
        known = CONFORMATIONS.get(name, ())
        if unknown := [str(entry) for entry in entries if entry not in known]:
            choices = f"there are {', '.join(known)}" if known else "there is only the default one"
            raise SettingsError(f"{name} has no conformation '{unknown[0]}'; {choices}.")
        return entries

    @model_validator(mode="after")
    def _fits_together(self) -> SystemSettings:
        sources = [key for key in SOURCES if getattr(self, key) is not None]
        if not sources:
            others = ", ".join(f"'{key}'" for key in SOURCES if key != "structure")
            raise SettingsError(f"structure: this key is missing, or one of {others}.")
        if len(sources) > 1:
            raise SettingsError(f"{sources[1]}: a system comes from one source; '{sources[0]}' is another.")
        if self.name is not None and self.name not in (*POTENTIALS, *MODELS, *MOLECULES):
            names = ", ".join((*POTENTIALS, *MODELS, *MOLECULES))
            raise SettingsError(f"name: there is no model system or molecule '{self.name}'; there are {names}.")
        source = SOURCES[self.source]
        if self.is_model:
            source = Source("a model system by name", MODELS.get(str(self.name), _POTENTIAL_KEYS))
        misplaced = [
            key
            for key, field in type(self).model_fields.items()
            if key not in {*SOURCES, *source.keys} and getattr(self, key) != field.get_default()
        ]
        faults = [f"{key}: does not go with {source.title}; remove the key." for key in misplaced]
        if self.structure is not None and not self.force_field:
            faults.append("force_field: this key is missing.")
        if faults := faults or self._contradictions():
            raise SettingsError("\n".join(faults))
        return self

    def _contradictions(self) -> list[str]:
        """Faults of keys that are valid one by one, and not together."""
        periodic = self.nonbonded in PERIODIC or self.openmm is not None or self.name == "wca-dimer"
        faults = []
        if self.barostat is not None and not periodic:
            faults.append("barostat: there is no volume to change without periodic boundaries; set nonbonded: PME.")
        if self.implicit_solvent is not None and periodic:
            faults.append("implicit_solvent: goes without periodic boundaries; remove it, or set nonbonded: no cutoff.")
        if self.switching_distance is not None and self.cutoff is None:
            faults.append("switching_distance: there is no cutoff to switch interactions off at; remove the key.")
        elif self.switching_distance is not None and self.switching_distance >= (self.cutoff or 0.0):
            faults.append(f"switching_distance: has to be below the cutoff, {self.cutoff:g} nm.")
        if self.implicit_salt and not self.force_field and self.implicit_solvent is None:
            faults.append("implicit_salt: there is no implicit solvent; remove the key, or set implicit_solvent.")
        if self.prepare is not None and self.prepare.solvent is not None:
            if not periodic:
                faults.append("prepare.solvent: a box of water needs nonbonded: PME.")
        if self.prepare is not None and self.prepare.membrane is not None and not periodic:
            faults.append("prepare.membrane: a membrane needs nonbonded: PME.")
        if self.conformations is not None:
            if self.prepare is not None:
                faults.append("conformations: must have the atoms of the finished molecule; go without prepare.")
            if self.restraints is not None:
                faults.append("conformations: restraints hold a single structure; remove one of the two keys.")
        return faults


SOURCES: dict[str, Source] = {
    key: mark
    for key, field in SystemSettings.model_fields.items()
    for mark in field.metadata
    if isinstance(mark, Source)
}
"""The keys that a system may come from; `latf_sampling.systems.build` has a function for each."""


def _include(line: str) -> str | None:
    """The file that a line of a topology of GROMACS includes."""
    words = line.split(";")[0].split(None, 1)
    return words[1].strip().strip("\"'<>") if len(words) == 2 and words[0] == "#include" else None


def _included(file: Path) -> list[str]:
    """Existing files that a topology of GROMACS includes."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    names = [name for line in lines if (name := _include(line)) is not None]
    return [name for name in names if (file.parent / name).is_file()]


def _with_includes(file: Path, directories: list[Path], including: tuple[Path, ...] = ()) -> str:
    """A topology of GROMACS with each `#include` replaced by the content of the file.

    An `#include` of a missing file stays as it is, since a condition may leave it out; otherwise OpenMM refuses it.
    """
    lines = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines(True):
        if (name := _include(line)) is not None:
            included = next((d / name for d in (file.parent, *directories) if (d / name).is_file()), None)
            if included is not None and included not in including:
                line = _with_includes(included, directories, (*including, file)).rstrip("\n") + "\n"
        lines.append(line)
    return "".join(lines)
