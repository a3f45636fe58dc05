"""From latent points to checked, thermalized structures at any temperature.

For a target u drawn from the flow at temperature T, the structures that belong to it are distributed by p(x|u, T),
proportional to exp(-E(x)/kT) q(u|x). The encoder's q(u|x) is a Gaussian of variance sigma^2 around the collective
variable mu(x). Therefore p(x|u, T) is the Boltzmann distribution of the system with an umbrella of stiffness
kT / sigma^2 at u, and structures are thermalized under this umbrella; |mu(x) - u| of a few sigma is what "on target"
means. A structure drawn in this way for a target drawn from the flow is a sample of the Boltzmann distribution, as far
as the flow is right. Plain dynamics preserves this distribution, so that a structure is still such a sample after its
release.

The names below are loaded when they are first used, so that `latf_sampling.starts.files` is cheap to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULES = {
    "Starts": "latf_sampling.starts.structure_set",
    "amides": "latf_sampling.systems.geometry",
    "generate_starts": "latf_sampling.starts.generate",
    "handedness": "latf_sampling.systems.geometry",
    "state_point": "latf_sampling.starts.generate",
    "stereocenters": "latf_sampling.systems.geometry",
    "structures_at": "latf_sampling.starts.generate",
    "structures_between": "latf_sampling.starts.generate",
}

__all__ = [
    "Starts",
    "amides",
    "generate_starts",
    "handedness",
    "state_point",
    "stereocenters",
    "structures_at",
    "structures_between",
]

if TYPE_CHECKING:
    from latf_sampling.starts.generate import generate_starts, state_point, structures_at, structures_between
    from latf_sampling.starts.structure_set import Starts
    from latf_sampling.systems.geometry import amides, handedness, stereocenters


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'latf_sampling.starts' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
