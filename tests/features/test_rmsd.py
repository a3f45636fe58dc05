"""RMSD against MDTraj and a plain superposition by singular values; reference structures as files and as positions."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import openmm.app
import pytest
import torch

from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.features.modules.rmsd import RMSD

PEPTIDE = Path(openmm.app.__file__).parent / "data" / "test.pdb"


@pytest.fixture(scope="module")
def peptide() -> mdtraj.Trajectory:
    whole = mdtraj.load(str(PEPTIDE))
    part = whole.atom_slice(whole.topology.select("protein and resid 0 to 9"))
    rng = np.random.default_rng(5)
    x = part.xyz[:1] + rng.normal(size=(20, 1, 1)) * rng.normal(scale=0.05, size=(20, part.n_atoms, 3))
    x[0] = part.xyz[0]
    turns = np.linalg.qr(rng.normal(size=(20, 3, 3)))[0]
    turns *= np.linalg.det(turns)[:, None, None]
    return mdtraj.Trajectory(x @ turns + rng.normal(size=(20, 1, 3)), part.topology)


@pytest.fixture(scope="module")
def reference(peptide, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("reference") / "native.pdb"
    mdtraj.load(str(PEPTIDE)).atom_slice(range(peptide.n_atoms + 30)).save_pdb(str(path))  # and some more atoms
    return str(path)


def superposed(x, y, weights, over=None) -> np.ndarray:
    """The deviation of frames x from y, superposed by the Kabsch algorithm."""
    over = weights if over is None else over
    out = []
    for frame in x:
        p, q = frame - np.average(frame, 0, over), y - np.average(y, 0, over)
        u, _, v = np.linalg.svd((p * over[:, None]).T @ q)
        turn = u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v
        out.append(np.sqrt(np.average(((p @ turn - q) ** 2).sum(-1), weights=weights)))
    return np.array(out)


@pytest.mark.parametrize("selection", ["name CA", "element != H"])
def test_rmsd_equals_mdtraj(peptide, reference, selection):
    native = mdtraj.load(reference)
    atoms = peptide.topology.select(selection)
    expected = mdtraj.rmsd(peptide, native, 0, atoms, ref_atom_indices=atoms)
    features = Features(peptide.topology, [{"rmsd": {"of": selection, "reference": reference}}])
    name = "element != H" if "H" in selection else selection
    assert (features.names, features.units) == ([f"rmsd of {name} from native.pdb"], ["nm"])
    np.testing.assert_allclose(features.transform(peptide)[1:, 0], expected[1:], atol=1e-5)
    exact = superposed(peptide.xyz[:, atoms].astype(float), native.xyz[0, atoms].astype(float), np.ones(len(atoms)))
    for dtype in (np.float32, np.float64):  # at the reference MDTraj is wrong by some 1e-4 nm
        np.testing.assert_allclose(features(peptide.xyz.astype(dtype))[:, 0], exact, atol=1e-6)


@pytest.mark.parametrize("mass", [True, False])
def test_other_atoms_may_be_superposed_and_weighed(peptide, reference, mass):
    top = peptide.topology
    of, over = (np.isin(np.arange(top.n_atoms), top.select(s)) for s in ("sidechain and resid 3 7", "name CA C N"))
    masses = np.array([a.element.mass if mass else 1.0 for a in top.atoms])
    entry = {"of": "sidechain and resid 3 7", "reference": reference, "superpose": "name CA C N"}
    features = Features(top, [{"rmsd": {**entry, "weights": "mass" if mass else "equal"}}])
    native = mdtraj.load(reference).xyz[0, : top.n_atoms].astype(float)
    expected = superposed(peptide.xyz.astype(float), native, of * masses, over * masses)
    np.testing.assert_allclose(features(peptide.xyz.astype(float))[:, 0], expected, atol=1e-6)


def test_several_references_are_several_columns(peptide, reference, tmp_path):
    peptide[2:4].save_pdb(str(tmp_path / "native.pdb"))
    files = [reference, str(tmp_path / "native.pdb")]
    features = Features(peptide.topology, [{"rmsd": {"of": "name CA", "reference": files}}])
    assert features.names == [f"rmsd of name CA from native.pdb #{k}" for k in (1, 2, 3)]
    single = [Features(peptide.topology, [{"rmsd": {"of": "name CA", "reference": file}}]) for file in files]
    np.testing.assert_allclose(
        features(peptide.xyz), np.concatenate([f(peptide.xyz) for f in single], 1), rtol=0, atol=1e-6
    )
    atoms = peptide.topology.select("name CA")
    inline = Features(
        peptide.topology, [{"rmsd": {"of": "name CA", "reference": {"positions": peptide.xyz[:1, atoms]}}}]
    )
    assert inline.names == ["rmsd of name CA from reference 1"]
    assert inline(peptide.xyz)[0, 0] < 1e-6


MIRROR = np.diag([-1.0, 1.0, 1.0])
CLOUD = np.random.default_rng(2).normal(scale=0.3, size=(6, 3))
PLACES = {
    "itself": CLOUD,
    "mirror image": CLOUD @ MIRROR,
    "flat": CLOUD * [1, 1, 0],
    "on a line": CLOUD * [1, 0, 0],
    "in one place": CLOUD * 0,
    "octahedron": np.concatenate([np.eye(3), -np.eye(3)]) * 0.3,
    "its mirror image": np.concatenate([np.eye(3), -np.eye(3)]) @ MIRROR * 0.3,
}


@pytest.mark.parametrize("reference", ["itself", "flat", "octahedron"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("superpose", [False, True])
def test_where_the_best_rotation_is_not_unique(reference, place, dtype, superpose):
    topology = mdtraj.Topology()
    residue = topology.add_residue("CLU", topology.add_chain())
    for k in range(6):
        topology.add_atom(f"A{k}", mdtraj.element.argon, residue)
    y = PLACES[reference]
    entry = {"of": "all", "reference": {"positions": y[None]}}
    if superpose:
        entry["superpose"] = {"atoms": [0, 1, 2, 3]}
    x = torch.tensor(PLACES[place][None], dtype=dtype, requires_grad=True)
    features = Features(topology, [{"rmsd": entry}])
    assert not any(part.numbers_in_box for part in features.module.modules() if isinstance(part, RMSD))  # six molecules
    out = features(x)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert torch.isfinite(slope).all()
    frames = features(PLACES[place][None].astype(str(dtype).removeprefix("torch.")))
    assert abs(float(out.detach()) - frames[0, 0]) < 1e-5  # without gradients, many frames take another way
    if not superpose:  # or there are several deviations, one for each of the best rotations
        assert abs(float(out.detach()) - superposed(PLACES[place][None], y, np.ones(6))[0]) < 1e-6
        assert slope.norm() < 1.0
        if reference == place and dtype == torch.float64:
            assert slope.abs().max() < 1e-2


@pytest.mark.parametrize("superpose", [None, "name N C"])
def test_gradients_equal_finite_differences(peptide, reference, superpose):
    entry = {"of": "name CA", "reference": reference, **({"superpose": superpose} if superpose else {})}
    features = Features(peptide.topology, [{"rmsd": entry}])
    module = features.module.double()
    x = torch.tensor(peptide.xyz[3:5, features.atoms].astype(float), requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: module(y, None), (x,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reference": "missing.pdb"}, r"\.reference: missing\.pdb cannot be read"),
        ({"reference": 3}, r"\.reference: 3 cannot be read; name a structure file or several"),
        ({"reference": []}, r"\.reference: \[\] cannot be read"),
        ({"reference": {"positions": [[[0, 0, 0]]]}}, r"\.reference\.positions: need the shape \(references, 10, 3\)"),
        ({"reference": {"positions": "x"}}, r"\.reference\.positions: are not an array"),
        ({"reference": {"positions": np.full((1, 10, 3), np.nan)}}, r"\.reference: a position of reference 0 is no"),
        ({"reference": {"positions": np.zeros((2, 10, 3)), "names": ["a", "a"]}}, r"\.reference\.names: need 2 diff"),
        ({"of": "name CA and resid 0 1"}, r"\.of: needs 3 atoms or more to superpose, finds 2"),
        ({"superpose": "name CA and resid 0"}, r"\.superpose: needs 3 atoms"),
        ({"weights": "charge"}, r"\.weights: "),
        (
            {"reference": str(Path(__file__).parents[2] / "protocols" / "alanine-dipeptide.pdb")},
            r"\.reference: .* has no atom",
        ),
    ],
)
def test_wrong_specifications_name_their_key(peptide, reference, changes, words):
    with pytest.raises(SettingsError, match=rf"^features\[0\]\.rmsd{words}"):
        Features(peptide.topology, [{"rmsd": {"of": "name CA", "reference": reference, **changes}}])
