"""The exported variable against the eager descriptors and encoder, and what its file promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from helpers.molecules import (
    SPECS,
    TRICLINIC,
    alanine,
    alanine_cv,
    alanine_model,
    alanine_system,
    alanine_topology,
    context,
    frames,
    gradient,
    positions,
    random_model,
)

from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import CVError
from latf_sampling.features import Features, fingerprint
from latf_sampling.learning.model import LaTF

DIMENSIONS = [1, 2, 3]


def eager(dim: int, kind: str, x: torch.Tensor, periodic: bool = False, box=None) -> torch.Tensor:
    """mu of the descriptors in double precision, without anything that the export does."""
    model, features = alanine_model(dim, kind, periodic)
    u = (features(x, box) - model.networks.feature_mean.double()) * model.networks.feature_scale.double()
    for layer in model.networks.encoder:
        if isinstance(layer, torch.nn.Linear):
            u = u @ layer.weight.double().T + layer.bias.double()
        else:
            u = torch.tanh(u)
    return u


def scattered(x: np.ndarray, box: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every atom in a periodic image of its own."""
    return x + np.random.default_rng(seed).integers(-2, 3, x.shape) @ box


# ----------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("dim", DIMENSIONS)
def test_exported_is_eager(dim, kind):
    cv = alanine_cv(dim, kind)
    x = torch.from_numpy(frames(20, seed=1, noise=0.03)).requires_grad_(True)
    ours, theirs = cv(x), eager(dim, kind, x)
    assert ours.shape == (20, dim)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    probe = torch.from_numpy(np.random.default_rng(2).normal(size=(20, dim)))
    ours, theirs = (torch.autograd.grad((u * probe).sum(), x)[0] for u in (ours, theirs))
    assert float(theirs.abs().max()) > 1  # 1/nm; otherwise there is nothing to compare
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_is_the_models_encode_of_the_features():
    model, features = alanine_model(2, "both")
    x = frames(50, seed=3)
    assert np.abs(alanine_cv(2, "both")(x) - model.encode(features(x))).max() < 1e-4  # float32 on the right


@pytest.mark.parametrize("kind", SPECS)
def test_gradient_is_that_of_finite_differences(kind):
    cv = alanine_cv(2, kind)
    x = frames(1, seed=4)[0]
    for component in range(2):
        tensor = torch.from_numpy(x).requires_grad_(True)
        (exact,) = torch.autograd.grad(cv(tensor)[component], tensor)
        numerical = gradient(lambda many: cv(many)[:, component], x)  # noqa: B023
        assert np.abs(exact.numpy() - numerical).max() < 1e-6 * np.abs(numerical).max()


@pytest.mark.parametrize("kind", SPECS)
def test_only_its_atoms_matter(kind):
    cv = alanine_cv(2, kind)
    x = torch.from_numpy(positions()).requires_grad_(True)
    (slope,) = torch.autograd.grad(cv(x).sum(), x)
    moved = np.flatnonzero(slope.abs().sum(-1).numpy())
    assert moved.tolist() == cv.atoms.tolist()
    elements = [atom.element.symbol for atom in alanine().topology.atoms()]
    assert "H" not in {elements[k] for k in moved}
    assert len(moved) == (5 if kind == "torsions" else 10)


def test_rotation_and_translation_change_nothing():
    rng = np.random.default_rng(5)
    for kind, dim in product(SPECS, DIMENSIONS):
        cv = alanine_cv(dim, kind)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turn[:, 0] *= np.linalg.det(turn)  # a rotation, not a reflection
        x = frames(5, seed=dim)
        assert np.abs(cv(x @ turn + rng.normal(size=3)) - cv(x)).max() < 1e-9
    mirrored = frames(1) * [1, 1, -1]
    assert np.abs(alanine_cv(2, "distances")(mirrored) - alanine_cv(2, "distances")(frames(1))).max() < 1e-9
    assert np.abs(alanine_cv(2, "torsions")(mirrored) - alanine_cv(2, "torsions")(frames(1))).max() > 1e-2


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3)])
def test_shapes_and_types(batch):
    cv = alanine_cv(3)
    x = frames(6, seed=6)[: max(1, int(np.prod(batch)))]
    x = np.resize(x, (*batch, 22, 3))
    u = cv(x)
    assert isinstance(u, np.ndarray) and u.shape == (*batch, 3) and u.dtype == np.float64
    tensor = cv(torch.from_numpy(x))
    assert isinstance(tensor, torch.Tensor) and np.array_equal(tensor.numpy(), u)
    assert np.abs(cv(x.astype(np.float32)) - u).max() < 1e-4
    each = np.array([cv(one) for one in x.reshape(-1, 22, 3)]).reshape(u.shape)
    assert np.abs(each - u).max() < 1e-12


