"""G-vectors and eRMSD by barnaba, for tests/features/test_barnaba.py.

    pip install barnaba==0.1.9 mdtraj    # in an environment of its own
    PYTHONPATH=tests python tests/helpers/barnaba_reference.py > tests/helpers/barnaba_reference.json

For each structure: the G-vectors (x, y, z, w) of its ordered pairs of bases within the cutoff, by the positions of the
bases in the file, and the eRMSD of frames with displaced atoms from it.
"""

import json
import sys
from importlib.metadata import version

import mdtraj
from helpers.nucleic import DNA, HAIRPIN, RNA, perturbed


def main() -> None:
    import barnaba  # pyright: ignore[reportMissingImports]: not installed with the tests

    content: dict = {"barnaba": version("barnaba"), "structures": {}}
    for file in (HAIRPIN, RNA, DNA):
        structure = mdtraj.load(str(file))[0]
        vectors, _ = barnaba.dump_gvec_traj(structure)
        count = vectors.shape[1]
        pairs = [(i, j) for i in range(count) for j in range(count) if vectors[0, i, j].any()]
        content["structures"][file.name] = {
            "pairs": pairs,
            "gvectors": [vectors[0, i, j].round(6).tolist() for i, j in pairs],
            "ermsd": barnaba.ermsd_traj(structure, perturbed(file, noise=0.04)).round(6).tolist(),
        }
    json.dump(content, sys.stdout)


if __name__ == "__main__":
    main()
