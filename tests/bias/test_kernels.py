"""Merged kernels against sums over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from latf_sampling.bias.kernels import MERGE, Kernels

CUTOFF = 4.0


def direct(u: np.ndarray, kernels: list[tuple]) -> np.ndarray:
    """Sum of kernels at points (n, d), one after the other."""
    total = np.zeros(len(u))
    for center, width, height in kernels:
        square = (((u - center) / width) ** 2).sum(1)
        total += height * np.where(square < CUTOFF**2, np.exp(-square / 2) - np.exp(-(CUTOFF**2) / 2), 0)
    return total


def held(kernels: Kernels) -> list[tuple]:
    return list(zip(kernels.centers, kernels.widths, kernels.heights))


def filled(dim: int, count: int, size: float = 4.0, seed: int = 0) -> Kernels:
    """Kernels at random places in a box, of widths around 0.3 and of heights that differ by orders of magnitude."""
    rng, kernels = np.random.default_rng(seed), Kernels(dim, CUTOFF)
    for _ in range(count):
        kernels.add(rng.uniform(0, size, dim), rng.uniform(0.2, 0.4, dim), np.exp(rng.normal(0, 3)))
    return kernels


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_density_and_total_after_many_merges(dim):
    kernels = filled(dim, 500)
    assert 3 < len(kernels) < 480  # many were merged
    u = np.random.default_rng(1).uniform(-1, 5, (300, dim))
    expected = direct(u, held(kernels))
    assert np.count_nonzero(expected) > 100 and np.count_nonzero(expected == 0) > 0
    assert np.abs(kernels(u) - expected).max() < 1e-12 * expected.max()
    assert kernels.total == pytest.approx(direct(kernels.centers, held(kernels)).sum(), rel=1e-9)


def test_merging_keeps_height_mean_and_variance():
    rng = np.random.default_rng(2)
    added = [(rng.normal(0, 0.1, 2), rng.uniform(0.9, 1.1, 2), rng.uniform(0.1, 2)) for _ in range(50)]
    kernels = Kernels(2, CUTOFF)
    for kernel in added:
        kernels.add(*kernel)
    assert len(kernels) == 1
    centers, widths, heights = (np.array(parts) for parts in zip(*added))
    mean = heights @ centers / heights.sum()
    variance = heights @ (widths**2 + (centers - mean) ** 2) / heights.sum()
    assert kernels.heights[0] == pytest.approx(heights.sum(), rel=1e-12)
    assert kernels.centers[0] == pytest.approx(mean, rel=1e-9, abs=1e-12)
    assert kernels.widths[0] == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_width_is_kept_far_from_the_origin():
    """A variance as a difference of large squares would lose it."""
    kernels = Kernels(1, CUTOFF)
    for _ in range(1000):
        kernels.add(np.array([1e6]), np.array([1e-3]), 1.0)
    assert len(kernels) == 1
    assert kernels.widths[0, 0] == pytest.approx(1e-3, rel=1e-9)
    assert kernels.centers[0, 0] == pytest.approx(1e6, rel=1e-12)


def test_only_close_kernels_merge():
    """Close in widths of the kernel that is there already, not in those of the new one."""
    kernels = Kernels(1, CUTOFF)
    kernels.add(np.array([0.0]), np.array([1.0]), 1.0)
    gone, new = kernels.add(np.array([1.01 * MERGE]), np.array([5.0]), 1.0)
    assert gone == [] and len(kernels) == 2 and new[0] == pytest.approx([1.01])
    kernels = Kernels(1, CUTOFF)
    kernels.add(np.array([0.0]), np.array([1.0]), 1.0)
    gone, new = kernels.add(np.array([-0.99 * MERGE]), np.array([0.1]), 1.0)
    assert len(kernels) == 1 and len(gone) == 1
    assert gone[0][0] == pytest.approx([0.0]) and new[0] == pytest.approx([-0.495])


def test_a_merged_kernel_merges_on():
    """The new kernel brings two others together, neither of which was close to the other."""
    kernels = Kernels(1, CUTOFF)
    kernels.add(np.array([0.0]), np.array([1.0]), 1.0)
    kernels.add(np.array([1.5]), np.array([1.0]), 1.0)
    assert len(kernels) == 2
    gone, new = kernels.add(np.array([0.9]), np.array([1.0]), 1.0)
    # with that at 1.5, which gives 1.2 and a width of 1.04; that is not within one of 0
    assert len(kernels) == 2 and len(gone) == 1
    gone, new = kernels.add(np.array([0.6]), np.array([1.0]), 2.0)
    # closest to 1.2 is 0.6 / 1.04 = 0.57, to 0 is 0.6: with 1.2 first, which gives 0.9, then with 0
    assert len(kernels) == 1 and len(gone) == 2
    assert new[0] == pytest.approx([(0 + 1.5 + 0.9 + 2 * 0.6) / 5]) and new[2] == pytest.approx(5.0)


def test_what_it_says_of_a_change_is_the_change():
    """Taking away what is gone and adding what is new gives the density, as the grid keeps it."""
    rng, kernels = np.random.default_rng(3), Kernels(2, CUTOFF)
    u = rng.uniform(0, 4, (50, 2))
    density = np.zeros(50)
    for _ in range(300):
        gone, new = kernels.add(rng.uniform(0, 4, 2), np.full(2, 0.3), rng.uniform(0.1, 3))
        density += direct(u, [new]) - direct(u, gone)
    assert density == pytest.approx(direct(u, held(kernels)), abs=1e-10)
    assert density.max() > 1


def test_number_grows_with_the_volume_and_not_with_time():
    few, many, wide = filled(2, 1000), filled(2, 4000), filled(2, 4000, size=8.0)
    assert len(many) < 1.3 * len(few)
    assert len(wide) > 2 * len(many)


def test_no_kernels():
    kernels = Kernels(2, CUTOFF)
    assert len(kernels) == 0 and kernels.total == 0
    assert np.array_equal(kernels(np.zeros((3, 2))), np.zeros(3))


def test_a_kernel_ends_at_its_cutoff_without_a_jump():
    kernels = Kernels(1, CUTOFF)
    kernels.add(np.array([0.0]), np.array([0.5]), 3.0)
    edge = 0.5 * CUTOFF
    values = kernels(np.array([[0.0], [0.999999 * edge], [edge], [1.5 * edge]]))
    assert values[0] == pytest.approx(3.0 * (1 - np.exp(-8.0)))
    assert 0 < values[1] < 1e-6
    assert values[2] == pytest.approx(0.0, abs=1e-15) and values[3] == 0
