"""Structures at a temperature that was not simulated, from a trained model and the frames that it was trained on.

    python examples/starts.py runs/demo 450

Writes start-000.pdb and so on, with their velocities, into starts-450K.
"""

import sys

import latf_sampling as ls

if len(sys.argv) < 3:
    sys.exit("Give the directory of a campaign and a temperature in kelvin: python examples/starts.py runs/demo 450")

campaign = ls.Campaign.load(sys.argv[1])
temperature = float(sys.argv[2])
learned = campaign.last_learned()
model, cv = campaign.model(learned)
archive = campaign.frames(learned)[-1].trajectory  # or any mdtraj.Trajectory of the same molecule
molecule = campaign.molecule

starts = ls.generate_starts(model, cv, archive, molecule.system, molecule.topology, temperature, 4, seed=1)
print(starts.summary())
starts.save(f"starts-{temperature:g}K")
