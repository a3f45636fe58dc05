"""A particle whose simulation explodes where a test wants it to, on the Reference platform in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openmm
import yaml
from helpers.molecules import TINY

PARTICLE = "HETATM    1 AR   AR  A   1      -1.000   0.000   0.000  1.00  0.00          AR\nEND\n"
_SHORT = {"refinement_epochs": 1, "joint_epochs": 1, "flow_epochs": 1, "ensemble": 0}
UNSTABLE = 12100.0
"""Stiffness, kJ/mol/nm^2, of a spring whose oscillation is 2.2 rad in 20 fs: it explodes at 20 fs and not at 10 fs."""


def write_explosive(folder: Path, cliff: float = 9.0, stiffness: float = 20.0, **changes: Any) -> Path:
    """Write a protocol of one particle into a folder; returns its path.

    The particle begins at x = -0.1 nm in the potential 10 kJ/mol (x^2 - 1)^2, and the energy is NaN beyond the cliff.

    Parameters
    ----------
    folder
        Where protocol, structure and system are written.
    cliff
        x, nm, from where the energy is no number.
    stiffness
        Of the spring in y and z, kJ/mol/nm^2.
    changes
        Keys of the protocol.
    """
    folder.mkdir(parents=True, exist_ok=True)
    system = openmm.System()
    system.addParticle(1.0)
    wells = openmm.CustomExternalForce(f"10*(x^2-1)^2 + {0.5 * stiffness}*(y^2+z^2)")
    edge = openmm.CustomExternalForce(f"1e-3*sqrt({cliff} - x)")
    edge.setName("Cliff")
    for force in (wells, edge):
        force.addParticle(0, [])
        system.addForce(force)
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    (folder / "particle.pdb").write_text(PARTICLE)
    protocol = {
        "name": "explosive",
        "seed": 1,
        "system": {"openmm": {"system": "system.xml", "topology": "particle.pdb"}, "platform": "Reference"},
        "integrator": {"timestep": "20 fs"},
        "frame_interval": "0.2 ps",
        "segment": "10 ps",
        "features": [{"coordinates": {"of": "all", "axes": "xy"}}],
        "model": TINY["model"],
        "learning": {**TINY["learning"], "lag": "0.4 ps", "initial_states": 2, "refinements": 1, **_SHORT},
        "rounds": [{"walkers": ["300 K"], "length": "40 ps"}],
    }
    (folder / "protocol.yaml").write_text(yaml.safe_dump({**protocol, **changes}))
    return folder / "protocol.yaml"
