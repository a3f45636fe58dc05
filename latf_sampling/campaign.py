"""The loop: simulate, learn, export, bias, start anew. Orchestration only; every step can be taken up again."""

from __future__ import annotations

import multiprocessing.connection
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import mdtraj
import numpy as np

from latf_sampling import processes as pool
from latf_sampling import runtime, store
from latf_sampling.analysis import torsion_values
from latf_sampling.cv import LatentCV
from latf_sampling.dataset import Dataset, Series
from latf_sampling.errors import LatfError, SettingsError, SimulationError, StoreError
from latf_sampling.evaluation import Evaluation, evaluate
from latf_sampling.features import Features, as_mdtraj
from latf_sampling.given import Given, GivenFrames, examine, stride_of
from latf_sampling.model import LaTF
from latf_sampling.report import write_evaluation, write_report
from latf_sampling.selection import select_columns
from latf_sampling.settings import Protocol, TrainingSettings, steps
from latf_sampling.simulate import Molecule, WalkerJob, build, run_walker
from latf_sampling.starts import Starts, generate_starts, structures_at, structures_between
from latf_sampling.trainer import TrainingResult, train
from latf_sampling.trajectories import Frames, read_walker

EXPORT_FRAMES = 500
"""Frames of each walker that a variable's forces are looked at on when it is exported."""

Progress = Callable[[str, float, str], None]
"""Called with the name of the stage, the fraction of it that is done, and a few words."""
StageProgress = Callable[[float, str], None]
"""The same within one stage."""


