"""Ligands of `prepare.ligands`: bonds and hydrogens from a file or SMILES, positions from the structure."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app

from latf_sampling.errors import InstallationError, SettingsError
from latf_sampling.systems import gaff
from latf_sampling.systems.molecule import residue_label
from latf_sampling.systems.structure import COVALENT_RADII, LONGEST_HYDROGEN, Structure

TOLERANCE = 0.04
"""Atoms are bonded where they are nearer than their covalent radii and this together, nm."""
MOST_MATCHES = 10_000
"""Ways of laying a symmetric molecule on a residue that are looked at."""


@dataclass(frozen=True)
class Ligand:
    """A small molecule of a protocol.

    Attributes
    ----------
    name
        Name of its residues.
    key
        Its key in a protocol, for errors.
    source
        Its file or SMILES, for errors.
    molecule
        RDKit's, heavy atoms first, then all hydrogens, with one conformation.
    """

    name: str
    key: str
    source: str
    molecule: Any

    @property
    def heavy(self) -> int:
        """Number of its heavy atoms."""
        return self.molecule.GetNumHeavyAtoms()


def _chemistry():
    """RDKit's modules Chem, rdDistGeom and rdBase.

    Raises
    ------
    InstallationError
        RDKit is missing.
    """
    try:
        from rdkit import Chem, rdBase  # pyright: ignore[reportMissingImports]
        from rdkit.Chem import rdDistGeom  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InstallationError(
            "system.prepare.ligands: needs RDKit; install it with pip install 'latf_sampling[ligands]'."
        ) from error
    return Chem, rdDistGeom, rdBase


def read(name: str, source: Path | str) -> Ligand:
    """The molecule of a file, or of SMILES.

    Raises
    ------
    InstallationError
        RDKit is missing.
    SettingsError
        It cannot be read, is not one molecule, or has an element that GAFF lacks.
    """
    chem, geometry, base = _chemistry()
    key = f"system.prepare.ligands.{name}"
    with base.BlockLogs():  # RDKit prints into the terminal; what it returns tells the same
        if not isinstance(source, Path):
            molecule, kind = chem.MolFromSmiles(source), "SMILES"
        elif source.suffix.lower() == ".mol2":
            molecule, kind = chem.MolFromMol2File(str(source), removeHs=False), "a mol2 file"
        else:
            entries = list(chem.SDMolSupplier(str(source), removeHs=False))
            if len(entries) > 1:
                raise SettingsError(f"{key}: {source} holds {len(entries)} molecules; keep the one that is meant.")
            molecule, kind = (entries or [None])[0], "an SDF file"
    if molecule is None:
        raise SettingsError(f"{key}: RDKit cannot read {source} as {kind}; are all atoms, bonds and charges right?")
    if (parts := len(chem.GetMolFrags(molecule))) != 1:
        raise SettingsError(f"{key}: {source} holds {parts} molecules; keep the one that is meant.")
    if unknown := {atom.GetSymbol() for atom in molecule.GetAtoms()} - gaff.ELEMENTS:
        raise SettingsError(
            f"{key}: GAFF has no parameters for {sorted(unknown)[0]}; give a force field file with a template of "
            f"{name} instead."
        )
    if any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
        raise SettingsError(f"{key}: {source} has an atom with a free valence; does a hydrogen or a charge lack?")
    if molecule.GetNumConformers() and molecule.GetConformer().Is3D():
        chem.AssignStereochemistryFrom3D(molecule)
    molecule = chem.AddHs(chem.RemoveAllHs(molecule), addCoords=True)
    if not (molecule.GetNumConformers() and molecule.GetConformer().Is3D()):
        if geometry.EmbedMolecule(molecule, randomSeed=1) != 0:
            raise SettingsError(f"{key}: RDKit finds no conformation of {source}; give a file with one.")
    return Ligand(name, key, str(source), molecule)


def add_templates(field: app.ForceField, structure: Structure, ligands: list[Ligand]) -> None:
    """Add a template of each ligand to a force field, with the names of atoms that the structure has.

    Raises
    ------
    InstallationError
        A program that makes the parameters is missing.
    SettingsError
        The structure has no such residue, or another molecule under its name; the force field knows it already; or the
        parameters cannot be made.
    """
    for ligand in ligands:
        residue = next((residue for residue in structure.topology.residues() if residue.name == ligand.name), None)
        if residue is None:
            raise SettingsError(f"{ligand.key}: the structure has no residue {ligand.name}.")
        if ligand.name in field._templates:
            raise SettingsError(f"{ligand.key}: the force field knows {ligand.name} already; remove one of the two.")
        places = _match(ligand, residue, structure.positions)
        names = [place.name for place in places]
        numbers = iter(range(1, 10_000))
        while len(names) < ligand.molecule.GetNumAtoms():
            if (name := f"H{next(numbers)}") not in names:
                names.append(name)
        if len(set(names)) < len(names):
            raise SettingsError(f"{ligand.key}: two atoms of {residue_label(residue)} have one name.")
        chem, *_ = _chemistry()
        charge = chem.GetFormalCharge(ligand.molecule)
        prmtop = gaff.parameters(chem.MolToMolBlock(ligand.molecule), charge, ligand.key)
        try:
            field.loadFile(io.StringIO(gaff.template(prmtop, ligand.name, names)))
        except Exception as error:
            if "1-4 scales" not in str(error):
                raise
            raise SettingsError(
                f"{ligand.key}: GAFF goes with force fields of Amber; this one scales interactions of atoms three "
                "bonds apart otherwise."
            ) from error


def with_hydrogens_of_ligands(structure: Structure, ligands: list[Ligand]) -> Structure:
    """A structure with the bonds of its ligands, and with their hydrogens where it has none.

    Raises
    ------
    SettingsError
        A residue is another molecule than the file says, or is bonded to another residue.
    """
    if not ligands:
        return structure
    known = {ligand.name: ligand for ligand in ligands}
    for first, second, *_ in structure.topology.bonds():
        if first.residue is not second.residue:
            for one, other in ((first.residue, second.residue), (second.residue, first.residue)):
                if one.name in known:
                    raise SettingsError(
                        f"{known[one.name].key}: {residue_label(one)} is bonded to {residue_label(other)}; parameters "
                        "are made for molecules of their own. Give a force field file with a template."
                    )
    topology, atoms, positions = app.Topology(), {}, []
    topology.setPeriodicBoxVectors(structure.topology.getPeriodicBoxVectors())
    for chain in structure.topology.chains():
        added = topology.addChain(chain.id)
        for residue in chain.residues():
            place = topology.addResidue(residue.name, added, residue.id, residue.insertionCode)
            for atom in residue.atoms():
                atoms[atom] = topology.addAtom(atom.name, atom.element, place, atom.id)
                positions.append(structure.positions[atom.index])
            if residue.name not in known:
                continue
            ligand = known[residue.name]
            matched = _match(ligand, residue, structure.positions)
            members = [atoms[atom] for atom in matched]
            if len(members) < ligand.molecule.GetNumAtoms():
                x = _hydrogen_positions(ligand, structure.positions[[atom.index for atom in matched]])
                taken, number = {atom.name for atom in members}, 0
                for xyz in x:
                    while (name := f"H{(number := number + 1)}") in taken:
                        pass
                    members.append(topology.addAtom(name, app.element.hydrogen, place))
                    positions.append(xyz)
            for bond in ligand.molecule.GetBonds():
                topology.addBond(members[bond.GetBeginAtomIdx()], members[bond.GetEndAtomIdx()])
    for bond in structure.topology.bonds():
        if bond[0].residue.name not in known:
            topology.addBond(atoms[bond[0]], atoms[bond[1]], bond.type, bond.order)
    return Structure(topology, np.array(positions))


def _match(ligand: Ligand, residue: app.topology.Residue, positions: np.ndarray) -> list[app.topology.Atom]:
    """Atoms of a residue in the order of the ligand's: all of them, or the heavy ones where the residue has no others.

    Of several ways, as in symmetric molecules, the one in which double bonds are the shortest is taken.

    Raises
    ------
    SettingsError
        The residue is another molecule, another stereoisomer, or has a part of the hydrogens; names an atom.
    """
    chem, *_ = _chemistry()
    label, molecule = residue_label(residue), ligand.molecule
    atoms = [atom for atom in residue.atoms() if atom.element is not None]
    hydrogens = sum(atom.element is app.element.hydrogen for atom in atoms)
    needed = molecule.GetNumAtoms() - ligand.heavy
    if hydrogens not in (0, needed):
        raise SettingsError(
            f"{ligand.key}: {label} has {hydrogens} hydrogens, and {ligand.source} {needed}; give all, or remove them."
        )
    pattern = molecule if hydrogens else chem.RemoveAllHs(molecule)
    ours, theirs = (sorted(symbols) for symbols in (
        (atom.element.symbol for atom in atoms), (atom.GetSymbol() for atom in pattern.GetAtoms()),
    ))  # fmt: skip
    if ours != theirs:
        raise SettingsError(f"{ligand.key}: {label} has {_formula(ours)}, and {ligand.source} {_formula(theirs)}.")
    x = positions[[atom.index for atom in atoms]]
    target = _skeleton([atom.element.symbol for atom in atoms], _near(atoms, x))
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in pattern.GetBonds()]
    query = _skeleton([atom.GetSymbol() for atom in pattern.GetAtoms()], bonds)
    ways = target.GetSubstructMatches(query, uniquify=False, maxMatches=MOST_MATCHES)
    if not ways or target.GetNumBonds() != query.GetNumBonds():
        raise SettingsError(
            f"{ligand.key}: {label} is another molecule than {ligand.source}: {_difference(query, target, atoms)}."
        )
    orders = np.array([bond.GetBondTypeAsDouble() for bond in pattern.GetBonds()])
    ends = np.array(bonds).reshape(-1, 2)

    def stretch(way: tuple[int, ...]) -> float:
        placed = x[list(way)]
        return float(orders @ np.linalg.norm(placed[ends[:, 0]] - placed[ends[:, 1]], axis=1))

    wrong = None
    for way in sorted(ways, key=stretch):
        fault = _other_isomer(pattern, x[list(way)])
        if fault is None:
            return [atoms[k] for k in way]
        wrong = wrong or (atoms[way[fault[0]]].name, *fault[1:])
    assert wrong is not None
    raise SettingsError(
        f"{ligand.key}: {wrong[0]} of {label} is {wrong[1]}, and in {ligand.source} {wrong[2]}: is it another "
        "stereoisomer?"
    )


def _near(atoms: list[app.topology.Atom], x: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of atoms that are near enough to be bonded; a hydrogen is bonded to the nearest heavy atom alone."""
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    light = np.array([atom.element is app.element.hydrogen for atom in atoms])
    pairs = []
    for first, atom in enumerate(atoms):
        if light[first]:
            nearest = int(np.argmin(np.where(light, np.inf, distances[first])))
            if distances[first, nearest] <= LONGEST_HYDROGEN:
                pairs.append((nearest, first))
            continue
        for second in range(first):
            radii = [COVALENT_RADII.get(other.element.symbol, 0.0) for other in (atom, atoms[second])]
            if not light[second] and distances[first, second] < sum(radii) + TOLERANCE:
                pairs.append((second, first))
    return pairs


