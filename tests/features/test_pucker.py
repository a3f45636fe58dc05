"""Pucker of sugars against plain numpy, rings built by hand, and the torsions of Altona and Sundaralingam."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
import torch
from helpers.nucleic import BOXES, DNA, RNA, boxed, perturbed, renamed

from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.features.modules.pucker import Pucker
from latf_sampling.testing import check_descriptors

RING = ["C4'", "O4'", "C1'", "C2'", "C3'"]


def rings(topology: mdtraj.Topology) -> np.ndarray:
    return np.array([[residue.atom(name).index for name in RING] for residue in topology.residues])


def heights(x: np.ndarray) -> np.ndarray:
    """Of five atoms over the mean plane of Cremer and Pople."""
    x = x - x.mean(0)
    j = np.arange(5)
    normal = np.cross(np.sin(2 * np.pi * j / 5) @ x, np.cos(2 * np.pi * j / 5) @ x)
    return x @ normal / np.linalg.norm(normal)


def pucker(x: np.ndarray) -> tuple[float, float]:
    """Phase, rad, and amplitude of one ring, by fitting the definition to the heights."""
    angles = np.radians(126 + 144 * np.arange(5))
    design = np.sqrt(2 / 5) * np.stack([-np.sin(angles), np.cos(angles)], 1)
    (sine, cosine), *_ = np.linalg.lstsq(design, heights(x), rcond=None)
    return np.arctan2(sine, cosine), np.hypot(sine, cosine)


def whole(x: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    """Atoms of a ring next to each other, one after the other, by trying all images."""
    if box is None:
        return x
    n = np.array(np.meshgrid(*[range(-4, 5)] * 3)).reshape(3, -1).T @ box
    out = [x[0]]
    for atom in x[1:]:
        images = atom + n
        out.append(images[np.linalg.norm(images - out[-1], axis=1).argmin()])
    return np.array(out)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("file", [DNA, RNA], ids=["dna", "rna"])
def test_pucker_equals_numpy(file, box):
    traj = boxed(perturbed(file, frames=3), box, side=1.0)
    cells = [None] * 3 if box == "none" else traj.unitcell_vectors.astype(float)
    expected = []
    for x, cell in zip(traj.xyz.astype(float), cells):
        phase, amplitude = np.array([pucker(whole(x[ring], cell)) for ring in rings(traj.topology)]).T
        expected.append([*np.sin(phase), *np.cos(phase), *amplitude])
    features = Features(traj.topology, [{"pucker": "all"}], periodic=box != "none")
    out = features(traj.xyz.astype(float), None if box == "none" else traj.unitcell_vectors)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(features.transform(traj), expected, atol=1e-4)


def test_names_and_units():
    features = Features(mdtraj.load(str(RNA)).topology, [{"pucker": "resid 0 2"}])
    parts = ["sin pucker", "cos pucker", "pucker amplitude"]
    assert features.names == [f"{part} {residue}" for part in parts for residue in ("U 1", "A 3")]
    assert features.units == [""] * 4 + ["nm"] * 2
    assert features.spec == [{"pucker": {"of": "resid 0 2"}}]


@pytest.mark.parametrize(("name", "phase"), [("C3' endo", 18), ("O4' endo", 90), ("C2' endo", 162), ("C3' exo", 198)])
def test_rings_built_by_hand(name, phase):
    """One atom above the plane of the others, on the side of C5': its envelope of pseudorotation."""
    around = 2 * np.pi * np.arange(5) / 5
    ring = 0.12 * np.stack([np.cos(around), np.sin(around), 0 * around], 1)
    # seen from the side of C5', in D-sugars, the atoms C4', O4', C1', C2', C3' go round clockwise
    atom, side = name.split()
    ring[RING.index(atom), 2] = -0.06 if side == "endo" else 0.06
    sine, cosine, amplitude = Pucker(np.arange(5)[None], 5).double()(torch.tensor(ring)).tolist()
    assert np.degrees(np.arctan2(sine, cosine)) % 360 == pytest.approx(phase, abs=1e-3)
    assert amplitude == pytest.approx(pucker(ring)[1], rel=1e-6)


