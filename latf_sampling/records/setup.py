"""What a protocol describes before anything is simulated: molecule, descriptors and the observed variable."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from latf_sampling.settings import Protocol, TrainingSettings, n_steps

if TYPE_CHECKING:
    import mdtraj

    from latf_sampling.cv.latent_cv import LatentCV
    from latf_sampling.features import Features
    from latf_sampling.records.observables import Observed
    from latf_sampling.systems import Molecule


class Setup:
    """A protocol and what follows from it alone; each part is built when it is first used.

    Parameters
    ----------
    protocol
        The settings.

    Raises
    ------
    SettingsError
        By each part: the protocol cannot work; names the key.

    Examples
    --------
    >>> setup = Setup(Protocol.load("protocols/alanine-dipeptide.yaml"))  # doctest: +SKIP
    >>> setup.features.names[:2]  # doctest: +SKIP
    ['sin phi ALA 2', 'sin psi ALA 2']
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self._subsets: dict[tuple[str, ...], Features] = {}

    @cached_property
    def molecule(self) -> Molecule:
        """The simulated structure with its forces."""
        from latf_sampling.systems import build

        return build(self.protocol.system, self.protocol.seed)

    @cached_property
    def topology(self) -> mdtraj.Topology:
        from latf_sampling.features import as_mdtraj

        return as_mdtraj(self.molecule.topology)

    @cached_property
    def periodic(self) -> bool:
        return self.molecule.system.usesPeriodicBoundaryConditions()

    @cached_property
    def features(self) -> Features:
        """All descriptors of the protocol."""
        from latf_sampling.features import Features

        return Features(self.molecule.topology, list(self.protocol.features), periodic=self.periodic)

    @cached_property
    def observed(self) -> Observed | None:
        """The variable whose free energy is reported; `None` where the protocol names none."""
        from latf_sampling.records.observables import Observed

        settings = self.protocol.observe
        return None if settings is None else Observed.from_settings(settings, self.topology, self.periodic)

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
