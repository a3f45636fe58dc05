"""From a structure and force field files to a system; errors name the residue that lacks parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import openmm
from openmm import app

from latf_sampling.errors import SettingsError
from latf_sampling.settings.system import SystemSettings
from latf_sampling.systems.molecule import residue_label
from latf_sampling.systems.reader_errors import reason
from latf_sampling.systems.replacement import standard_residue
from latf_sampling.units import to_quantity

NONBONDED = {"no cutoff": app.NoCutoff, "cutoff": app.CutoffNonPeriodic, "PME": app.PME, "LJPME": app.LJPME}
CONSTRAINTS = {"none": None, "h-bonds": app.HBonds, "all-bonds": app.AllBonds, "h-angles": app.HAngles}

NUCLEOTIDES = ("A", "C", "G", "U", "DA", "DC", "DG", "DT")
"""Names by which OpenMM's GBn2 knows nucleotides."""
LONGEST_LINK = 0.2
"""nm; heavy atoms of neighbors in a chain that are nearer are bonded, if a template has a bond to another residue."""
DEBYE = 503.3355
"""sqrt(2 N_A e^2 / (epsilon_0 k)) for concentrations in mol/l, 1/nm."""
_OTHER_NAMES = {
    "HIS": ("HID", "HIE", "HIP", "HSD", "HSE", "HSP"),
    "CYS": ("CYS", "CYX"),
    "A": ("A", "ADE"),
    "C": ("C", "CYT"),
    "G": ("G", "GUA"),
    "U": ("U", "URA"),
    "DA": ("DA", "ADE"),
    "DC": ("DC", "CYT"),
    "DG": ("DG", "GUA"),
    "DT": ("DT", "THY"),
}
"""Names of templates of residues whose names OpenMM's reader makes the standard ones: Amber's, then CHARMM's."""
_SCRIPTS = ("Script", "InitializationScript")
"""Elements of a force field file that are Python."""
_WORD = re.compile("True|False|[01]")
"""What OpenMM, which evaluates this attribute as Python, expects in it."""


def options(settings: SystemSettings) -> dict[str, Any]:
    """Options of every `createSystem` of OpenMM."""
    arguments: dict[str, Any] = {
        "nonbondedMethod": NONBONDED[settings.nonbonded],
        "constraints": CONSTRAINTS[settings.constraints],
    }
    if settings.cutoff is not None:
        arguments["nonbondedCutoff"] = to_quantity(settings.cutoff, "length")
    if settings.switching_distance is not None:
        arguments["switchDistance"] = to_quantity(settings.switching_distance, "length")
    if settings.hydrogen_mass is not None:
        arguments["hydrogenMass"] = to_quantity(settings.hydrogen_mass, "mass")
    return arguments


def salt(settings: SystemSettings) -> dict[str, Any]:
    """Options of `createSystem`, and of forces of implicit solvent, for salt: the inverse of the Debye length, 1/nm.

    As Amber has it: for water at 298.15 K, and with 0.73 of the ions, since they are excluded from the solute.

    Examples
    --------
    >>> settings = SystemSettings(name="chignolin", implicit_salt="0.15 M")
    >>> round(salt(settings)["implicitSolventKappa"], 3)
    0.93
    """
    if not settings.implicit_salt:
        return {}
    return {"implicitSolventKappa": 0.73 * DEBYE * (settings.implicit_salt / (78.5 * 298.15)) ** 0.5}


def load_force_field(files: tuple[Path | str, ...]) -> app.ForceField:
    """Read force field files.

    Raises
    ------
    SettingsError
        A file cannot be read, or is neither a file of the user nor one of OpenMM; names it.
    """
    for file in files:
        if isinstance(file, Path) and any(element.tag == "Include" for element in _elements(file)):
            raise SettingsError(
                f"system.force_field: {file} includes other files, which a campaign would not copy; name them in "
                "force_field and remove the includes."
            )
    try:
        return app.ForceField(*(str(file) for file in files))
    except Exception as error:  # of many types
        raise SettingsError(f"system.force_field: {_fault(files, error)}") from error


