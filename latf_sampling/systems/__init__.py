"""From what a protocol says about a system to OpenMM's objects: model potentials, molecules by name and from files."""

from latf_sampling.systems.build import build
from latf_sampling.systems.molecule import Conformation, Molecule
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
    "build",
    "by_name",
    "double_well",
    "harmonic_well",
    "lj7",
    "three_hole",
]
