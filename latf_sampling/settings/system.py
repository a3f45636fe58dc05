"""What a protocol says about the system: where it comes from, its forces beyond the force field, its preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from latf_sampling.errors import SettingsError
from latf_sampling.settings.fields import Concentration, File, Length, Mass, Pressure, Settings, Stiffness, existing

SOURCES = ("name", "structure", "amber", "gromacs", "charmm", "openmm")
"""Where a system may come from; a protocol names exactly one."""
POTENTIALS = ("three-hole", "double-well", "harmonic-well", "lj7")
"""Model systems by name, which bring their own potential."""
MOLECULES: dict[str, dict[str, Any]] = {
    "alanine-dipeptide": {"force_field": ("amber14/protein.ff14SB.xml",)},
    "chignolin": {
        "force_field": ("amber14/protein.ff14SB.xml", "implicit/gbn2.xml"),
        "constraints": "h-bonds",
        "hydrogen_mass": "3 amu",
    },
}
"""Molecules by name, and what stands for the keys that a protocol leaves out."""
CONFORMATIONS = {"chignolin": ("hairpin", "extended")}
"""Conformations of molecules by name that a protocol may ask for."""

_FORCE_FIELD = {"nonbonded", "cutoff", "constraints", "hydrogen_mass"}
_ANY_MOLECULE = {"barostat", "restraints", "conformations", "platform"}
_KEYS = {
    "potential": {"platform"},
    "name": {"force_field", "prepare"} | _FORCE_FIELD | _ANY_MOLECULE,
    "structure": {"force_field", "prepare"} | _FORCE_FIELD | _ANY_MOLECULE,
    "amber": {"implicit_solvent"} | _FORCE_FIELD | _ANY_MOLECULE,
    "gromacs": {"implicit_solvent"} | _FORCE_FIELD | _ANY_MOLECULE,
    "charmm": {"implicit_solvent"} | _FORCE_FIELD | _ANY_MOLECULE,
    "openmm": _ANY_MOLECULE,
}
"""The keys that go with each source."""
_WHAT = {
    "potential": "a model system by name",
    "name": "a molecule by name",
    "structure": "a structure",
    "amber": "files of Amber",
    "gromacs": "files of GROMACS",
    "charmm": "files of CHARMM",
    "openmm": "a serialized system, which holds its forces, constraints and masses",
}


def _own_or_openmm(entry: Any, info: ValidationInfo) -> Any:
    """A force field file beside the protocol where there is one, else one of OpenMM's by its name."""
    if isinstance(entry, str):
        own = Path((info.context or {}).get("directory", ".")) / entry
        return own.resolve() if own.is_file() else entry
    if isinstance(entry, Path):
        return existing(entry, info)
    raise SettingsError(f"{entry!r} is no file name.")


ForceFieldFile = Annotated[Path | str, BeforeValidator(_own_or_openmm)]
"""A file of one's own, relative to the protocol, or one that comes with OpenMM."""


class SolventSettings(Settings):
    """A box of water with ions, as `openmm.app.Modeller.addSolvent` makes it."""

    model: Literal["tip3p", "spce", "tip4pew", "tip5p", "swm4ndp"] = "tip3p"
    """Geometry of the water; the force field has to bring the same model."""
    padding: Length | None = None
    """Least distance between two copies of the molecule is twice this."""
    box: tuple[Length, Length, Length] | None = None
    """Edges of a rectangular box."""
    shape: Literal["cube", "dodecahedron", "octahedron"] = "cube"
    """Of the box that a padding gives; the last two hold less water than a cube."""
    ionic_strength: Concentration = 0.0
    """Of the ions beyond those that neutralise the molecule, mol/l."""
    positive_ion: Literal["Cs+", "K+", "Li+", "Na+", "Rb+"] = "Na+"
    negative_ion: Literal["Cl-", "Br-", "F-", "I-"] = "Cl-"

    @model_validator(mode="after")
    def _one_size(self) -> SolventSettings:
        if (self.padding is None) == (self.box is None):
            raise SettingsError("padding: give either this or box.")
        if self.box is not None and self.shape != "cube":
            raise SettingsError("shape: goes with padding; a box given by its edges is rectangular.")
        return self


class PrepareSettings(Settings):
    """What is added to a structure once, when the campaign begins: atoms by PDBFixer, solvent by OpenMM."""

    pH: float = Field(default=7.0, ge=0, le=14)
    """Decides the protonation of residues where the structure does not."""
    missing_residues: Literal["inside", "all"] | None = None
    """Builds residues that the sequence of the file names and its coordinates lack: inside chains, or at their ends
    too. None refuses a structure that lacks any."""
    solvent: SolventSettings | None = None