def is_program(file: Path) -> bool:
    """Whether a force field file holds Python, which OpenMM runs: scripts, or an expression in place of a word."""
    return any(
        element.tag in _SCRIPTS or not _WORD.fullmatch(element.get("useDispersionCorrection", "True"))
        for element in _elements(file)
    )


def _elements(file: Path) -> Iterator[ElementTree.Element]:
    """The elements of an XML file, up to where it is damaged; OpenMM refuses what is no XML."""
    try:
        for _, element in ElementTree.iterparse(file, ["start"]):
            yield element
    except (ElementTree.ParseError, OSError, ValueError, LookupError):  # the last two for an unknown encoding
        return


def _fault(files: tuple[Path | str, ...], error: Exception) -> str:
    """The first of the files that cannot be read by itself, and the reason."""
    for file in files:
        try:
            app.ForceField(str(file))
        except Exception as single:  # of many types
            if "locate file" in str(single):
                return f"{file}: there is no such file, neither beside the protocol nor among those of OpenMM."
            return f"{file} cannot be read ({reason(single)})."
    return f"{', '.join(map(str, files))}: {' '.join(str(error).split())}"  # the files contradict each other


def refuse_unnamed_nucleotides(topology: app.Topology, key: str, model: str) -> None:
    """Refuse nucleotides under names by which GBn2 does not know them, since it would take them for amino acids.

    Raises
    ------
    SettingsError
        Names the first one.
    """
    for residue in topology.residues():
        sugar = {"C1'", "C3'", "O4'"} <= {atom.name.replace("*", "'") for atom in residue.atoms()}
        if sugar and residue.name not in NUCLEOTIDES:
            raise SettingsError(
                f"{key}: {model} has parameters of nucleic acids for residues named {', '.join(NUCLEOTIDES)}, and "
                f"{residue_label(residue)} would get those of proteins; rename it, or use another model."
            )


def apply_force_field(field: app.ForceField, topology: app.Topology, settings: SystemSettings) -> openmm.System:
    """OpenMM's system of a structure.

    Raises
    ------
    SettingsError
        The force field has no parameters for a residue, or for its atoms; names the residue and what it lacks.
    """
    if any("gbn2" in str(file).lower() for file in settings.force_field):
        refuse_unnamed_nucleotides(topology, "system.force_field", "GBn2")
    try:
        return field.createSystem(topology, **options(settings), **salt(settings))
    except Exception as error:  # of many types
        text = " ".join(str(error).split())
        if "implicitSolventKappa" in text:
            raise SettingsError(
                f"system.implicit_salt: {', '.join(settings.force_field_names)} have no implicit solvent that knows "
                "salt; add one, like implicit/obc2.xml, or remove the key."
            ) from error
        unmatched = re.match(r"No template found for residue (\d+) \(.*?\)\. ?(.*)", text)
        if unmatched is None:
            words = f"{reason(error)}."
        else:
            words = _misfit(field, topology, int(unmatched[1]), unmatched[2], settings)
        raise SettingsError(f"system.force_field: {', '.join(settings.force_field_names)}: {words}") from error


def add_template_bonds(field: app.ForceField, topology: app.Topology, positions: np.ndarray) -> None:
    """Bonds of residues that OpenMM does not know, and whose bonds the file does not name, as in their templates.

    Parameters
    ----------
    field
        A force field with templates of these residues.
    topology
        Gets the bonds within these residues, and those to their neighbors in the chain.
    positions : numpy.ndarray (N, 3)
        nm; neighbors are bonded where they are near.
    """
    residues, bonds = list(topology.residues()), ResidueBonds(topology)
    for residue in residues:
        atoms = {atom.name: atom for atom in residue.atoms()}
        if len(atoms) < 2 or residue in bonds.within:
            continue
        template = _template(field, residue, bonds)
        if template is None:
            continue
        names = [atom.name for atom in template.atoms]
        for first, second in template.bonds:
            if names[first] in atoms and names[second] in atoms:
                topology.addBond(atoms[names[first]], atoms[names[second]])
        bonded = set(bonds.outward.get(residue, ()))
        ends = [atoms[names[k]] for k in template.externalBonds if names[k] in atoms]
        for index in (residue.index - 1, residue.index + 1):
            if not 0 <= index < len(residues) or residues[index].chain is not residue.chain:
                continue
            for end in ends:
                for other in residues[index].atoms():
                    distance = np.linalg.norm(positions[end.index] - positions[other.index])
                    if _heavy(other) and end not in bonded and distance < LONGEST_LINK:
                        topology.addBond(end, other)
                        bonded.add(end)


