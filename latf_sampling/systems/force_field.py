"""From a structure and force field files to a system, and which residue is at fault where that does not work."""

from __future__ import annotations

import re
from pathlib import Path

import openmm
from openmm import app, unit

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems.molecule import residue_label

NONBONDED = {"no cutoff": app.NoCutoff, "cutoff": app.CutoffNonPeriodic, "PME": app.PME}
CONSTRAINTS = {"none": None, "h-bonds": app.HBonds, "all-bonds": app.AllBonds, "h-angles": app.HAngles}


def options(settings: SystemSettings) -> dict:
    """What every `createSystem` of OpenMM takes."""
    found = {"nonbondedMethod": NONBONDED[settings.nonbonded], "constraints": CONSTRAINTS[settings.constraints]}
    if settings.cutoff is not None:
        found["nonbondedCutoff"] = settings.cutoff * unit.nanometer
    if settings.hydrogen_mass is not None:
        found["hydrogenMass"] = settings.hydrogen_mass * unit.dalton
    return found


def load_force_field(files: tuple[Path | str, ...]) -> app.ForceField:
    """Read force field files.

    Raises
    ------
    SettingsError
        A file cannot be read, or is neither one of the user's nor one of OpenMM's; names it.
    """
    for file in files:
        if isinstance(file, Path) and file.is_file() and re.search(rb"<Include\b", file.read_bytes()):
            raise SettingsError(
                f"system.force_field: {file} includes other files, which a campaign would not keep; name them in "
                "force_field and remove the includes."
            )
    try:
        return app.ForceField(*(str(file) for file in files))
    except Exception as error:  # as many types as there are ways to spoil a file
        raise SettingsError(f"system.force_field: {_fault(files, error)}") from error


def _fault(files: tuple[Path | str, ...], error: Exception) -> str:
    """Which of the files cannot be read by itself, and why."""
    for file in files:
        try:
            app.ForceField(str(file))
        except Exception as own:  # as above
            words = " ".join(str(own).split())
            if "locate file" in words:
                words = "there is no such file, neither beside the protocol nor among those of OpenMM."
            return f"{file}: {words}"
    return f"{', '.join(map(str, files))}: {' '.join(str(error).split())}"  # they contradict each other


def apply_force_field(field: app.ForceField, topology: app.Topology, settings: SystemSettings) -> openmm.System:
    """OpenMM's system of a structure.

    Raises
    ------
    SettingsError
        The force field does not know a residue, or not with these atoms; names the residue and what it lacks.
    """
    try:
        return field.createSystem(topology, **options(settings))
    except Exception as error:  # as above
        words = " ".join(str(error).split())
        refused = re.match(r"No template found for residue (\d+) \(.*?\)\. ?(.*)", words)
        what = words if refused is None else _refusal(field, topology, int(refused[1]), refused[2], settings)
        raise SettingsError(f"system.force_field: {', '.join(settings.force_field_names)}: {what}") from error


def _refusal(field: app.ForceField, topology: app.Topology, index: int, why: str, settings: SystemSettings) -> str:
    """What is wrong with a residue that fits none of the force field's templates."""
    residue = next(residue for residue in topology.residues() if residue.index == index)
    others = len(field.getUnmatchedResidues(topology)) - 1
    label, more = residue_label(residue), f" So do {others} other residues." if others > 0 else ""
    template = _template(field, residue)
    if template is None:
        return (
            f"{label} is not in the force field. Add a force field file that has it (openmmforcefields writes them "
            f"for ligands), or remove it from the structure."
        )
    mend = "add them to the structure" if settings.prepare else "set 'prepare: {}' to have them added"
    there = {atom.name for atom in residue.atoms()}
    if lacking := [atom.name for atom in template.atoms if _heavy(atom) and atom.name not in there]:
        return f"{label} lacks the heavy atoms {', '.join(lacking)}; {mend}.{more}"
    hydrogens = len([atom for atom in template.atoms if not _heavy(atom)])
    if (lacks := hydrogens - len([atom for atom in residue.atoms() if not _heavy(atom)])) > 0:
        return f"{label} lacks hydrogens, {lacks} of {hydrogens}; {mend}.{more}"
    return f"{label} fits none of the force field's residues. {why}"


def _template(field: app.ForceField, residue: app.topology.Residue):
    """What the force field has for a residue of this name and with its bonds to others; none where it has nothing."""
    spelled = {"HIS": ("HID", "HIE", "HIP"), "CYS": ("CYS", "CYX")}.get(residue.name, (residue.name,))
    found = [
        field._templates[full]
        for name in spelled
        for full in (name, f"N{name}", f"C{name}", f"{name}5", f"{name}3", f"{name}N")
        if full in field._templates
    ]
    there = {atom.name for atom in residue.atoms()}
    bonded = {atom.name for bond in residue.external_bonds() for atom in bond if atom.residue is residue}

    def misfit(template) -> tuple[int, int]:
        bonds = {template.atoms[index].name for index in template.externalBonds}
        return len(bonds ^ bonded), sum(_heavy(atom) and atom.name not in there for atom in template.atoms)

    return min(found, key=misfit, default=None)


def _heavy(atom) -> bool:
    return atom.element is not None and atom.element.symbol != "H"
