"""Windows along a path, and MBAR over them, against quadrature, analytic Gaussians and paths known beforehand."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from helpers.molecules import (
    TRICLINIC,
    alanine_cv,
    alanine_system,
    alanine_topology,
    pairs,
    positions,
    simulation,
)
from openmm import unit

from latf_sampling.analysis.windows import OVERLAP, combine_windows
from latf_sampling.bias.path import even_path, free_energy_path
from latf_sampling.bias.umbrella import Umbrella
from latf_sampling.bias.windows import UmbrellaWindows
from latf_sampling.core import storage
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SettingsError, SimulationError, StoreError
from latf_sampling.units import KB

KT = KB * 300.0
HEIGHT = 6.0  # kJ/mol, of the barrier at 1 nm; wells at 0.7 and 1.3 nm
STIFFNESS = 400.0
R = np.linspace(0.2, 1.9, 34_001)
SHORT = {"equilibrate": 20, "steps": 40, "interval": 10}


def double_well(r: np.ndarray, height: float = HEIGHT) -> np.ndarray:
    """Free energy of a distance in the double well, kJ/mol; r^2 counts its directions."""
    return height * (((r - 1) / 0.3) ** 2 - 1) ** 2 - 2 * KT * np.log(r)


def under(center: float, height: float = HEIGHT, stiffness: float = STIFFNESS) -> np.ndarray:
    """Boltzmann factor on `R` under an umbrella."""
    return np.exp(-(double_well(R, height) + 0.5 * stiffness * (R - center) ** 2) / KT)


def setup(count: int, path, folder, seed: int = 1, **settings):
    """Windows on pairs in double wells, and a simulation that starts in the wells at 0.7 nm."""
    topology, system, cv = pairs(count, f"{HEIGHT}*(((r-1)/0.3)^2-1)^2")
    start = np.array([[5.0 * k + 0.7 * end, 0, 0] for k in range(count) for end in (0, 1)])
    umbrella = Umbrella(system, cv, [0.7] * count, STIFFNESS)
    settings = {"timestep": 0.008, "friction": 10.0, **settings}
    return UmbrellaWindows(umbrella, path, 300.0, folder), simulation(topology, system, start, seed=seed, **settings)


# ------------------------------------------------------------------------------------------------ what windows say


def test_exact_frames_give_the_exact_free_energy():
    """Frames drawn from the exact densities under umbrellas on a barrier of 12 kJ/mol.

    The largest error below 25 kJ/mol is 0.17 +- 0.03 kJ/mol over seeds; 0.3 is asked for.
    """
    rng = np.random.default_rng(0)
    centers = np.linspace(0.35, 1.7, 14)
    series = []
    for center in centers:
        cumulative = np.cumsum(under(center, 12.0, 700.0))
        series.append(np.interp(rng.random(8000) * cumulative[-1], cumulative, R)[:, None])
    u = np.concatenate(series)[:, 0]
    estimate = combine_windows(series, 0.5 * 700.0 * (u - centers[:, None]) ** 2, 300.0, OVERLAP)
    edges = np.linspace(0.5, 1.5, 26)
    counts = np.histogram(estimate.u[:, 0], edges, weights=estimate.weights)[0]
    exact = np.histogram(R, edges, weights=under(0.0, 12.0, 0.0))[0]
    found, exact = (-KT * np.log(np.maximum(each / each.sum(), 1e-12)) for each in (counts, exact))
    low = exact - exact.min() < 25
    assert low.sum() > 20
    assert np.abs(found - exact)[low].max() < 0.3
    assert estimate.weights.mean() == pytest.approx(1.0)
    assert np.array_equal(estimate.windows, np.repeat(np.arange(14), 8000))


# ------------------------------------------------------------------------------------------------ simulations


def test_simulated_double_well(tmp_path):
    """Free energies of nine windows and of the wells, within four of their errors, which are 0.38 kJ/mol at most."""
    windows, made = setup(1, np.linspace(0.5, 1.5, 9)[:, None], tmp_path)
    windows.run(made, equilibrate=200, steps=12_000, interval=10)
    estimate = windows.free_energy()
    exact = -KT * np.log([under(center).sum() for center in windows.path[:, 0]])
    away = estimate.free_energies - (exact - exact[0])
    assert (np.abs(away)[1:] < 4 * estimate.errors[1:]).all()
    assert estimate.errors.max() < 0.5
    right = estimate.u[:, 0] > 1
    difference = -KT * np.log(estimate.weights[right].sum() / estimate.weights[~right].sum())
    density = under(0.0, HEIGHT, 0.0)
    wanted = -KT * np.log(density[R > 1].sum() / density[R <= 1].sum())
    assert difference == pytest.approx(wanted, abs=4 * estimate.errors.max())


def test_simulated_path_round_a_corner(tmp_path):
    """Two double wells: along the first, then along the second; a free energy is the sum of two."""
    path = even_path([[0.7, 0.7], [1.3, 0.7], [1.3, 1.3]], 13, [1.0, 1.0])
    windows, made = setup(2, path, tmp_path)
    windows.run(made, equilibrate=200, steps=6000, interval=10)
    estimate = windows.free_energy()
    exact = np.array([-KT * np.log([under(c).sum() for c in row]).sum() for row in path])
    away = estimate.free_energies - (exact - exact[0])
    assert (np.abs(away)[1:] < 4 * estimate.errors[1:]).all()
    assert estimate.errors.max() < 0.8
    assert estimate.u.shape == (13 * 600, 2)


# ------------------------------------------------------------------------------------------------ files


def test_finished_windows_stay_and_others_may_be_run_elsewhere(tmp_path):
    path = np.array([[0.7], [0.8], [0.9], [1.0]])
    windows, made = setup(1, path, tmp_path)
    seen, done = [], []
    windows.run(made, only=[2, 1], on_frame=lambda k, s: seen.append((k, s.currentStep)), **SHORT)
    assert [k for k, _ in seen] == [1] * 4 + [2] * 4 and windows.finished == [1, 2]
    assert np.diff([step for _, step in seen]).tolist() == [10] * 3 + [30] + [10] * 3
    first = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StoreError, match=r"windows \[0, 3\] of 4 are not finished"):
        windows.free_energy()
    other, simulated = setup(1, path, tmp_path, seed=2)  # another process, with a variable of its own
    other.run(simulated, progress=done.append, **SHORT)
    assert other.finished == [0, 1, 2, 3] and done == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert all(path.read_bytes() == content for path, content in first.items())
    assert [len(part) for part in windows.series()] == [4] * 4
    assert windows.free_energy(overlap=0.0).free_energies.shape == (4,)
    before = simulated.currentStep
    other.run(simulated, **SHORT)
    assert simulated.currentStep == before


def test_a_window_that_another_process_is_at_is_left_to_it(tmp_path):
    path = np.array([[0.7], [0.8], [0.9]])
    windows, made = setup(1, path, tmp_path)
    lock = storage.try_lock(tmp_path / "window-001.lock")
    windows.run(made, **SHORT)
    assert windows.finished == [0, 2]
    lock.close()  # that process was killed
    windows.run(made, **SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"window-00{k}.npz" for k in range(3)]


def test_windows_in_a_box(tmp_path):
    """A window takes over the box of the one before, and values are those of the nearest images."""
    system, cv = alanine_system(periodic=True), alanine_cv(1, periodic=True)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0, 5))
    start = float(cv(positions(), TRICLINIC)[0])
    path = start + 0.3 * np.arange(3)[:, None] * cv.sigma
    umbrella = Umbrella(system, cv, path[0], 2.5 / (0.3 * cv.sigma) ** 2)
    made = simulation(alanine_topology(periodic=True), system, positions(), timestep=0.001)
    windows = UmbrellaWindows(umbrella, path, 300.0, tmp_path)
    boxes = []
    windows.run(made, on_frame=lambda k, s: boxes.append(box_of(s)), **SHORT)
    kept = [windows._read(k) for k in range(3)]
    assert [np.array_equal(each["box"], boxes[4 * k + 3]) for k, each in enumerate(kept)] == [True] * 3
    assert np.ptp([np.linalg.det(box) for box in boxes]) > 0  # the barostat has changed it
    for each in kept:
        assert each["u"][-1] == pytest.approx(cv(each["positions"], each["box"]), abs=1e-12)
    far = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    far.setPeriodicBoxVectors(*kept[0]["box"])
    moved = kept[0]["positions"].copy()
    moved[7] += kept[0]["box"][0] - kept[0]["box"][2]
    far.setPositions(moved)
    assert umbrella.values(far) == pytest.approx(kept[0]["u"][-1], abs=1e-9)
    assert windows.free_energy(overlap=0.0).u.shape == (12, 1)


def box_of(made) -> np.ndarray:
    return made.context.getState().getPeriodicBoxVectors(asNumpy=True)._value


def test_a_window_starts_where_the_one_before_ended(tmp_path):
    path = np.array([[0.7], [0.8]])
    windows, made = setup(1, path, tmp_path)
    windows.run(made, only=[0], **SHORT)
    last = windows._read(0)
    other, simulated = setup(1, path, tmp_path)
    other._approach(simulated, 1, 2)
    x = simulated.context.getState(getPositions=True).getPositions(asNumpy=True)._value
    assert np.linalg.norm(x - last["positions"], axis=1).max() < 0.2  # 2 steps of some nm/ps
    assert last["u"][-1] == pytest.approx(other.umbrella.cv(last["positions"]))
    assert other.umbrella.centers == pytest.approx([0.8])


def test_far_windows_are_approached_slowly(tmp_path):
    """From 0.7 nm to a window at 1.3 nm: six times the distance of neighbours, so six times the steps."""
    windows, made = setup(1, np.linspace(0.7, 1.3, 7)[:, None], tmp_path)
    windows.run(made, only=[6], **SHORT)
    assert made.currentStep == 6 * 10 + 10 + 40


def test_other_settings_are_refused(tmp_path):
    path = np.array([[0.7], [0.8]])
    windows, made = setup(1, path, tmp_path)
    windows.run(made, **SHORT)
    with pytest.raises(StoreError, match="window-000.npz: was made with steps 40, not 80"):
        windows.run(made, **{**SHORT, "steps": 80})
    moved, _ = setup(1, path + 0.01, tmp_path)
    with pytest.raises(StoreError, match=r"was made with centers \[0.7\], not \[0.71\]"):
        moved.series()
    with pytest.raises(StoreError, match="was made with temperature 300.0, not 310.0"):
        UmbrellaWindows(windows.umbrella, path, 310 * unit.kelvin, tmp_path).series()
    other = pairs(1, "0")
    module = other[2].module
    module.state_dict()["function.encoder.0.bias"].add_(0.1)
    with pytest.raises(StoreError, match="was made with variable"):
        UmbrellaWindows(Umbrella(other[1], other[2], [0.7], STIFFNESS), path, 300.0, tmp_path).series()


def test_a_saved_variable_is_the_same_variable(tmp_path):
    topology, system, cv = pairs(1, "0")
    cv.save(tmp_path / "cv.pt")
    loaded = LatentCV.load(tmp_path / "cv.pt", topology)
    made = [UmbrellaWindows(Umbrella(system, each, [0.7], 1.0), [[0.7]], 300.0, tmp_path) for each in (cv, loaded)]
    assert made[0]._settings(0) == made[1]._settings(0)


def test_damaged_files_are_named(tmp_path):
    windows, made = setup(1, [[0.7]], tmp_path)
    windows.run(made, **SHORT)
    file = tmp_path / "window-000.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match="window-000.npz: cannot be read"):
        windows.series()


def test_an_explosion_names_the_window(tmp_path):
    windows, made = setup(1, [[0.7], [0.8]], tmp_path)
    windows.run(made, only=[0], **SHORT)
    made.integrator.setStepSize(5.0)
    with pytest.raises(SimulationError, match=r"window 1, centers \[0.8\]: "):
        windows.run(made, **SHORT)
    assert windows.finished == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 45}, r"steps \(45\) must be a multiple of interval \(10\)"),
        ({"equilibrate": 0}, "equilibrate must be a whole number"),
        ({"interval": 2.5}, "interval must be a whole number"),
        ({"only": [0, 2]}, r"windows 0 to 1; got \[2\]"),
        ({"only": [0.5]}, r"windows 0 to 1; got \[0.5\]"),
        ({"only": 1}, "only must be a list of windows; got 1"),
    ],
)
def test_runs_that_cannot_be(tmp_path, changes, message):
    windows, made = setup(1, [[0.7], [0.8]], tmp_path)
    with pytest.raises(SettingsError, match=message):
        windows.run(made, **{**SHORT, **changes})


def test_arguments_that_cannot_be(tmp_path):
    windows, made = setup(1, [[0.7]], tmp_path)
    for path in ([0.7], [[0.7, 0.8]], [[np.nan]], np.empty((0, 1)), [[0.7], [0.8, 0.9]], "straight"):
        with pytest.raises(SettingsError, match="path must be finite numbers"):
            UmbrellaWindows(windows.umbrella, path, 300.0, tmp_path)
    with pytest.raises(SettingsError, match="temperature: must be more than 0 K"):
        UmbrellaWindows(windows.umbrella, [[0.7]], 0.0, tmp_path)
    with pytest.raises(SettingsError, match=r"the bias is for 310 K, and the \w+ of the simulation keeps 300 K"):
        UmbrellaWindows(windows.umbrella, [[0.7]], 310.0, tmp_path).run(made, **SHORT)
    plain = openmm.app.Simulation(
        made.topology, made.system, openmm.VerletIntegrator(0.001), made.context.getPlatform()
    )
    plain.context.setPositions(made.context.getState(getPositions=True).getPositions())
    with pytest.raises(SettingsError, match="the VerletIntegrator of the simulation keeps no temperature"):
        windows.run(plain, **SHORT)


# ------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize("sigma", [[1.0, 1.0], [0.5, 2.0]])
def test_even_paths_are_even(sigma):
    """Along a straight line in either unit; round a corner, distances along the line."""
    path = even_path([[0, 0], [1, 2], [3, 6]], 9, sigma)
    assert path[[0, -1]].tolist() == [[0, 0], [3, 6]]
    gaps = np.linalg.norm(np.diff(path, axis=0) / sigma, axis=1)
    assert gaps == pytest.approx(np.full(8, gaps[0]))
    assert path[:, 1] == pytest.approx(2 * path[:, 0])


def test_waypoints_that_repeat_change_nothing():
    assert even_path([[0.0], [0.0], [1.0], [1.0]], 3, [1.0]).tolist() == [[0.0], [0.5], [1.0]]


@pytest.mark.parametrize(
    ("waypoints", "n", "message"),
    [
        ([[0.0]], 3, "two different waypoints"),
        ([[1.0], [1.0]], 3, "two different waypoints"),
        ([[0.0], [1.0]], 1, "2 points or more"),
        ([[0.0], [1.0]], 2.5, "2 points or more"),
        ([[0.0], [1.0, 2.0]], 3, "finite numbers"),
        ([[0.0, 1.0], [1.0, 1.0]], 3, "finite numbers"),
        ([[0.0], [np.nan]], 3, "finite numbers"),
    ],
)
def test_paths_that_cannot_be(waypoints, n, message):
    with pytest.raises(SettingsError, match=message):
        even_path(waypoints, n, [1.0])


class Surface:
    """A free energy in kT as a model gives it."""

    def __init__(self, function) -> None:
        self.function = function

    def free_energy(self, u: np.ndarray, temperature: float) -> np.ndarray:
        return (KB * temperature * self.function(*u.T.astype(np.float64))).astype(np.float32)


def arc(x: np.ndarray, y: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """A valley along a half circle of radius 0.4 about (1, 0.7), as deep everywhere; a straight line costs 29 kT."""
    valley = 180 * (np.hypot(x - 1, y - 0.7) - 0.4) ** 2 + 20 * np.maximum(0.7 - y, 0) / 0.1
    return valley + sum(20 * (each - 1) ** 2 / 0.1**2 for each in others)


@pytest.mark.parametrize("dim", [2, 3])
def test_path_follows_a_valley(dim):
    """Closer to its bottom than half a kT costs, which is 0.053; the way across is 0.4 away."""
    _, _, cv = pairs(dim, "0")
    start, end = [0.6, 0.7, 1.0][:dim], [1.4, 0.7, 1.0][:dim]
    path = free_energy_path(Surface(arc), cv, start, end, 15, 300.0)
    assert path.shape == (15, dim)
    assert path[0] == pytest.approx(start) and path[-1] == pytest.approx(end)
    assert np.abs(np.hypot(path[:, 0] - 1, path[:, 1] - 0.7) - 0.4).max() < 0.053
    gaps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert gaps.max() < 1.05 * gaps.min()


def test_path_takes_the_lower_pass():
    """Two passes, of 8 kT at y = 0.75 on the straight line and of 4 kT at y = 1.25; it goes through the lower one."""

    def two_passes(x, y):
        ridge = np.exp(-(((x - 1) / 0.1) ** 2))
        gaps = [(30 - top) * np.exp(-(((y - where) / 0.1) ** 2)) for where, top in ((0.75, 8.0), (1.25, 4.0))]
        return ridge * (30 - sum(gaps))

    _, _, cv = pairs(2, "0")
    path = free_energy_path(Surface(two_passes), cv, [0.7, 0.75], [1.3, 0.75], 41, 300.0)
    assert path[np.abs(path[:, 0] - 1).argmin(), 1] == pytest.approx(1.25, abs=0.03)
    assert two_passes(*path.T).max() == pytest.approx(4.0, abs=0.3)


def test_path_in_one_dimension_is_a_line():
    _, _, cv = pairs(1, "0")
    path = free_energy_path(Surface(lambda x: 0 * x), cv, [0.7], [1.9], 5, 300 * unit.kelvin)
    assert path[:, 0] == pytest.approx([0.7, 1.0, 1.3, 1.6, 1.9])