class AmberSettings(Settings):
    """Files of Amber."""

    topology: File
    """prmtop."""
    coordinates: File
    """inpcrd or rst7, with the unit cell where there is one."""


class GromacsSettings(Settings):
    """Files of GROMACS."""

    topology: File
    """top; files that it includes are looked for beside it and in `include`, and become part of it in a campaign."""
    coordinates: File
    """gro, with the unit cell where there is one."""
    include: Annotated[Path, BeforeValidator(lambda value, info: _directory(value, info))] | None = Field(
        default=None, exclude=True
    )
    """Directory of included files, like GROMACS's share/gromacs/top."""


class CharmmSettings(Settings):
    """Files of CHARMM."""

    topology: File
    """psf."""
    coordinates: File
    """crd, PDB or PDBx/mmCIF; the latter two with the unit cell where there is one."""
    parameters: tuple[File, ...] = Field(min_length=1)
    """rtf, prm and str files, in the order in which CHARMM would read them."""
    box: tuple[Length, Length, Length] | None = None
    """Edges of a rectangular unit cell, where the coordinates hold none."""


class OpenmmSettings(Settings):
    """A system of OpenMM from a file."""

    system: File
    """XML as `openmm.XmlSerializer` writes it."""
    topology: File
    """PDB or PDBx/mmCIF file with the names and positions of the same atoms."""


class BarostatSettings(Settings):
    """Constant pressure at the temperature of each walker.

    OpenMM's MonteCarloBarostat (Chow and Ferguson, doi:10.1016/0010-4655(95)00059-O), for periodic systems.
    The energy of a frame is then U + pV, the potential energy and the work against the pressure: the density at any
    temperature and this pressure is proportional to exp(-(U + pV) / kT), so that frames of constant pressure are
    reweighted from one temperature to another as those of constant volume are. Energies that come with trajectories of
    one's own have to be U + pV, too.
    """

    pressure: Pressure = 1.0
    interval: int = Field(default=25, ge=1)
    """Steps between attempts to change the volume."""


class RestraintSettings(Settings):
    """Harmonic restraints of atoms to their places in the structure: stiffness / 2 times the distance squared."""

    atoms: str
    """Selection in the language of MDTraj."""
    stiffness: Stiffness


