"""Checks of structures: damage to a molecule is detected in any periodic image, normal structures are valid."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import mdtraj
import numpy as np
import openmm
import pytest
from helpers.molecules import TRICLINIC, alanine_system, alanine_topology, frames, positions
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path

from latf_sampling.starts.archive import Archive
from latf_sampling.starts.checks import BROKEN, CLASH, DUPLICATE, Checks, Structure, duplicates
from latf_sampling.starts.coverage import cover, weights
from latf_sampling.starts.thermal import Thermal
from latf_sampling.systems.geometry import Geometry, amides, is_cis, molecules_of, periodic_pairs
from latf_sampling.units import KB

TOPOLOGY = mdtraj.Topology.from_openmm(alanine_topology())
NAME = {f"{atom.residue.name}-{atom.name}": atom.index for atom in TOPOLOGY.atoms}


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return Geometry.from_topology(TOPOLOGY, alanine_system())


def wrapped(x: np.ndarray, box: np.ndarray = TRICLINIC) -> np.ndarray:
    """Each atom wrapped into the box by itself, so that molecules are broken."""
    return ((x @ np.linalg.inv(box)) % 1.0) @ box


def turned(x: np.ndarray, first: str, second: str, moving: list[str], degrees: float) -> np.ndarray:
    """Some atoms rotated about the axis from one atom to another."""
    start, axis = x[NAME[first]], x[NAME[second]] - x[NAME[first]]
    axis, angle = axis / np.linalg.norm(axis), np.radians(degrees)
    rotated, rows = x.copy(), [NAME[name] for name in moving]
    v = x[rows] - start
    along = np.outer(v @ axis, axis)
    rotated[rows] = start + along + (v - along) * np.cos(angle) + np.cross(axis, v) * np.sin(angle)
    return rotated


def test_peptide_bonds():
    names = [[f"{TOPOLOGY.atom(k).residue.name}-{TOPOLOGY.atom(k).name}" for k in row] for row in amides(TOPOLOGY)]
    assert names == [["ACE-CH3", "ACE-C", "ALA-N", "ALA-CA"], ["ALA-CA", "ALA-C", "NME-N", "NME-C"]] or names == [
        ["ACE-CH3", "ACE-C", "ALA-N", "ALA-CA"],
        ["ALA-CA", "ALA-C", "NME-N", "NME-CH3"],
    ]


def test_side_chain_amides_and_water_are_no_peptide_bonds():
    topology = mdtraj.Topology()
    residue = topology.add_residue("ASN", topology.add_chain())
    carbon, oxygen, nitrogen, before = (
        topology.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue) for name in ("CG", "OD1", "ND2", "CB")
    )
    for other in (oxygen, nitrogen, before):
        topology.add_bond(carbon, other)
    assert amides(topology).shape == (0, 4)


@pytest.mark.parametrize("box", [None, TRICLINIC])
def test_a_turned_peptide_bond_is_cis(geometry, box):
    moving = [name for name in NAME if name.startswith("NME") and name != "NME-N"]
    cis = turned(positions(), "ALA-C", "NME-N", moving, 180)
    reference = (positions(), None)
    changed = (cis, None) if box is None else (wrapped(cis), box)
    assert geometry.flipped(*changed, *reference)[:, 1].tolist() == [NAME["ALA-C"]]
    assert is_cis(cis, geometry.amides).tolist() == [False, True]
    assert not len(geometry.inverted(*changed, *reference))
    for x in frames(20):
        assert not len(geometry.flipped(x, None, *reference)) and not len(geometry.inverted(x, None, *reference))


def test_handedness_does_not_depend_on_the_periodic_image(geometry):
    mirrored = positions() * [-1, 1, 1]
    assert geometry.inverted(wrapped(positions()), TRICLINIC, positions(), None).tolist() == []
    assert geometry.inverted(wrapped(mirrored), TRICLINIC, positions(), None).tolist() == [NAME["ALA-CA"]]


def test_bonds_are_compared_with_the_force_field_or_else_with_the_source(geometry):
    assert np.isfinite(geometry.lengths).all() and len(geometry.bonds) == 21
    assert geometry.stretch(positions(), None, positions(), None)[0] < 0.1
    long = positions()
    long[NAME["ALA-CB"]] += 0.4 * (long[NAME["ALA-CB"]] - long[NAME["ALA-CA"]])
    off, bond = geometry.stretch(long, None, positions(), None)
    assert bond.tolist() == sorted([NAME["ALA-CA"], NAME["ALA-CB"]])
    assert off == pytest.approx(0.4, abs=0.05)
    bare = openmm.System()
    unknown = Geometry.from_topology(TOPOLOGY, bare)
    assert np.isnan(unknown.lengths).all()
    assert unknown.stretch(long, None, positions(), None)[0] == pytest.approx(0.4, abs=1e-6)
    assert unknown.stretch(wrapped(long), TRICLINIC, wrapped(positions()), TRICLINIC)[0] == pytest.approx(0.4, abs=1e-6)


def test_neighbors_up_to_three_bonds_are_no_contacts(geometry):
    rows = np.array([(a.index, b.index) for a, b in TOPOLOGY.bonds])
    steps = shortest_path(coo_array((np.ones(len(rows)), rows.T), (22, 22)), directed=False, unweighted=True)
    heavy = [atom.index for atom in TOPOLOGY.atoms if atom.element.symbol != "H"]
    assert geometry.heavy.tolist() == heavy
    assert geometry.near == {(a, b) for a in heavy for b in heavy if a < b and steps[a, b] <= 3}


@pytest.mark.parametrize("box", [None, TRICLINIC])
def test_pairs_are_those_of_all_images(box):
    x = np.random.default_rng(2).normal(size=(150, 3))
    cells = np.random.default_rng(3).integers(-5, 5, (150, 3)) @ TRICLINIC
    pairs, distances = periodic_pairs(x if box is None else x + cells, box, 0.35)
    shifts = np.array(list(product(range(-5, 6), repeat=3))) @ TRICLINIC if box is not None else np.zeros((1, 3))
    expected = {}
    for a in range(150):
        for b in range(a):
            apart = np.linalg.norm(x[a] - x[b] + shifts, axis=1).min()
            if apart < 0.35:
                expected[b, a] = apart
    nearest: dict = {}
    for pair, distance in zip(np.sort(pairs, axis=1).tolist(), distances):
        nearest[tuple(pair)] = min(distance, nearest.get(tuple(pair), np.inf))
    assert nearest == pytest.approx(expected)


@pytest.mark.parametrize("box", [None, TRICLINIC])
def test_a_clash_is_detected(geometry, box):
    x = positions()
    x[NAME["ACE-O"]] = x[NAME["ALA-CB"]] + [0.15, 0, 0]
    share, pair = geometry.closest(x if box is None else wrapped(x), box)
    assert set(pair.tolist()) == {NAME["ACE-O"], NAME["ALA-CB"]}
    assert share == pytest.approx(0.15 / (0.152 + 0.17), rel=0.02)
    assert geometry.closest(positions(), None)[0] > 0.75


def test_a_molecule_clashes_with_its_own_image(geometry):
    small = np.diag([0.5, 3.0, 3.0])
    assert geometry.closest(positions(), small)[0] < CLASH


def test_ions_have_no_contacts():
    topology = mdtraj.Topology()
    for _ in range(2):
        topology.add_atom("ZN", mdtraj.element.zinc, topology.add_residue("ZN", topology.add_chain()))
    bare = Geometry.from_topology(topology, openmm.System())
    assert bare.closest(np.zeros((2, 3)), None)[0] == np.inf
    assert bare.stretch(np.zeros((2, 3)), None, np.zeros((2, 3)), None)[0] == 0


# ------------------------------------------------------------------------------------------------------------- reasons


def moved(atom: str, shift) -> np.ndarray:
    x = positions()
    x[NAME[atom]] += shift
    return x


MIRRORED = positions() * [-1, 1, 1]
CIS = turned(positions(), "ALA-N", "ACE-C", [name for name in NAME if name.startswith("ACE") and name != "ACE-C"], 180)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"energy": np.nan}, "the energy is not finite"),
        ({"velocities": np.full((22, 3), np.inf)}, "the energy is not finite"),
        ({"energy": 60.0}, "the energy is 60 kJ/mol, -50 to 50 would be thermal"),
        ({"energy": -60.0}, "the energy is -60 kJ/mol, -50 to 50 would be thermal"),
        ({"held": np.array([0.0, 0.45])}, "its latent stayed 4.5 sigma from the target, 4 are tolerated"),
        ({"reached": np.array([0.0, 0.9])}, "its latent left the target when released, 4.0 of 4 tolerated"),
        (
            {"positions": moved("ALA-CB", [0.1, 0.0, 0.0])},
            "the bond ALA2-CB and ALA2-HB2 is broken, 81 % from its length",
        ),
        ({"positions": MIRRORED}, "atom ALA2-CA changed its chirality"),
        ({"positions": CIS}, "the peptide bond ACE1-C-ALA2-N went between cis and trans"),
        ({"positions": MIRRORED, "allow_inversion": True}, ""),
        ({"positions": CIS, "allow_cis": True}, ""),
    ],
)
def test_reasons_of_rejection(changes, words):
    allowed = {name: changes.pop(name, False) for name in ("allow_cis", "allow_inversion")}
    checks = Checks.from_topology(TOPOLOGY, alanine_system(), noise=0.1, tolerance=4.0, **allowed)
    thermal = Thermal((-50.0, 50.0), np.array([0.2, 0.2]))
    good = Structure(positions(), np.zeros((22, 3)), None, np.zeros(2), np.zeros(2), 0.0)
    values, reason = checks.examine(replace(good, **changes), np.zeros(2), thermal, positions(), None)
    assert reason.startswith(words) and bool(reason) == bool(words)
    if not words:
        assert values["stretch"] < BROKEN and (values["closest"] is None or values["closest"] > CLASH)


def test_repeated_structures_are_detected_after_superposition():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    a, b = frames(2, seed=3, noise=0.02)
    near = b + rng.normal(scale=0.2 * DUPLICATE, size=b.shape)
    structures = np.stack([a, b, a @ turn + 1.0, near, frames(1, seed=9, noise=0.02)[0]])
    assert duplicates(structures) == {2: 0, 3: 1}
    single = np.array([[[0.0, 0, 0]], [[1e-4, 0, 0]], [[0.0, 0, 0]]])
    assert duplicates(single) == {2: 0}


# -------------------------------------------------------------------------------------------------- sources and weights


def archive(latents: np.ndarray, temperatures=None) -> Archive:
    """Frames of one particle with given latent points."""

    class Variable:
        noise, atoms, dim = 0.1, np.array([0]), 1

        def check_topology(self, topology):
            pass

        def __call__(self, positions, box):
            return positions[:, 0, :1]

    topology = mdtraj.Topology()
    residue = topology.add_residue("P", topology.add_chain())
    topology.add_atom("P", mdtraj.element.argon, residue)
    x = np.zeros((len(latents), 1, 3))
    x[:, 0, 0] = latents
    return Archive(mdtraj.Trajectory(x, topology), Variable(), temperatures)


def test_the_nearest_frame_is_tried_first():
    source = archive(np.array([0.0, 1.0, 2.0, 1.3, 0.8]))
    assert source.nearest_frames(np.array([1.1]), 300.0, 3) == [1, 3, 4]


def test_of_sourceon_the_target_the_nearest_temperature_is_tried_first():
    source = archive(np.array([1.0, 0.96, 1.03, 1.06, 1.2]), [300.0, 600.0, 500.0, 450.0, 450.0])
    # half a sigma is 0.05: the first three are on the target, the others follow by distance
    assert source.nearest_frames(np.array([1.0]), 470.0, 5) == [2, 1, 0, 3, 4]
    assert source.nearest_frames(np.array([1.0]), 300.0, 2)[0] == 0


def test_second_attempts_come_from_other_structures():
    source = archive(np.array([1.0, 1.001, 1.002, 1.5, 1.0015]))
    assert source.nearest_frames(np.array([1.0]), 300.0, 3) == [0, 3, 1]


def test_weights_are_shares_of_the_samples():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(20_000, 1))
    reached = np.linspace(-3, 3, 25)[:, None]  # evenly spaced, while the samples are normal
    weight = weights(reached, samples, 0.1)
    assert weight.mean() == pytest.approx(1.0)
    assert weight @ reached[:, 0] ** 2 / 25 == pytest.approx(1.0, abs=0.05)
    assert weights(np.zeros((4, 2)), rng.normal(size=(10, 2)), 0.1) == pytest.approx(1.0)
    assert weights(np.array([[0.0], [50.0]]), np.array([[1e4]]), 0.1).tolist() == [0.0, 2.0]
    assert weights(np.zeros((0, 2)), np.zeros((5, 2)), 0.1).shape == (0,)


def test_coverage_of_the_flow():
    rng = np.random.default_rng(0)
    samples, fresh = rng.normal(size=(1500, 2)), rng.normal(size=(64, 2))

    def coverage(reached, w=None, targets=fresh):
        return cover(targets, reached, np.ones(len(reached)) if w is None else w, samples, np.ones(2), rng)

    good = coverage(fresh)
    assert good.covers and good.targets == good.reached == good.weighted < good.expected
    assert good.effective == pytest.approx(64)
    assert not coverage(fresh + [2.0, 0.0]).covers
    lost = coverage(fresh[:50])
    assert lost.rejected == pytest.approx(14 / 64) and not lost.covers
    assert "do not cover" in lost.summary() and "22 % of the targets gave no structure" in lost.summary()
    # weights correct an uneven set
    half = np.concatenate([fresh[fresh[:, 0] > 0], fresh])
    corrected = coverage(half, weights(half, samples, 0.2), half)
    assert corrected.weighted < 0.5 * corrected.reached


def test_thermal_range_and_fluctuation():
    rng = np.random.default_rng(0)
    runs = [(rng.normal(5.0, 2.0, 50), rng.normal(0, 0.1, (50, 2)) ** 2) for _ in range(8)]
    narrow = Thermal.from_runs(runs, dof=2, temperature=1 / KB)
    assert narrow.energies == pytest.approx((5 - 16, 5 + 16), abs=2)
    assert narrow.fluctuation == pytest.approx(0.1, rel=0.2)
    wide = Thermal.from_runs(runs, dof=200, temperature=1 / KB)
    assert np.ptp(wide.energies) == pytest.approx(2 * 8 * 10)
    assert Thermal.from_dict(wide.as_dict()).energies == wide.energies


def test_molecules():
    assert molecules_of(TOPOLOGY, np.array([3])).tolist() == list(range(22))
