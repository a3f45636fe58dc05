"""OPES: kernel by kernel against a plain implementation from the paper, walkers that are killed, and known physics."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.molecules import alanine_cv, alanine_system, energy, pairs, simulation
from openmm import unit

from latf_sampling.bias import OPES, Metadynamics
from latf_sampling.bias.excluded import LATTICE, ExcludedRegion
from latf_sampling.bias.grid import WALL
from latf_sampling.errors import SettingsError, SimulationError
from latf_sampling.units import KB

KT = KB * 300.0
TILT, HALF = 2.0, 0.3
WELL = "barrier*(((r-1)/0.3)^2-1)^2 + tilt*(r-1)/0.3"


def exact(r: np.ndarray, barrier: float) -> np.ndarray:
    """Free energy of the distance in the double well, kJ/mol."""
    s = (r - 1) / HALF
    return barrier * (s**2 - 1) ** 2 + TILT * s - 2 * KT * np.log(r)


def well(dim: int = 1, barrier: float = 15.0, kind=OPES, seed: int = 1, timestep: float = 0.015, **settings):
    """A bias on distances in double wells, and its simulation."""
    topology, system, cv = pairs(dim, WELL, barrier=barrier, tilt=TILT)
    defaults = {
        OPES: {"barrier": 25.0, "frequency": 10, "width": 0.4},
        Metadynamics: {"bias_factor": 8.0, "height": 1.0, "frequency": 10},
    }[kind]
    bias = kind(system, cv, 300.0, **{**defaults, **settings})
    x = np.zeros((2 * dim, 3))
    x[1::2, 0] = 0.7
    return bias, simulation(topology, system, x, timestep=timestep, friction=5.0, seed=seed)


def state(made) -> np.ndarray:
    """Positions and velocities."""
    now = made.context.getState(getPositions=True, getVelocities=True)
    return np.array([now.getPositions(asNumpy=True)._value, now.getVelocities(asNumpy=True)._value])


def everywhere(bias, count: int = 2000, seed: int = 0) -> np.ndarray:
    """Points on the whole grid, behind the walls too."""
    reach = (bias.high - bias.low) / 3
    return np.random.default_rng(seed).uniform(bias.low - reach, bias.high + reach, (count, bias.cv.dim))


def without_walls(bias, u: np.ndarray) -> np.ndarray:
    away = (u - np.clip(u, bias.low, bias.high)) / bias.cv.sigma
    return bias.energy(u) - 0.5 * WALL * (away**2).sum(1)


# -------------------------------------------------------------------------------------------------- against the paper


class Paper:
    """doi:10.1021/acs.jpclett.0c00497, as it is written there: a list of kernels, each sum done anew."""

    def __init__(self, width: np.ndarray, barrier: float, gamma: float) -> None:
        self.width, self.barrier, self.gamma = width, barrier, gamma
        self.prefactor = (1 - 1 / gamma) * KT
        self.epsilon = np.exp(-barrier / self.prefactor)
        self.cutoff = np.sqrt(2 * barrier / self.prefactor)
        self.kernels: list[tuple[np.ndarray, np.ndarray, float]] = []
        self.weights = [np.exp(-barrier / KT)]  # as many as the first state is worth

    def density(self, u: np.ndarray) -> float:
        centers, widths, heights = (np.array(parts) for parts in zip(*self.kernels))
        square = np.sum(((u - centers) / widths) ** 2, axis=1)
        values = heights * (np.exp(-square / 2) - np.exp(-(self.cutoff**2) / 2))
        return float(np.sum(values[square < self.cutoff**2]))

    def norm(self) -> float:
        """Z: the mean density over what was explored, at the centers of kernels."""
        return float(np.mean([self.density(center) for center, _, _ in self.kernels]))

    def bias(self, u: np.ndarray, norm: float | None = None) -> float:
        """V between -barrier and 0 or a little more."""
        if not self.kernels:
            return -self.barrier
        return self.prefactor * np.log(self.density(u) / (norm or self.norm()) + self.epsilon)

    def add(self, u: np.ndarray, weight: float) -> None:
        d = len(u)
        self.weights.append(weight)
        size = (1 + sum(self.weights)) ** 2 / (1 + sum(w**2 for w in self.weights))
        width = self.width * max((0.2, 0.35, 0.8)[d - 1], (size * (d + 2) / 4) ** (-1 / (d + 4)))
        height = weight * np.prod(self.width / width)
        while self.kernels:
            distances = [np.sqrt(np.sum(((u - center) / old) ** 2)) for center, old, _ in self.kernels]
            nearest = int(np.argmin(distances))
            if distances[nearest] >= 1:
                break
            center, old, other = self.kernels.pop(nearest)
            total = height + other
            mean = (height * u + other * center) / total
            square = (height * (width**2 + u**2) + other * (old**2 + center**2)) / total
            u, width, height = mean, np.sqrt(square - mean**2), total
        self.kernels.append((u, width, height))


@pytest.mark.parametrize("dim", [1, 2])
def test_kernel_by_kernel(dim):
    bias, made = well(dim, timestep=0.01, width=0.4 * dim)
    paper = Paper(bias.hill_width, 25.0, 25.0 / KT)
    assert bias.bias_factor == pytest.approx(25.0 / KT) and bias.offset() == 25.0
    worst = 0.0
    for number in range(1, 201):
        bias.step(made, 10)
        row = bias.own_kernels[-1]
        assert len(bias.own_kernels) == number and row[0] == 10 * number
        u = bias.values(made.context)
        assert row[1 : 1 + dim] == pytest.approx(np.clip(u, bias.low, bias.high), abs=1e-12)
        # what the kernel weighs is what the bias was before it
        worst = max(worst, abs(row[-1] * KT - paper.bias(row[1 : 1 + dim])))
        paper.add(row[1 : 1 + dim], np.exp(row[-1]))
        assert len(bias.kernels) == len(paper.kernels)
        if number % 50 == 0:
            for found, expected in zip(
                (bias.kernels.centers, bias.kernels.widths, bias.kernels.heights), zip(*paper.kernels)
            ):
                assert found == pytest.approx(np.array(expected), rel=1e-6)
            assert bias.kernels.total == pytest.approx(paper.norm() * len(paper.kernels), rel=1e-8)
            norm = paper.norm()
            u = np.concatenate([bias.kernels.centers + 0.3 * bias.kernels.widths, everywhere(bias, 100, number)])
            expected = np.array([paper.bias(point, norm) for point in u]) + 25.0
            difference = np.abs(without_walls(bias, u) - expected)
            # most where kernels end, with a kink that the spline rounds
            assert difference.max() < 0.8 and np.quantile(difference, 0.9) < 0.1
            assert np.ptp(expected) > 20
            there = bias.values(made.context)
            assert energy(made.context, bias.group) == pytest.approx(float(bias.energy(there)[0]), abs=1e-6)
    assert worst < 0.3  # the grid
    assert len(bias.kernels) < 180  # so that many were merged
    weights = np.array(paper.weights)
    size = (1 + weights.sum()) ** 2 / (1 + (weights**2).sum())
    assert bias.effective_sample_size == pytest.approx(size, rel=1e-9)


@pytest.mark.parametrize("dim", [1, 2])
def test_bias_stays_between_zero_and_the_barrier(dim):
    """Above it only by kT times the logarithm of how much denser the densest place is than the mean one."""
    bias, made = well(dim, timestep=0.01)
    assert not bias.coefficients.any() and np.isinf(bias.free_energy()).all()
    u = everywhere(bias)
    for steps in (10, 10, 100, 2000):
        bias.step(made, steps)
        value = without_walls(bias, u)
        assert np.isfinite(bias.coefficients).all() and np.isfinite(value).all()
        assert value.min() > -1e-2
        assert value.max() < 25 + KT * (np.log(len(bias.kernels)) + 0.5)
        reach = bias.kernels.cutoff * bias.kernels.widths + 3 * bias.grid.step
        visited = (np.abs(u[:, None] - bias.kernels.centers) < reach).all(-1).any(1)
        assert visited.any() and np.count_nonzero(~visited) > 100
        assert np.abs(value[~visited]).max() < 1e-9
        free = bias.free_energy()
        assert free.min() == 0 and not np.isnan(free).any()
    assert np.count_nonzero(np.isfinite(free)) > 10


def test_a_barrier_that_floats_cannot_hold_is_refused():
    bias, made = well(barrier=5.0)
    for change, words in (
        ({"barrier": 2000.0}, "barrier must be less than .* got 2000"),
        ({"barrier": 40.0, "bias_factor": 1.01}, "barrier must be less than .* at a bias_factor of 1.01; got 40"),
    ):
        with pytest.raises(SettingsError, match=words):
            OPES(made.system, bias.cv, 300.0, frequency=10, **change)
    extreme = pairs(1, "0*r")
    bias = OPES(extreme[1], extreme[2], 300.0, 1500.0, 5)
    walk = simulation(extreme[0], extreme[1], np.array([[0.0, 0, 0], [0.8, 0, 0]]), timestep=0.0001)
    bias.step(walk, 50)
    assert np.isfinite(bias.coefficients).all() and bias.coefficients.max() == pytest.approx(1500, rel=1e-2)


INVALID = [
    ({"barrier": 2.0}, "barrier must be more than kT = 2.49 kJ/mol; got 2"),
    ({"barrier": -1.0}, "barrier must be more than 0"),
    ({"barrier": float("nan")}, "barrier"),
    ({"barrier": 2 * unit.nanometer}, "barrier"),
    ({"bias_factor": 1.0}, "bias_factor must be more than 1"),
    ({"temperature": 0}, "temperature: must be more than 0"),
    ({"frequency": 0}, "frequency must be a whole number of steps"),
    ({"frequency": 2.5}, "frequency must be a whole number"),
    ({"save_frequency": 15}, r"save_frequency \(15\) must be a multiple of frequency \(10\)"),
    ({"width": 0.0}, "width must be more than 0"),
    ({"width": "wide"}, r"width must be a number, \(d,\) numbers or 'adaptive'; got 'wide'"),
    ({"width": [1.0, 1.0, 1.0]}, "width must be one number or 2"),
    ({"narrowest": 0.0}, "narrowest must be more than 0"),
    ({"narrowest": 1.5}, "narrowest must be at most 1; got 1.5"),
    ({"narrowest": "thin"}, "narrowest must be more than 0"),
    ({"explore": "yes"}, "explore must be True or False; got 'yes'"),
    ({"bias_factor": "infinite"}, "bias_factor must be more than 1"),
    ({"bias_factor": -np.inf}, "bias_factor must be more than 1"),
    ({"bias_factor": np.inf, "explore": True}, "explore=True needs a finite bias_factor; got inf"),
    ({"bias_factor": np.inf, "width": "adaptive"}, "width='adaptive' needs a finite bias_factor; got inf"),
    ({"excluded_region": [0.0, 1.0]}, r"excluded_region must be boxes \(n, 2, 2\) of lowest and highest values"),
    ({"excluded_region": [[0.0, 1.0]] * 3}, r"excluded_region must be boxes \(n, 2, 2\)"),
    ({"excluded_region": [[1.0, 0.0], [0.0, 1.0]]}, r"excluded_region must be boxes \(n, 2, 2\)"),
    ({"excluded_region": [[np.nan, 0.0], [0.0, 1.0]]}, r"excluded_region must be boxes \(n, 2, 2\)"),
    ({"excluded_region": "here"}, r"excluded_region must be boxes \(n, 2, 2\)"),
    ({"excluded_region": [[90.0, 91.0], [90.0, 91.0]]}, "excluded_region must be a part .* has no point in common"),
    ({"excluded_region": [[-np.inf, np.inf]] * 2}, "excluded_region must be a part .* it is all of it"),
    ({"excluded_region": lambda u: u > 0}, "excluded_region must return one truth value for each of 2500 points"),
    ({"walker": "a/b"}, "walker must be a name to call a file by; got 'a/b'"),
    ({"walker": ".a"}, "walker must be a name"),
    ({"walker": ""}, "walker must be a name"),
]


@pytest.mark.parametrize(("change", "message"), INVALID)
def test_invalid_arguments(change, message):
    system = alanine_system()
    count = system.getNumForces()
    with pytest.raises(SettingsError, match=message):
        OPES(system, alanine_cv(2), **{"temperature": 300.0, "barrier": 30.0, "frequency": 10, **change})
    assert system.getNumForces() == count


def test_quantities():
    bias = OPES(alanine_system(), alanine_cv(2), 300 * unit.kelvin, 10 * unit.kilocalorie_per_mole, 10)
    assert (bias.temperature, bias.barrier) == (300.0, pytest.approx(41.84))


# ------------------------------------------------------------------------------------- exploring, widths and exclusions

OPTIONS = {"explore": True, "width": "adaptive", "excluded_region": [[0.65, 0.75], [1.45, np.inf]]}


def test_all_options_together_survive_a_restart(tmp_path):
    """Widths follow from positions that got no kernel too, at the beginning and in an excluded region."""
    bias, made = well(directory=tmp_path, **OPTIONS)
    bias.step(made, 400)
    rows = bias.own_kernels.copy()
    center, without = rows[:, 1], rows[:, 2] == 0
    excluded = ((center >= 0.65) & (center <= 0.75)) | (center >= 1.45)
    assert 2 < np.count_nonzero(excluded[9:]) < 25
    assert np.array_equal(without, excluded | (np.arange(40) < 9))
    assert rows[~without, 2].min() >= bias.narrowest * bias.cv.sigma[0] and np.ptp(rows[~without, 2]) > 0.001
    assert bias.effective_sample_size == np.count_nonzero(~without) + 2
    made.saveCheckpoint(str(tmp_path / "state"))
    bias.save()
    bias.step(made, 150)
    bias.history.close()
    again, walk = well(directory=tmp_path, seed=5, **OPTIONS)
    walk.loadCheckpoint(str(tmp_path / "state"))
    again.rewind(400)
    again.step(walk, 150)
    assert again.own_kernels.tobytes() == bias.own_kernels.tobytes()
    assert again.coefficients.tobytes() == bias.coefficients.tobytes()
    u = everywhere(again, 100)
    read, _ = well(directory=tmp_path, walker="reader", read_only=True, **OPTIONS)
    assert read.energy(u) == pytest.approx(again.energy(u), abs=1e-9)
    with pytest.raises(SimulationError, match="was written with bias opes explore adaptive excluded .*, not opes;"):
        well(directory=tmp_path, walker="b", width=1.0)
    # A walker that comes later measures its own widths, which a bias has widened from the beginning.
    other, moving = well(directory=tmp_path, walker="b", seed=3, **OPTIONS)
    other.step(moving, 130)
    widths = other.own_kernels[:, 2]
    assert not widths[:9].any() and widths[9:].any() and widths.max() < 3 * rows[:, 2].max()


def test_regions_are_the_same_as_boxes_and_as_a_function():
    settings = {"barrier": 30.0, "frequency": 5, "read_only": True}
    cv = alanine_cv(2)
    (low, middle), (_, high) = cv.bounds.mean(1) - cv.sigma, cv.bounds.mean(1) + cv.sigma
    boxes = [[[low, np.inf], [middle, high]], [[-np.inf, low - 1], [-np.inf, np.inf]]]
    regions = [
        OPES(alanine_system(), cv, 300.0, excluded_region=region, **settings)._excluded
        for region in (
            boxes,
            lambda u: (
                ((u[:, 0] >= low) & (abs(u[:, 1] - (middle + high) / 2) <= (high - middle) / 2)) | (u[:, 0] <= low - 1)
            ),
        )
    ]
    u = np.random.default_rng(0).uniform(cv.bounds[:, 0] - 1, cv.bounds[:, 1] + 1, (500, 2))
    assert np.array_equal(regions[0](u), regions[1](u)) and 50 < regions[0](u).sum() < 450
    assert regions[0].digest == regions[1].digest
    assert ExcludedRegion(boxes[0], OPES(alanine_system(), cv, 300.0, **settings).grid).digest != regions[0].digest


def test_a_region_may_lie_between_the_points_that_regions_are_compared_at():
    grid = OPES(alanine_system(), alanine_cv(1), 300.0, 30.0, 5, read_only=True).grid
    narrow = [grid.low[0] + share * (grid.high[0] - grid.low[0]) / (LATTICE - 1) for share in (0.2, 0.3, 0.4)]
    regions = [ExcludedRegion([[narrow[0], high]], grid) for high in narrow[1:]]
    assert [region(np.array([[narrow[1]], [narrow[2]]])).tolist() for region in regions] == [[True, False], [True] * 2]
    assert regions[0].digest != regions[1].digest


# ------------------------------------------------------------------------------------------------- going on, to the bit


@pytest.mark.parametrize("saved", ["not", "early", "at the checkpoint", "late"])
@pytest.mark.parametrize("kind", [Metadynamics, OPES])
def test_going_on_from_a_checkpoint_is_as_if_nothing_had_happened(tmp_path, kind, saved):
    """Where the history, and perhaps the saved kernels, go on beyond the checkpoint."""
    bias, made = well(kind=kind, directory=tmp_path)
    bias.step(made, 200)
    if saved == "early":
        bias.save()
    bias.step(made, 133)
    if saved == "at the checkpoint":
        bias.save()
    made.saveCheckpoint(str(tmp_path / "state"))
    bias.step(made, 267)
    if saved == "late":
        bias.save()
    bias.history.close()
    assert (tmp_path / "walker.npz").exists() == (kind is OPES and saved != "not")

    again, walk = well(kind=kind, directory=tmp_path, seed=5)
    walk.loadCheckpoint(str(tmp_path / "state"))
    assert walk.currentStep == 333
    with pytest.raises(SimulationError, match=r"goes on to step 600, the simulation is at step 333.*rewind\(333\)"):
        again.step(walk, 10)
    again.rewind(walk.currentStep)
    again.step(walk, 100)
    again.step(walk, 167)
    assert walk.currentStep == 600 and len(again.own_kernels) == 60
    assert again.own_kernels.tobytes() == bias.own_kernels.tobytes()
    assert again.coefficients.tobytes() == bias.coefficients.tobytes()
    assert state(walk).tobytes() == state(made).tobytes()


@pytest.mark.parametrize("kind", [Metadynamics, OPES])
def test_closing_hands_a_walker_over(tmp_path, kind):
    bias, made = well(kind=kind, directory=tmp_path, save_frequency=100)
    bias.step(made, 160)
    with pytest.raises(SimulationError, match="another process adds to this history"):
        well(kind=kind, directory=tmp_path)
    bias.close()
    again, _ = well(kind=kind, directory=tmp_path)
    assert again.own_kernels.tobytes() == bias.own_kernels.tobytes() and len(bias.own_kernels) == 16
    assert again.coefficients.tobytes() == bias.coefficients.tobytes()


def test_a_damaged_state_is_refused_and_can_be_deleted(tmp_path):
    bias, made = well(directory=tmp_path)
    bias.step(made, 300)
    bias.close()
    file = tmp_path / "walker.npz"
    content = file.read_bytes()
    middle = len(content) // 2
    np.save(tmp_path / "array.npy", np.zeros(3))
    for damaged in (
        b"",
        b"hello",
        content[:middle],
        content[:middle] + bytes(255 - byte for byte in content[middle : middle + 40]) + content[middle + 40 :],
        (tmp_path / "array.npy").read_bytes(),
    ):
        file.write_bytes(damaged)
        with pytest.raises(SimulationError, match=r"walker.npz: cannot be read \(.*\); delete it, and the kernels are"):
            well(directory=tmp_path)
    file.unlink()
    again, _ = well(directory=tmp_path)
    assert again.coefficients.tobytes() == bias.coefficients.tobytes()


def test_states_hold_the_nodes_that_were_visited_and_those_of_an_earlier_version_all(tmp_path):
    bias, made = well(directory=tmp_path)
    bias.step(made, 300)
    bias.close()
    file = tmp_path / "walker.npz"
    with np.load(file) as content:
        arrays = dict(content)
    assert arrays["density"].shape == tuple(bias.state.high - bias.state.low) < bias.state.values.shape
    del arrays["nodes"]
    np.savez(file, **{**arrays, "density": bias.state.values})
    again, _ = well(directory=tmp_path, read_only=True)
    assert again.state.values.tobytes() == bias.state.values.tobytes()
    assert again.coefficients.tobytes() == bias.coefficients.tobytes()


def test_a_state_on_another_grid_is_not_taken(tmp_path):
    bias, made = well(directory=tmp_path)
    bias.step(made, 300)
    bias.close()
    _, system, cv = pairs(1, WELL, barrier=15.0, tilt=TILT)
    cv.bounds = cv.bounds + [[-0.005, 0.0]]  # as many nodes, but elsewhere
    other = OPES(system, cv, 300.0, 25.0, 10, width=0.4, directory=tmp_path)
    u = everywhere(bias)
    inside = ((u > bias.low + 0.02) & (u < bias.high - 0.02)).all(1)
    assert other.grid.first[0] != bias.grid.first[0]
    assert np.abs(without_walls(other, u) - without_walls(bias, u))[inside].max() < 0.3
    assert np.array_equal(other.kernels.centers, bias.kernels.centers)


def test_state_knows_how_far_neighbours_were_read(tmp_path):
    """Their kernels are neither taken twice nor left out, and are forgotten when they took them back."""
    a, walk_a = well(directory=tmp_path, walker="a")
    b, walk_b = well(directory=tmp_path, walker="b", seed=2)
    for _ in range(5):
        a.step(walk_a, 20)
        b.step(walk_b, 20)
    a.close()
    b.step(walk_b, 50)

    def weight(*biases) -> float:
        return np.exp(-25 / KT) + sum(np.exp(bias.own_kernels[:, -1]).sum() for bias in biases)

    again, walk = well(directory=tmp_path, walker="a")
    assert (tmp_path / "a.npz").exists() and (len(a.own_kernels), len(b.own_kernels)) == (10, 15)
    assert again.state.sum_of_weights == pytest.approx(weight(again, b), rel=1e-12)
    again.save()
    again.history.close()
    b.rewind(30)
    again, walk = well(directory=tmp_path, walker="a")
    assert again.state.sum_of_weights == pytest.approx(weight(again, b), rel=1e-12) and len(b.own_kernels) == 3
    b.rewind(10)
    walk.context.setState(walk_a.context.getState(getPositions=True, getVelocities=True, getParameters=True))
    walk.currentStep = walk_a.currentStep
    again.step(walk, 20)
    assert again.state.sum_of_weights == pytest.approx(weight(again, b), rel=1e-12)


@pytest.mark.parametrize("kind", [Metadynamics, OPES])
def test_an_interruption_costs_no_entry(tmp_path, kind):
    """Ctrl-C while an entry is being taken up: the next step mends the grid, from what the history has."""
    bias, made = well(kind=kind, directory=tmp_path)
    bias.step(made, 50)
    before = bias._add_kernel

    def interrupted(state, kernel):
        bias._add_kernel = before
        bias.coefficients += 1000  # half done
        raise KeyboardInterrupt

    bias._add_kernel = interrupted
    with pytest.raises(KeyboardInterrupt):
        bias.step(made, 50)
    bias._add_kernel = before
    assert made.currentStep == 60
    bias.step(made, 20)
    assert bias.own_kernels[:, 0].tolist() == [10, 20, 30, 40, 50, 60, 70, 80]
    bias.close()
    again, _ = well(kind=kind, directory=tmp_path)
    assert again.own_kernels.tobytes() == bias.own_kernels.tobytes()
    assert again.coefficients.tobytes() == bias.coefficients.tobytes()


# --------------------------------------------------------------------------------------------------- several processes

WALKER = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
import numpy as np
import test_opes
folder, name, seed, end, deadly = Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:7])
walks = {}
for kind in sys.argv[7:]:
    place = folder / kind
    bias, made = walks[place] = test_opes.well(kind=getattr(test_opes, kind), directory=place, walker=name, seed=seed)
    if (place / f"{name}.chk").exists():
        made.loadCheckpoint(str(place / f"{name}.chk"))
    bias.rewind(made.currentStep)
print("there", flush=True)
sys.stdin.readline()
done = False
while not done:
    # without an end: until the other one has ended, and a little more
    done = not end and all((place / "end-a.npz").exists() for place in walks)
    if deadly and made.currentStep >= deadly:
        # others know of entries since the last checkpoint
        for bias, made in walks.values():
            bias.step(made, 57)
        os.kill(os.getpid(), signal.SIGKILL)
    for place, (bias, made) in walks.items():
        bias.step(made, 100)
        if made.currentStep % 300 == 0:
            bias.save()
        made.saveCheckpoint(str(place / f"temporary.{name}"))
        os.replace(place / f"temporary.{name}", place / f"{name}.chk")
    done = done or end and made.currentStep >= end
    time.sleep(0 if end else 0.1)
for place, (bias, made) in walks.items():
    others = np.empty((0, bias.history.rows.shape[1]))
    for other, (_, read) in bias.neighbors.offsets().items():  # what is in the grid, of a file that may go on
        others = np.loadtxt((place / other).read_bytes()[:read].decode().splitlines(), comments="#", ndmin=2)
    np.savez(place / f"temporary-{name}", rows=bias.history.rows, state=test_opes.state(made), others=others,
             coefficients=bias.coefficients, weights=getattr(bias.state, "sum_of_weights", 0.0))
    os.replace(place / f"temporary-{name}.npz", place / f"end-{name}.npz")
"""
KINDS = (Metadynamics, OPES)