def _skeleton(symbols: list[str], bonds: list[tuple[int, int]]):
    """A molecule of RDKit with single bonds alone, and without charges."""
    chem, *_ = _chemistry()
    molecule = chem.RWMol()
    for symbol in symbols:
        molecule.AddAtom(chem.Atom(symbol))
    for first, second in bonds:
        molecule.AddBond(first, second, chem.BondType.SINGLE)
    molecule.UpdatePropertyCache(strict=False)
    chem.FastFindRings(molecule)
    return molecule


def _difference(query, target, atoms: list[app.topology.Atom]) -> str:
    """An atom of a residue that has other neighbors than those of the molecule that it should be."""
    from rdkit.Chem import rdFMCS  # pyright: ignore[reportMissingImports]

    common = rdFMCS.FindMCS([query, target], timeout=5, bondCompare=rdFMCS.BondCompare.CompareAny)
    found = set(target.GetSubstructMatch(common.queryMol)) if common.queryMol is not None else set()
    odd = next((k for k in range(len(atoms)) if k not in found), None)
    if odd is None:
        return "its atoms are bonded otherwise"
    names = [atoms[other.GetIdx()].name for other in target.GetAtomWithIdx(odd).GetNeighbors()]
    return f"{atoms[odd].name} has the neighbors {', '.join(names) or 'none'}"