def missing_virtual_sites(field: app.ForceField, topology: app.Topology) -> dict[app.topology.Residue, int]:
    """Residues with another number of virtual sites than their template has, and how many they lack; those that have
    too many lack a negative number."""
    bonds, lacking = ResidueBonds(topology), {}
    for residue in topology.residues():
        template = _template(field, residue, bonds)
        if template is not None:
            own = sum(atom.element is None for atom in residue.atoms())
            if count := sum(atom.element is None for atom in template.atoms) - own:
                lacking[residue] = count
    return lacking


def refuse_unknown_residues(field: app.ForceField, topology: app.Topology, settings: SystemSettings) -> None:
    """Refuse residues that no template of a force field can fit, whatever hydrogens or atoms are added to them.

    Without their bonds to them, their neighbors would look like ends of chains, and be named in their place.

    Raises
    ------
    SettingsError
        Names the first one, and what to do.
    """
    bonds = ResidueBonds(topology)
    if all(_template(field, residue, bonds) is not None for residue in topology.residues()):
        return
    unknown = [residue for residue in field.getUnmatchedResidues(topology) if _template(field, residue, bonds) is None]
    if unknown:
        names = ", ".join(settings.force_field_names)
        raise SettingsError(f"system.force_field: {names}: {_unknown(unknown, settings)}")


def _unknown(residues: list[app.topology.Residue], settings: SystemSettings) -> str:
    """What to do about the first of some residues that are not in the force field."""
    residue = residues[0]
    standard = standard_residue(residue.name)
    others = [name for name in dict.fromkeys(other.name for other in residues) if name != residue.name]
    more = f" Nor {'are' if len(others) > 1 else 'is'} {', '.join(others)}." if others else ""
    if standard is not None and settings.structure is not None:
        instead = f", or replace it with prepare: {{replace: {{{residue.name}: {standard}}}}}"
    elif settings.structure is not None:
        instead = f", or leave it out with prepare: {{remove: [{residue.name}]}}"
    else:
        instead = ", or remove it from the structure"
    alone = sum(_heavy(atom) for atom in residue.atoms()) > 1 and not _in_chain(residue)
    chemistry = f", give its bonds with prepare: {{ligands: {{{residue.name}: {residue.name.lower()}.sdf}}}}"
    return (
        f"{residue_label(residue)} is not in the force field. Add a force field file that has a template of "
        f"{residue.name}, like force_field: [..., {residue.name.lower()}.xml]"
        f"{chemistry if standard is None and settings.structure is not None and alone else ''}{instead}.{more}"
    )


def _in_chain(residue: app.topology.Residue) -> bool:
    """Whether a residue stands beside an amino acid or a nucleotide in its chain, and may be bonded to it."""
    residues = list(residue.chain.residues())
    place = residues.index(residue)
    return any(
        {"N", "CA", "C"} <= (names := {atom.name for atom in other.atoms()}) or {"P", "C4'"} <= names
        for other in residues[max(place - 1, 0) : place + 2]
    )


