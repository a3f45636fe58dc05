"""The loop of a campaign: simulate, learn, export, bias, restart. Each step continues where it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mdtraj
from numpy.typing import ArrayLike

from latf_sampling.campaign import repair, structures
from latf_sampling.campaign.check import check, warn_of_space
from latf_sampling.campaign.equilibration import equilibrated
from latf_sampling.campaign.executors import open_executor
from latf_sampling.campaign.extend import extend
from latf_sampling.campaign.external_trajectories import read_trajectories
from latf_sampling.campaign.external_variable import export_variable
from latf_sampling.campaign.findings import Finding, free_energy
from latf_sampling.campaign.learning import learn_round, train_model
from latf_sampling.campaign.ledger import ledger
from latf_sampling.campaign.log import Log, logged
from latf_sampling.campaign.pages import SAMPLES, evaluate_model, write_evaluation, write_report
from latf_sampling.campaign.policies import next_walkers, restart
from latf_sampling.campaign.progress import Progress, StepProgress, part_of, silent
from latf_sampling.campaign.steps import Step, run_step
from latf_sampling.campaign.until import Until
from latf_sampling.core import installation, streams
from latf_sampling.core.lease import LEASES, remove_leases
from latf_sampling.core.notebook import ShownInNotebooks, shown_progress
from latf_sampling.core.space import require_space
from latf_sampling.core.words import plural
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.data.round_files import VariableDirectory
from latf_sampling.data.sizes import segment_size, starts_size
from latf_sampling.data.trajectories import Frames
from latf_sampling.errors import SimulationError
from latf_sampling.records.integrity import verify_round
from latf_sampling.records.programs import trust_programs
from latf_sampling.records.records import Records
from latf_sampling.records.status import learned_words
from latf_sampling.settings import ExternalRound, Protocol, RoundSettings, n_steps
from latf_sampling.simulation.retirement import refuse_too_many, too_many_retired
from latf_sampling.simulation.runner import run_walkers
from latf_sampling.simulation.walker import WalkerJob
from latf_sampling.starts.files import StartFiles, start_of
from latf_sampling.systems import Molecule
from latf_sampling.units import TemperatureLike

if TYPE_CHECKING:
    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.data.dataset import Dataset, Series
    from latf_sampling.features import Features
    from latf_sampling.learning.evaluation import Evaluation
    from latf_sampling.learning.model import LaTF
    from latf_sampling.learning.training import TrainingResult
    from latf_sampling.starts import Starts


class Campaign(ShownInNotebooks):
    """A campaign in a directory.

    Parameters
    ----------
    protocol
        A `Protocol`, or the path of its YAML file.
    directory
        The directory of all files. A campaign that is run again in its directory continues where it was, also with a
        protocol that makes it longer or that is learned from in another way, see `latf_sampling.settings.changes`.
    trust
        Whether programs that the protocol names may run, like descriptors of one's own; otherwise only those that this
        user has run before do.

    Attributes
    ----------
    records : Records
        Everything that the directory holds.
    log : Log or None
        Of the present run, or the last one.
    added : int
        Number of the last rounds that the protocol's file does not have, see `Until`.

    Raises
    ------
    SettingsError
        The protocol cannot work; names each key. Nothing has been written then.

    Examples
    --------
    >>> campaign = Campaign("protocols/alanine-dipeptide.yaml", "runs/demo")  # doctest: +SKIP
    >>> campaign.run()  # doctest: +SKIP
    """

    force_limit: float | None = None
    """kJ/mol/nm, of a variable that was trained elsewhere; `None` takes that of `LatentCV.from_torchscript`."""
    samples = SAMPLES
    """Generated samples that an evaluation compares at each temperature."""

    def __init__(self, protocol: Protocol | str | Path, directory: str | Path, trust: bool = True) -> None:
        installation.check_installation()
        files = CampaignDirectory(directory)
        settings = protocol if isinstance(protocol, Protocol) else files.load_protocol(protocol)
        settings, self.added = files.with_added_rounds(settings)
        self.records = Records(settings, files, trust)
        self.log: Log | None = None
        self._check()

    def __repr__(self) -> str:
        return f"<Campaign '{self.protocol.name}' in {self.directory.path}: {plural(self.n_rounds, 'round')}>"

    def _overview(self) -> list[tuple[str, Any]]:
        return [(step["step"], f"{100 * step['done']:.0f} %, {step['words']}") for step in self.records.status()]

    @classmethod
    def load(cls, directory: str | Path, trust: bool = False) -> Campaign:
        """The campaign in a directory, by the settings that are stored in it.

        Parameters
        ----------
        directory
            The directory of the campaign.
        trust
            Whether programs in it may run that this user has never run, like descriptors that somebody else wrote.

        Raises
        ------
        StoreError
            There is no campaign in the directory.
        """
        files = CampaignDirectory(directory)
        return cls(files.protocol(), directory, trust)

    def run(
        self,
        progress: Progress | None = None,
        executor: Executor | None = None,
        until: Until | None = None,
    ) -> None:
        """Run the missing steps to the end.

        Parameters
        ----------
        progress
            Called with the name of the step, the fraction of it that is done, and a few words; None shows bars in a
            notebook or on a terminal.
        executor
            Where walkers, training, structures, estimates and pages are made: any executor of `concurrent.futures`,
            which is not shut down, and whose workers share the disk of the directory; `None` takes that of the
            protocol.
        until
            How well the free-energy difference is to be known: rounds like the last one are added until it is.

        Raises
        ------
        LatfError
            A step failed; what is finished stays, and `run` continues from there.
        """
        if until is not None:
            until.check(self.protocol)
        with (
            shown_progress() if progress is None else nullcontext(progress) as progress,
            open_executor(self.records, executor) as executor,
            self.directory.acquire(self.protocol, extend(self.directory, self.protocol, progress), self.added),
            logged(self.directory.log, progress) as log,
            ledger(self.directory, log) as progress,
        ):
            self.log = log
            trust_programs(self.protocol)
            self._store_molecule()
            warn_of_space(self.records, self.directory)
            settled = until is not None and until.settled
            finding = self._run_rounds(executor, progress, settled)
            while until is not None and until.asks_for_more(
                self.records, finding or self._free_energy(executor, settled), progress
            ):
                self._add_round()
                finding = self._run_rounds(executor, progress, settled)
            self._evaluate(executor, progress)
            self._final_starts(executor, progress)
            self._report(executor, progress)
            self._remove_leases()

    # What the directory holds: see `Records`

    @property
    def protocol(self) -> Protocol:
        """All settings of the campaign."""
        return self.records.protocol

    @property
    def directory(self) -> CampaignDirectory:
        """The files of the campaign; `directory.path` is the directory itself."""
        return self.records.directory

    @property
    def molecule(self) -> Molecule:
        """Topology, system and first positions."""
        return self.records.molecule

    @property
    def topology(self) -> mdtraj.Topology:
        """MDTraj's topology of the frames."""
        return self.records.topology

    @property
    def features(self) -> Features:
        """All descriptors of the protocol."""
        return self.records.features

    @property
    def lag(self) -> int:
        """Lag of the training, frames."""
        return self.records.lag

    @property
    def n_rounds(self) -> int:
        """Number of rounds; external trajectories are round 0, if there are any."""
        return self.records.n_rounds

    def features_of(self, cv: LatentCV) -> Features:
        """The descriptors that a collective variable of this protocol uses: all of them, or those selected."""
        return self.records.features_of(cv)

    def frames(self, last_round: int | None = None) -> list[Frames]:
        """All walkers of the rounds up to one (default: the last simulated), external trajectories first."""
        return self.records.frames(last_round)

    def references(self) -> list[Frames]:
        """The plain simulations that models are evaluated by; empty where none are asked for, or not all are ready."""
        return self.records.references()

    def series(self, walkers: Sequence[Frames], features: Features | None = None) -> list[Series]:
        """Descriptors of walkers' frames (default: all of the protocol's) with their weights and energies."""
        return self.records.series(walkers, features)

    def dataset(self, last_round: int | None = None, features: Features | None = None) -> Dataset:
        """The frames of the rounds up to one, as by `frames`, and as training takes them before it selects columns."""
        return self.records.dataset(last_round, features)

    def last_learned(self) -> int:
        """Index of the last round after which a model was learned."""
        return self.records.last_learned()

    def model(self, index: int) -> tuple[LaTF, LatentCV]:
        """The model that was learned after a round, and its exported collective variable."""
        return self.records.model(index)

    # What can be made of it

    def train(
        self,
        last_round: int | None = None,
        seed: int = 0,
        checkpoint: Path | None = None,
        progress: StepProgress = silent,
    ) -> tuple[LaTF, LatentCV, TrainingResult]:
        """Train a new model on the frames of the rounds up to one, and export its collective variable.

        By default it is the last one whose simulation is finished.

        Its latent space and states are aligned to those of the model before, at the frames that both are trained on.
        Where the protocol selects columns, the entry "selection" of the variable's metadata lists them with reasons.
        """
        return train_model(self.records, last_round, seed, checkpoint, progress)

    def evaluate(self, progress: StepProgress = silent) -> Evaluation:
        """Evaluate the last model on held-out frames and, where the protocol asks for them, independent references.

        Raises
        ------
        StoreError
            There is no model yet.
        """
        return evaluate_model(self.records, self.samples, progress)

    def generate_starts(
        self,
        temperature: TemperatureLike,
        n: int,
        seed: int = 0,
        progress: StepProgress = silent,
        *,
        learned: int | None = None,
        **options,
    ) -> Starts:
        """Structures at a temperature, from a model and the frames that it was trained on.

        As `latf_sampling.generate_starts`, whose further options it takes, in parallel processes where the number of
        structures is worth it. `learned` is the round after which the model was learned, by default the last one.
        """
        options |= {"seed": seed, "progress": progress}
        return structures.generate(self.records, temperature, n, learned, **options)

    def structures_at(
        self,
        temperature: TemperatureLike,
        points: ArrayLike,
        seed: int = 0,
        *,
        learned: int | None = None,
        **options,
    ) -> Starts:
        """Structures at values (n, d) of a model's variable, as `latf_sampling.structures_at` makes them."""
        return structures.at(self.records, temperature, points, learned, seed=seed, **options)

    def structures_between(
        self,
        temperature: TemperatureLike,
        ends: Sequence,
        n: int,
        seed: int = 0,
        *,
        learned: int | None = None,
        **options,
    ) -> Starts:
        """A path of structures between two states or points, as `latf_sampling.structures_between` makes it."""
        return structures.between(self.records, temperature, ends, n, learned, seed=seed, **options)

    def _store_molecule(self) -> None:
        """Store the molecule in the directory, so that all walkers have the same water and ions."""
        made_from = self.protocol.made_from()
        if not Molecule.is_saved(self.directory.system, made_from):
            self.molecule.save(self.directory.system, made_from)

    # Steps of the loop

    def _run_rounds(self, executor: Executor, progress: Progress, settled: bool) -> Finding | None:
        """Simulate and learn what is missing; returns what the last round gave, unless it was finished before."""
        finding = None
        for index in range(self.n_rounds):
            finding, known = None, self.directory.round(index).learning.finished
            self._simulate(index, executor, progress)
            self._learn(index, executor, progress)
            if not known and self.protocol.observe is not None:
                finding = self._free_energy(executor, settled and index == self.n_rounds - 1)
                if self.log is not None:
                    about = {"round": index, "observe": self.protocol.observe.what()}
                    self.log.note("free energy", **about, **finding.numbers, words=finding.words)
                progress(f"round {index}: free energy", 1.0, finding.words)
        return finding

    def _remove_leases(self) -> None:
        """Remove leases of a driver that was killed when their task had ended, so that it was not done again."""
        rounds = (self.directory.run(self.protocol, index).path for index in range(len(self.protocol.runs)))
        for folder in (self.directory.path, self.directory.equilibration, *rounds):
            remove_leases(folder / LEASES)

    def _add_round(self) -> None:
        """Go on as with a protocol that has a further round like the last one."""
        longer, self.added = self.protocol.with_rounds(1), self.added + 1
        self.directory.replace(longer, extend(self.directory, longer), self.added)
        self.records = Records(longer, self.directory, self.records.trust)

    def _check(self) -> None:
        """Refuse settings that cannot work before anything is written."""
        records = self.records
        records.molecule = repair.repair_molecule(records)
        round_0 = self.directory.round(0)
        check(records, lambda number: round_0.external(number).marker.exists())

    def _simulate(self, index: int, executor: Executor, progress: Progress) -> None:
        repair.repair_round(self.records, index)
        settings = self.protocol.runs[index]
        if isinstance(settings, ExternalRound):
            self._read_external(executor, progress)
            verify_round(self.protocol, self.directory, index)
            return
        files = self.directory.run(self.protocol, index)
        walkers = [files.walker(number) for number in range(len(settings.walkers))]
        step = f"round {index}: simulate" if index < self.n_rounds else "references: simulate"
        segments = n_steps(settings.length, self.protocol.segment)
        if all(walker.is_finished(segments) for walker in walkers) and not too_many_retired(walkers):
            progress(step, 1.0, "finished before")
            return
        from_model = 0 < index < self.n_rounds
        if from_model:
            self._restart(index, settings, executor, progress)
            begun = [start_of(files, number) for number in range(len(walkers))]
        else:
            name = step.replace("simulate", "equilibrate")
            begun = equilibrated(self.records, index, executor, lambda f, words: progress(name, f, words))
        biased = settings.bias is not None
        learned = self._variable(index, executor) if biased else None
        jobs = []
        for number, walker in enumerate(walkers):
            hills = files.hills_of(settings.walkers, number) if biased else None
            jobs.append(
                WalkerJob(
                    self.protocol, index, number, walker.path, begun[number], learned, hills, self.directory.system
                )
            )
        missing = sum(not walker.is_finished(segments) for walker in walkers)
        segment = segment_size(self.protocol, index, self.molecule.system.getNumParticles(), self.records.periodic)
        require_space(self.directory.path, missing * segment, f"a segment of each walker of {jobs[0].round_name}")
        run_walkers(jobs, lambda fraction, words: progress(step, fraction, words), executor)
        refuse_too_many(jobs)

    def _read_external(self, executor: Executor, progress: Progress) -> None:
        """Read the external trajectories from end to end, each once in a campaign."""
        name = "round 0: read"
        step = Step(read_trajectories, (), name, self.directory.round(0).path / "external")
        words = run_step(self.records, step, executor, lambda f, words: progress(name, f, words))
        progress(name, 1.0, words)

    def _variable(self, index: int, executor: Executor) -> Path:
        """Folder of the variable of a biased round."""
        files = self.directory.biased_along(self.protocol, index)
        if isinstance(files, VariableDirectory):
            step = Step(export_variable, (index, self.force_limit), f"round {index}: variable", files.path)
            run_step(self.records, step, executor)
        return files.path

    def _restart(self, index: int, settings: RoundSettings, executor: Executor, progress: Progress) -> None:
        """Structures for the walkers of a round, by its restart policy; later ones for walkers that were added."""
        step, directory = f"round {index}: starts", self.directory.round(index)
        first, wanted = 0, len(settings.walkers)
        while first < wanted:
            files = StartFiles(directory.start_set(first))
            if not files.complete:
                seed = streams.stream_seed(self.protocol.seed, step, *([first] if first else []))
                end = first + next_walkers(self.records, index, first)[1]
                told = part_of(lambda f, words: progress(step, f, words), first / wanted, end / wanted)
                self._make_starts(settings.restart, index, first, seed, executor, told)
            table = files.read_table()
            if table["valid"] < table["requested"]:
                reasons = "; ".join(sorted({reason for entry in table["rejected"] for reason in entry["reasons"]})[:3])
                raise SimulationError(
                    f"round {index}: only {table['valid']} of {table['requested']} walkers have a structure to start "
                    f"from ({reasons}; the complete list is in {files.spreadsheet})."
                )
            first += table["requested"]

    def _make_starts(
        self, policy: str, index: int, first: int, seed: int, executor: Executor, progress: StepProgress
    ) -> None:
        """Structures for a walker of a round and those after it, by a restart policy."""
        beside = self.directory.round(index).start_set(first)
        step = Step(restart, (policy, index, first, seed), f"round {index}: starts", beside, submits=True)
        run_step(self.records, step, executor, progress)

    def _learn(self, index: int, executor: Executor, progress: Progress) -> None:
        files, name = self.directory.round(index).learning, f"round {index}: learn"
        if files.finished:
            progress(name, 1.0, "finished before")
            return
        step = Step(learn_round, (index,), name, files.path)
        run_step(self.records, step, executor, lambda f, words: progress(name, 0.99 * f, words))
        progress(name, 1.0, learned_words(files.manifest().content))

    def _free_energy(self, executor: Executor, settled: bool) -> Finding:
        """The free-energy difference of the observed variable from the rounds so far."""
        step = Step(free_energy, (settled,), "free energy", self.directory.path / "free-energy")
        return run_step(self.records, step, executor)

    def _evaluate(self, executor: Executor, progress: Progress) -> None:
        if self.protocol.evaluate is None:
            return
        files = self.directory
        repair.repair_evaluation(self.records)
        if files.evaluation_marker.exists():
            repair.repair_round(self.records, self.n_rounds)
            return
        self._simulate(self.n_rounds, executor, progress)
        step = Step(write_evaluation, (self.samples,), "evaluate", files.evaluation)
        run_step(self.records, step, executor, lambda f, words: progress("evaluate", 0.99 * f, words))
        progress("evaluate", 1.0, str(files.evaluation))

    def _final_starts(self, executor: Executor, progress: Progress) -> None:
        settings, files = self.protocol.starts, StartFiles(self.directory.starts)
        if settings is None:
            return
        repair.repair_starts(self.records, files, begun=False)
        if files.complete:
            return
        size = starts_size(settings.count, self.molecule.system.getNumParticles())
        require_space(self.directory.path, size, plural(settings.count, "structure"))
        began = time.perf_counter()
        step = Step(structures.final_starts, (), "starts", files.folder, submits=True)
        valid = run_step(self.records, step, executor, lambda f, words: progress("starts", f, words))
        progress("starts", 1.0, f"{valid} of {settings.count} valid in {time.perf_counter() - began:.0f} s")

    def _report(self, executor: Executor, progress: Progress) -> None:
        progress("report", 0.0, "")
        step = Step(write_report, (), "report", self.directory.report)
        run_step(self.records, step, executor, lambda f, words: progress("report", f, words))
        progress("report", 1.0, str(self.directory.report))