def _other_isomer(pattern, x: np.ndarray) -> tuple[int, str, str] | None:
    """The first atom whose stereochemistry differs from that of its place in the structure, with both labels.

    What the molecule leaves open, as SMILES may, is what the structure has.
    """
    placed = _placed(pattern, x)
    for own, other in zip(pattern.GetAtoms(), placed.GetAtoms()):
        if own.HasProp("_CIPCode"):
            labels = [atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else "flat" for atom in (other, own)]
            if labels[0] != labels[1]:
                return own.GetIdx(), labels[0], labels[1]
    for own, other in zip(pattern.GetBonds(), placed.GetBonds()):
        stereo = [str(bond.GetStereo()).removeprefix("STEREO") for bond in (other, own)]
        if own.GetStereo() > 1 and stereo[0] != stereo[1]:  # 0 and 1 are none and any
            return own.GetBeginAtomIdx(), stereo[0], stereo[1]
    return None


def _placed(molecule, x: np.ndarray):
    """A copy of a molecule at other positions (N, 3), nm, whose stereochemistry is that of these positions."""
    chem, *_ = _chemistry()
    copy = chem.Mol(molecule)
    copy.RemoveAllConformers()
    conformer = chem.Conformer(copy.GetNumAtoms())
    conformer.SetPositions(10 * np.asarray(x, float))
    copy.AddConformer(conformer)
    chem.AssignStereochemistryFrom3D(copy)
    return copy


def _hydrogen_positions(ligand: Ligand, x: np.ndarray) -> np.ndarray:
    """Positions of the ligand's hydrogens (H, 3), nm, from those of its heavy atoms."""
    chem, *_ = _chemistry()
    full = chem.AddHs(_placed(chem.RemoveAllHs(ligand.molecule), x), addCoords=True)
    return 0.1 * full.GetConformer().GetPositions()[ligand.heavy :]


def _formula(symbols: list[str]) -> str:
    return " ".join(f"{symbol}{symbols.count(symbol)}" for symbol in dict.fromkeys(symbols))
