"""The doors: structures for samples of the flow, at given latent points, and along a path between two."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import openmm
from openmm import app

from latf_sampling.bias import free_energy_path
from latf_sampling.core import streams
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import SettingsError
from latf_sampling.learning.model import LaTF
from latf_sampling.starts.archive import Trajectories
from latf_sampling.starts.coverage import SAMPLES, cover, weights
from latf_sampling.starts.request import Request
from latf_sampling.starts.starts import Starts

STATE_SAMPLES = 20_000
"""Samples of the flow among which the most probable point of a state is looked for."""


def generate_starts(
    model: LaTF,
    cv: LatentCV,
    archive: Trajectories,
    system: openmm.System,
    topology: app.Topology,
    temperature,
    n: int,
    *,
    release=0.1,
    spare: int = 0,
    **options,
) -> Starts:
    """Generate n structures at a temperature, simulated or not.

    Latent samples are drawn from the flow at the temperature. For each, the closest archived frame is thermalised
    under the umbrella of stiffness kT / sigma^2 (see `latf_sampling.starts`); where no frame is within half a sigma,
    it is pulled there first by a moving umbrella and minimised. Then it is released: it runs freely for a moment, which
    takes away what the umbrella strained, and goes on being a sample of the Boltzmann distribution if it was one. A
    structure counts if it passes all of these; otherwise the next closest frame is tried.

    - While held its latent is within `tolerance` sigma of the target. Released, it is within `tolerance` times
      sqrt(sigma^2 + s^2) in each component, where s is the root of the mean square change of the latent in plain runs
      as long as the release, measured from archived frames at this temperature before anything else.
    - Its potential energy is finite, and within 8 standard deviations of the mean of these plain runs.
    - No two heavy atoms, four or more bonds apart, are nearer than 0.6 of the sum of their van der Waals radii; no bond
      is 25 % longer or shorter than the force field's length.
    - Stereocentres have the handedness, and peptide bonds the cis or trans form, that the archived frame has.
    - It repeats no other structure of the set (within 0.005 nm after superposition).

    Parameters
    ----------
    model, cv
        A trained model and the variable exported from it.
    archive
        Frames to start from, of one trajectory or several.
    system, topology
        The system without any bias; it is copied, not changed. Restraints and a barostat in it act.
    temperature
        K, or a quantity.
    n
        Number of targets.
    release
        Time without umbrella, ps, or a quantity: long enough for bonds and angles to forget the umbrella, short enough
        for the latent not to leave a target on a slope. 0 gives the structures as they are held.
    spare
        Up to so many further samples take the places of targets that give no structure.
    **options
        temperatures
            Of each trajectory of the archive, or each frame, K: of frames within half a sigma of a target that of the
            nearest 1/T is taken first.
        seed : int
            Same seed, same targets and same random forces; 0 by default.
        timestep, friction
            Of the Langevin dynamics, ps and 1/ps, or quantities; 0.002 and 1 by default. The time step is shortened
            where the collective variable is so steep that the umbrella would oscillate too fast for it.
        thermalise
            Time at the temperature on each target, ps, or a quantity; 4 by default.
        tolerance : float
            4 by default.
        attempts : int
            Archived frames that are tried for each target; 4 by default. They differ from each other.
        allow_cis, allow_inversion : bool
            Let peptide bonds and stereocentres change.
        platform : str
            OpenMM platform; none picks one.
        processes : int
            Structures made at once, each process with a context of its own; 1 by default, in this process. The result
            is the same for any number.
        directory
            Where finished targets are kept, and at the end all that `Starts.save` writes. The same call goes on there
            after an interruption, and reads what is finished.
        structures : str
            "pdb" or "cif", as in `Starts.save`.
        progress
            Called with the fraction done and a few words.

    Returns
    -------
    Starts
        With fewer than n structures there is a warning, and `Starts.rejected` says why.

    Raises
    ------
    SettingsError, DataError, CVError
        Something given cannot work; names it.
    SimulationError
        Not even plain runs from archived frames go on.
    StoreError
        The directory holds structures made with other settings, or another process works there.

    Examples
    --------
    >>> starts = generate_starts(model, cv, archive, system, pdb.topology, 450.0, 16)  # doctest: +SKIP
    >>> print(starts.summary().splitlines()[0])  # doctest: +SKIP
    16 of 16 structures at 450 K are valid.
    >>> starts.save("starts-450K")  # doctest: +SKIP
    """
    given = Request.of(cv, archive, system, topology, temperature, release, **options)
    if n < 1:
        raise SettingsError(f"starts: n must be at least 1; got {n}.")
    if spare < 0:
        raise SettingsError(f"starts: spare must not be negative; got {spare}.")
    seed, temperature = given.seed, given.recipe.temperature
    points = model.sample(n + spare, temperature, seed=streams.stream_seed(seed, "targets")).astype(np.float64)
    starts = given.make(points, n, lambda made: _weighted(made, model, cv, seed))
    if len(starts) < n:
        warnings.warn(starts.summary(), stacklevel=2)
    return starts


def structures_at(
    cv: LatentCV,
    archive: Trajectories,
    system: openmm.System,
    topology: app.Topology,
    temperature,
    points,
    *,
    release=0.0,
    **options,
) -> Starts:
    """Structures at given values of the collective variable, thermal at a temperature: to begin umbrellas, for example.

    As `generate_starts`, with these points in place of samples of the flow. They are given as they are held, since few
    points are places where a released structure would stay.

    Parameters
    ----------
    points
        Values (n, d) of the variable, or one (d,).

    Raises
    ------
    SettingsError
        The points are no finite numbers (n, d).

    Examples
    --------
    >>> starts = structures_at(cv, archive, system, pdb.topology, 300.0, [[0.3, -1.2]])  # doctest: +SKIP
    >>> umbrella.move_to(context, starts.targets[0])  # doctest: +SKIP
    """
    given = Request.of(cv, archive, system, topology, temperature, release, **options)
    array = np.array(points, np.float64)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != cv.dim or not len(array) or not np.isfinite(array).all():
        raise SettingsError(f"starts: points must be finite numbers (n, {cv.dim}); got {points}.")
    starts = given.make(array, len(array), lambda made: made)
    if len(starts) < len(array):
        warnings.warn(starts.summary(), stacklevel=2)
    return starts


def structures_between(
    model: LaTF,
    cv: LatentCV,
    archive: Trajectories,
    system: openmm.System,
    topology: app.Topology,
    temperature,
    ends,
    n: int,
    **options,
) -> Starts:
    """A path of n structures between two points or states, where the flow's free energy is lowest.

    The path is that of `free_energy_path` at the temperature; the rest is as in `structures_at`.

    Parameters
    ----------
    ends
        Two of: a point (d,), or the index of a metastable state, which stands for its most probable point.

    Examples
    --------
    >>> path = structures_between(model, cv, archive, system, pdb.topology, 300.0, (0, 1), 12)  # doctest: +SKIP
    >>> path.save("path")  # doctest: +SKIP
    """
    first, last = (state_point(model, end, temperature) if np.ndim(end) == 0 else end for end in ends)
    points = free_energy_path(model, cv, first, last, n, temperature)
    return structures_at(cv, archive, system, topology, temperature, points, **options)


def state_point(model: LaTF, state: int, temperature) -> np.ndarray:
    """The most probable latent point (d,) of a metastable state at a temperature, among samples of the flow.

    Raises
    ------
    SettingsError
        The model has no such state, or the flow gives it no sample at this temperature.
    """
    if not 0 <= state < model.n_states:
        raise SettingsError(f"starts: the model has states 0 to {model.n_states - 1}; got {state}.")
    samples = model.sample(STATE_SAMPLES, temperature, seed=0)
    inside = samples[model.state_probabilities(samples).argmax(1) == state]
    if not len(inside):
        raise SettingsError(f"starts: state {state} has next to no weight at {temperature:g} K; give a point instead.")
    return inside[np.argmax(model.log_prob(inside, temperature))].astype(np.float64)


def _weighted(starts: Starts, model: LaTF, cv: LatentCV, seed: int) -> Starts:
    """With weights, and compared with the flow."""
    if not len(starts):
        return starts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of extrapolation: drawing the targets has said it
        drawn = model.sample(SAMPLES, starts.temperature, seed=streams.stream_seed(seed, "weights"))
    samples = drawn.astype(np.float64)
    weight = weights(starts.reached, samples, cv.noise)
    failed = np.array([entry["target"] for entry in starts.rejected]).reshape(-1, cv.dim)
    asked = np.concatenate([starts.targets, failed])
    coverage = cover(asked, starts.reached, weight, samples, cv.sigma, streams.stream(seed, "coverage"))
    return replace(starts, weights=weight, coverage=coverage)
