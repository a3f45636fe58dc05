"""Chains of a structure file that are taken, and residues that are replaced by standard ones, before it is parsed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from openmm import app

from latf_sampling.errors import InstallationError, SettingsError
from latf_sampling.settings.system import PrepareSettings
from latf_sampling.systems import mmcif, pdb
from latf_sampling.systems.structure_text import StructureText

_SAME_PLACE = {("SE", "MET"): ("SD", "S"), ("SE", "CYS"): ("SG", "S")}
"""Atoms of replaced residues that become another element, with the residue that they belong to then."""


def edited(source: StructureText, settings: PrepareSettings) -> StructureText:
    """The text of a structure with the chains and the residues of the settings.

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
    if not settings.replace:
        return source
    names = {residue.split()[0] for residue, _ in entries}
    places = {f"{chain} {residue.split()[1]}" for residue, chain in entries}
    if unknown := [key for key in settings.replace if key not in names | places]:
        raise source.fault(f"has no residue {unknown[0]}, as prepare.replace says.")

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
    """The standard residue that is nearest to a modified one, as PDBFixer's table has it; `None` where it has none."""
    try:
        return import_pdbfixer().substitutions.get(name)
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
        if f"{residue.chain.id} {residue.id}{residue.insertionCode.strip()}" == place:
            return residue
    raise SettingsError(f"{key}: the structure has no residue {place}.")
