"""From latent points to checked, thermalised structures at any temperature.

For a target u drawn from the flow at temperature T, the structures that belong to it are p(x|u, T), proportional to
exp(-E(x)/kT) q(u|x). Since the encoder's q(u|x) is a Gaussian of variance sigma^2 around the collective variable mu(x),
that is the Boltzmann distribution of the system with an umbrella of stiffness kT / sigma^2 at u, the one that
structures are thermalised in here; and |mu(x) - u| of a few sigma is what "on target" means. A structure drawn so for a
target drawn from the flow is a sample of the Boltzmann distribution, as far as the flow is right; plain dynamics leaves
this distribution as it is, so that a structure stays such a sample after it was released.
"""

from latf_sampling.starts.generate import generate_starts, state_point, structures_at, structures_between
from latf_sampling.starts.geometry import amides, handedness, stereocentres
from latf_sampling.starts.starts import Starts

__all__ = [
    "Starts",
    "amides",
    "generate_starts",
    "handedness",
    "state_point",
    "stereocentres",
    "structures_at",
    "structures_between",
]
