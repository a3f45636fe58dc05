"""The CA model of chymotrypsin inhibitor 2 from OpenSMOG's own files, as a serialized system for `system: openmm`.

    pip install opensmog
    python protocols/ci2_opensmog.py -o ci2

writes ci2/system.xml, ci2/structure.pdb and ci2/protocol.yaml, for `latf run ci2/protocol.yaml -o runs/ci2`. Nothing of
latf_sampling is used: another structure-based model from SMOG 2 (.gro, .top, .xml) takes the same way. SMOG's units are
reduced: with epsilon = 1 kJ/mol, masses of 1 amu and lengths in nm its unit of time is 1 ps, and its temperature is kT
in kJ/mol. Half is folded at 1.155 kJ/mol, nearly all at 1.12 and nearly none at 1.2 (benchmarks/melting.md has the
melting curve): the protocol takes a temperature on each side. Bonds vibrate at 200 to 280 / ps, which 2 fs are short
enough for.
"""

import argparse
from pathlib import Path

import OpenSMOG
from openmm import NonbondedForce, XmlSerializer, app
from OpenSMOG import SBM

PROTOCOL = """\
name: CI2, CA model of SMOG 2
seed: 1

system:
  openmm: {system: system.xml, topology: structure.pdb}

integrator:
  timestep: 2 fs
  friction: 1 / ps

frame_interval: 1 ps
segment: 1 ns

features:
  - native_contacts: {of: all, reference: structure.pdb}
  - rmsd: {of: all, reference: structure.pdb}
  - gyration: all

model:
  reference_temperature: 1.155 kJ/mol

learning:
  lag: 10 ps

rounds:
  - walkers: [1.13 kJ/mol, 1.18 kJ/mol]
    length: 20 ns
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    folder = Path(OpenSMOG.__file__).parent / "share" / "tests" / "2ci2.CA"
    model = SBM(name="ci2", time_step=0.0005, collision_rate=1.0, r_cutoff=1.1, temperature=1.0)
    model.setup_openmm(platform="Reference")
    model.saveFolder(str(output / "opensmog"))
    model.loadSystem(str(folder / "frame.0.gro"), str(folder / "opentest.top"), str(folder / "opentest.xml"))
    # OpenSMOG adds a NonbondedForce without charges or energies, which takes a seventh of the time.
    for index in reversed(range(model.system.getNumForces())):
        force = model.system.getForce(index)
        if isinstance(force, NonbondedForce) and not _acts(force):
            model.system.removeForce(index)
    (output / "system.xml").write_text(XmlSerializer.serialize(model.system))
    gro = app.GromacsGroFile(str(folder / "frame.0.gro"))
    # A PDB file with the names of the topology: SMOG's chain of CA atoms.
    with open(output / "structure.pdb", "w") as handle:
        app.PDBFile.writeFile(model.Top.topology, gro.positions, handle, keepIds=True)
    (output / "protocol.yaml").write_text(PROTOCOL)


def _acts(force: NonbondedForce) -> bool:
    """Whether any particle has a charge or an energy."""
    parameters = (force.getParticleParameters(k) for k in range(force.getNumParticles()))
    return any(charge._value or epsilon._value for charge, _, epsilon in parameters)


if __name__ == "__main__":
    main()