class Campaign:
    """A campaign in a directory.

    Parameters
    ----------
    protocol
        A `Protocol`, or the path of its YAML file.
    directory
        Where everything is kept. Running a campaign again in its directory goes on where it was.

    Raises
    ------
    SettingsError
        The protocol cannot work; names each key. Nothing has been written then.

    Examples
    --------
    >>> campaign = Campaign("protocols/alanine-dipeptide.yaml", "runs/demo")  # doctest: +SKIP
    >>> campaign.run()  # doctest: +SKIP
    """

    def __init__(self, protocol: Protocol | str | Path, directory: str | Path) -> None:
        runtime.check_installation()
        self.protocol = protocol if isinstance(protocol, Protocol) else Protocol.read(protocol)
        self.store = store.Store(directory)
        self.molecule: Molecule = self._molecule()
        self.topology: mdtraj.Topology = as_mdtraj(self.molecule.topology)
        self.periodic: bool = self.molecule.system.usesPeriodicBoundaryConditions()
        self.features = Features(self.molecule.topology, list(self.protocol.features), periodic=self.periodic)
        self._subsets = {tuple(self.features.names): self.features}
        runtime.pick_platform(self.protocol.system.platform, self.molecule.system.getNumParticles())
        if self.protocol.observe is not None:
            structure = mdtraj.Trajectory(self.molecule.positions, self.topology)
            try:
                torsion_values(structure, self.protocol.observe.torsion)
            except LatfError as error:
                raise SettingsError(f"observe.torsion: {error}") from error

    def run(self, progress: Progress = lambda stage, fraction, words: None) -> None:
        """Run what is missing, to the end.

        Raises
        ------
        LatfError
            Something cannot go on; what is finished stays, and `run` goes on from there.
        """
        self._look_at_given()
        with self.store.claim(self.protocol.canonical(), self.protocol.inputs()):
            self._keep_molecule()
            for index in range(self.n_rounds):
                self._simulate(index, progress)
                self._learn(index, progress)
            self._evaluate(progress)
            self._final_starts(progress)
            progress("report", 0.0, "")
            write_report(self)
            progress("report", 1.0, str(self.store.report))

    @classmethod
    def of(cls, directory: str | Path) -> Campaign:
        """The campaign that a directory holds, by the settings that are kept in it.

        Raises
        ------
        StoreError
            There is no campaign in the directory.
        """
        files = store.Store(directory)
        return cls(Protocol.restore(files.protocol(), files.inputs), directory)

    @property
    def n_rounds(self) -> int:
        """Number of rounds; given trajectories are round 0, if there are any."""
        return len(self.protocol.all_rounds)

    def frames(self, last_round: int | None = None) -> list[Frames]:
        """All walkers of the rounds up to one (default: all rounds), given trajectories first.

        Raises
        ------
        SettingsError
            The protocol has no such round.
        """
        last = self.n_rounds - 1 if last_round is None else last_round
        if not 0 <= last < self.n_rounds:
            raise SettingsError(f"round: the campaign has rounds 0 to {self.n_rounds - 1}; got {last}.")
        return [walker for index in range(last + 1) for walker in self._walkers(index)]

    def references(self) -> list[Frames]:
        """The plain simulations that models are judged by; empty where the protocol asks for none."""
        return [] if self.protocol.evaluate is None else self._walkers(self.n_rounds)

    def given_frames(self) -> list[GivenFrames]:
        """The trajectories that the campaign started from, as far as they were read."""
        return [
            GivenFrames.read(self.store.given(number), self.topology, self.periodic, number)
            for number in range(len(Given.of(self.protocol.from_trajectories)))
        ]

    def _walkers(self, index: int) -> list[Frames]:
        if index == 0 and self.protocol.from_trajectories:
            return self.given_frames()
        return [
            read_walker(self.store.walker(index, walker), self.topology, index, walker)
            for walker in range(len(self.protocol.runs[index].walkers))
            # a walker that was stopped before its first frame has none
            if not store.stopped(self.store.walker(index, walker))
            or store.finished_segments(self.store.walker(index, walker))
        ]

    def features_of(self, cv: LatentCV) -> Features:
        """The descriptors that a variable of this campaign is made of: all of the protocol's, or those selected."""
        names = tuple(cv.metadata["names"])
        if names not in self._subsets:
            self._subsets[names] = self.features.subset(names)
        return self._subsets[names]

    def series(self, walkers: list[Frames], features: Features | None = None) -> list[Series]:
        """Descriptors of walkers' frames (default: all of the protocol's), with what is needed to reweight them."""
        features = self.features if features is None else features
        return [
            Series(
                np.concatenate([features.transform(piece) for piece in walker.pieces()]),
                temperature=walker.temperature,
                weights=walker.weights,
                energies=walker.energies,
                interval=self.protocol.frame_interval,
            )
            for walker in walkers
        ]

    def dataset(self, last_round: int | None = None, features: Features | None = None) -> Dataset:
        """The frames of the rounds up to one (default: all), as training takes them before it selects columns."""
        features = self.features if features is None else features
        return Dataset(self.series(self.frames(last_round), features), lag=self.lag, names=features.names)

    @property
    def lag(self) -> int:
        """Frames."""
        return steps(self.protocol.learning.lag, self.protocol.frame_interval)

    def last_learned(self) -> int:
        """Index of the last round that a model was learned after.

        Raises
        ------
        StoreError
            There is none yet.
        """
        for index in reversed(range(self.n_rounds)):
            if (self.store.learning(index) / "history.json").exists():
                return index
        raise StoreError(f"{self.store.directory}: no model is learned yet; run the campaign first.")

    def model(self, index: int) -> tuple[LaTF, LatentCV]:
        """The model that was learned after a round, and its exported variable.

        Raises
        ------
        StoreError
            No model was learned after this round.
        """
        folder = self.store.learning(index)
        if not (folder / "history.json").exists():
            raise StoreError(f"{self.store.directory}: no model was learned after round {index}.")
        return LaTF.load(folder / "model.pt"), LatentCV.load(folder / "cv.pt", self.molecule.topology)

    def train(
        self,
        last_round: int | None = None,
        seed: int = 0,
        checkpoint: Path | None = None,
        progress: StageProgress = lambda fraction, words: None,
    ) -> tuple[LaTF, LatentCV, TrainingResult]:
        """Train a new model on the frames of the rounds up to one (default: all), and export its variable.

        Where the protocol selects columns, the variable's metadata say under "selection" which, and why not others.
        """
        learning = self.protocol.learning
        settings = TrainingSettings(**{name: getattr(learning, name) for name in TrainingSettings.model_fields})
        model = LaTF(self.protocol.model)
        walkers = self.frames(last_round)
        features, series, selection = self.features, self.series(walkers), None
        if learning.select is not None:
            selection = select_columns(series, self.lag, **learning.select.model_dump(), names=features.names)
            features = features.subset(selection.kept.tolist())
            series = [entry.subset(selection.kept) for entry in series]
        dataset = Dataset(series, lag=self.lag, names=features.names)
        result = train(model, dataset, seed, settings=settings, checkpoint=checkpoint, progress=progress)
        positions, boxes = _some_frames(walkers)
        cv = LatentCV.from_model(model, features, positions, boxes)
        if selection is not None:
            cv.metadata["selection"] = selection.as_dict()
        return model, cv, result

    def evaluate(self, progress: StageProgress = lambda fraction, words: None) -> Evaluation:
        """Judge the last model by held-out frames and, where the protocol asks for them, independent references.

        Raises
        ------
        StoreError
            No model is learned yet.
        """
        learned = self.last_learned()
        model, cv = self.model(learned)
        features = self.features_of(cv)
        references = self.series(self.references(), features)
        return evaluate(model, self.dataset(learned, features), references, seed=self.protocol.seed, progress=progress)

    def generate_starts(
        self,
        temperature,
        count: int,
        seed: int = 0,
        progress: StageProgress = lambda fraction, words: None,
        *,
        learned: int | None = None,
        **options,
    ) -> Starts:
        """Structures at a temperature, from a model and the frames that it was trained on.

        As `latf_sampling.generate_starts`, whose further options it takes, in parallel processes where there are
        enough structures to make; `learned` is the round that the model was learned after, by default the last.
        """
        model, given = self._given_to_starts(learned, seed, progress, options)
        if self.protocol.starts is not None:
            given = {"release": self.protocol.starts.release, **given}
        return generate_starts(model, *given.pop("first"), temperature, count, **given)

    def structures_at(self, temperature, points, seed: int = 0, *, learned: int | None = None, **options) -> Starts:
        """Structures at values (n, d) of a model's variable, as `latf_sampling.structures_at` makes them."""
        _, given = self._given_to_starts(learned, seed, options.pop("progress", None), options)
        return structures_at(*given.pop("first"), temperature, points, **given)

    def structures_between(
        self, temperature, ends, count: int, seed: int = 0, *, learned: int | None = None, **options
    ) -> Starts:
        """A path of structures between two states or points, as `latf_sampling.structures_between` makes it."""
        model, given = self._given_to_starts(learned, seed, options.pop("progress", None), options)
        return structures_between(model, *given.pop("first"), temperature, ends, count, **given)

    def _given_to_starts(
        self, learned: int | None, seed: int, progress: StageProgress | None, options: dict
    ) -> tuple[LaTF, dict]:
        """A model, and what making structures needs besides, from its variable on."""
        learned = self.last_learned() if learned is None else learned
        model, cv = self.model(learned)
        given = {
            "first": (cv, self.frames(learned), self.molecule.system, self.molecule.topology),
            "seed": seed,
            "timestep": self.protocol.integrator.timestep,
            "friction": self.protocol.integrator.friction,
            "platform": self.protocol.system.platform,
            "processes": None,
        }
        if self.protocol.starts is not None:
            given |= self.protocol.starts.model_dump(exclude={"temperature", "count", "release"})
        return model, {**given, **({} if progress is None else {"progress": progress}), **options}

    def _molecule(self) -> Molecule:
        """The molecule that the directory keeps, or a new one, which is not kept before the protocol is known to be
        right."""
        kept = Molecule.load(self.store.system, self.protocol.made_from())
        return build(self.protocol.system, self.protocol.seed) if kept is None else kept

    # Steps of the loop

    def _keep_molecule(self) -> None:
        """What was placed at random is placed once: all walkers, now and later, take the molecule from here."""
        made_from = self.protocol.made_from()
        if Molecule.load(self.store.system, made_from) is None:
            self.molecule.save(self.store.system, made_from)

    def _look_at_given(self) -> None:
        """Refuse trajectories that cannot be used before the campaign's directory is made, as far as a look tells."""
        for number, given in enumerate(Given.of(self.protocol.from_trajectories)):
            if not self.store.given(number).with_suffix(".json").exists():
                stride_of(given, self.topology, self.periodic, self.protocol.frame_interval)

    def _read_given(self, progress: Progress) -> None:
        """Read the given trajectories from end to end, each once in a campaign's life."""
        stage, trajectories = "round 0: read", Given.of(self.protocol.from_trajectories)
        system, earlier = self.molecule.system, 0
        platform = runtime.pick_platform(self.protocol.system.platform, system.getNumParticles())
        for number, given in enumerate(trajectories):
            target, name = self.store.given(number), Path(given.path).name
            mark = target.with_suffix(".json")
            if not mark.exists():
                examine(
                    given,
                    earlier if given.place else 0,
                    self.topology,
                    system,
                    platform,
                    self.protocol.frame_interval,
                    None if self.protocol.system.barostat is None else self.protocol.system.barostat.pressure,
                    target,
                    lambda frames, number=number, name=name: progress(
                        stage, number / len(trajectories), f"{name}: {frames:,} frames"
                    ),
                )
            there = store.read_json(mark)["frames"]
            earlier = there + (earlier if given.place else 0)
        frames = sum(len(walker) for walker in self.given_frames())
        progress(stage, 1.0, f"{frames:,} frames of {len(trajectories)} trajectories")

    def _simulate(self, index: int, progress: Progress) -> None:
        settings, last = self.protocol.runs[index], self.n_rounds
        if index == 0 and self.protocol.from_trajectories:
            self._read_given(progress)
            return
        folders = [self.store.walker(index, walker) for walker in range(len(settings.walkers))]
        stage = f"round {index}: simulate" if index < last else "references: simulate"
        segments = steps(settings.length, self.protocol.segment)
        if all((folder / f"segment-{segments - 1:03d}.json").exists() or store.stopped(folder) for folder in folders):
            progress(stage, 1.0, "finished before")
            return
        from_model = 0 < index < last
        if from_model:
            self._round_starts(index, progress)
        jobs = []
        for walker, folder in enumerate(folders):
            start = self.store.round_starts(index) / f"start-{walker:03d}.npz" if from_model else None
            biased = settings.bias is not None
            learned = self.store.learning(index - 1) if biased else None
            hills = folder.parent / "hills" if biased else None
            jobs.append(WalkerJob(self.protocol, index, walker, folder, start, learned, hills, self.store.system))
        run_walkers(jobs, lambda fraction, words: progress(stage, fraction, words))

    def _round_starts(self, index: int, progress: Progress) -> None:
        """Structures from the flow for the walkers of a round."""
        temperatures, stage = self.protocol.runs[index].walkers, f"round {index}: starts"
        seed = runtime.stream_seed(self.protocol.seed, stage)
        folder, wanted = self.store.round_starts(index), len(temperatures)
        if not (folder / "starts.json").exists():
            # A walker has to start somewhere: further samples take the places of targets that give no structure.
            self.generate_starts(
                temperatures[0],
                wanted,
                seed,
                lambda f, words: progress(stage, f, words),
                learned=index - 1,
                spare=2 * wanted,
                directory=folder,
            )
        table = store.read_json(folder / "starts.json")
        if table["valid"] < wanted:
            reasons = "; ".join(sorted({reason for entry in table["rejected"] for reason in entry["reasons"]})[:3])
            raise SimulationError(
                f"round {index}: only {table['valid']} of {wanted} walkers have a structure to start from ({reasons}; "
                f"all of it is in {folder / 'starts.csv'})."
            )

    def _learn(self, index: int, progress: Progress) -> None:
        folder, stage = self.store.learning(index), f"round {index}: learn"
        if (folder / "history.json").exists():
            progress(stage, 1.0, "finished before")
            return
        seed = runtime.stream_seed(self.protocol.seed, "learning", index)
        checkpoint = folder / "training.pt"
        model, cv, result = self.train(index, seed, checkpoint, lambda f, words: progress(stage, 0.99 * f, words))
        model.save(folder / "model.pt")
        cv.save(folder / "cv.pt")
        summary = {
            "history": result.history,
            "states": result.states,
            "seconds": result.seconds,
            "converged": result.converged,
        }
        store.write_json(folder / "history.json", summary)
        store.remove(checkpoint)
        progress(stage, 1.0, f"{model.n_states} states")

    def _evaluate(self, progress: Progress) -> None:
        if self.protocol.evaluate is None or self.store.evaluation.exists():
            return
        self._simulate(self.n_rounds, progress)
        found = self.evaluate(lambda f, words: progress("evaluate", 0.99 * f, words))
        write_evaluation(found, self.store.evaluation)
        progress("evaluate", 1.0, str(self.store.evaluation))

    def _final_starts(self, progress: Progress) -> None:
        settings = self.protocol.starts
        if settings is None or (self.store.starts / "starts.json").exists():
            return
        began = time.perf_counter()
        seed = runtime.stream_seed(self.protocol.seed, "starts")
        made = self.generate_starts(
            settings.temperature,
            settings.count,
            seed,
            lambda f, words: progress("starts", f, words),
            directory=self.store.starts,
        )
        progress("starts", 1.0, f"{len(made)} of {settings.count} valid in {time.perf_counter() - began:.0f} s")