def test_value_of_a_context():
    for periodic in (False, True):
        cv = alanine_cv(2, periodic=periodic)
        box = TRICLINIC if periodic else None
        x = frames(1, seed=7)[0]
        made = context(alanine_system(periodic), x, box=box)
        assert np.abs(cv.of_context(made) - cv(x, box)).max() < 1e-6


@pytest.mark.parametrize("periodic", [False, True])
def test_gradients_are_those_of_finite_differences(periodic):
    """On many frames at once, each in a box of its own, with atoms in images far apart."""
    cv = alanine_cv(2, "both", periodic)
    x, boxes = frames(3, seed=12), None
    if periodic:
        boxes = TRICLINIC * np.array([1.0, 1.1, 1.2])[:, None, None]
        x = np.array([scattered(one, box, seed) for seed, (one, box) in enumerate(zip(x, boxes))])
    found = cv.gradients(x, boxes)
    assert found.shape == (3, 2, len(cv.atoms), 3)
    for k, frame in enumerate(x):
        box = boxes[k] if periodic else None
        expected = gradient(lambda many: cv(many, box), frame)  # noqa: B023
        rest = np.delete(expected, cv.atoms, axis=1)
        assert np.abs(found[k] - expected[:, cv.atoms]).max() < 1e-6 * np.abs(expected).max()
        assert np.abs(rest).max() < 1e-6
    if periodic:  # one box for all
        assert np.abs(cv.gradients(x[1:2], boxes[1]) - found[1:2]).max() < 1e-9
    # more frames than are taken at once
    many = cv.gradients(np.resize(x, (1100, 22, 3)), None if boxes is None else np.resize(boxes, (1100, 3, 3)))
    assert np.abs(many - np.resize(found, many.shape)).max() < 1e-9


@pytest.mark.parametrize("periodic", [False, True])
def test_gradient_of_a_context(periodic):
    cv, box = alanine_cv(2, periodic=periodic), TRICLINIC if periodic else None
    x = frames(1, seed=7)[0]
    found = cv.gradient_of_context(context(alanine_system(periodic), x, box=box))
    expected = gradient(lambda many: cv(many, box), x)
    assert found == pytest.approx(np.sqrt((expected**2).sum((1, 2))), rel=1e-5)


@pytest.mark.parametrize("periodic", [False, True])
def test_steepness_is_the_mean_square_gradient_of_the_training_frames(tmp_path, periodic):
    model, features = alanine_model(2, "both", periodic)
    x, boxes = frames(5, seed=13), None
    if periodic:
        boxes = TRICLINIC * np.linspace(1, 1.2, 5)[:, None, None]
        x = np.array([scattered(one, box, seed) for seed, (one, box) in enumerate(zip(x, boxes))])
    cv = LatentCV.from_model(model, features, x, boxes, force_limit=1e9)
    slopes = [
        gradient(lambda many: cv(many, box), one)  # noqa: B023
        for one, box in zip(x, [None] * 5 if boxes is None else boxes)
    ]
    expected = np.sqrt((np.array(slopes) ** 2).sum((2, 3)).mean(0))
    assert cv.steepness == pytest.approx(expected, rel=1e-5)
    cv.save(tmp_path / "cv.pt")
    assert np.array_equal(LatentCV.load(tmp_path / "cv.pt").steepness, cv.steepness)


