"""Chains of a structure file that are taken, residues that are removed or replaced by standard ones, and deuterium that
is left out, before it is parsed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from openmm import app

from latf_sampling.errors import InstallationError, SettingsError
from latf_sampling.settings.system import PrepareSettings
from latf_sampling.systems import mmcif, pdb
from latf_sampling.systems.structure_text import StructureText

_SAME_PLACE = {("SE", "MET"): ("SD", "S"), ("SE", "CYS"): ("SG", "S"), ("S", "MET"): ("SD", "S")}
"""Atoms of replaced residues that become another element, with the residue that they belong to then."""
_STANDARD = {
    "SME": "MET", "MHO": "MET", "CSE": "CYS", "SEC": "CYS", "MLY": "LYS", "M3L": "LYS", "MLZ": "LYS", "PYL": "LYS",
    "ORN": "LYS", "SNN": "ASN", "ABA": "ALA", "PSU": "U", "5MU": "U", "H2U": "U", "OMU": "U", "4SU": "U", "5BU": "U",
    "UR3": "U", "5MC": "C", "OMC": "C", "4OC": "C", "CBR": "C", "1MA": "A", "6MZ": "A", "MIA": "A", "MA6": "A",
    "2MG": "G", "M2G": "G", "1MG": "G", "7MG": "G", "OMG": "G", "YYG": "G", "YG": "G", "5CM": "DC", "8OG": "DG",
}  # fmt: skip
"""Standard residues of modified ones, by their names in the PDB, that PDBFixer's table lacks."""


def edited(source: StructureText, settings: PrepareSettings) -> StructureText:
    """The text of a structure with the chains and the residues of the settings, and without the deuterium of neutron
    diffraction, in whose place hydrogens are added.

    Raises
    ------
    InstallationError
        PDBFixer, which knows the atoms of residues, is missing.
    SettingsError
        There is no such chain or residue.
    """
    reader = mmcif if source.is_mmcif else pdb
    entries = [(residue, chain) for residue, chain, *_ in mmcif.atoms(source)] if source.is_mmcif else [
        (atom.residue, atom.chain) for atom in pdb.atoms(source)
    ]  # fmt: skip
    if settings.chains is not None:
        known = {chain for _, chain in entries}
        if unknown := [chain for chain in settings.chains if chain not in known]:
            raise source.fault(f"has no chain {unknown[0]}, as prepare.chains says; it has {', '.join(sorted(known))}.")
        source = reader.select_chains(source, settings.chains)
        entries = [entry for entry in entries if entry[1] in settings.chains]
    names = {residue.split()[0] for residue, _ in entries}
    places = {f"{chain} {residue.split()[1]}" for residue, chain in entries}
    for key in ("remove", "replace"):
        if unknown := [entry for entry in getattr(settings, key) if entry not in names | places]:
            raise source.fault(f"has no residue {unknown[0]}, as prepare.{key} says.")
    if settings.remove:
        source = reader.remove_residues(source, lambda name, place: name in settings.remove or place in settings.remove)
    deuterium = [symbol == "D" for symbol in reader.elements(source)]
    if any(deuterium):
        source = reader.keep_locations(source, [not is_deuterium for is_deuterium in deuterium])
    if "DOD" in names:  # heavy water

        def light(name: str, place: str) -> str | None:
            return "HOH" if name == "DOD" else None

        source = reader.replace_residues(source, light, lambda residue, atom, element: (atom, element))
    if not settings.replace:
        return source

    def new_name(name: str, place: str) -> str | None:
        return settings.replace.get(place, settings.replace.get(name))

    def edit(residue: str, atom: str, element: str) -> tuple[str, str] | None:
        atom, element = _SAME_PLACE.get((atom, residue), (atom, element))
        return (atom, element) if atom in _heavy_atoms(residue) else None

    return reader.replace_residues(source, new_name, edit)


@cache
def _heavy_atoms(residue: str) -> frozenset[str]:
    """Names of the heavy atoms of a standard residue, with those of the ends of a chain."""
    pdbfixer = import_pdbfixer()
    topology = app.PDBFile(str(Path(pdbfixer.__file__).parent / "templates" / f"{residue}.pdb")).topology
    return frozenset(atom.name for atom in topology.atoms() if atom.element.symbol != "H") | {"OXT"}


def import_pdbfixer():
    """The module of PDBFixer.

    Raises
    ------
    InstallationError
        It is missing.
    """
    try:
        import pdbfixer.pdbfixer
    except ImportError as error:
        raise InstallationError(
            "system.prepare: needs PDBFixer; install it with pip install 'latf_sampling[prepare]'."
        ) from error
    return pdbfixer.pdbfixer


def standard_residue(name: str) -> str | None:
    """The standard residue that is nearest to a modified one; `None` where none is known."""
    try:
        return _STANDARD.get(name) or import_pdbfixer().substitutions.get(name)
    except InstallationError:
        return None


def residue_at(topology: app.Topology, place: str, key: str) -> app.topology.Residue:
    """The residue of a chain and number, like "A 57" or "A 52B".

    Raises
    ------
    SettingsError
        There is none; names the key of a protocol.
    """
    for residue in topology.residues():
        if f"{residue.chain.id.strip() or '-'} {residue.id}{residue.insertionCode.strip()}" == place:
            return residue
    raise SettingsError(f"{key}: the structure has no residue {place}.")
