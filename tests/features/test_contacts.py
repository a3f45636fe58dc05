"""Contacts of every kind against MDTraj and plain numpy."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import openmm.app
import pytest
import torch

from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.features.modules.residue_contacts import SoftMinima
from latf_sampling.features.modules.switching import Fermi, Rational

PEPTIDE = Path(openmm.app.__file__).parent / "data" / "test.pdb"


SMALL = {"positions": [[[0.3 * k, 0.0, 0.0] for k in range(35)]]}


@pytest.fixture(scope="module")
def protein() -> mdtraj.Trajectory:
    """Frames of all of villin, in boxes through which it reaches."""
    whole = mdtraj.load(str(PEPTIDE))
    part = whole.atom_slice(whole.topology.select("protein"))
    noise = np.random.default_rng(4).normal(scale=0.02, size=(5, part.n_atoms, 3))
    made = mdtraj.Trajectory(part.xyz[:1] + noise, part.topology)
    made.unitcell_lengths = np.linspace(2.2, 2.6, 15).reshape(5, 3)
    made.unitcell_angles = np.tile([80.0, 75.0, 70.0], (5, 1))
    return made


@pytest.fixture(scope="module")
def native(protein, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("reference") / "native.pdb"
    mdtraj.Trajectory(protein.xyz[0], protein.topology).save_pdb(str(path))
    return str(path)


def distances(traj: mdtraj.Trajectory, pairs, periodic: bool = False) -> np.ndarray:
    return mdtraj.compute_distances(traj, pairs, periodic=periodic).astype(float)


def rational(r, r0, n=6, m=12):
    return (1 - (r / r0) ** n) / (1 - (r / r0) ** m)


def fermi(r, r0, width):
    return 1 / (1 + np.exp((r - r0) / width))


SWITCHES = [
    ({"r0": "0.6 nm"}, lambda r: rational(r, 0.6)),
    ({"r0": "0.6 nm", "n": 8, "m": 14}, lambda r: rational(r, 0.6, 8, 14)),
    ({"r0": "0.6 nm", "fermi": "0.05 nm"}, lambda r: fermi(r, 0.6, 0.05)),
]


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize(("settings", "formula"), SWITCHES, ids=["rational", "8-14", "fermi"])
def test_contacts_and_their_sum_equal_numpy(protein, periodic, settings, formula):
    top = protein.topology
    ca, cb = top.select("name CA"), top.select("name CB")
    pairs = [(i, j) for k, i in enumerate(ca) for j in ca[k + 3 :]]
    spec = {"between": "name CA", "skip": 3, **settings}
    expected = formula(distances(protein, pairs, periodic))
    features = Features(top, [{"contacts": spec}], periodic=periodic)
    np.testing.assert_allclose(features.transform(protein), expected, atol=1e-5)
    total = Features(
        top, [{"contacts": {**spec, "sum": True}}, {"contacts": {"pairs": pairs[:2], **settings}}], periodic=periodic
    )
    found = total.transform(protein)
    np.testing.assert_allclose(found[:, 0], expected.sum(1), rtol=1e-5)
    np.testing.assert_allclose(found[:, 1:], expected[:, :2], atol=1e-5)
    assert set(features.units) == {""} and total.names[1:] == features.names[:2]
    between = [(i, j) for i in ca for j in cb]
    group = Features(top, [{"coordination": {"of": "name CA", "with": "name CB", **settings}}], periodic=periodic)
    np.testing.assert_allclose(
        group.transform(protein)[:, 0], formula(distances(protein, between, periodic)).sum(1), rtol=1e-5
    )


def test_sorted_coordination_numbers_by_the_fermi_function(protein):
    atoms = protein.topology.select("name CA")
    pairs = [(i, j) for i in atoms for j in atoms if i != j]
    numbers = fermi(distances(protein, pairs), 0.6, 0.05).reshape(len(protein), len(atoms), -1).sum(-1)
    features = Features(
        protein.topology, [{"coordination": {"of": "name CA", "r0": 0.6, "fermi": 0.05, "moments": [2]}}]
    )
    expected = np.concatenate([np.sort(numbers, 1), numbers.var(1, keepdims=True)], 1)
    np.testing.assert_allclose(features.transform(protein), expected, atol=1e-5)


def test_names_tell_the_settings_apart(protein):
    pair = {"pairs": [[0, 9]]}
    spec = [{"contacts": {**pair, "r0": r0, **other}} for r0 in (0.4, 0.5) for other in ({}, {"fermi": 0.01}, {"n": 2})]
    spec.append({"contacts": {**pair, "r0": 0.5, "sum": True}})
    spec += [{"coordination": {"of": "name CA", "with": of, "r0": 0.5}} for of in ("name CB", {"atoms": [3, 4]})]
    features = Features(protein.topology, spec)
    assert len(set(features.names)) == len(spec) == features.transform(protein).shape[1]
    assert features.names[0].endswith(" within 0.4 nm") and features.names[1].endswith("within 0.4 nm (fermi 0.01 nm)")
    single = [Features(protein.topology, [entry]).transform(protein) for entry in spec]
    np.testing.assert_allclose(features.transform(protein), np.concatenate(single, 1), rtol=1e-6)


@pytest.mark.parametrize("switching", [Rational(0.4), Rational(0.4, 12, 26), Fermi(0.4, 0.02), Fermi(0.4, 0.5, "xy")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [0.0, 1e-20, 1e-8, 0.4, 1e3, 1e9])
def test_switching_functions_and_slopes_are_finite_at_every_distance(switching, dtype, distance):
    for shape in ((1, 3), (2, 1, 3)):
        vectors = torch.zeros(shape, dtype=dtype)
        vectors[..., 1] = distance
        vectors.requires_grad_()
        values = switching.to(dtype)(vectors)
        (slopes,) = torch.autograd.grad(values.sum(), vectors)
        assert torch.isfinite(slopes).all() and ((values >= 0) & (values <= 1)).all()


# ------------------------------------------------------------------------------------------- residue contacts


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("scheme", ["closest-heavy", "closest", "ca", "sidechain", "sidechain-heavy"])
@pytest.mark.filterwarnings("ignore:selected topology includes", "ignore:The soft_min=True option")
def test_residue_contacts_equal_mdtraj(protein, periodic, scheme):
    pairs = [(i, j) for i in range(12) for j in range(i + 3, 12)]
    # MDTraj takes exponentials in single precision, where exp(20 / 0.2) is infinite
    double = mdtraj.Trajectory(protein.xyz, protein.topology)
    beta = 8.0
    expected, found_pairs = mdtraj.compute_contacts(
        protein if periodic else double, pairs, scheme, periodic=periodic, soft_min=True, soft_min_beta=beta
    )
    assert found_pairs.tolist() == [list(pair) for pair in pairs]
    entry = {"between": "resid 0 to 11", "scheme": scheme, "beta": beta}
    features = Features(protein.topology, [{"residue_contacts": entry}], periodic=periodic)
    np.testing.assert_allclose(features.transform(protein), expected, atol=1e-5)
    entry["beta"] = "1e5 /nm"  # MINDIST: sharper and sharper
    hard = mdtraj.compute_contacts(protein if periodic else double, pairs, scheme, periodic=periodic)[0]
    features = Features(protein.topology, [{"residue_contacts": entry}], periodic=periodic)
    np.testing.assert_allclose(features.transform(protein), hard, atol=1e-4)


def test_default_softness_is_mdtrajs_in_double_precision(protein):
    entry = {"between": "resid 0 1 2", "and": "resid 20 to 25", "skip": 0}
    features = Features(protein.topology, [{"residue_contacts": entry}])
    assert features.spec[0]["residue_contacts"]["beta"] == 20.0
    assert features.names[0] == "smallest distance LEU 1 PRO 21 (closest-heavy)"
    top = protein.topology
    expected = []
    for i in range(3):
        for j in range(20, 26):
            atoms = [[a.index for a in top.residue(k).atoms if a.element.symbol != "H"] for k in (i, j)]
            r = distances(protein, [(a, b) for a in atoms[0] for b in atoms[1]])
            expected.append(20.0 / np.log(np.exp(20.0 / r).sum(1)))
    np.testing.assert_allclose(features.transform(protein), np.stack(expected, 1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [1.0, 20.0, 1000.0])
def test_soft_minima_are_finite_at_coincident_atoms(dtype, beta):
    module = SoftMinima([np.array([[0, 1], [0, 2]]), np.array([[1, 2]])], beta, 3).to(dtype)
    x = torch.zeros(3, 3, dtype=dtype, requires_grad=True)
    for place in (x, x + torch.tensor([0.0, 0.0, 1e-6], dtype=dtype) * torch.arange(3)[:, None]):
        values = module(place)
        assert torch.isfinite(values).all() and (values < 1e-3).all()
        assert torch.isfinite(torch.autograd.grad(values.sum(), x, retain_graph=True)[0]).all()


def test_large_tables_are_measured_in_parts(protein, monkeypatch):
    spec = [{"residue_contacts": {"between": "protein"}}]
    whole = Features(protein.topology, spec)
    monkeypatch.setattr("latf_sampling.features.residue_contacts.MAX_PAIRS", 3000)
    parts = Features(protein.topology, spec)
    assert len(parts.module.parts) > 10
    assert parts.names == whole.names and len(whole.names) == 32 * 33 // 2
    np.testing.assert_allclose(parts.transform(protein), whole.transform(protein), atol=1e-6)


# ------------------------------------------------------------------------------- native contacts, hydrogen bonds


@pytest.mark.parametrize("periodic", [False, True])
def test_native_contacts_equal_the_published_formula(protein, native, periodic):
    """As in MDTraj's example of Best, Hummer and Eaton's Q, which takes residues more than three apart."""
    heavy = protein.topology.select("element != H")
    residue = np.array([protein.topology.atom(i).residue.index for i in heavy])
    pairs = heavy[np.argwhere(residue - residue[:, None] > 3)]
    r0 = distances(mdtraj.load(native), pairs)[0]
    pairs, r0 = pairs[r0 < 0.45], r0[r0 < 0.45]
    each = 1 / (1 + np.exp(50 * (distances(protein, pairs, periodic) - 1.8 * r0)))
    entry = {"of": "element != H", "reference": native}
    features = Features(protein.topology, [{"native_contacts": entry}], periodic=periodic)
    np.testing.assert_allclose(features.transform(protein)[:, 0], each.mean(1), atol=1e-5)
    one_by_one = Features(protein.topology, [{"native_contacts": {**entry, "each": True}}], periodic=periodic)
    np.testing.assert_allclose(one_by_one.transform(protein), each, atol=1e-4)  # slopes reach 12.5 / nm
    sharp = {**entry, "beta": "5 /angstrom", "lambda": 1.2, "cutoff": "0.4 nm", "skip": 5}
    assert "beta" not in Features(protein.topology, [{"native_contacts": sharp}]).names[0]  # 50 /nm
    assert "lambda 1.2" in Features(protein.topology, [{"native_contacts": sharp}]).names[0]


def test_backbone_hydrogen_bonds_rank_as_kabsch_and_sander_do(protein):
    """Bonds that are strong by energy are more closed than those that are none."""
    features = Features(protein.topology, [{"hydrogen_bonds": "backbone"}])
    values = features.transform(protein)
    assert (values >= 0).all() and (values <= 1).all() and set(features.units) == {""}
    top = protein.topology
    names = {f"{a.residue.name}{a.residue.resSeq}-{a.name}": a for a in top.atoms}
    columns = [tuple(names[word].residue.index for word in name.split()[2:4]) for name in features.names]
    for frame, energies in enumerate(mdtraj.kabsch_sander(protein)):
        energies = np.array([energies[acceptor, donor] for donor, acceptor in columns])
        strong, absent = values[frame, energies < -1.5], values[frame, energies > -0.3]
        assert len(strong) >= 3 and (strong[:, None] > absent).mean() > 0.99
    first = top.residue(0)
    assert all(donor != first.index for donor, _ in columns)  # its nitrogen is no amide


def test_hydrogen_bonds_of_selections_equal_numpy(protein):
    top = protein.topology
    donors, acceptors = top.select("name N"), top.select("name O")
    pairs = [
        (i, j) for i in donors for j in acceptors if abs(top.atom(i).residue.index - top.atom(j).residue.index) > 1
    ]
    entry = {"donors": "name N", "acceptors": "name O", "r0": "0.35 nm", "skip": 2, "n": 8, "m": 16}
    expected = rational(distances(protein, pairs), 0.35, 8, 16)
    features = Features(top, [{"hydrogen_bonds": entry}, {"hydrogen_bonds": {**entry, "sum": True}}])
    np.testing.assert_allclose(features.transform(protein)[:, :-1], expected, atol=1e-5)
    np.testing.assert_allclose(features.transform(protein)[:, -1], expected.sum(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("contacts", {"between": "name CA"}, r"\.r0: this key is missing; write {between"),
        ("contacts", {"between": "name CA", "r0": 0.5, "n": 6, "fermi": 0.1}, r": takes n and m, or fermi"),
        ("contacts", {"between": "name CA", "r0": 0.5, "fermi": 0}, r"\.fermi: 0 is too small"),
        ("contacts", {"between": "name CA", "r0": 0.5, "m": 6}, r"\.m: 6 has to be greater than n"),
        ("contacts", {"between": "name XX", "r0": 0.5}, r"\.between: 'name XX' selects no atom"),
        ("contacts", {"between": "name CA", "skip": 99, "r0": 0.5}, r"\.skip: no two selected atoms are 99 or more"),
        ("contacts", {"pairs": [[3, 3]], "r0": 0.5}, r"\.pairs\[0\]: \[3, 3\] names an atom twice"),
        ("contacts", {"pairs": [[3, 4]], "r0": 0.5, "skip": 1}, r"\.skip: no such key"),
        ("coordination", {"of": "all", "with": "all", "r0": 1, "moments": [2]}, r"\.moments: need identical particles"),
        ("coordination", {"of": {"atoms": [3]}, "with": {"atoms": [3]}, "r0": 1}, r"\.with: is the only atom of 'of'"),
        ("residue_contacts", "protein", r": 'protein' cannot be read; write {between: protein"),
        ("residue_contacts", {"between": "protein", "scheme": "near"}, r"\.scheme: "),
        ("residue_contacts", {"between": "protein", "skip": 99}, r"\.skip: no two selected residues are 99 or more"),
        ("residue_contacts", {"between": "protein", "beta": "20 nm"}, r"\.beta: '20 nm' is not an inverse length"),
        ("native_contacts", {"of": "name CA", "reference": "none.pdb"}, r"\.reference: none\.pdb cannot be read"),
        (
            "native_contacts",
            {"of": "name CA", "reference": SMALL, "cutoff": 0.1},
            r"\.cutoff: no two atoms 4 or more residues apart are within 0\.1 nm in reference 1",
        ),
        (
            "native_contacts",
            {"of": "name CA", "reference": {**SMALL, "positions": SMALL["positions"] * 2}},
            r"\.reference: needs one native",
        ),
        ("native_contacts", {"of": "name CA", "reference": SMALL, "lambda": 0.5}, r"\.lambda: "),
        ("hydrogen_bonds", "side chains", r": 'side chains' cannot be read; write backbone, or"),
        ("hydrogen_bonds", {"donors": "name XX"}, r"\.donors: 'name XX' selects no atom"),
        ("hydrogen_bonds", {"skip": 99}, r"\.skip: no donor and acceptor are 99 or more"),
    ],
)
def test_wrong_specifications_name_their_key(protein, kind, value, words):
    with pytest.raises(SettingsError, match=rf"^features\[0\]\.{kind}{words}"):
        Features(protein.topology, [{kind: value}])


def test_a_backbone_without_hydrogens_is_refused(protein):
    heavy = protein.topology.subset(protein.topology.select("element != H"))
    with pytest.raises(SettingsError, match=r"\.donors: the backbone has no amide atom H or HN; select other donors"):
        Features(heavy, [{"hydrogen_bonds": "backbone"}])
