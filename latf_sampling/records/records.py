"""The one reader of a campaign's directory: frames, models, starts and references, read when they are needed.

Nothing is written. Modules that load OpenMM or torch are imported where they are used, so that `Records.status` costs
neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latf_sampling.core import storage
from latf_sampling.data.exchanges import exchanges_of
from latf_sampling.data.failures import WalkerFailures
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import DataError, SettingsError, StoreError
from latf_sampling.records.rounds import LearnedModel, Round, Walker
from latf_sampling.records.setup import Setup
from latf_sampling.records.status import status
from latf_sampling.settings import ExternalRound, Protocol, n_steps
from latf_sampling.starts.files import StartFiles

if TYPE_CHECKING:
    import mdtraj

    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.data.dataset import Dataset, Series
    from latf_sampling.data.external_frames import ExternalFrames
    from latf_sampling.data.trajectories import Frames
    from latf_sampling.features import Features
    from latf_sampling.learning.model import LaTF
    from latf_sampling.records.observables import Variable
    from latf_sampling.systems import Molecule

PARTNER = {"phi": "psi", "psi": "phi"}
"""The torsion that a map shows next to an observed one."""


class Records(Setup):
    """A campaign as far as it has come. Frames, models and starts are read from the disk by each call.

    Parameters
    ----------
    protocol
        The settings of the campaign.
    directory
        The directory of the campaign, which does not have to exist yet.
    trust
        As in `Setup`.

    Examples
    --------
    >>> records = Records.load("runs/demo")  # doctest: +SKIP
    >>> len(records.frames())  # doctest: +SKIP
    4
    """

    def __init__(self, protocol: Protocol, directory: CampaignDirectory, trust: bool = True) -> None:
        super().__init__(protocol, trust)
        self.directory = directory

    @classmethod
    def load(cls, directory: str | Path, trust: bool = False) -> Records:
        """The records of the campaign in a directory, by the settings that are stored in it.

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
        return cls(files.protocol(), files, trust)

    @cached_property
    def molecule(self) -> Molecule:
        """The molecule that the directory holds, or a new one, built from the protocol, where it holds none yet."""
        from latf_sampling.systems import Molecule, build

        stored = Molecule.load(self.directory.system, self.protocol.made_from())
        if stored is not None:
            return stored
        self.check_programs()
        return build(self.protocol.system, self.protocol.seed)

    def status(self) -> list[dict]:
        """Where the campaign stands: one entry per step, with "step", "done" (0 to 1) and "words"."""
        return status(self.protocol, self.directory)

    @property
    def n_rounds(self) -> int:
        """Number of rounds; external trajectories are round 0, if there are any."""
        return len(self.protocol.all_rounds)

    def verify(self) -> None:
        """Refuse a directory in which a file of a finished task is missing or was changed.

        Raises
        ------
        StoreError
            Names the first such file, and says what to do.
        """
        from latf_sampling.records.integrity import verify_campaign

        try:
            _ = self.molecule
        except StoreError as error:
            raise StoreError(f"{error} `latf run` makes it again, if the result is the same system.") from error
        verify_campaign(self.protocol, self.directory)

    # Frames

    def frames(self, last_round: int | None = None) -> list[Frames]:
        """All walkers of the rounds up to one (default: `last_simulated`), external trajectories first.

        Walkers without a finished segment are left out.

        Raises
        ------
        SettingsError
            The protocol has no such round.
        StoreError, DataError
            There are no frames yet, or a finished file is missing or damaged; names it.
        """
        last = self.last_simulated() if last_round is None else last_round
        if not 0 <= last < self.n_rounds:
            raise SettingsError(f"round: the campaign has rounds 0 to {self.n_rounds - 1}; got {last}.")
        walkers = [walker for index in range(last + 1) for walker in self._walkers(index)]
        if not walkers:
            raise StoreError(f"{self.directory.path}: no segment is finished yet; run the campaign first.")
        return walkers

    def references(self) -> list[Frames]:
        """The plain simulations that models are evaluated by; empty where none are asked for, or not all are ready."""
        wanted = self.protocol.evaluate is not None and self._is_simulated(self.n_rounds)
        return self._walkers(self.n_rounds) if wanted else []

    def last_simulated(self) -> int:
        """Index of the last round of those whose simulation is finished; 0 while none is."""
        index = 0
        while index + 1 < self.n_rounds and self._is_simulated(index + 1):
            index += 1
        return index

    def _is_simulated(self, index: int) -> bool:
        """Whether nothing is left to simulate of a round, or of the references.

        What something was made from was finished: a file that is missing since then is damage, which reading refuses.
        """
        if index == self.n_rounds and self.directory.evaluation_marker.exists():
            return True
        if index < self.n_rounds and self.directory.round(index).learning.finished:
            return True
        settings = self.protocol.runs[index]
        if isinstance(settings, ExternalRound):
            files = self.directory.round(index)
            return all(files.external(number).marker.exists() for number in range(len(settings.walkers)))
        files, segments = self.directory.run(self.protocol, index), n_steps(settings.length, self.protocol.segment)
        return all(files.walker(number).is_finished(segments) for number in range(len(settings.walkers)))

    def external_frames(self) -> list[ExternalFrames]:
        """The external trajectories that the campaign starts from.

        Raises
        ------
        DataError
            One of them was not read yet, or has changed.
        """
        from latf_sampling.data.external_frames import ExternalFrames

        files = self.directory.round(0)
        return [
            ExternalFrames.load(files.external(number), self.topology, self.periodic, number)
            for number in range(sum(len(entry.files) for entry in self.protocol.from_trajectories))
        ]

    def source_files(self, frames: Frames) -> list[dict[str, str]]:
        """The trajectory files that frames of this campaign come from, with "path" and "sha256" of each."""
        if self._is_external(frames.round_index):
            summary = self.directory.round(0).external(frames.walker).manifest().content
            return [{"path": summary["path"], "sha256": summary["sha256"]}]
        walker = self.directory.run(self.protocol, frames.round_index).walker(frames.walker)
        trajectories = [walker.segment(index).trajectory for index in range(walker.finished())]
        return [{"path": str(path), "sha256": storage.checksum(path)} for path in trajectories]

    def _is_external(self, index: int) -> bool:
        return index == 0 and bool(self.protocol.from_trajectories)

    def _walkers(self, index: int) -> list[Frames]:
        from latf_sampling.data.trajectories import WalkerFrames
        from latf_sampling.records.integrity import verify_round

        verify_round(self.protocol, self.directory, index)
        if self._is_external(index):
            return list(self.external_frames())
        files = self.directory.run(self.protocol, index)
        walkers = [files.walker(number) for number in range(len(self.protocol.runs[index].walkers))]
        return [
            WalkerFrames.load(walker.path, self.topology, index, number)
            for number, walker in enumerate(walkers)
            if walker.markers()  # one may be retired in its first segment, or not have finished it yet
        ]

    # Data sets and models

    def series(self, walkers: Sequence[Frames], features: Features | None = None) -> list[Series]:
        """Descriptors of walkers' frames (default: all of the protocol's) with their weights and energies."""
        from latf_sampling.data.dataset import Series

        features = self.features if features is None else features
        return [
            Series(
                _descriptors(walker, features),
                temperature=walker.temperature,
                weights=walker.weights,
                energies=None if self.protocol.system.temperature_dependent else walker.energies,
                interval=self.protocol.frame_interval,
                breaks=walker.breaks,
            )
            for walker in walkers
        ]

    def training_series(self, walkers: Sequence[Frames], features: Features | None = None) -> list[Series]:
        """`series` for training, where plain dynamics that is `trapped` does not count in the density."""
        series = self.series(walkers, features)
        for entry, left_out in zip(series, self.trapped(walkers)):
            entry.in_density = not left_out
        return series

    def trapped(self, walkers: Sequence[Frames]) -> list[bool]:
        """Whether each walker is plain dynamics that never reached a state in which biased walkers were.

        The states are those of the model whose variable the last biased round was biased along. External trajectories
        whose frames differ in weight were biased elsewhere; none of them is.
        """
        from latf_sampling.analysis.weights import after_filling
        from latf_sampling.records.trapped import cores, latent, trapped

        biased = [walker.round_index for walker in walkers if walker.biased]
        if not biased:
            return [False] * len(walkers)
        model, cv = self.model(max(biased) - 1)
        compared = [k for k, walker in enumerate(walkers) if not walker.externally_weighted]
        parts = [walkers[k] for k in compared]
        selected = [after_filling(len(walker), walker.biased) for walker in parts]
        probabilities = [model.state_probabilities(latent(cv, walker)[part]) for walker, part in zip(parts, selected)]
        left_out = dict(zip(compared, trapped(parts, cores(probabilities))))
        return [left_out.get(k, False) for k in range(len(walkers))]

    def dataset(self, last_round: int | None = None, features: Features | None = None) -> Dataset:
        """The frames of the rounds up to one, as by `frames`, and as training takes them before it selects columns."""
        from latf_sampling.data.dataset import Dataset

        features = self.features if features is None else features
        return Dataset(self.training_series(self.frames(last_round), features), lag=self.lag, names=features.names)

    def last_learned(self) -> int:
        """Index of the last round after which a model was learned.

        Raises
        ------
        StoreError
            There is no model yet.
        """
        for index in reversed(range(self.n_rounds)):
            if self.directory.round(index).learning.finished:
                return index
        raise StoreError(f"{self.directory.path}: no model is learned yet; run the campaign first.")

    def model(self, index: int) -> tuple[LaTF, LatentCV]:
        """The model that was learned after a round, and its exported collective variable.

        Raises
        ------
        StoreError
            No model was learned after this round, or a file of it is missing or was changed; names it.
        """
        from latf_sampling.cv.latent_cv import LatentCV
        from latf_sampling.learning.model import LaTF
        from latf_sampling.records.integrity import verify_learning

        files = self.directory.round(index).learning
        if not files.finished:
            raise StoreError(f"{self.directory.path}: no model was learned after round {index}.")
        verify_learning(self.directory, index)
        return LaTF.load(files.model), LatentCV.load(files.cv, self.molecule.topology)

    # What a report is written from, read once

    @cached_property
    def rounds(self) -> list[Round]:
        """All rounds with what is finished of them.

        Raises
        ------
        StoreError, DataError
            A finished file is damaged; names it.
        """
        variables = self._observed_variables()
        return [self._round(index, variables) for index in range(self.n_rounds)]

    @cached_property
    def walkers(self) -> list[Walker]:
        """All walkers and external trajectories that have frames."""
        return [walker for entry in self.rounds for walker in entry.begun]

    @property
    def learned(self) -> list[tuple[int, LearnedModel]]:
        """The models with the indices of their rounds."""
        return [(entry.index, entry.learned) for entry in self.rounds if entry.learned is not None]

    @property
    def simulated(self) -> float:
        """Simulated time of all walkers, without external trajectories, ps."""
        return sum(walker.simulated for entry in self.rounds if not entry.external for walker in entry.begun)

    @property
    def partner(self) -> str | None:
        """Name of the torsion next to the observed one."""
        name = partner(self.observed.name) if self.observed is not None else None
        return name if any(name in walker.values for walker in self.walkers) else None

    def starts(self, folder: Path) -> tuple[dict, mdtraj.Trajectory] | None:
        """The table of generated structures in a folder, and the structures; `None` where there are none yet."""
        import mdtraj

        files = StartFiles(folder)
        if not files.complete:
            return None
        table = files.read_table()
        positions = np.empty((table["valid"], self.topology.n_atoms, 3))
        for index in range(len(positions)):
            positions[index] = files.read_arrays(index)["positions"]
        return table, mdtraj.Trajectory(positions, self.topology)

    def _observed_variables(self) -> list[Variable]:
        """The observed variable and, for a torsion, its partner where the molecule has it."""
        from latf_sampling.records.observables import Variable

        if self.observed is None:
            return []
        other = partner(self.observed.name) if self.observed.circular else None
        if other is None:
            return [self.observed]
        try:
            return [self.observed, Variable.torsion(self.topology, other, self.periodic)]
        except (DataError, SettingsError):
            return [self.observed]

    def _round(self, index: int, variables: list[Variable]) -> Round:
        from latf_sampling.records.integrity import verify_round

        verify_round(self.protocol, self.directory, index)
        settings = self.protocol.all_rounds[index]
        read = self._external if isinstance(settings, ExternalRound) else self._walker
        walkers = [read(index, number, variables) for number in range(len(settings.walkers))]
        files, learned = self.directory.round(index).learning, None
        failures: dict[int, WalkerFailures] = {}
        if isinstance(settings, ExternalRound):
            simulated = None not in walkers
        else:
            folders = [self.directory.round(index).walker(number) for number in range(len(walkers))]
            segments = n_steps(settings.length, self.protocol.segment)
            simulated = all(folder.is_finished(segments) for folder in folders)
            failures = {number: folder.failures() for number, folder in enumerate(folders)}
        if files.finished:
            learned = LearnedModel(*self.model(index), files.manifest().content)
        failed = {number: found for number, found in failures.items() if found.failures}
        return Round(index, settings, walkers, simulated, learned, failed)

    def _walker(self, index: int, number: int, variables: list[Variable]) -> Walker | None:
        from latf_sampling.data.trajectories import WalkerFrames

        files = self.directory.round(index).walker(number)
        if not files.markers():
            return None
        frames = WalkerFrames.load(files.path, self.topology, index, number)
        manifests = [files.segment(k).manifest() for k in range(files.finished())]
        summaries = [manifest.content for manifest in manifests]
        return Walker(
            frames,
            sum(entry["seconds"] for entry in summaries),
            self.protocol.frame_interval,
            _values(frames, variables),
            {entry["backend"]: entry.get("backend_reason") or "" for entry in summaries if entry.get("backend")},
            exchanges_of(manifests),
        )

    def _external(self, index: int, number: int, variables: list[Variable]) -> Walker | None:
        from latf_sampling.data.external_frames import ExternalFrames

        files = self.directory.round(index).external(number)
        if not files.marker.exists():
            return None
        frames = ExternalFrames.load(files, self.topology, self.periodic, number)
        return Walker(frames, None, self.protocol.frame_interval, _values(frames, variables))


def _descriptors(walker: Frames, features: Features) -> np.ndarray:
    """Descriptors (frames, F) of a walker.

    Raises
    ------
    DataError
        One has no finite value in a frame; names the walker, the descriptor and the frame.
    """
    x = np.concatenate([features.transform(piece) for piece in walker.pieces()])
    if not np.isfinite(x).all():
        frame, column = np.argwhere(~np.isfinite(x))[0]
        raise DataError(
            f"{walker.label}: descriptor '{features.names[column]}' is {x[frame, column]} in frame {frame}; leave it "
            "out of 'features', or take one that has a value at any positions."
        )
    return x


def partner(name: str) -> str | None:
    """Name of the torsion that belongs to another one.

    Examples
    --------
    >>> partner("phi ALA 2")
    'psi ALA 2'
    """
    kind, _, rest = name.partition(" ")
    return f"{PARTNER[kind]} {rest}" if kind in PARTNER else None


def _values(frames: Frames, variables: list[Variable]) -> dict[str, np.ndarray]:
    if not variables:
        return {}
    pieces = [[variable.values(piece) for variable in variables] for piece in frames.pieces()]
    return {variable.name: np.concatenate(parts) for variable, parts in zip(variables, zip(*pieces))}
