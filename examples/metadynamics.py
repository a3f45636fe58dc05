# %% [markdown]
"""A learned variable in your own metadynamics script.

    python examples/metadynamics.py runs/demo/rounds/00/learning/cv.pt 100

The CV file is all it takes: descriptors, scaling and encoder are in it. The number is the length in ps, 100 by default.
`jupytext --to notebook examples/metadynamics.py` makes a notebook of it.
"""

# %%
import sys

import openmm
from openmm import app, unit

import latf_sampling as ls

# A notebook has no arguments: change them here.
arguments = ["runs/demo/rounds/00/learning/cv.pt", "100"] if "kernel_launcher" in sys.argv[0] else sys.argv[1:]
if not arguments:
    sys.exit("Give a CV file, as a campaign writes it: python examples/metadynamics.py cv.pt")

# %% [markdown]
# System, integrator and simulation are plain OpenMM. The bias adds its force to the system before they are made.

# %%
pdb = app.PDBFile("protocols/alanine-dipeptide.pdb")
force_field = app.ForceField("amber14/protein.ff14SB.xml")
system = force_field.createSystem(pdb.topology, constraints=app.HBonds, hydrogenMass=3 * unit.dalton)

cv = ls.LatentCV.load(arguments[0], pdb.topology)
temperature = 300 * unit.kelvin
bias = ls.Metadynamics(system, cv, temperature, bias_factor=10, height=1 * unit.kilojoules_per_mole, frequency=250)

integrator = openmm.LangevinMiddleIntegrator(temperature, 1 / unit.picosecond, 4 * unit.femtoseconds)
simulation = app.Simulation(pdb.topology, system, integrator, openmm.Platform.getPlatform("Reference"))
simulation.context.setPositions(pdb.positions)
simulation.minimizeEnergy()
simulation.context.setVelocitiesToTemperature(temperature)

# %% [markdown]
# `bias.step` takes the place of `simulation.step`, and adds a hill every 250 steps.

# %%
for time in range(10, int((arguments[1:] or ["100"])[0]) + 1, 10):
    bias.step(simulation, 2500)
    print(f"{time} ps: u = {bias.values(simulation.context)}, {len(bias.hills)} hills")
print(f"The free energy spans {bias.free_energy().max():.1f} kJ/mol so far.")
