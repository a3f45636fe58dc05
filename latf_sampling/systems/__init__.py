"""Systems of OpenMM from the settings of a protocol: model potentials, molecules by name and from files."""

from latf_sampling.systems.build import build
from latf_sampling.systems.molecule import Conformation, Molecule, bond_lengths
from latf_sampling.systems.potentials import (
    SYSTEMS,
    ModelSystem,
    by_name,
    double_well,
    harmonic_well,
    lj7,
    three_hole,
)

__all__ = [
    "SYSTEMS",
    "Conformation",
    "ModelSystem",
    "Molecule",
    "bond_lengths",
    "build",
    "by_name",
    "double_well",
    "harmonic_well",
    "lj7",
    "three_hole",
]
