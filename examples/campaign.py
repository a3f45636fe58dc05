# %% [markdown]
"""A complete campaign from a script, the same as `latf run protocols/alanine-dipeptide.yaml -o runs/demo`.

    python examples/campaign.py runs/demo

When it is run again, it continues where it was. `jupytext --to notebook examples/campaign.py` makes a notebook of it.
"""

# %%
import sys

import latf_sampling as ls

PROTOCOL = "protocols/alanine-dipeptide.yaml"
# A notebook has no arguments: change the directory here.
DIRECTORY = sys.argv[1] if len(sys.argv) > 1 and "kernel_launcher" not in sys.argv[0] else "runs/demo"


# %%
def main() -> None:
    campaign = ls.Campaign(PROTOCOL, DIRECTORY)
    campaign.run(lambda step, fraction, words: print(f"\r{step}: {100 * fraction:.0f} % {words:60.60}", end=""))
    model, _ = campaign.model(campaign.last_learned())
    print(f"\n{model.n_states} states; report: {campaign.directory.report}")


# %%
if __name__ == "__main__":
    main()
