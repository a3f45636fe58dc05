"""From what a protocol says about a system to OpenMM's objects: model potentials, molecules by name and from files."""

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
    "ModelSystem",
    "by_name",
    "double_well",
    "harmonic_well",
    "lj7",
    "three_hole",
]
