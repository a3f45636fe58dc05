"""Variables and biases as input of PLUMED, and PLUMED's files back, against PLUMED itself."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from helpers import plumed
from helpers.mlcolvar_models import features as distances
from helpers.mlcolvar_models import file, walk
from helpers.molecules import TRICLINIC, alanine_topology, frames, pairs, positions, random_model
from helpers.nucleic import RNA, perturbed
from helpers.plumed import needs_plumed

from latf_sampling.bias import OPES, Metadynamics
from latf_sampling.bias.grid import walls_around
from latf_sampling.bias.plumed import export_plumed, import_hills, read_plumed
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.plumed import plumed_descriptors
from latf_sampling.errors import CVError, DataError, SettingsError
from latf_sampling.features import Features

EVERYTHING = {"atoms": list(range(22))}
NATIVE = {"of": EVERYTHING, "reference": {"positions": [positions().tolist()]}, "skip": 1}
EXACT = [
    {"torsions": "phi psi"},
    {"distances": {"between": "element O N", "and": "element C"}},
    {"angles": {"of": "element != H", "at": "element N", "as": "angle"}},
    {"angles": {"of": "element != H", "at": "name C"}},
    {"contacts": {"between": "element O N", "r0": 0.3, "n": 6, "m": 8}},
    {"contacts": {"between": "element != H", "r0": 0.3, "fermi": 0.02, "sum": True}},
    {"coordination": {"of": "element O N", "r0": 0.3, "moments": [2, 3]}},
    {"coordination": {"of": "element N", "with": "element C", "r0": 0.3, "n": 4, "m": 10}},
    {"hydrogen_bonds": {"skip": 1}},
    {"groups": {"groups": ["resid 0", "resid 1", "resid 2"]}},
    {"gyration": "all"},
    {"gyration": {"of": "element C", "weights": "equal"}},
    {"residue_contacts": {"between": "all", "skip": 1}},
    {"native_contacts": NATIVE},
    {"native_contacts": {**NATIVE, "cutoff": 0.3, "each": True}},
]
"""All kinds but RMSD, whose reference PLUMED reads from a PDB file with its three digits, and those without a word."""
RMSD = [
    {"rmsd": {"of": EVERYTHING, "reference": {"positions": frames(2, seed=5, noise=0.03).tolist()}}},
    {
        "rmsd": {
            "of": {"atoms": [1, 4, 6, 8]},
            "superpose": {"atoms": [8, 10, 14, 16, 1]},
            "weights": "mass",
            "reference": {"positions": [positions()[[1, 4, 6, 8, 10, 14, 16]].tolist()]},
        }
    },
]


@cache
def variable() -> tuple[LatentCV, Features]:
    features = Features(alanine_topology(), [{"torsions": "phi"}, {"distances": {"pairs": [[4, 14], [1, 18]]}}])
    return LatentCV.from_model(random_model(features, features(frames(60, seed=1)), 2, seed=3), features), features


def line(names: list[str], slopes: list[float]) -> str:
    """A bias that is a linear function, whose force is the gradient."""
    zeros, slope = ",".join("0" for _ in names), ",".join(repr(-value) for value in slopes)
    return f"force: RESTRAINT ARG={','.join(names)} AT={zeros} KAPPA={zeros} SLOPE={slope}"


FORCES = ("--dump-forces", "forces", "--dump-forces-fmt", "%.12g")


@needs_plumed
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize(("spec", "tolerance"), [(EXACT, 1e-7), (RMSD, 1e-4)], ids=["exact", "rmsd"])
def test_descriptors(tmp_path, spec, tolerance, periodic):
    """Values and gradients; in a box, of atoms that are each in an image of their own."""
    features = Features(alanine_topology(), spec, periodic=periodic)
    x, box = frames(2, seed=2, noise=0.02), TRICLINIC if periodic else None
    if periodic:
        x = x + np.random.default_rng(1).integers(-2, 3, x.shape) @ TRICLINIC
    lines, files = plumed_descriptors(features)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    names = [f"x{k}" for k in range(len(features.names))]
    slopes = np.random.default_rng(3).normal(size=len(names))
    lines.append(line(names, slopes.tolist()))
    found = plumed.values(tmp_path, lines, names, x, box, *FORCES)
    tensor = torch.from_numpy(x).requires_grad_(True)
    value = features(tensor, box)
    assert np.abs(found - value.detach().numpy()).max() < tolerance
    (value @ torch.from_numpy(slopes)).sum().backward()
    gradient = tensor.grad.numpy()
    assert np.abs(plumed.forces(tmp_path / "forces", 22) - gradient).max() < 10 * tolerance * np.abs(gradient).max()


@needs_plumed
def test_encoder_and_walls(tmp_path):
    cv, features = variable()
    cv = copy.copy(cv)
    cv.bounds, cv.sigma = 0.1 * cv.bounds, 0.1 * cv.sigma  # so that frames are beyond the walls
    written = export_plumed(tmp_path, cv, features)
    assert {path.name for path in written} == {"plumed.dat", "encoder.pt"} and all(path.exists() for path in written)
    x, slopes = frames(3, seed=4, noise=0.06), [0.7, -1.3]
    lines = (tmp_path / "plumed.dat").read_text().splitlines()
    nodes = ["ann.node-0", "ann.node-1"]
    found = plumed.values(tmp_path, lines, [*nodes, "lower.bias", "upper.bias"], x)
    with torch.jit.optimized_execution(False):  # compiling it takes seconds
        u, gradients = cv(x), cv.gradients(x)
    assert np.abs(found[:, :2] - u).max() < 1e-7
    walls = walls_around(cv, cv.sigma).energies(u)
    assert walls.max() > 1 and np.abs(found[:, 2:].sum(1) - walls).max() < 1e-6 * walls.max()
    lines = [text for text in lines if "WALLS" not in text]
    plumed.values(tmp_path, [*lines, line(nodes, slopes)], nodes, x, None, *FORCES)
    forces, gradient = plumed.forces(tmp_path / "forces", 22), np.einsum("ndai,d->nai", gradients, slopes)
    assert np.abs(forces[:, cv.atoms] - gradient).max() < 1e-6 * np.abs(gradient).max()
    single = torch.jit.load(str(tmp_path / "encoder.pt"))
    assert np.abs(single(torch.from_numpy(features(x)).float()).numpy() - u).max() < 1e-4


def metadynamics(directory=None, dim: int = 2, **options) -> tuple[Metadynamics, LatentCV, Features]:
    topology, system, cv = pairs(dim, "r")
    keys = {"bias_factor": 8, "height": 1.2, "frequency": 10, "directory": directory, **options}
    bias = Metadynamics(system, cv, 300.0, **keys)
    return bias, cv, Features(topology, cv.metadata["features"])


def deposit(bias, count: int = 40) -> None:
    """Hills or kernels at points of a walk, as a simulation adds them."""
    rng = np.random.default_rng(0)
    u = 1.0 + np.cumsum(0.04 * rng.normal(size=(count, bias.cv.dim)), 0)
    for number, point in enumerate(u, 1):
        here = bias.grid.interpolate(point[None], bias._coefficients_of(bias.state))[0]
        kernel = np.array([10 * number, *bias._new_kernel(None, point, here, True)])
        bias.history.add([*kernel, 10 * number])
        bias._add_kernel(bias.state, kernel)
    bias._copy_coefficients(bias.coefficients, [bias.grid.everything])


def of_pairs(u: np.ndarray) -> np.ndarray:
    """Positions (n, 2 d, 3) of pairs at distances u (n, d)."""
    x = np.zeros((len(u), 2 * u.shape[1], 3))
    x[:, :, 1] = 3.0 * (np.arange(2 * u.shape[1]) // 2)
    x[:, 1::2, 0] = u
    return x


POINTS = np.random.default_rng(7).uniform(0.8, 1.2, (6, 2))


@needs_plumed
def test_hills_go_to_plumed_and_back(tmp_path):
    bias, cv, features = metadynamics()
    deposit(bias)
    export_plumed(tmp_path / "to", cv, features, bias)
    lines = (tmp_path / "to" / "plumed.dat").read_text().splitlines()
    found = plumed.values(tmp_path / "to", lines, ["bias.bias"], of_pairs(POINTS), None)[:, 0]
    expected = bias.grid.interpolate(POINTS, bias.state)
    assert expected.max() > 3 and np.abs(found - expected).max() < 0.02  # PLUMED cuts hills off
    hills = np.loadtxt(tmp_path / "to" / "HILLS", ndmin=2)[:40]
    assert hills[:, -2] == pytest.approx(bias.hills[:, -1] * 8 / 7) and (hills[:, -1] == 8).all()

    again = metadynamics(tmp_path / "back")[0]
    export_plumed(tmp_path / "again", cv, features, bias)
    assert import_hills(tmp_path / "again" / "HILLS", again) == 40
    assert np.abs(again.energy(POINTS) - bias.energy(POINTS)).max() < 1e-9
    assert again.past_energy(POINTS, [0])[0] == pytest.approx(again.energy(POINTS))
    again.close()
    later = metadynamics(tmp_path / "back")[0]
    assert np.abs(later.energy(POINTS) - bias.energy(POINTS)).max() < 1e-9
    with pytest.raises(SettingsError, match="exists already; hills are imported once"):
        import_hills(tmp_path / "again" / "HILLS", later)


@needs_plumed
@pytest.mark.parametrize("options", [{}, {"explore": True}, {"bias_factor": "inf"}], ids=str)
def test_plumed_goes_on_from_the_state_of_opes(tmp_path, options):
    topology, system, cv = pairs(2, "r")
    bias = OPES(system, cv, 300.0, barrier=25.0, frequency=10, **options)
    deposit(bias)
    export_plumed(tmp_path, cv, Features(topology, cv.metadata["features"]), bias)
    points = np.vstack([bias.kernels.centers[:4], POINTS])
    prefactor = bias._prefactor
    lines = (tmp_path / "plumed.dat").read_text().splitlines()
    names = ["bias.bias", "bias.nker", "bias.zed"]
    found = plumed.values(tmp_path, lines, names, of_pairs(points), None)
    expected = prefactor * np.log(bias.kernels(points) / bias.state.mean + bias.epsilon)
    assert np.ptp(expected) > 3 and np.abs(found[:, 0] - expected)[0] < 2e-6
    assert found[0, 1] == len(bias.kernels)
    # a step on, both have added the same kernel
    kernel = np.array([999, *bias._new_kernel(None, points[1], expected[1] + bias.barrier, True)])
    lines = [text.replace("PACE=10", "PACE=1") for text in lines]
    moved = plumed.values(tmp_path, lines, names, of_pairs(points[[1, 1, 1]]), None)
    bias._add_kernel(bias.state, kernel)
    after = prefactor * np.log(bias.kernels(points[[1]]) / bias.state.mean + bias.epsilon)
    assert moved[1, 1] == len(bias.kernels) or moved[2, 1] == len(bias.kernels)
    assert np.abs(moved[:, 0] - after).min() < 2e-5


def test_what_plumed_has_no_word_for(tmp_path):
    traj = perturbed(RNA, 1)
    for entry, name in (
        ({"pucker": "resid 1"}, "sin pucker"),
        ({"nucleobases": {"pairs": [[0, 5]]}}, "gvector x"),
        ({"ermsd": {"of": "resid 1 to 4", "reference": str(RNA)}}, "ermsd"),
    ):
        features = Features(traj.topology, [{"distances": {"pairs": [[0, 40]]}}, entry])
        with pytest.raises(CVError, match=rf"PLUMED has no action for '{name}"):
            plumed_descriptors(features)
    topology = alanine_topology()
    for entry, message in (
        ({"residue_contacts": {"between": "all", "skip": 1, "beta": "500 /nm"}}, "overflows below 0.71 nm; 100 /nm"),
        ({"coordination": {"of": "element O N", "r0": 0.3, "axes": "xy"}}, "along some axes, which PLUMED cannot"),
    ):
        features = Features(topology, [entry])
        with pytest.raises(CVError, match=message):
            plumed_descriptors(features)
    foreign = LatentCV.from_torchscript(file("deeptica"), distances(), walk(9), force_limit=1e6)
    with pytest.raises(CVError, match="the encoder of the variable .* PYTORCH_MODEL itself"):
        export_plumed(tmp_path / "out", foreign, distances())
    with pytest.raises(CVError, match="these are not the descriptors"):
        export_plumed(tmp_path / "out", foreign, features)
    assert not (tmp_path / "out").exists()


def test_biases_that_plumed_cannot_go_on_with(tmp_path):
    topology, system, cv = pairs(1, "r")
    cv.steepness = np.ones(1)
    features = Features(topology, cv.metadata["features"])
    for bias, message in (
        (Metadynamics(system, cv, 300.0, 8, 1.0, 10, width="adaptive"), "adaptive widths"),
        (OPES(system, cv, 300.0, 25.0, 10, width="adaptive"), "adaptive widths"),
        (OPES(system, cv, 300.0, 25.0, 10, excluded_region=[[0.9, 1.0]]), "excluded region"),
    ):
        with pytest.raises(SettingsError, match=message):
            export_plumed(tmp_path / "out", cv, features, bias)
    other = variable()
    with pytest.raises(SettingsError, match="along another variable"):
        export_plumed(tmp_path / "out", *other, bias)
    assert not (tmp_path / "out").exists()


HEAD = "#! FIELDS time d sigma_d height biasf\n#! SET multivariate false\n#! SET kerneltype gaussian\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "1 1.0 0.05 1.0 5\n", "hill 0 has the factor 5; the bias has 8"),
        (HEAD + "1 1.0 0.05 3.0 8\n", "hill 0 has a height of 2.625 kJ/mol .* heights from 0 to 1.2"),
        (HEAD + "1 1.0 0.05 -1.0 8\n", "hill 0 has a height of -0.875"),
        (HEAD + "1 1.0 0 1.0 8\n", r"widths of \[0\.\]"),
        (HEAD + "1 1.0 0.05 1.0\n", "line 4 is damaged; expected 5 numbers"),
        (HEAD + "1 1.0 0.05 nan 8\n", "line 4 is damaged"),
        (HEAD.replace("false", "true") + "1 1.0 0.05 1.0 8\n", "expected Gaussians with multivariate false"),
        ("#! FIELDS time d bias\n1 2 3\n", "are no hills of metadynamics along 1 variables"),
        ("hello\n", "is no table of PLUMED"),
    ],
)
def test_hills_that_are_refused(tmp_path, one_dimensional, text, message):
    (tmp_path / "HILLS").write_text(text)
    with pytest.raises(DataError, match=message):
        import_hills(tmp_path / "HILLS", one_dimensional)
    assert not one_dimensional.history.path.with_name("plumed.hills").exists()


@pytest.fixture(scope="module")
def one_dimensional(tmp_path_factory) -> Metadynamics:
    return metadynamics(tmp_path_factory.mktemp("hills"), dim=1)[0]


def test_hills_need_a_directory(tmp_path):
    with pytest.raises(SettingsError, match="needs a directory"):
        import_hills(tmp_path / "HILLS", metadynamics(dim=1)[0])


def test_tables_of_plumed(tmp_path):
    """Restarts are joined, and columns chosen in the order of descriptors."""
    text = "#! FIELDS time d1 d2\n 0 1 2\n#! SET min_d1 -pi\n 1 3 4\n#! FIELDS time d1 d2\n 1 5 6\n"
    (tmp_path / "COLVAR").write_text(text)
    names, rows = read_plumed(tmp_path / "COLVAR")
    assert names == ["time", "d1", "d2"] and rows.tolist() == [[0, 1, 2], [1, 3, 4], [1, 5, 6]]
    assert read_plumed(tmp_path / "COLVAR", ["d2", "d1"])[1].tolist() == [[2, 1], [4, 3], [6, 5]]
    with pytest.raises(DataError, match="has no column 'd3'; it has time, d1, d2"):
        read_plumed(tmp_path / "COLVAR", ["d3"])
    for content, message in (
        ("#! FIELDS time d1\n 0 1\n#! FIELDS time d2\n", "line 3 begins a table with other columns"),
        ("#! FIELDS time d1\n 0\n", "line 2 is damaged"),
        ("", "no table of PLUMED"),
    ):
        (tmp_path / "COLVAR").write_text(content)
        with pytest.raises(DataError, match=message):
            read_plumed(tmp_path / "COLVAR")
    with pytest.raises(DataError, match=r"gone: cannot be read as a table of PLUMED \(No such file"):
        read_plumed(tmp_path / "gone")
