"""A learned variable in your own metadynamics script.

    python examples/metadynamics.py runs/demo/rounds/00/learning/cv.pt 100

The CV file is all it takes: descriptors, scaling and encoder are in it. The number is the length in ps, 100 by default.
"""

import sys

import openmm
from openmm import app, unit

import latf_sampling as ls

if len(sys.argv) < 2:
    sys.exit("Give a CV file, as a campaign writes it: python examples/metadynamics.py cv.pt")

pdb = app.PDBFile("protocols/alanine-dipeptide.pdb")
force_field = app.ForceField("amber14/protein.ff14SB.xml")
system = force_field.createSystem(pdb.topology, constraints=app.HBonds, hydrogenMass=3 * unit.dalton)

cv = ls.LatentCV.load(sys.argv[1], pdb.topology)
temperature = 300 * unit.kelvin
bias = ls.Metadynamics(system, cv, temperature, bias_factor=10, height=1 * unit.kilojoules_per_mole, frequency=250)

integrator = openmm.LangevinMiddleIntegrator(temperature, 1 / unit.picosecond, 4 * unit.femtoseconds)
simulation = app.Simulation(pdb.topology, system, integrator, openmm.Platform.getPlatform("Reference"))
simulation.context.setPositions(pdb.positions)
simulation.minimizeEnergy()
simulation.context.setVelocitiesToTemperature(temperature)

for time in range(10, (int(sys.argv[2]) if len(sys.argv) > 2 else 100) + 1, 10):
    bias.step(simulation, 2500)
    print(f"{time} ps: u = {bias.values(simulation.context)}, {len(bias.hills)} hills")
print(f"The free energy spans {bias.free_energy().max():.1f} kJ/mol so far.")
