"""Molecules by name: alanine dipeptide from a file of the package, chignolin from its sequence."""

from __future__ import annotations

import io
from pathlib import Path

from openmm import app

from latf_sampling.errors import InstallationError
from latf_sampling.systems.prepare import with_hydrogens
from latf_sampling.systems.structure import Structure, read_structure

CHIGNOLIN = "YYDPETGTWY"
"""CLN025, Honda et al., doi:10.1021/ja8030533."""
BACKBONES = {
    "hairpin": (
        (-120, 134), (-119, 147), (-79, 114), (-50, -26), (-69, -29),
        (-96, -12), (81, 18), (-93, 133), (-118, 121), (-111, 140),
    ),
    "extended": ((-120, 140),) * 10,
}  # fmt: skip
"""phi and psi of each residue of chignolin in its conformations, degrees. The hairpin's are those of the crystal
structure 5AWL, refined until the backbone's hydrogen bonds and the distances of the strands' CA were the crystal's."""


def by_name(name: str, conformation: str = "hairpin", seed: int = 0) -> Structure:
    """The structure of a molecule by its name.

    Parameters
    ----------
    name
        A key of `latf_sampling.system_settings.MOLECULES`.
    conformation
        Of chignolin.
    seed
        Of the places where hydrogens are put before they are relaxed.

    Raises
    ------
    InstallationError
        PeptideBuilder, which builds peptides, is missing.
    """
    if name == "alanine-dipeptide":
        return read_structure(Path(__file__).parent / "data" / "alanine-dipeptide.pdb", "system.name")
    heavy = peptide(CHIGNOLIN, BACKBONES[conformation])
    return with_hydrogens(app.Modeller(heavy.topology, heavy.positions), 7.0, seed)


def peptide(sequence: str, backbone: tuple[tuple[float, float], ...]) -> app.PDBFile:
    """Heavy atoms of a peptide with charged ends, from its sequence in letters and (phi, psi) of its residues."""
    try:
        import PeptideBuilder
        from Bio.PDB import PDBIO
        from PeptideBuilder import Geometry
    except ImportError as error:
        raise InstallationError(
            "system.name: building a peptide needs PeptideBuilder; install it with pip install "
            "'latf_sampling[prepare]'."
        ) from error
    residues = [Geometry.geometry(letter) for letter in sequence]
    for index, residue in enumerate(residues):
        residue.phi = backbone[index][0]
        residue.psi_im1 = backbone[index - 1][1]  # of the residue before; the first one has none
    made = PeptideBuilder.initialize_res(residues[0])
    for residue in residues[1:]:
        PeptideBuilder.add_residue(made, residue)
    PeptideBuilder.add_terminal_OXT(made)
    writer, text = PDBIO(), io.StringIO()
    writer.set_structure(made)
    writer.save(text)
    text.seek(0)
    return app.PDBFile(text)