class SystemSettings(Settings):
    """The molecule, its forces and where they are computed; or a model system by its name."""

    name: str | None = None
    """A molecule or model system of `latf_sampling.systems`. A molecule by name takes the keys of a structure."""
    structure: File | None = None
    """PDB or PDBx/mmCIF file; relative paths are relative to the protocol."""
    amber: AmberSettings | None = None
    gromacs: GromacsSettings | None = None
    charmm: CharmmSettings | None = None
    openmm: OpenmmSettings | None = None
    force_field: tuple[ForceFieldFile, ...] = ()
    """Force field files as `openmm.app.ForceField` takes them, or files of one's own beside the protocol."""
    implicit_solvent: Literal["HCT", "OBC1", "OBC2", "GBn", "GBn2"] | None = None
    """For files of Amber, GROMACS and CHARMM; a structure takes it as a force field file, like implicit/gbn2.xml."""
    nonbonded: Literal["no cutoff", "cutoff", "PME"] = "no cutoff"
    cutoff: Length | None = Field(default=None, validate_default=True)
    """Nonbonded cutoff; needed with `cutoff` and `PME`, refused with `no cutoff`."""
    constraints: Literal["none", "h-bonds", "all-bonds", "h-angles"] = "h-bonds"
    hydrogen_mass: Mass | None = None
    """Mass of hydrogens (repartitioned from their heavy atoms); none leaves the force field's."""
    prepare: PrepareSettings | None = None
    """None takes the structure as it is, and refuses one that lacks atoms."""
    barostat: BarostatSettings | None = None
    """None keeps the volume."""
    restraints: tuple[RestraintSettings, ...] | None = None
    conformations: tuple[str | Path, ...] | None = Field(default=None, min_length=1)
    """Structures that walkers start from in turn, where they do not start from what was learned: files with the same
    atoms, or names for a molecule by name. None is the structure itself."""
    platform: str | None = None
    """OpenMM platform; none picks the fastest for the system's size."""

    @property
    def is_potential(self) -> bool:
        """Whether this is a model system, which takes no keys of a molecule."""
        return self.name is not None and self.name not in MOLECULES

    @property
    def title(self) -> str:
        """The system in a few words: its name, or that of its topology's file."""
        if self.name is not None:
            return f"model system {self.name}" if self.is_potential else self.name
        source = self.structure or next(getattr(self, key) for key in SOURCES if getattr(self, key) is not None)
        return source.name if isinstance(source, Path) else source.topology.name

    @property
    def force_field_names(self) -> tuple[str, ...]:
        names = tuple(file.name if isinstance(file, Path) else file for file in self.force_field)
        return names if self.implicit_solvent is None else (*names, self.implicit_solvent)

    def content(self, file: Path) -> bytes:
        """What a campaign keeps of a file of these settings, or of any other: a copy that needs no other file."""
        if self.gromacs is not None and file == self.gromacs.topology:
            return _with_includes(file, [self.gromacs.include] if self.gromacs.include else []).encode()
        return file.read_bytes()

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        brought = MOLECULES.get(data.get("name"), {}) if isinstance(data, dict) else {}
        return {**brought, **data} if brought else data

    @field_validator("cutoff")
    @classmethod
    def _cutoff_fits(cls, cutoff: float | None, info: ValidationInfo) -> float | None:
        nonbonded = info.data.get("nonbonded", "")  # empty where that key is at fault itself
        if cutoff is not None and nonbonded == "no cutoff":
            raise SettingsError("nonbonded 'no cutoff' takes none; remove the key.")
        if cutoff is None and nonbonded in ("cutoff", "PME"):
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
            there = f"there are {', '.join(known)}" if known else "there is only the one it comes with"
            raise SettingsError(f"{name} has no conformation '{unknown[0]}'; {there}.")
        return entries

    @model_validator(mode="after")
    def _one_kind(self) -> SystemSettings:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if not given:
            others = ", ".join(f"'{key}'" for key in SOURCES if key != "structure")
            raise SettingsError(f"structure: this key is missing, or one of {others}.")
        if len(given) > 1:
            raise SettingsError(f"{given[1]}: a system comes from one source; '{given[0]}' is another.")
        if self.name is not None and self.name not in (*POTENTIALS, *MOLECULES):
            there = ", ".join((*POTENTIALS, *MOLECULES))
            raise SettingsError(f"name: there is no model system or molecule '{self.name}'; there are {there}.")
        kind = "potential" if self.is_potential else given[0]
        fields = type(self).model_fields
        strange = [
            key
            for key in fields
            if key not in {*SOURCES, *_KEYS[kind]} and getattr(self, key) != fields[key].get_default()
        ]
        faults = [f"{key}: does not go with {_WHAT[kind]}; remove the key." for key in strange]
        if kind == "structure" and not self.force_field:
            faults.append("force_field: this key is missing.")
        if faults := faults or self._contradictions(kind):
            raise SettingsError("\n".join(faults))
        return self

    def _contradictions(self, kind: str) -> list[str]:
        """Keys that are each right, and do not go together."""
        faults, periodic = [], self.nonbonded == "PME" or kind == "openmm"
        if self.barostat is not None and not periodic:
            faults.append("barostat: there is no volume to change without periodic boundaries; set nonbonded: PME.")
        if self.implicit_solvent is not None and periodic:
            faults.append("implicit_solvent: goes without periodic boundaries; remove it, or set nonbonded: no cutoff.")
        if self.prepare is not None and self.prepare.solvent is not None:
            if not periodic:
                faults.append("prepare.solvent: a box of water needs nonbonded: PME.")
        if self.conformations is not None:
            if self.prepare is not None:
                faults.append("conformations: must have the atoms of the finished molecule; go without prepare.")
            if self.restraints is not None:
                faults.append("conformations: restraints hold a single structure; remove one of the two keys.")
        return faults


def _directory(value: Any, info: ValidationInfo) -> Any:
    found = (Path((info.context or {}).get("directory", ".")) / str(value)).resolve()
    if not found.is_dir():
        raise SettingsError(f"there is no directory {found}; paths are relative to the protocol.")
    return found


def _with_includes(file: Path, directories: list[Path], inside: tuple[Path, ...] = ()) -> str:
    """A topology of GROMACS with the files that it includes in their places.

    One that is not found stays named, since a condition may leave it out; OpenMM complains where none does.
    """
    lines = []
    for line in file.read_text(errors="replace").splitlines(True):
        words = line.split(";")[0].split(None, 1)
        if len(words) == 2 and words[0] == "#include":
            name = words[1].strip().strip("\"'<>")
            found = next((d / name for d in (file.parent, *directories) if (d / name).is_file()), None)
            if found is not None and found not in inside:
                line = _with_includes(found, directories, (*inside, file)).rstrip("\n") + "\n"
        lines.append(line)
    return "".join(lines)