def test_steepness_is_unknown_without_training_frames(tmp_path):
    cv = LatentCV.from_model(*alanine_model(2))
    assert cv.steepness is None
    cv.save(tmp_path / "cv.pt")
    assert LatentCV.load(tmp_path / "cv.pt").steepness is None


def test_a_variable_that_pushes_too_hard_is_refused(tmp_path):
    """By the largest force on one atom of a hill of 1 kJ/mol at its steepest, on all but a thousandth of the frames."""
    model, features = alanine_model(2)
    x = frames(50, seed=14)
    cv = LatentCV.from_model(model, features, x, force_limit=1e9)
    away = np.linspace(0, 3, 30_001)
    steepest = np.abs(np.gradient(np.exp(-(away**2) / 2), away)).max()  # of a hill of width 1
    pushes = np.linalg.norm(cv.gradients(x), axis=-1).max(-1) * steepest / cv.sigma
    largest = np.quantile(pushes, 0.999, axis=0)
    assert largest.min() > 1
    assert cv.sigma == pytest.approx((cv.bounds[:, 1] - cv.bounds[:, 0]) / 16)
    assert LatentCV.from_model(model, features, x, force_limit=1.0001 * largest.max()).sigma == pytest.approx(cv.sigma)
    # Wider hills push less: up to four times as wide, which is a quarter of the range, they are made wider.
    wide = LatentCV.from_model(model, features, x, force_limit=0.3 * largest.max())
    assert wide.sigma == pytest.approx(cv.sigma * np.maximum(1, largest / (0.3 * largest.max())))
    wide.save(tmp_path / "wide.pt")
    assert LatentCV.load(tmp_path / "wide.pt").sigma == pytest.approx(wide.sigma)
    (tmp_path / "wide.pt").unlink()
    with pytest.raises(CVError, match=r"component \d is too steep to bias: .* as wide as a quarter of its range"):
        LatentCV.from_model(model, features, x, force_limit=0.2499 * largest.max()).save(tmp_path / "cv.pt")
    assert list(tmp_path.iterdir()) == []
    # an export without frames has nothing to measure
    LatentCV.from_model(model, features, force_limit=1e-9)


def test_training_frames_of_a_periodic_variable_need_their_boxes():
    with pytest.raises(CVError, match="give the box vectors"):
        LatentCV.from_model(*alanine_model(2, periodic=True), frames(4), force_limit=1e9)


def test_mobility_is_the_squared_gradient_over_mass():
    cv, masses = alanine_cv(2), np.random.default_rng(8).uniform(1, 16, 22)
    masses[3] = 0  # what OpenMM does not move
    x = frames(3, seed=8)
    for frame, found in zip(x, cv.mobility(x, masses)):
        for component in range(2):
            slope = gradient(lambda many: cv(many)[:, component], frame)  # noqa: B023
            slope[masses == 0] = 0
            expected = ((slope**2).sum(-1) / np.where(masses > 0, masses, 1)).sum()
            assert found[component] == pytest.approx(expected, rel=1e-6)


# --------------------------------------------------------------------------------------------------------- periodic


@pytest.mark.parametrize("kind", SPECS)
def test_periodic_images_change_nothing(kind):
    cv, free = alanine_cv(2, kind, periodic=True), alanine_cv(2, kind)
    x = frames(8, seed=9)
    boxes = TRICLINIC * np.random.default_rng(9).uniform(1.0, 1.3, (8, 1, 1))
    far = np.array([scattered(one, box, seed) for seed, (one, box) in enumerate(zip(x, boxes))])
    u = cv(far, boxes)
    assert np.abs(u - cv(x, boxes)).max() < 1e-9
    assert np.abs(u - free(x)).max() < 1e-6  # no distance within the molecule is longer than half a box
    assert np.abs(u[3] - cv(far[3], boxes[3])).max() < 1e-12
    assert np.abs(free(far) - u).max() > 0.1


