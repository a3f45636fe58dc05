# %% [markdown]
"""Structures at a temperature that was not simulated, from a trained model and the frames that it was trained on.

    python examples/starts.py runs/demo 450

Writes start-000.pdb and so on, with their velocities, into starts-450K.
`jupytext --to notebook examples/starts.py` makes a notebook of it.
"""

# %%
import sys

import latf_sampling as ls

# A notebook has no arguments: change them here.
arguments = ["runs/demo", "450"] if "kernel_launcher" in sys.argv[0] else sys.argv[1:]
if len(arguments) < 2:
    sys.exit("Give the directory of a campaign and a temperature in kelvin: python examples/starts.py runs/demo 450")

# %% [markdown]
# The model that was learned last, its variable, and the frames that structures are made from.

# %%
campaign = ls.Campaign.load(arguments[0])
temperature = float(arguments[1])
learned = campaign.last_learned()
model, cv = campaign.model(learned)
archive = campaign.frames(learned)[-1].trajectory  # or any mdtraj.Trajectory of the same molecule
molecule = campaign.molecule

# %% [markdown]
# Each structure starts at the archived frame nearest to a sample of the flow, is led to it, released, and checked.

# %%
starts = ls.generate_starts(model, cv, archive, molecule.system, molecule.topology, temperature, 4, seed=1)
print(starts.summary())
starts.save(f"starts-{temperature:g}K")
