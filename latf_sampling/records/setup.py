"""What a protocol describes before anything is simulated: molecule, descriptors and the observed variable."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from latf_sampling.records.programs import refuse_programs
from latf_sampling.records.reference import ReferenceFile
from latf_sampling.settings import Protocol, TrainingSettings, n_steps

if TYPE_CHECKING:
    import mdtraj

    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.data.frame_checks import FrameChecks
    from latf_sampling.features import Features
    from latf_sampling.records.observables import Observed
    from latf_sampling.systems import Molecule


class Setup:
    """A protocol and what follows from it alone; each part is built when it is first used.

    Parameters
    ----------
    protocol
        The settings.
    trust
        Whether programs that the protocol names may run, like descriptors of one's own; otherwise only those that this
        user has run before do.

    Raises
    ------
    SettingsError
        By each part: the protocol cannot work; names the key.
    StoreError
        By each part: it needs a program that may not run; names it.

    Examples
    --------
    >>> setup = Setup(Protocol.load("protocols/alanine-dipeptide.yaml"))  # doctest: +SKIP
    >>> setup.features.names[:2]  # doctest: +SKIP
    ['sin phi ALA 2', 'sin psi ALA 2']
    """

    def __init__(self, protocol: Protocol, trust: bool = True) -> None:
        self.protocol, self.trust = protocol, trust
        self._subsets: dict[tuple[str, ...], Features] = {}

    @cached_property
    def molecule(self) -> Molecule:
        """The simulated structure with its forces."""
        from latf_sampling.systems import build

        self.check_programs()
        return build(self.protocol.system, self.protocol.seed)

    @cached_property
    def topology(self) -> mdtraj.Topology:
        from latf_sampling.features import as_mdtraj

        return as_mdtraj(self.molecule.topology)

    @cached_property
    def periodic(self) -> bool:
        return self.molecule.system.usesPeriodicBoundaryConditions()

    @cached_property
    def frame_checks(self) -> FrameChecks:
        """What frames from files of other programs are checked against."""
        from latf_sampling.data.frame_checks import FrameChecks

        return FrameChecks.from_system(self.topology, self.molecule.system, self.molecule.positions)

    @cached_property
    def features(self) -> Features:
        """All descriptors of the protocol."""
        from latf_sampling.features import Features

        self.check_programs()
        return Features(self.molecule.topology, list(self.protocol.features), periodic=self.periodic)

    @cached_property
    def observed(self) -> Observed | None:
        """The variable whose free energy is reported; `None` where the protocol names none."""
        from latf_sampling.records.observables import Observed

        settings = self.protocol.observe
        self.check_programs()
        return None if settings is None else Observed.from_settings(settings, self.topology, self.periodic)

    @cached_property
    def reference(self) -> ReferenceFile | None:
        """The independent free-energy difference; `None` where the protocol names no file with one."""
        observe = self.protocol.observe
        return None if observe is None or observe.reference is None else ReferenceFile.load(observe.reference)

    def check_programs(self) -> None:
        """Refuse programs that may not run, before a part that needs them is built.

        Raises
        ------
        StoreError
            The protocol names a program that this user has never run, and is not trusted.
        """
        if not self.trust:
            refuse_programs(self.protocol)

    def features_of(self, cv: LatentCV) -> Features:
        """The descriptors that a collective variable of this protocol uses: all of them, or those selected."""
        names = tuple(cv.metadata["names"])
        if names == tuple(self.features.names):
            return self.features
        if names not in self._subsets:
            self._subsets[names] = self.features.subset(names)
        return self._subsets[names]

    @property
    def lag(self) -> int:
        """Lag of the training, frames."""
        return n_steps(self.protocol.learning.lag, self.protocol.frame_interval)

    @property
    def training(self) -> TrainingSettings:
        """The part of the protocol's `learning` that `train` takes."""
        learning = self.protocol.learning
        return TrainingSettings(**{name: getattr(learning, name) for name in TrainingSettings.model_fields})
