"""The entry points: structures for samples of the flow, at given latent points, and along a path between two."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openmm
from openmm import app

from latf_sampling.bias import free_energy_path
from latf_sampling.bias.arguments import check_model, check_parts, numbers
from latf_sampling.core import arguments, streams
from latf_sampling.core.devices import Devices
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.errors import ExtrapolationWarning, SettingsError
from latf_sampling.learning.model import LaTF
from latf_sampling.starts.archive import Trajectories
from latf_sampling.starts.coverage import SAMPLES, cover, weights
from latf_sampling.starts.options import Progress, StartOptions, no_progress
from latf_sampling.starts.pipeline import StartPipeline
from latf_sampling.starts.structure_set import Starts
from latf_sampling.units import FrictionLike, QuantityArrayLike, TemperatureLike, TimeLike, to_kelvin

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

STATE_SAMPLES = 20_000
"""Samples of the flow among which the most probable point of a state is searched."""


def generate_starts(
    model: LaTF,
    cv: LatentCV,
    archive: Trajectories,
    system: openmm.System,
    topology: app.Topology,
    temperature: TemperatureLike,
    n: int,
    *,
    extra_samples: int = 0,
    temperatures: QuantityArrayLike | None = None,
    seed: int = 0,
    timestep: TimeLike = 0.002,
    friction: FrictionLike = 1.0,
    thermalise: TimeLike = 4.0,
    release: TimeLike = 0.1,
    tolerance: float = 4.0,
    attempts: int = 4,
    allow_cis: bool = False,
    allow_inversion: bool = False,
    platform: str | None = None,
    processes: int | None = 1,
    directory: str | Path | None = None,
    structures: str | None = None,
    progress: Progress = no_progress,
    executor: Executor | None = None,
    devices: Devices = "auto",
) -> Starts:
    """Generate n structures at a temperature, simulated or not.

    Latent samples are drawn from the flow at the temperature. For each of them, the closest archived frame is
    thermalized under the umbrella of stiffness kT / sigma^2 (see `latf_sampling.starts`). If no frame is within half a
    sigma, the closest one is first pulled to the target by a moving umbrella and minimized. Then the structure is
    released: it runs without the umbrella for a moment, which removes the strain that the umbrella caused, and which
    preserves the Boltzmann distribution. A structure is valid if it passes all of these checks; otherwise the next
    closest frame is tried.

    - Under the umbrella its latent is within `tolerance` sigma of the target. After the release, it is within
      `tolerance` times sqrt(sigma^2 + s^2) in each component, where s is the root of the mean square change of the
      latent in plain runs as long as the release. These runs start from archived frames at this temperature, before
      anything else is done.
    - Its potential energy is finite, and within 8 standard deviations of the mean of these plain runs.
    - No two heavy atoms, four or more bonds apart, are nearer than 0.6 of the sum of their van der Waals radii; no bond
      is 25 % longer or shorter than the force field's length.
    - Stereocenters have the same handedness, and peptide bonds the same cis or trans form, as in the archived frame.
    - It does not repeat another structure of the set (within 0.005 nm after superposition).

    Parameters
    ----------
    model, cv
        A trained model and the variable exported from it.
    archive
        Frames to start from, of one trajectory or several.
    system, topology
        The system; it is copied, not changed. Its restraints and its barostat are active. Biases that this package
        added to it are left out, and others are refused. A TorchForce or PythonForce that is part of the potential
        energy needs a name of its own, as by ``force.setName("potential")``.
    temperature
        K, or a quantity.
    n
        Number of targets.
    extra_samples
        Up to so many further samples of the flow replace targets that give no structure.
    temperatures
        Of each trajectory of the archive, or of each frame, K, or a quantity: among frames within half a sigma of a
        target, the one of the nearest 1/T is tried first.
    seed
        Determines the targets and all random forces.
    timestep, friction
        Of the Langevin dynamics, ps and 1/ps, or quantities. The time step is shortened if the gradient of the
        collective variable is so large that the oscillation in the umbrella would be too fast for it.
    thermalise
        Time at the temperature on each target, ps, or a quantity.
    release
        Time without umbrella, ps, or a quantity: long enough for bonds and angles to relax, short enough for the latent
        to stay at a target on a slope. With 0 the structures are those under the umbrella.
    tolerance
        Largest distance from the target in the units above.
    attempts
        Number of archived frames that are tried for each target; they differ from each other.
    allow_cis, allow_inversion
        Whether peptide bonds and stereocenters may change.
    platform
        OpenMM platform; `None` chooses one.
    processes
        Number of structures that are made at the same time, each process with a context of its own. With 1 they are
        made in this process; `None` chooses a number. The structures are the same for any number.
    directory
        Where finished targets are kept, and at the end everything that `Starts.save` writes. After an interruption the
        same call continues there, and it reads what is finished.
    structures
        "pdb" or "cif", as in `Starts.save`.
    progress
        Called with the fraction that is done, and a few words.
    executor
        Where structures are made instead of in processes of this machine: any executor of `concurrent.futures`, whose
        workers share the disk of `directory`.
    devices
        Indices of the GPUs that processes use in turn; "auto" takes all that are visible.

    Returns
    -------
    Starts
        If there are fewer than n structures, a warning is issued, and `Starts.rejected` gives the reasons.

    Raises
    ------
    SettingsError, DataError, CVError
        An argument cannot work; names it.
    SimulationError
        Not even plain runs from archived frames are stable.
    StoreError
        The directory holds structures that were made with other settings, or another process works there.

    Examples
    --------
    >>> starts = generate_starts(model, cv, archive, system, pdb.topology, 450.0, 16)  # doctest: +SKIP
    >>> print(starts.summary().splitlines()[0])  # doctest: +SKIP
    16 of 16 structures at 450 K are valid.
    >>> starts.save("starts-450K")  # doctest: +SKIP
    """
    options = StartOptions.from_quantities(
        temperature=temperature,
        seed=seed,
        timestep=timestep,
        friction=friction,
        thermalise=thermalise,
        release=release,
        tolerance=tolerance,
        attempts=attempts,
        allow_cis=allow_cis,
        allow_inversion=allow_inversion,
        platform=platform,
        processes=processes,
        directory=directory,
        structures=structures,
        progress=progress,
        executor=executor,
        devices=devices,
    )
    if isinstance(model, LaTF) or not hasattr(model, "sample"):  # whatever gives samples will do
        check_model("starts", model, cv)
    _warn_of_unseen_crossings(model)
    n = arguments.whole("starts", "n", n, 1, "structures")
    extra_samples = arguments.whole("starts", "extra_samples", extra_samples)
    pipeline = StartPipeline.from_options(cv, archive, temperatures, system, topology, options)
    drawn = model.sample(n + extra_samples, options.temperature, seed=streams.stream_seed(seed, "targets"))
    starts = pipeline.run(drawn.astype(np.float64), n, lambda starts: _with_weights(starts, model, cv, seed))
    if len(starts) < n:
        warnings.warn(starts.summary(), stacklevel=2)
    return starts


def structures_at(
    cv: LatentCV,
    archive: Trajectories,
    system: openmm.System,
    topology: app.Topology,
    temperature: TemperatureLike,
    points: ArrayLike,
    *,
    temperatures: QuantityArrayLike | None = None,
    seed: int = 0,
    timestep: TimeLike = 0.002,
    friction: FrictionLike = 1.0,
    thermalise: TimeLike = 4.0,
    release: TimeLike = 0.0,
    tolerance: float = 4.0,
    attempts: int = 4,
    allow_cis: bool = False,
    allow_inversion: bool = False,
    platform: str | None = None,
    processes: int | None = 1,
    directory: str | Path | None = None,
    structures: str | None = None,
    progress: Progress = no_progress,
    executor: Executor | None = None,
    devices: Devices = "auto",
) -> Starts:
    """Structures at given values of the collective variable, thermal at a temperature, to start umbrellas for example.

    They are made as in `generate_starts`, which describes the other parameters, with these points instead of samples of
    the flow. By default they are not released, since a released structure would leave most points.

    Parameters
    ----------
    points
        Values (n, d) of the variable, or one (d,).

    Raises
    ------
    SettingsError
        The points are not finite numbers (n, d); and as in `generate_starts`, like the other errors.

    Examples
    --------
    >>> starts = structures_at(cv, archive, system, pdb.topology, 300.0, [[0.3, -1.2]])  # doctest: +SKIP
    >>> umbrella.move_to(context, starts.targets[0])  # doctest: +SKIP
    """
    options = StartOptions.from_quantities(
        temperature=temperature,
        seed=seed,
        timestep=timestep,
        friction=friction,
        thermalise=thermalise,
        release=release,
        tolerance=tolerance,
        attempts=attempts,
        allow_cis=allow_cis,
        allow_inversion=allow_inversion,
        platform=platform,
        processes=processes,
        directory=directory,
        structures=structures,
        progress=progress,
        executor=executor,
        devices=devices,
    )
    pipeline = StartPipeline.from_options(cv, archive, temperatures, system, topology, options)
    requirement = f"points must be finite numbers (n, {cv.dim})"
    array = numbers("starts", requirement, points)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != cv.dim or not len(array) or not np.isfinite(array).all():
        raise SettingsError(f"starts: {requirement}; got {arguments.describe(points)}.")
    starts = pipeline.run(array, len(array), lambda starts: starts)
    if len(starts) < len(array):
        warnings.warn(starts.summary(), stacklevel=2)
    return starts


def structures_between(
    model: LaTF,
    cv: LatentCV,
    archive: Trajectories,
    system: openmm.System,
    topology: app.Topology,
    temperature: TemperatureLike,
    ends: Sequence[int | ArrayLike],
    n: int,
    *,
    temperatures: QuantityArrayLike | None = None,
    seed: int = 0,
    timestep: TimeLike = 0.002,
    friction: FrictionLike = 1.0,
    thermalise: TimeLike = 4.0,
    release: TimeLike = 0.0,
    tolerance: float = 4.0,
    attempts: int = 4,
    allow_cis: bool = False,
    allow_inversion: bool = False,
    platform: str | None = None,
    processes: int | None = 1,
    directory: str | Path | None = None,
    structures: str | None = None,
    progress: Progress = no_progress,
    executor: Executor | None = None,
    devices: Devices = "auto",
) -> Starts:
    """A path of n structures between two points or states, where the flow's free energy is lowest.

    The path is that of `free_energy_path` at the temperature. The structures are made as in `structures_at`;
    `generate_starts` describes the other parameters.

    Parameters
    ----------
    ends
        Two of: a point (d,), or the index of a metastable state, which means the state's most probable point.
    n
        Number of structures, both ends included.

    Raises
    ------
    SettingsError
        An end or the number cannot work; and as in `generate_starts`, like the other errors.

    Examples
    --------
    >>> path = structures_between(model, cv, archive, system, pdb.topology, 300.0, (0, 1), 12)  # doctest: +SKIP
    >>> path.save("path")  # doctest: +SKIP
    """
    check_parts("starts", system, cv)
    check_model("starts", model, cv)
    temperature = to_kelvin(temperature, "starts: temperature")
    try:
        first, last = ends
    except (TypeError, ValueError) as error:
        raise SettingsError(
            "starts: ends must be two, each a point or the index of a state, such as (0, 1); got "
            f"{arguments.describe(ends)}."
        ) from error
    first, last = (_end_point(model, end, temperature) for end in (first, last))
    return structures_at(
        cv,
        archive,
        system,
        topology,
        temperature,
        free_energy_path(model, cv, first, last, n, temperature),
        temperatures=temperatures,
        seed=seed,
        timestep=timestep,
        friction=friction,
        thermalise=thermalise,
        release=release,
        tolerance=tolerance,
        attempts=attempts,
        allow_cis=allow_cis,
        allow_inversion=allow_inversion,
        platform=platform,
        processes=processes,
        directory=directory,
        structures=structures,
        progress=progress,
        executor=executor,
        devices=devices,
    )


def state_point(model: LaTF, state: int, temperature: TemperatureLike) -> np.ndarray:
    """The most probable latent point (d,) of a metastable state at a temperature, among samples of the flow.

    Raises
    ------
    SettingsError
        The model has no such state, or the flow gives it no sample at this temperature.
    """
    check_model("starts", model)
    kelvin = to_kelvin(temperature, "starts: temperature")
    state = arguments.whole("starts", "state", state)
    if not 0 <= state < model.n_states:
        raise SettingsError(f"starts: the model has states 0 to {model.n_states - 1}; got {state}.")
    samples = model.sample(STATE_SAMPLES, kelvin, seed=0)
    inside = samples[model.state_probabilities(samples).argmax(1) == state]
    if not len(inside):
        raise SettingsError(f"starts: state {state} has next to no weight at {kelvin:g} K; give a point instead.")
    return inside[np.argmax(model.log_prob(inside, kelvin))].astype(np.float64)


def _end_point(model: LaTF, end: int | ArrayLike, temperature: float) -> ArrayLike:
    """The latent point (d,) of an end of a path."""
    return state_point(model, int(end), temperature) if isinstance(end, (int, np.integer)) else end


def _warn_of_unseen_crossings(model: LaTF) -> None:
    """Warn where the populations of the states are those that the simulations happened to begin with."""
    if getattr(model, "provenance", {}).get("state_changes") == 0:
        warnings.warn(
            "starts: no simulation that the model was trained on crossed between states, so that the share of "
            "structures in each state is that of the frames, and not an equilibrium.",
            ExtrapolationWarning,
            stacklevel=3,
        )


def _with_weights(starts: Starts, model: LaTF, cv: LatentCV, seed: int) -> Starts:
    """Add weights, and the comparison with the flow."""
    if not len(starts):
        return starts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of extrapolation, issued when the targets were drawn
        drawn = model.sample(SAMPLES, starts.temperature, seed=streams.stream_seed(seed, "weights"))
    samples = drawn.astype(np.float64)
    weight = weights(starts.reached, samples, cv.noise)
    failed = np.array([entry["target"] for entry in starts.rejected]).reshape(-1, cv.dim)
    targets = np.concatenate([starts.targets, failed])
    coverage = cover(targets, starts.reached, weight, samples, cv.sigma, streams.stream(seed, "coverage"))
    return replace(starts, weights=weight, coverage=coverage)
