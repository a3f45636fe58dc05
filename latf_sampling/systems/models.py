"""Molecular models by name, which define their own forces: a name, a function, and conformations to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openmm
from openmm import app

from latf_sampling.systems.chignolin_go import chignolin_go
from latf_sampling.systems.chignolin_go import extended as extended_chignolin
from latf_sampling.systems.gcaa_go import extended as extended_gcaa
from latf_sampling.systems.gcaa_go import gcaa_go
from latf_sampling.systems.molecule import Molecule
from latf_sampling.systems.wca_dimer import wca_dimer


@dataclass(frozen=True)
class Model:
    """A molecular model.

    Attributes
    ----------
    make : callable
        Returns OpenMM's system and topology, and the positions (N, 3) of its default conformation, nm.
    conformations : dict
        Functions for the positions (N, 3) of further conformations by their names, nm.
    """

    make: Callable[[], tuple[openmm.System, app.Topology, np.ndarray]]
    conformations: dict[str, Callable[[], np.ndarray]]

    def molecule(self) -> Molecule:
        return Molecule(*self.make())


MODELS: dict[str, Model] = {
    "chignolin-go": Model(chignolin_go, {"extended": extended_chignolin}),
    "gcaa-go": Model(gcaa_go, {"extended": extended_gcaa}),
    "wca-dimer": Model(wca_dimer, {}),
}
"""The models by their names in a protocol, `system: {name: ...}`; `latf_sampling.settings.system.MODELS` has the keys
that a protocol may give with each."""