def test_a_box_need_not_be_reduced():
    """Trajectories hold boxes that OpenMM would not take; descriptors, which the model is trained on, reduce them."""
    model, features = alanine_model(2, "distances", periodic=True)
    cv = alanine_cv(2, "distances", periodic=True)
    box = TRICLINIC.copy()
    box[2] += 2 * box[0] - box[1]
    box[1] += box[0]
    x = scattered(frames(1, seed=10)[0], TRICLINIC)
    assert np.abs(cv(x, box) - cv(x, TRICLINIC)).max() < 1e-9
    assert np.abs(cv(x, box) - model.encode(features(x[None], box))[0]).max() < 1e-4


def test_a_periodic_variable_needs_a_box():
    with pytest.raises(CVError, match="give the box vectors"):
        alanine_cv(2, periodic=True)(positions())


# ------------------------------------------------------------------------------------------------------------- file


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("dim", DIMENSIONS)
def test_saved_and_loaded_is_the_same(tmp_path, dim, periodic):
    cv = alanine_cv(dim, "both", periodic)
    cv.save(tmp_path / "cv.pt")
    again = LatentCV.load(tmp_path / "cv.pt", alanine().topology)
    box = TRICLINIC if periodic else None
    assert np.array_equal(again(frames(5), box), cv(frames(5), box))
    assert again.metadata == cv.metadata
    assert (again.dim, again.n_atoms, again.periodic) == (dim, 22, periodic)
    for name in ("atoms", "bounds", "sigma"):
        assert np.array_equal(getattr(again, name), getattr(cv, name))
    again.save(tmp_path / "again.pt")
    assert LatentCV.load(tmp_path / "again.pt").metadata == cv.metadata
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pt", "cv.pt"]


def test_metadata_is_complete():
    model, features = alanine_model(2, "both")
    model.provenance = {"rounds": 3}
    cv = LatentCV.from_model(model, features)
    model.provenance = {}
    assert cv.metadata["names"] == features.names and len(features.names) == 49
    assert cv.metadata["atoms"] == features.atoms.tolist()
    assert cv.metadata["n_atoms"] == 22
    assert cv.metadata["periodic"] is False
    assert cv.metadata["units"]["positions"] == "nm"
    assert cv.metadata["topology"] == fingerprint(alanine().topology)
    assert cv.metadata["bounds"] == model.latent_bounds.double().tolist()
    assert cv.metadata["versions"].keys() >= {"openmm", "torch", "numpy"}
    assert cv.metadata["versions"]["openmm"].startswith(openmm.Platform.getOpenMMVersion())
    assert cv.metadata["provenance"]["rounds"] == 3
    assert cv.metadata["provenance"]["model"] == model.settings.model_dump(mode="json")
    assert cv.metadata["provenance"]["exported"].endswith("+00:00")
    assert json.loads(json.dumps(cv.metadata)) == cv.metadata
    # what is needed to make the descriptors again
    assert Features(alanine().topology, cv.metadata["features"]).names == cv.metadata["names"]


PLAIN = """
import sys, torch
module = torch.jit.load(sys.argv[1])
x = torch.load(sys.argv[2])
u = module(x)
assert not any(name.startswith(("latf_sampling", "openmm", "mdtraj")) for name in sys.modules)
torch.save(u, sys.argv[3])
"""


def test_file_needs_nothing_but_torch(tmp_path):
    alanine_cv(2, "both").save(tmp_path / "cv.pt")
    torch.save(torch.from_numpy(frames(3)), tmp_path / "x.pt")
    files = [str(tmp_path / name) for name in ("cv.pt", "x.pt", "u.pt")]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", PLAIN, *files], check=True, env=alone, cwd=tmp_path)
    assert np.array_equal(torch.load(tmp_path / "u.pt").numpy(), alanine_cv(2, "both")(frames(3)))


