"""Sorted coordination numbers and their moments against plain numpy and finite differences."""

from __future__ import annotations

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from helpers.molecules import alanine_topology, context, forces, frames, gradient, positions, random_model

from latf_sampling.cv.force import component_force
from latf_sampling.cv.graph import trace
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.cv.shapes import Harmonic
from latf_sampling.errors import SettingsError
from latf_sampling.features import Features
from latf_sampling.features.modules.coordination import CoordinationNumbers
from latf_sampling.features.modules.switching import Rational

R0 = 0.4
EXPONENTS = [(8, 16), (6, 12), (2, 4), (6, 8), (4, 14), (12, 18)]


@pytest.fixture(scope="module")
def topology() -> mdtraj.Topology:
    """Seven atoms to count among, and an eighth."""
    topology = mdtraj.Topology()
    residue = topology.add_residue("CLU", topology.add_chain(), resSeq=1)
    for index in range(8):
        element = mdtraj.element.argon if index != 3 else mdtraj.element.neon
        topology.add_atom(f"{element.symbol}{index}", element, residue)
    return topology


def clusters(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 8, 3))


def entry(**changes) -> list[dict]:
    return [{"coordination": {"of": "element Ar", "r0": R0, "n": 8, "m": 16, **changes}}]


def in_numpy(x: np.ndarray, n: int, m: int, moments=(), axes="xyz", box: np.ndarray | None = None) -> np.ndarray:
    """The formula as it stands, frame by frame and pair by pair; a box is rectangular, its lengths given."""
    x = np.delete(x, 3, axis=-2)
    out = []
    for frame in x:
        numbers = np.zeros(len(frame))
        for i in range(len(frame)):
            for j in range(len(frame)):
                if i != j:
                    d = frame[i] - frame[j]
                    d = d if box is None else d - box * np.round(d / box)
                    ratio = np.linalg.norm(d[["xyz".index(axis) for axis in axes]]) / R0
                    numbers[i] += (1 - ratio**n) / (1 - ratio**m)
        out.append([*sorted(numbers), *(np.mean((numbers - numbers.mean()) ** k) for k in moments)])
    return np.array(out)


# ---------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(("n", "m"), EXPONENTS)
@pytest.mark.parametrize("axes", ["xyz", "xy", "z"])
def test_values_equal_numpy(topology, n, m, axes):
    x, moments = clusters(5), [2, 3, 4]
    features = Features(topology, entry(n=n, m=m, moments=moments, axes=axes))
    expected = in_numpy(x, n, m, moments, axes)
    assert features.atoms.tolist() == [0, 1, 2, 4, 5, 6, 7]
    np.testing.assert_allclose(features(x), expected, rtol=1e-10, atol=1e-10)
    traj = mdtraj.Trajectory(x.astype(np.float32), topology)
    np.testing.assert_allclose(features.transform(traj), in_numpy(traj.xyz, n, m, moments, axes), rtol=1e-5, atol=1e-5)


def test_values_in_a_box_equal_numpy(topology):
    x, box = clusters(5), np.array([0.6, 0.7, 0.8])
    expected = in_numpy(x, 6, 12, [2], box=box)
    out = Features(topology, entry(n=6, m=12, moments=[2]), periodic=True)(x, np.diag(box))
    np.testing.assert_allclose(out, expected, rtol=1e-10)


def test_hexagon_has_the_numbers_worked_out_by_hand():
    """Neighbours at r0 count one half; the square of their distance is r0^2 times 1, 3 or 4."""
    angle = np.arange(6) * np.pi / 3
    x = torch.tensor(np.vstack([np.zeros(3), np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)]))
    out = CoordinationNumbers(range(7), 7, Rational(1.0, 2, 4), moments=[2]).double()(x)
    outer = 3 / 2 + 2 / 4 + 1 / 5
    torch.testing.assert_close(out[:7], torch.tensor([outer] * 6 + [3.0]).double())
    torch.testing.assert_close(out[7], torch.tensor(6 / 49 * (3 - outer) ** 2).double())


