"""Door 3: structures at a temperature that nobody simulated, from a trained model and the frames it was trained on.

    python examples/starts.py runs/demo 450

Writes start-000.pdb and so on, with velocities beside them, into starts-450K.
"""

import sys

import latf_sampling as ls

campaign = ls.Campaign.of(sys.argv[1])
temperature = float(sys.argv[2])
learned = campaign.last_learned()
model, cv = campaign.model(learned)
archive = campaign.frames(learned)[-1].trajectory  # any mdtraj.Trajectory of the same molecule will do
molecule = campaign.molecule

starts = ls.generate_starts(model, cv, archive, molecule.system, molecule.topology, temperature, 4, seed=1)
print(starts.summary())
starts.save(f"starts-{temperature:g}K")