def _misfit(field: app.ForceField, topology: app.Topology, index: int, words: str, settings: SystemSettings) -> str:
    """Why a residue matches none of the force field's templates."""
    unmatched, bonds = field.getUnmatchedResidues(topology), ResidueBonds(topology)
    if unknown := [residue for residue in unmatched if _template(field, residue, bonds) is None]:
        return _unknown(unknown, settings)
    residue = next(residue for residue in topology.residues() if residue.index == index)
    label, more = residue_label(residue), f" So do {len(unmatched) - 1} other residues." if len(unmatched) > 1 else ""
    template = _template(field, residue, bonds)
    assert template is not None
    if residue not in bonds.within and len(list(residue.atoms())) > 1:
        return f"{label} has no bonds in the file; add them, as CONECT records or a table struct_conn."
    mend = "add them to the structure" if settings.prepare else "set 'prepare: {}' to have them added"
    names = {atom.name for atom in residue.atoms()}
    if lacking := [atom.name for atom in template.atoms if _heavy(atom) and atom.name not in names]:
        return f"{label} lacks the heavy atoms {', '.join(lacking)}; {mend}.{more}"
    own, known = (sum(atom.element is None for atom in atoms) for atoms in (residue.atoms(), template.atoms))
    if own > known:
        names = ", ".join(atom.name for atom in residue.atoms() if atom.element is None)
        other = "take a force field that has them, like amber14/tip4pew.xml for water of four sites"
        remove = "remove them" if settings.prepare else "set 'prepare: {}' to have them removed"
        return f"{label} has virtual sites ({names}) that it has not in the force field; {other}, or {remove}.{more}"
    hydrogens = len([atom for atom in template.atoms if not _heavy(atom)])
    if (lacks := hydrogens - len([atom for atom in residue.atoms() if not _heavy(atom)])) > 0:
        return f"{label} lacks hydrogens, {lacks} of {hydrogens}; {mend}.{more}"
    if residue not in bonds.outward and {f"N{residue.name}", f"C{residue.name}"} <= field._templates.keys():
        return (
            f"{label} is an amino acid by itself, and the force field has none with both ends of a chain; cap it with "
            "ACE and NME."
        )
    return f"{label} fits none of the force field's residues. {words}"


class ResidueBonds:
    """Bonds of all residues of a topology, found once: OpenMM's methods of a residue pass through all bonds each time.

    Attributes
    ----------
    within : set of Residue
        Residues that have a bond between two of their atoms.
    outward : dict of Residue to list of Atom
        Atoms of a residue that are bonded to other residues.
    """

    def __init__(self, topology: app.Topology):
        self.within: set[app.topology.Residue] = set()
        self.outward: dict[app.topology.Residue, list[app.topology.Atom]] = {}
        for bond in topology.bonds():
            first, second = bond[0], bond[1]
            if first.residue is second.residue:
                self.within.add(first.residue)
            else:
                self.outward.setdefault(first.residue, []).append(first)
                self.outward.setdefault(second.residue, []).append(second)


def _template(field: app.ForceField, residue: app.topology.Residue, bonds: ResidueBonds):
    """The template that fits the name of a residue and its bonds to others best; None if none has this name."""
    variants = _OTHER_NAMES.get(residue.name, (residue.name,))
    # Ends of chains have templates of their own: NALA and CALA of amino acids, A5, A3 and AN of nucleotides. No other
    # names are put together: CAS + N would be an asparagine, N + A a sodium ion.
    forms = ("{}5", "{}3", "{}N") if len(residue.name) <= 2 else ("N{}", "C{}")
    templates = [
        field._templates[full]
        for name in variants
        if name in field._templates
        for full in (name, *(form.format(name) for form in forms))
        if full in field._templates
    ]
    names = {atom.name for atom in residue.atoms()}
    bonded = {atom.name for atom in bonds.outward.get(residue, ())}

    def misfit(template) -> tuple[int, int]:
        bonds = {template.atoms[index].name for index in template.externalBonds}
        return len(bonds ^ bonded), sum(_heavy(atom) and atom.name not in names for atom in template.atoms)

    return min(templates, key=misfit, default=None)


def _heavy(atom) -> bool:
    return atom.element is not None and atom.element.symbol != "H"