def _some_frames(walkers: list[Frames]) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and boxes of frames of all walkers, evenly spread in time, for the export of a variable."""
    kept = [walker.take(slice(None, None, max(1, len(walker) // EXPORT_FRAMES))) for walker in walkers]
    boxes = [part.unitcell_vectors for part in kept]
    return np.concatenate([part.xyz for part in kept]), None if boxes[0] is None else np.concatenate(boxes)


def status(directory: str | Path) -> list[dict]:
    """Where a campaign stands: one entry per step, with "step", "done" (0 to 1) and "words".

    Raises
    ------
    StoreError
        There is no campaign in the directory.
    """
    files = store.Store(directory)
    content = files.protocol()
    entries = []
    runs = list(content["rounds"])
    given = [entry["temperature"] for entry in content["from_trajectories"] for _ in entry["files"]]
    if given:
        runs.insert(0, {"walkers": given})
    learned_rounds = len(runs)
    if content["evaluate"] is not None:
        runs.append({**content["evaluate"], "walkers": content["evaluate"]["temperatures"], "bias": None})
    for index, entry in enumerate(runs):
        name = f"round {index}" if index < learned_rounds else "references"
        if index == 0 and given:
            entries += [_given_status(files, given), _learned_status(files, 0)]
            continue
        segments = steps(entry["length"], content["segment"])
        folders = [files.walker(index, walker) for walker in range(len(entry["walkers"]))]
        stopped = [store.stopped(folder) is not None for folder in folders]
        finished = [
            segments if halted else len(list(folder.glob("segment-*.json"))) for folder, halted in zip(folders, stopped)
        ]
        temperatures = ", ".join(f"{temperature:g} K" for temperature in entry["walkers"])
        kind = "plain" if entry["bias"] is None else entry["bias"]["kind"]
        words = f"{sum(finished)} of {segments * len(finished)} segments, {kind}, {temperatures}"
        if any(stopped):
            words += f"; {sum(stopped)} walkers left what the model knows and were stopped"
        share = sum(finished) / (segments * len(finished))
        entries.append({"step": f"{name}: simulate", "done": share, "words": words})
        if index == learned_rounds:
            done = files.evaluation.exists()
            entries.append({"step": "evaluate", "done": float(done), "words": str(files.evaluation) if done else ""})
            continue
        entries.append(_learned_status(files, index))
    if content["starts"] is not None:
        table = files.starts / "starts.json"
        words = ""
        if table.exists():
            made = store.read_json(table)
            words = f"{made['valid']} of {made['requested']} valid at {made['temperature']:g} K"
        entries.append({"step": "starts", "done": float(table.exists()), "words": words})
    done = files.report.exists()
    entries.append({"step": "report", "done": float(done), "words": str(files.report) if done else ""})
    return entries


def _given_status(files: store.Store, temperatures: list[float]) -> dict:
    marks = [files.given(number).with_suffix(".json") for number in range(len(temperatures))]
    done = [store.read_json(mark) for mark in marks if mark.exists()]
    frames = sum(len(range(0, mark["frames"], mark["stride"])) for mark in done)
    kelvin = ", ".join(f"{temperature:g} K" for temperature in temperatures)
    words = f"{len(done)} of {len(marks)} trajectories, {frames:,} frames, {kelvin}"
    return {"step": "round 0: read", "done": len(done) / len(marks), "words": words}


def _learned_status(files: store.Store, index: int) -> dict:
    learned, words = files.learning(index) / "history.json", ""
    if learned.exists():
        history = store.read_json(learned)
        words = f"{len(history['states'])} states, {history['seconds']:.0f} s"
    return {"step": f"round {index}: learn", "done": float(learned.exists()), "words": words}


def run_walkers(jobs: list[WalkerJob], progress: Callable[[float, str], None], processes: int | None = None) -> None:
    """Run walkers in parallel, each in a process of its own, at most so many at once (default: one per core).

    Raises
    ------
    SimulationError
        A walker failed or its process was killed; the others are stopped, finished segments stay.
    """
    context = multiprocessing.get_context("spawn")
    limit = processes or pool.cores()
    fractions = [context.Value("d", 0.0) for _ in jobs]
    waiting, running = list(range(len(jobs))), {}
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                number = waiting.pop(0)
                running[number] = pool.Child(_walker_process, jobs[number], fractions[number])
            multiprocessing.connection.wait([child.process.sentinel for child in running.values()], timeout=0.5)
            progress(sum(fraction.value for fraction in fractions) / len(jobs), f"{len(running)} walkers")
            for number, child in list(running.items()):
                if not child.process.is_alive():
                    del running[number]
                    _raise_failure(jobs[number], child)
    finally:
        pool.stop(running.values())


def _raise_failure(job: WalkerJob, child: pool.Child) -> None:
    words, how = child.last_words(), child.ended
    if words is not None:
        raise SimulationError(words)
    if how != "exit code 0":
        raise SimulationError(
            f"round {job.round_index}, walker {job.walker}: its process ended by {how}; "
            "finished segments are kept, run the campaign again to go on."
        )


def _walker_process(job: WalkerJob, fraction, connection) -> None:
    """What a child process runs."""

    def report(value: float) -> None:
        fraction.value = value

    try:
        run_walker(job, report)
    except LatfError as error:
        connection.send(str(error))
    except Exception:
        connection.send(f"round {job.round_index}, walker {job.walker}: unexpected failure.\n{traceback.format_exc()}")