def test_identical_particles_may_trade_places(topology):
    x = clusters(4)
    order = [7, 2, 0, 3, 6, 4, 1, 5]
    features = Features(topology, entry(moments=[2, 3]))
    np.testing.assert_allclose(features(x[:, order]), features(x), rtol=1e-12)
    traded = torch.tensor(x[:, order], requires_grad=True)
    original = torch.tensor(x, requires_grad=True)
    weights = torch.arange(9.0)
    for positions_ in (traded, original):
        (features(positions_) @ weights.double()).sum().backward()
    torch.testing.assert_close(traded.grad, original.grad[:, order])


# ------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(("n", "m"), EXPONENTS)
@pytest.mark.parametrize("axes", ["xyz", "xz"])
def test_gradients_equal_finite_differences(n, m, axes):
    module = CoordinationNumbers([0, 1, 2, 4], 5, Rational(R0, n, m, axes), moments=[2, 3]).double()
    x = torch.tensor(clusters(3)[:, :5], requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: module(y, None), (x,), eps=1e-6, atol=1e-6)


def test_gradients_in_a_box_equal_finite_differences():
    module = CoordinationNumbers(range(4), 4, Rational(R0), moments=[2]).double()
    box = torch.tensor([[0.6, 0, 0], [0.2, 0.7, 0], [-0.1, 0.3, 0.8]], dtype=torch.float64)
    x = torch.tensor(clusters(3)[:, :4], requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: module(y, box), (x,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m"), [*EXPONENTS, (20, 40), (24, 26)])
@pytest.mark.parametrize("distance", [0.0, 1e-20, 1e-8, R0, R0 * (1 + 1e-7), 1e2, 1e6, 1e15])
def test_values_and_gradients_are_finite_at_every_distance(dtype, n, m, distance):
    module = CoordinationNumbers([0, 1], 2, Rational(R0, n, m), moments=[2, 3]).to(dtype)
    x = torch.tensor([[0.0, 0, 0], [0, distance, 0]], dtype=dtype, requires_grad=True)
    out = module(x)
    for column in out:
        (slope,) = torch.autograd.grad(column, x, retain_graph=True)
        assert torch.isfinite(slope).all()
    assert torch.isfinite(out).all()
    if distance <= 1e-8:
        torch.testing.assert_close(out[:2], torch.ones(2, dtype=dtype))
    if distance == R0:  # both terms of the quotient vanish there
        torch.testing.assert_close(out[:2], torch.full((2,), n / m, dtype=dtype))
        (slope,) = torch.autograd.grad(module(x)[0], x)
        torch.testing.assert_close(slope[1, 1], torch.tensor(n / m * (n - m) / 2 / R0, dtype=dtype), rtol=1e-4, atol=0)


def test_all_particles_in_one_place(topology):
    x = torch.zeros(8, 3, requires_grad=True)
    out = Features(topology, entry(moments=[2, 3]))(x)
    assert out.tolist() == [6.0] * 7 + [0.0] * 2
    out.sum().backward()
    assert torch.equal(x.grad, torch.zeros(8, 3))


# ------------------------------------------------------------------------------------------------ variable and force


@pytest.fixture(scope="module")
def cv() -> LatentCV:
    spec = [{"coordination": {"of": "element != H", "r0": "0.3 nm", "moments": [2, 3]}}]
    features = Features(alanine_topology(), spec)
    return LatentCV.from_model(random_model(features, features(frames(200)), 1), features, frames(4))


def test_a_variable_of_coordination_numbers_gives_forces(cv):
    system = openmm.System()
    for _ in range(22):
        system.addParticle(1.0)
    system.addForce(component_force(cv, 0))
    x = positions()
    expected = -gradient(lambda moved: cv(moved)[:, 0], x, atoms=cv.atoms)
    np.testing.assert_allclose(forces(context(system, x), 0), expected, atol=1e-6 * np.abs(expected).max())


def test_the_graph_of_a_force_makes_nothing_on_the_device_of_its_trace(cv):
    graph = trace(cv, Harmonic(cv.dim)).to("meta")
    inputs = [
        torch.zeros(size, dtype=torch.float64, device="meta") for size in ((len(cv.atoms), 3), (3, 3), (2 * cv.dim,))
    ]
    assert [out.device.type for out in graph(*inputs)] == ["meta", "meta"]


# ------------------------------------------------------------------------------------------ specification and names


def test_names(topology):
    ranks = [f"coordination {rank}" for rank in range(1, 8)]
    assert Features(topology, entry()).names == ranks
    assert Features(topology, entry(moments=[3, 2])).names == [*ranks, "coordination moment 3", "coordination moment 2"]


def test_entries_with_other_settings_get_names_of_their_own(topology):
    first, second = entry(moments=[2])[0], entry(of={"atoms": [3, 0]}, r0="0.2 nm", axes="xy")[0]
    features = Features(topology, [first, second])
    ranks = [f"coordination#0 {rank}" for rank in range(1, 8)]
    assert features.names == [*ranks, "coordination#0 moment 2", "coordination#1 1", "coordination#1 2"]
    x = clusters(3)
    separate = [Features(topology, [spec])(x) for spec in (first, second)]
    np.testing.assert_allclose(features(x), np.concatenate(separate, axis=-1), rtol=1e-12)
    torch.testing.assert_close(
        torch.jit.script(features.module)(torch.tensor(x).float(), None), features.module(torch.tensor(x).float(), None)
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"of": "name X"}, r"\.of: 'name X' selects no atom"),
        ({"of": "element Ne"}, r"\.of: needs 2 to 256 atoms, finds 1"),
        ({"of": {"atoms": [0, 0]}}, r"\.of\.atoms: \[0, 0\] names an atom twice"),
        ({"r0": 0}, r"\.r0: 0 is too small; it must be more than 0"),
        ({"r0": "-1 nm"}, r"\.r0: '-1 nm' is too small"),
        ({"r0": "1.5"}, r"\.r0: '1.5' has no unit"),
        ({"r0": "1.5 ps"}, r"\.r0: '1.5 ps' is not a length"),
        ({"r0": None}, r"\.r0: None is not a number"),
        ({"n": 7}, r"\.n: .*multiple of 2, got 7"),
        ({"n": 0}, r"\.n: .*greater than or equal to 2, got 0"),
        ({"n": 6.0}, r"\.n: .*valid integer, got 6.0"),
        ({"m": 9}, r"\.m: .*multiple of 2, got 9"),
        ({"m": 8}, r"\.m: 8 has to be greater than n, which is 8"),
        ({"m": 6}, r"\.m: 6 has to be greater than n, which is 8"),
        ({"moments": [1]}, r"\.moments\[0\]: .*greater than or equal to 2, got 1"),
        ({"moments": 2}, r"\.moments: .*, got 2"),
        ({"moments": [2, 2]}, r"\.moments: \[2, 2\] names an order twice"),
        ({"axes": "zx"}, r"\.axes: .*'xyz', got 'zx'"),
        ({"cutoff": 1}, r"\.cutoff: no such key"),
    ],
)
def test_wrong_specifications_name_their_key(topology, changes, words):
    with pytest.raises(SettingsError, match=rf"^features\[0\]\.coordination{words}"):
        Features(topology, entry(**changes))


def test_missing_and_repeated_entries_are_refused(topology):
    with pytest.raises(SettingsError, match=r"^features\[0\]\.coordination\.r0: this key is missing; write"):
        Features(topology, [{"coordination": {"of": "all"}}])
    with pytest.raises(
        SettingsError, match=r"^features\[0\]\.coordination\.m: 12 has to be greater than n, which is 12"
    ):
        Features(topology, [{"coordination": {"of": "all", "r0": 0.4, "n": 12}}])
    with pytest.raises(SettingsError, match=r"^features\[0\]\.coordination: 'all' cannot be read; write"):
        Features(topology, [{"coordination": "all"}])
    again = {"atoms": [7, 6, 5, 4, 2, 1, 0]}
    with pytest.raises(
        SettingsError, match=r"^features\[1\]\.coordination: makes 'coordination within 0.4 nm \(n 8, m"
    ):
        Features(topology, [*entry(), *entry(of=again, moments=[2])])
