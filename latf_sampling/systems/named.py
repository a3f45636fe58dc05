"""Structures by name: alanine dipeptide from a file of the package, chignolin from its sequence."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from openmm import app

from latf_sampling.errors import InstallationError
from latf_sampling.systems.preparation import with_hydrogens
from latf_sampling.systems.structure import Structure, read_structure

DEFAULT_CONFORMATION = "hairpin"
"""What a molecule by name starts from where nothing else is asked for."""
CHIGNOLIN = "YYDPETGTWY"
"""CLN025, Honda et al., doi:10.1021/ja8030533."""
BACKBONES = {
    "hairpin": (
        (-120, 150), (-160, 154), (-155, 91), (-53, -33), (-53, -36),
        (-115, 0), (71, 25), (-83, 133), (-138, 124), (-160, 140),
    ),
    "extended": ((-120, 140),) * 10,
}  # fmt: skip
"""phi and psi of each residue of chignolin in its conformations, degrees. Those of the hairpin come from the crystal
structure 5AWL, after simulated annealing with restraints on its five hydrogen bonds between backbone atoms, and 150 ps
without restraints at 300 K, in which all five remained."""
SIDE_CHAINS = {
    "hairpin": (
        (177, 82), (75, -75), (180, -135), (), (-75, 68, -153), (58, -62), (), (-57, -177), (-62, 89), (-69, 111),
    ),
    "extended": ((),) * 10,
}  # fmt: skip
"""Torsions of the side chains as PeptideBuilder takes them, degrees; an empty entry leaves the choice to it."""


def named_structure(name: str, conformation: str = DEFAULT_CONFORMATION, seed: int = 0) -> Structure:
    """The structure of a molecule by its name.

    Parameters
    ----------
    name
        A key of `latf_sampling.settings.system.MOLECULES`.
    conformation
        That of chignolin.
    seed
        Seed of the initial positions of hydrogens, which are then relaxed.

    Raises
    ------
    InstallationError
        PeptideBuilder, which builds peptides, is missing.
    """
    if name == "alanine-dipeptide":
        return read_structure(Path(__file__).parent / "data" / "alanine-dipeptide.pdb", "system.name")
    heavy = peptide(CHIGNOLIN, BACKBONES[conformation], SIDE_CHAINS[conformation])
    return with_hydrogens(app.Modeller(heavy.topology, heavy.positions), 7.0, seed)


def peptide(sequence: str, backbone: tuple[tuple, ...], side_chains: tuple[tuple, ...] = ()) -> app.PDBFile:
    """Heavy atoms of a peptide with charged ends, from its one-letter sequence and the torsions of its residues."""
    try:
        import PeptideBuilder
        from Bio.PDB.PDBIO import PDBIO
        from PeptideBuilder import Geometry
    except ImportError as error:
        raise InstallationError(
            "system.name: building a peptide needs PeptideBuilder; install it with pip install "
            "'latf_sampling[prepare]'."
        ) from error
    residues: list[Any] = [Geometry.geometry(letter) for letter in sequence]  # each kind has its own attributes
    for index, residue in enumerate(residues):
        residue.phi = backbone[index][0]
        residue.psi_im1 = backbone[index - 1][1]  # psi of the residue before; the first residue does not use it
        if side_chains and side_chains[index]:
            residue.inputRotamers(list(side_chains[index]))
            if sequence[index] == "T":  # PeptideBuilder 1.1 writes this torsion to an attribute that it does not read
                residue.N_CA_CB_CG2_diangle = side_chains[index][1]
    structure = PeptideBuilder.initialize_res(residues[0])
    for residue in residues[1:]:
        PeptideBuilder.add_residue(structure, residue)
    PeptideBuilder.add_terminal_OXT(structure)
    writer, text = PDBIO(), io.StringIO()
    writer.set_structure(structure)
    writer.save(text)
    text.seek(0)
    return app.PDBFile(text)