def start(folder: Path, name: str, seed: int, end: int, deadly: int = 0, kinds=KINDS) -> subprocess.Popen:
    """A process that is to kill itself after so many steps, if that is not 0."""
    arguments = [str(Path(__file__).parent), str(folder), name, *map(str, (seed, end, deadly))]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WALKER, *arguments, *(kind.__name__ for kind in kinds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def go(*processes: subprocess.Popen) -> list[int]:
    """Let processes begin together, and wait for their ends."""
    for process in processes:
        assert process.stdout.readline() == b"there\n"
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.close()
    codes = [process.wait(100) for process in processes]
    for process in processes:
        process.stdout.close()
    return codes


def finish(folder: Path, kind, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / kind.__name__ / f"end-{name}.npz") as content:
        return dict(content)


def test_a_process_that_is_killed_goes_on_to_the_bit(tmp_path):
    """Alone in its folder, killed between checkpoints, against one that is not."""
    # One kind a process: all simulations on a Reference platform draw from one stream of random numbers.
    killed = [start(tmp_path, "a", 1, 800, deadly=400, kinds=(kind,)) for kind in KINDS]
    assert go(*killed) == [-signal.SIGKILL] * 2
    assert go(*(start(tmp_path, "a", 7, 800, kinds=(kind,)) for kind in KINDS)) == [0, 0]
    for kind in KINDS:
        found = finish(tmp_path, kind, "a")
        bias, made = well(kind=kind)
        bias.step(made, 800)
        assert found["rows"].tobytes() == bias.history.rows.tobytes() and len(found["rows"]) == 80
        assert found["state"].tobytes() == state(made).tobytes()
        assert found["coefficients"].tobytes() == bias.coefficients.tobytes()
        assert "generation 1" in (tmp_path / kind.__name__ / "a.hills").read_text()  # some were taken back


def test_processes_that_share_a_folder(tmp_path):
    """What each has in its grid is its own history and a beginning of the other's, though one was killed."""
    first, second = start(tmp_path, "a", 1, 2000, deadly=600), start(tmp_path, "b", 2, 0)
    third = None
    try:
        for process in (first, second):
            assert process.stdout.readline() == b"there\n"
        for process in (second, first):
            process.stdin.write(b"go\n")
            process.stdin.close()
        assert first.wait(100) == -signal.SIGKILL
        third = start(tmp_path, "a", 3, 2000)
        assert go(third) == [0] and second.wait(100) == 0
    finally:
        for process in (first, second, third):
            if process is not None:
                process.kill()
                process.wait()
                process.stdout.close()
    for kind in KINDS:
        a, b = finish(tmp_path, kind, "a"), finish(tmp_path, kind, "b")
        files = {
            name: np.loadtxt(tmp_path / kind.__name__ / f"{name}.hills", comments="#", ndmin=2) for name in ("a", "b")
        }
        assert len(a["rows"]) == 200
        for mine, name, of in ((a, "a", "b"), (b, "b", "a")):
            assert np.array_equal(files[name], mine["rows"])
            assert np.array_equal(mine["others"], files[of][: len(mine["others"])])
            mine["seen"] = np.concatenate([mine["rows"], mine["others"]])[:, :-1]  # without the clock
        assert len(a["others"]) > 0 and len(b["others"]) == 200  # the one that ended last has everything
        bias, _ = well(kind=kind)
        u = everywhere(bias, 500)
        for mine in (a, b):
            both = mine["seen"]
            found = bias.grid.interpolate(u, mine["coefficients"])
            if kind is Metadynamics:
                square = ((u[:, None] - both[:, 1:2]) / both[:, 2:3]) ** 2
                inside = (u > bias.low) & (u < bias.high)
                expected = np.exp(-0.5 * square.sum(-1)) @ both[:, -1]
                assert expected.max() > 10
                assert np.abs(found - expected)[inside[:, 0]].max() < 2e-3 * both[:, -1].sum()
            else:
                assert mine["weights"] == pytest.approx(np.exp(-25 / KT) + np.exp(both[:, -1]).sum(), rel=1e-9)
                assert np.isfinite(found).all() and found.max() > 10
    # a new process has all of both
    for kind in KINDS:
        fresh, _ = well(kind=kind, directory=tmp_path / kind.__name__, walker="c")
        assert len(fresh.all_kernels()) == sum(len(finish(tmp_path, kind, name)["rows"]) for name in ("a", "b"))


# ------------------------------------------------------------------------------------------------ what the history says


@pytest.mark.parametrize("kind", KINDS)
def test_course_ends_with_the_free_energy(tmp_path, kind):
    """Of all walkers together, share by share; what it says of half of the entries is what these alone would give."""
    one, made = well(kind=kind, directory=tmp_path, walker="a")
    other, moving = well(kind=kind, directory=tmp_path, walker="b", seed=2)
    for _ in range(4):
        one.step(made, 50)
        other.step(moving, 50)
    one.step(made, 10)
    course = list(one.free_energy_history(2))
    # The second one is ahead: from step 20 on it has read what the first one added up to step 50.
    assert other.shared_time([10, 20, 30, 35]).tolist() == [10, 51, 61, 66]
    times = np.sort(np.concatenate([one.history.rows, other.history.rows])[:, -1])
    assert [time for time, _ in course] == [times[(len(times) + 1) // 2 - 1], times[-1]]
    # Kernels that are merged in another order, as they come from two walkers, give nearly the same sum.
    low = one.free_energy() < 15
    assert low.sum() > 20
    away = np.abs(course[1][1] - one.free_energy())[low].max()
    assert away < (1e-6 if kind is Metadynamics else 1.0)
    assert np.abs(course[0][1] - course[1][1])[low].max() > max(1.0, 3 * away)


@pytest.mark.parametrize("kind", KINDS)
def test_past_energy_is_what_the_energy_was(tmp_path, kind):
    """At any step and in any order, also for a bias that goes on from what is on the disk."""
    bias, made = well(kind=kind, directory=tmp_path, walker="a")
    u, then = everywhere(bias, 200), {0: bias.energy(everywhere(bias, 200))}
    for _ in range(4):
        bias.step(made, 45)
        then[made.currentStep] = bias.energy(u)
    assert np.abs(then[180] - then[90]).max() > 1
    steps = [180, 0, 90, 135, 45]
    expected = np.stack([then[step] for step in steps])
    assert np.abs(bias.past_energy(u, steps) - expected).max() < 1e-9
    bias.close()
    again, _ = well(kind=kind, directory=tmp_path, walker="a")
    assert np.abs(again.past_energy(u, steps) - expected).max() < 1e-9
    assert bias.past_energy(u, []).shape == (0, 200)


@pytest.mark.parametrize("kind", KINDS)
def test_past_energy_is_of_all_walkers(tmp_path, kind):
    """Of a walker that goes on from saved kernels too, which has those of others in its kernels alone."""
    walkers = [well(kind=kind, directory=tmp_path, walker=name, seed=seed) for seed, name in enumerate("ab", 1)]
    for _ in range(20):
        for bias, made in walkers:
            bias.step(made, 10)
    # The first one reads what the second wrote before at every step of both.
    u, steps = everywhere(walkers[0][0], 200), [60, 130, 200]
    found = walkers[0][0].past_energy(u, steps)
    assert np.abs(walkers[1][0].past_energy(u, steps) - found).max() < 1.5
    for bias, _ in walkers:
        bias.close()
    again, _ = well(kind=kind, directory=tmp_path, walker="a")
    assert len(again.all_kernels()) == 40
    assert np.abs(again.past_energy(u, steps) - found).max() < 1e-9
    assert np.abs(again.past_energy(u, steps)[-1] - again.energy(u)).max() < (1e-6 if kind is Metadynamics else 1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_walkers_that_start_late_feel_what_was_there(tmp_path, kind):
    """Two walkers side by side, then two more: the bias that acted on each is that of the history at its time."""
    felt, u = {}, everywhere(well(kind=kind)[0], 200)
    for names in ("ab", "cd"):
        walkers = {name: well(kind=kind, directory=tmp_path, walker=name, seed=ord(name)) for name in names}
        for _ in range(20):
            for name, (bias, made) in walkers.items():
                felt[name, made.currentStep] = bias.energy(u)
                bias.step(made, 10)
        for bias, _ in walkers.values():
            bias.close()
    reader, _ = well(kind=kind, directory=tmp_path, walker="reader", read_only=True)
    for name in "abcd":
        # Before the kernel at this step, and for the second one of each pair after that of the first.
        steps = np.arange(10, 200, 10)
        times = reader.shared_time(steps, name)
        assert np.all(np.diff(times) > 0) and (name in "ab" or times[0] > 200)
        found = reader.past_energy(u, times)
        expected = np.stack([felt[name, step] for step in steps])
        away = np.sqrt(np.mean((found - expected) ** 2, axis=1))
        # The second one of a pair has read all kernels up to its step, the first one still lacks one of the second.
        exact = 1e-6 if kind is Metadynamics else 1.5
        assert away.max() < (exact if name in "bd" else 4.0)
        assert np.sqrt(np.mean(expected[-1] ** 2)) > (4 if name in "ab" else 6)
        by_step = reader.past_energy(u, steps)  # the order of before, in which walkers start together
        assert name in "ab" or np.sqrt(np.mean((by_step - expected) ** 2, axis=1))[:10].min() > 2
    assert reader.shared_time([10, 20], "without a kernel").tolist() == [10, 20]
    kernels = reader.all_kernels()
    assert len(kernels) == 80 and kernels[:40, 0].max() == 200 and kernels[40, 0] == 10
    again, made = well(kind=kind, directory=tmp_path, walker="c")
    assert again.shared_time([200, 210]).tolist() == (reader.shared_time([200], "c") + [0, 10]).tolist()
    again.step(made, 0) if made.currentStep == 200 else again.rewind(0)
    assert again.latest == max(reader.shared_time([200], name)[0] for name in "abd")


# -------------------------------------------------------------------------------------------------------- known physics


def profile(u: np.ndarray, weights: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(u, edges, weights=weights)
    with np.errstate(divide="ignore"):
        return -KT * np.log(counts / counts.sum())


def rms(difference: np.ndarray) -> float:
    return float(np.std(difference))


@pytest.mark.parametrize("settings", [{"explore": True}, {"bias_factor": np.inf}], ids=["explore", "uniform"])
def test_target(settings):
    """What is sampled, frames without the bias, and the free energy, of points drawn independently under each bias.

    Over eight seeds the density of the later half was off by 0.49 +- 0.08 kJ/mol (exploring) and 0.52 +- 0.08 (uniform
    target), the difference between the wells by 0.22 both times, the free energy of the bias by 1.07 +- 0.15 and 0.47
    +- 0.04.
    """
    _, system, cv = pairs(1, "r")
    bias = OPES(system, cv, 300.0, 25.0, 1, width=0.4, read_only=True, **settings)
    r = np.linspace(0.4, 1.6, 2401)[:, None]
    free = exact(r[:, 0], 15.0) - exact(r[:, 0], 15.0).min()
    rng, late, frames = np.random.default_rng(1), np.zeros(len(r)), []
    for step in range(1, 1001):
        energies = bias.grid.interpolate(r, bias._coefficients_of(bias.state))
        density = np.exp(-(free + energies) / KT)
        density /= density.sum()
        late += density if step > 500 else 0
        k = np.searchsorted(np.cumsum(density), 0.999999 * rng.random())
        bias.history.add([step, *bias._new_kernel(None, r[k], energies[k], True), step])
        bias._add_kernel(bias.state, bias.own_kernels[-1])
        frames.append((r[k, 0], energies[k] - bias.offset()))
    low = free < 15
    assert rms(-KT * np.log(late[low]) - free[low] / bias.bias_factor) < 0.85
    assert rms(free[low]) > 4  # which is what would be sampled without a bias
    u, bias_at_u = np.array(frames[200:]).T
    weights, truth = np.exp(bias_at_u / KT), np.exp(-free / KT)
    difference = -KT * np.log(weights[u > 1].sum() / weights[u <= 1].sum())
    assert difference == pytest.approx(-KT * np.log(truth[r[:, 0] > 1].sum() / truth[r[:, 0] <= 1].sum()), abs=0.8)
    surface = exact(bias.axes[0], 15.0)
    low = surface - surface.min() < 10
    assert rms((bias.free_energy() - surface)[low]) < (1.8 if bias.explore else 0.7)


@pytest.mark.parametrize(("dim", "barrier"), [(1, 15.0), (2, 10.0)])
def test_double_well(dim, barrier):
    """Free energy of wells that plain dynamics would not leave, from the kernels and from reweighted frames.

    The root mean square error of the reweighted profile below 15 kJ/mol was 0.27 +- 0.08 kJ/mol (twelve seeds) in one
    dimension, and 0.29 +- 0.06 (eight seeds) in two, each distance by itself. That of the sum of kernels, below 10
    kJ/mol, was 0.36 +- 0.07 and 0.75 +- 0.05, and that of the difference between the wells 0.42 and 0.42.
    """
    settings = {"width": 0.4} if dim == 1 else {"width": 0.8, "barrier": 20.0}
    topology, system, cv = pairs(dim, WELL, barrier=barrier, tilt=TILT)
    bias = OPES(system, cv, 300.0, **{"barrier": 25.0, "frequency": 10, **settings})
    x = np.zeros((2 * dim, 3))
    x[1::2, 0] = 0.7
    made = simulation(topology, system, x, timestep=0.015, friction=5.0, seed=1)
    bias.step(made, 120_000 if dim == 1 else 60_000)
    rows = bias.own_kernels[1000:]
    u, weights = rows[:, 1 : 1 + dim], np.exp(rows[:, -1])

    surface = sum(np.ix_(*[exact(axis, barrier) for axis in bias.axes])) if dim > 1 else exact(bias.axes[0], barrier)
    low = surface - surface.min() < 10
    assert low.sum() > 30
    assert rms((bias.free_energy() - surface)[low]) < (0.8 if dim == 1 else 1.1)
    assert len(bias.kernels) < (250 if dim == 1 else 3000)

    edges, fine = np.arange(0.5, 1.55, 0.05), np.linspace(0.4, 1.6, 20_001)
    density = np.exp(-exact(fine, barrier) / KT)
    truth = profile(fine, density, edges)
    seen = truth - truth.min() < 15
    assert np.ptp(truth[seen]) > 6
    for k in range(dim):
        assert np.count_nonzero(np.diff(u[:, k] > 1)) > 200
        assert rms((profile(u[:, k], weights, edges) - truth)[seen]) < 0.65
        right = weights[u[:, k] > 1].sum() / weights[u[:, k] <= 1].sum()
        assert -KT * np.log(right) == pytest.approx(
            -KT * np.log(density[fine > 1].sum() / density[fine <= 1].sum()), abs=2.0
        )
