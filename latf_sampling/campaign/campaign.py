"""The loop: simulate, learn, export, bias, start anew. Orchestration only; every step can be taken up again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import mdtraj
import numpy as np

from latf_sampling.core import installation, platforms, storage, streams
from latf_sampling.cv.latent_cv import LatentCV
from latf_sampling.data import layout
from latf_sampling.data.dataset import Dataset, Series
from latf_sampling.data.external import ExternalTrajectory, examine, stride_of
from latf_sampling.data.external_frames import ExternalFrames
from latf_sampling.data.selection import select_columns
from latf_sampling.data.trajectories import Frames, read_walker
from latf_sampling.errors import SettingsError, SimulationError, StoreError
from latf_sampling.features import Features, as_mdtraj
from latf_sampling.learning.evaluation import Evaluation, evaluate
from latf_sampling.learning.model import LaTF
from latf_sampling.learning.training import TrainingResult, train
from latf_sampling.report import Observed, write_evaluation, write_report
from latf_sampling.settings import Protocol, TrainingSettings, steps
from latf_sampling.simulation.runner import run_walkers
from latf_sampling.simulation.walker import Molecule, WalkerJob, build
from latf_sampling.starts import Starts, generate_starts, structures_at, structures_between

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
        installation.check_installation()
        self.protocol = protocol if isinstance(protocol, Protocol) else Protocol.read(protocol)
        self.store = layout.Store(directory)
        self.molecule: Molecule = self._molecule()
        self.topology: mdtraj.Topology = as_mdtraj(self.molecule.topology)
        self.periodic: bool = self.molecule.system.usesPeriodicBoundaryConditions()
        self.features = Features(self.molecule.topology, list(self.protocol.features), periodic=self.periodic)
        self._subsets = {tuple(self.features.names): self.features}
        platforms.pick_platform(self.protocol.system.platform, self.molecule.system.getNumParticles())
        observe = self.protocol.observe
        self.observed = None if observe is None else Observed.of(observe, self.topology, self.periodic)

    def run(self, progress: Progress = lambda stage, fraction, words: None) -> None:
        """Run what is missing, to the end.

        Raises
        ------
        LatfError
            Something cannot go on; what is finished stays, and `run` goes on from there.
        """
        self._look_at_given()
        with self.store.acquire(self.protocol.canonical(), self.protocol.inputs()):
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
        files = layout.Store(directory)
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

    def given_frames(self) -> list[ExternalFrames]:
        """The trajectories that the campaign started from, as far as they were read."""
        return [
            ExternalFrames.read(self.store.given(number), self.topology, self.periodic, number)
            for number in range(len(ExternalTrajectory.of(self.protocol.from_trajectories)))
        ]

    def _walkers(self, index: int) -> list[Frames]:
        if index == 0 and self.protocol.from_trajectories:
            return self.given_frames()
        return [
            read_walker(self.store.walker(index, walker), self.topology, index, walker)
            for walker in range(len(self.protocol.runs[index].walkers))
            # a walker that was stopped before its first frame has none
            if not layout.stopped(self.store.walker(index, walker))
            or layout.finished_segments(self.store.walker(index, walker))
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
        model, things, options = self._given_to_starts(learned, {"seed": seed, "progress": progress, **options})
        if self.protocol.starts is not None:
            options = {"release": self.protocol.starts.release, **options}
        return generate_starts(model, *things, temperature, count, **options)

    def structures_at(self, temperature, points, seed: int = 0, *, learned: int | None = None, **options) -> Starts:
        """Structures at values (n, d) of a model's variable, as `latf_sampling.structures_at` makes them."""
        _, things, options = self._given_to_starts(learned, {"seed": seed, **options})
        return structures_at(*things, temperature, points, **options)

    def structures_between(
        self, temperature, ends, count: int, seed: int = 0, *, learned: int | None = None, **options
    ) -> Starts:
        """A path of structures between two states or points, as `latf_sampling.structures_between` makes it."""
        model, things, options = self._given_to_starts(learned, {"seed": seed, **options})
        return structures_between(model, *things, temperature, ends, count, **options)

    def _given_to_starts(self, learned: int | None, options: dict) -> tuple[LaTF, tuple, dict]:
        """A model, what structures are made from, and options, of which those given go before the protocol's."""
        learned = self.last_learned() if learned is None else learned
        model, cv = self.model(learned)
        usual = {
            "timestep": self.protocol.integrator.timestep,
            "friction": self.protocol.integrator.friction,
            "platform": self.protocol.system.platform,
            "processes": None,
        }
        if self.protocol.starts is not None:
            usual |= self.protocol.starts.model_dump(exclude={"temperature", "count", "release"})
        things = (cv, self.frames(learned), self.molecule.system, self.molecule.topology)
        return model, things, {**usual, **options}

    def _molecule(self) -> Molecule:
        """The molecule that the directory keeps, or a new one, which is not kept before the protocol is known to be
        right."""
        kept = Molecule.load(self.store.system, self.protocol.made_from())
        return build(self.protocol.system, self.protocol.seed) if kept is None else kept

    # Steps of the loop

    def _keep_molecule(self) -> None:
        """What was placed at random is placed once: all walkers, now and later, take the molecule from here."""
        made_from = self.protocol.made_from()
        if not Molecule.is_kept(self.store.system, made_from):
            self.molecule.save(self.store.system, made_from)

    def _look_at_given(self) -> None:
        """Refuse trajectories that cannot be used before the campaign's directory is made, as far as a look tells."""
        for number, given in enumerate(ExternalTrajectory.of(self.protocol.from_trajectories)):
            if not self.store.given(number).with_suffix(".json").exists():
                stride_of(given, self.topology, self.periodic, self.protocol.frame_interval)

    def _read_given(self, progress: Progress) -> None:
        """Read the given trajectories from end to end, each once in a campaign's life."""
        stage, trajectories = "round 0: read", ExternalTrajectory.of(self.protocol.from_trajectories)
        system, earlier = self.molecule.system, 0
        platform = platforms.pick_platform(self.protocol.system.platform, system.getNumParticles())
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
            there = storage.read_json(mark)["frames"]
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
        if all((folder / f"segment-{segments - 1:03d}.json").exists() or layout.stopped(folder) for folder in folders):
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
        seed = streams.stream_seed(self.protocol.seed, stage)
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
        table = storage.read_json(folder / "starts.json")
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
        seed = streams.stream_seed(self.protocol.seed, "learning", index)
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
        storage.write_json(folder / "history.json", summary)
        storage.remove(checkpoint)
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
        seed = streams.stream_seed(self.protocol.seed, "starts")
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
