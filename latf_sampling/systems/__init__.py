"""From what a protocol says about a system to OpenMM's objects: model potentials, molecules by name and from files."""

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