@pytest.mark.parametrize("file", [DNA, RNA], ids=["dna", "rna"])
def test_phase_and_amplitude_are_near_those_of_the_torsions(file):
    """Altona and Sundaralingam: tan P = (nu4 + nu1 - nu3 - nu0) / (2 nu2 (sin 36 + sin 72)), amplitude nu2 / cos P."""
    traj = mdtraj.load(str(file))
    c4, o4, c1, c2, c3 = rings(traj.topology).T
    fours = [(c4, o4, c1, c2), (o4, c1, c2, c3), (c1, c2, c3, c4), (c2, c3, c4, o4), (c3, c4, o4, c1)]
    nu = [mdtraj.compute_dihedrals(traj, np.stack(four, 1)) for four in fours]
    across = (nu[4] + nu[1] - nu[3] - nu[0]) / (2 * (np.sin(np.pi / 5) + np.sin(2 * np.pi / 5)))
    phase, amplitude = np.arctan2(across, nu[2]), np.hypot(across, nu[2])
    sine, cosine, q = np.split(Features(traj.topology, [{"pucker": "all"}])(traj.xyz), 3, 1)
    apart = np.degrees(np.arctan2(sine, cosine) - phase + np.pi) % 360 - 180
    assert abs(apart).max() < 3
    assert abs(q / amplitude - 0.055).max() < 0.004
    if file == RNA:  # all C3'-endo, as in helices
        assert (abs(np.degrees(phase) - 15) < 45).all()


def test_rings_may_be_given_and_mirrored():
    rna = mdtraj.load(str(RNA))
    given = {"pucker": {"atoms": rings(rna.topology)}}
    features = Features(rna.topology, [given])
    assert features.names[0] == "sin pucker U1-C4' U1-O4' U1-C1' U1-C2' U1-C3'"
    named = Features(rna.topology, [{"pucker": "all"}])
    np.testing.assert_array_equal(features(rna.xyz), named(rna.xyz))
    mirrored = features(rna.xyz * np.float32([1, 1, -1]))
    np.testing.assert_allclose(mirrored, features(rna.xyz) * np.repeat([-1, -1, 1], 6), atol=1e-5)


def test_names_of_force_fields_find_the_same():
    rna = mdtraj.load(str(RNA))
    other = renamed(rna.topology, lambda name, place: f"R{name}{'5 3'[place].strip()}", lambda n: n.replace("'", "*"))
    found = Features(other, [{"pucker": "all"}])
    assert found.names[0] == "sin pucker RU5 1"
    np.testing.assert_array_equal(found(rna.xyz), Features(rna.topology, [{"pucker": "all"}])(rna.xyz))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frames", [None, 4])
@pytest.mark.parametrize("height", [0.0, 1e-20, 1e-12, 1e-8, 1e-5, 1e-3])
def test_flat_rings_have_finite_values_and_gradients(dtype, frames, height):
    around = 2 * np.pi * np.arange(5) / 5
    ring = 0.12 * np.stack([np.cos(around), np.sin(around), 0 * around], 1)
    ring[2, 2] = height
    x = torch.tensor(ring, dtype=dtype)
    x = (x if frames is None else x.expand(frames, 5, 3).clone()).requires_grad_()
    out = Pucker(np.arange(5)[None], 5).to(dtype)(x)
    assert torch.isfinite(out).all() and (out.abs() <= 1 + 1e-6).all()
    for column in out.unbind(-1):
        (gradient,) = torch.autograd.grad(column.sum(), x, retain_graph=True)
        assert torch.isfinite(gradient).all() and gradient.abs().max() < 2e5
    if height == 0.0 and dtype == torch.float64:
        assert out.abs().max() < 1e-9


def test_what_all_descriptors_keep():
    check_descriptors(perturbed(RNA), [{"pucker": "all"}])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("protein", r": 'protein' selects no atom"),
        (4, r": 4 cannot be read; write a selection such as all"),
        ({"of": "resid 0", "as": "angle"}, r"\.as: no such key"),
        ({"atoms": [[0, 1, 2, 3]]}, r"\.atoms\[0\]\[4\]: this key is missing"),
        ({"atoms": [[0, 1, 2, 3, 3]]}, r"\.atoms\[0\]: \[0, 1, 2, 3, 3\] names an atom twice"),
    ],
)
def test_wrong_specifications_name_their_key(value, words):
    with pytest.raises(SettingsError, match=rf"^features\[0\]\.pucker{words}"):
        Features(mdtraj.load(str(RNA)).topology, [{"pucker": value}])


def test_what_is_no_nucleotide_is_named():
    rna = mdtraj.load(str(RNA))
    bases = rna.atom_slice(rna.topology.select('not name "C1\'"'))
    with pytest.raises(SettingsError, match="'all' selects no nucleotide; that is a residue with the atoms C4', O4'"):
        Features(bases.topology, [{"pucker": "all"}])
