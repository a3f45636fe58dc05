"""G-vectors and eRMSD against the program of their authors, barnaba (Bottaro et al., doi:10.1261/rna.067678.118)."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from helpers.nucleic import DNA, HAIRPIN, RNA, perturbed

from latf_sampling.features import Features

REFERENCE = json.loads((Path(__file__).parents[1] / "helpers" / "barnaba_reference.json").read_text())["structures"]


@pytest.mark.parametrize("file", [HAIRPIN, RNA, DNA], ids=["hairpin", "tetraloop", "dna"])
def test_gvectors_are_those_of_barnaba(file):
    structure = mdtraj.load(str(file))[0]
    names = [residue.name for residue in structure.topology.residues]
    pairs = list(permutations(range(len(names)), 2))
    expected = dict.fromkeys(pairs, np.zeros(4))
    for (i, j), vector in zip(REFERENCE[file.name]["pairs"], REFERENCE[file.name]["gvectors"], strict=True):
        # barnaba 0.1.9 takes purines of DNA for pyrimidines, whose y and z axes point the other way
        turned = names[i] in ("DA", "DG")
        expected[i, j] = np.array(vector) * ([1, -1, -1, 1] if turned else 1)
    features = Features(structure.topology, [{"nucleobases": {"pairs": pairs}}], periodic=False)
    out = features.transform(structure).reshape(4, len(pairs)).T
    assert len(REFERENCE[file.name]["pairs"]) > 15
    np.testing.assert_allclose(out, [expected[pair] for pair in pairs], atol=5e-6)


@pytest.mark.parametrize("file", [HAIRPIN, RNA, DNA], ids=["hairpin", "tetraloop", "dna"])
def test_ermsd_is_that_of_barnaba(file, tmp_path):
    structure, frames = mdtraj.load(str(file))[0], perturbed(file, noise=0.04)
    structure.save_pdb(tmp_path / "reference.pdb")
    features = Features(
        frames.topology, [{"ermsd": {"of": "all", "reference": str(tmp_path / "reference.pdb")}}], periodic=False
    )
    expected = REFERENCE[file.name]["ermsd"]
    assert min(expected) > 0.2
    np.testing.assert_allclose(features.transform(frames)[:, 0], expected, atol=5e-6)
