"""The kinds of descriptors: a new kind is a file of its own and its entry here, an import and a line of the dict."""

from __future__ import annotations

from latf_sampling.features.angles import AngleDescriptor
from latf_sampling.features.contacts import ContactDescriptor
from latf_sampling.features.coordinates import CoordinateDescriptor
from latf_sampling.features.coordination import CoordinationDescriptor
from latf_sampling.features.custom import CustomDescriptor
from latf_sampling.features.descriptor import Descriptor
from latf_sampling.features.distances import DistanceDescriptor
from latf_sampling.features.groups import GroupDescriptor
from latf_sampling.features.gyration import GyrationDescriptor
from latf_sampling.features.hydrogen_bonds import HydrogenBondDescriptor
from latf_sampling.features.native_contacts import NativeContactDescriptor
from latf_sampling.features.nucleobases import ErmsdDescriptor, NucleobaseDescriptor
from latf_sampling.features.pucker import PuckerDescriptor
from latf_sampling.features.residue_contacts import ResidueContactDescriptor
from latf_sampling.features.rmsd import RMSDDescriptor
from latf_sampling.features.torsions import TorsionDescriptor

DESCRIPTORS: dict[str, Descriptor] = {
    "torsions": TorsionDescriptor(),
    "distances": DistanceDescriptor(),
    "coordinates": CoordinateDescriptor(),
    "coordination": CoordinationDescriptor(),
    "contacts": ContactDescriptor(),
    "residue_contacts": ResidueContactDescriptor(),
    "native_contacts": NativeContactDescriptor(),
    "hydrogen_bonds": HydrogenBondDescriptor(),
    "groups": GroupDescriptor(),
    "gyration": GyrationDescriptor(),
    "rmsd": RMSDDescriptor(),
    "angles": AngleDescriptor(),
    "pucker": PuckerDescriptor(),
    "nucleobases": NucleobaseDescriptor(),
    "ermsd": ErmsdDescriptor(),
    "custom": CustomDescriptor(),
}
"""Every kind of descriptor, by its key in a specification."""