def test_damaged_files_are_refused(tmp_path):
    whole = tmp_path / "cv.pt"
    alanine_cv().save(whole)
    content = whole.read_bytes()
    flipped = bytearray(content)
    middle = len(content) // 2
    flipped[middle : middle + 40] = bytes(255 - byte for byte in flipped[middle : middle + 40])
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "other module.pt"))
    torch.save({"a": 1}, tmp_path / "no module.pt")
    for name, damaged in {
        "empty": b"",
        "half": content[:middle],
        "text": b"hello\n" * 100,
        "flipped": bytes(flipped),
    }.items():
        (tmp_path / f"{name}.pt").write_bytes(damaged)
    (tmp_path / "folder.pt").mkdir()
    for name in ("empty", "half", "text", "flipped", "other module", "no module", "folder", "missing"):
        with pytest.raises(CVError) as caught:
            LatentCV.load(tmp_path / f"{name}.pt")
        sentence = str(caught.value)
        assert sentence.startswith(f"{tmp_path / name}.pt: cannot be read as a CV file ("), sentence
        assert "\n" not in sentence and len(sentence) < len(str(tmp_path)) + 300
    LatentCV.load(whole)


def test_another_format_is_refused(tmp_path):
    cv = alanine_cv()
    cv.metadata = {**cv.metadata, "format": 99}
    cv.save(tmp_path / "cv.pt")
    with pytest.raises(CVError, match="format 99; this version reads 2"):
        LatentCV.load(tmp_path / "cv.pt")


# ---------------------------------------------------------------------------------------------------- what is refused


def test_another_topology_is_refused(tmp_path):
    cv = alanine_cv()
    cv.save(tmp_path / "cv.pt")
    other = mdtraj.Topology.from_openmm(alanine().topology)
    cv.check_topology(other)  # the same one, as MDTraj has it
    other.atom(10).name = "CX"
    for topology in (other, other.to_openmm(), other.subset(range(10))):
        with pytest.raises(CVError, match="another topology"):
            LatentCV.load(tmp_path / "cv.pt", topology)


@pytest.mark.parametrize("shape", [(22,), (22, 2), (21, 3), (5, 23, 3), (3, 22)])
def test_wrong_number_of_atoms_is_refused(shape):
    with pytest.raises(CVError, match=r"expected positions \(\.\.\., 22, 3\)"):
        alanine_cv()(np.zeros(shape))


def test_positions_may_have_a_unit():
    cv = alanine_cv()
    np.testing.assert_allclose(cv(alanine().positions), cv(positions()), rtol=1e-12)


@pytest.mark.parametrize(
    ("frames_", "message"),
    [
        (np.zeros((0, 22, 3)), "n > 0"),
        (np.zeros((22, 3)), r"got \(22, 3\)"),
    ],
)
def test_training_frames_of_another_kind_are_refused(frames_, message):
    with pytest.raises(CVError, match=message):
        LatentCV.from_model(*alanine_model(2), frames_)
    with pytest.raises(CVError, match="force_limit must be a number above 0"):
        LatentCV.from_model(*alanine_model(2), frames(2), force_limit="300")


def test_system_of_another_size_is_refused():
    system = alanine_system()
    alanine_cv().check_system(system)
    system.addParticle(1.0)
    with pytest.raises(CVError, match="made for 22 atoms; the system has 23"):
        alanine_cv().check_system(system)


def test_model_and_features_that_do_not_fit_are_refused():
    model, _ = alanine_model(2, "distances")
    with pytest.raises(CVError, match=r"trained on 45 descriptors; these features give 4\b"):
        LatentCV.from_model(model, Features(alanine_topology(), SPECS["torsions"]))
    with pytest.raises(CVError, match="not trained"):
        LatentCV.from_model(LaTF(), Features(alanine_topology(), SPECS["torsions"]))


def test_an_export_that_differs_is_refused(monkeypatch):
    """The check itself: a wrong export must not pass."""
    features = Features(alanine_topology(), SPECS["torsions"])
    model = random_model(features, features(frames(50)), 2, seed=11)
    from latf_sampling.cv import latent_cv as module

    folded = module._folded_encoder

    def wrong(model):
        encoder = folded(model)
        with torch.no_grad():
            encoder[0].weight[0, 0] *= 1.001
        return encoder

    monkeypatch.setattr(module, "_folded_encoder", wrong)
    with pytest.raises(CVError, match="differs from the eager one"):
        LatentCV.from_model(model, features, frames(4))
