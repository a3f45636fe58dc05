"""All errors and warnings that the package raises on purpose.

LatfError
├── InstallationError   the installed OpenMM, torch and plugin do not work together, or a package is missing
├── SettingsError       a protocol or an argument is wrong; names the key
├── DataError           a trajectory, an array or a descriptor is wrong; names the file, frame, column or atom
├── TrainingError       training produced NaN or cannot start; names the epoch or the setting
│   └── SingleStateError training was left with a single metastable state
├── CVError             a CV file does not fit the system, or does not reproduce its own values
├── SimulationError     a simulation exploded or a bias left its domain; names the step
│   └── LeftTrustRegion a walker left its trust region, whose `on_leaving` is "stop"
└── StoreError          a campaign directory is locked, damaged or belongs to another protocol

ExtrapolationWarning    a model is evaluated at a temperature that its training data do not cover
ColumnWarning           columns of descriptors are nearly constant or duplicates of others
OutsideWarning          a biased simulation is outside of the training data
HistoryWarning          hills are missing in the bias of a simulation that continues
RepairWarning           files of a campaign are damaged, and are made again
FailureWarning          the process of a walker is started again, or a walker is retired
ProtocolWarning         a campaign goes on with another protocol, which does not apply to all of it
SpaceWarning            the disk has less space than a campaign will still write

The command line prints each error as one sentence and ends with exit code 2.
"""


class LatfError(Exception):
    """Base of all errors raised on purpose by latf_sampling."""


class InstallationError(LatfError, RuntimeError):
    """The installed packages do not work together, or an optional one is missing."""


class SettingsError(LatfError, ValueError):
    """A protocol key or an argument has an impossible value."""


class DataError(LatfError, ValueError):
    """A trajectory, an array or a descriptor is wrong."""


class TrainingError(LatfError, RuntimeError):
    """Training cannot start or has diverged."""


class SingleStateError(TrainingError):
    """Training was left with a single metastable state: the data hold no transition that is slow at this lag."""


class CVError(LatfError, ValueError):
    """A collective-variable file does not fit the system it is used with."""


class SimulationError(LatfError, RuntimeError):
    """A simulation cannot continue."""


class LeftTrustRegion(SimulationError):
    """A walker left its trust region, whose `on_leaving` is "stop"."""


class StoreError(LatfError, RuntimeError):
    """A campaign directory is locked, damaged or belongs to another protocol."""


class ExtrapolationWarning(UserWarning):
    """A model is evaluated at a temperature that its training data hardly cover."""


class ColumnWarning(UserWarning):
    """Columns of descriptors are nearly constant or duplicates of others."""


class StatesWarning(UserWarning):
    """A trained variable does not tell the states apart; no bias along it drives from one to the other."""


class OutsideWarning(UserWarning):
    """A biased simulation is outside of the training data of the collective variable."""


class HistoryWarning(UserWarning):
    """A simulation continues from a later step than its bias."""


class RepairWarning(UserWarning):
    """Files of a campaign are missing or were changed, and are made again."""


class FailureWarning(UserWarning):
    """The process of a walker is started again, or would not be, or a walker is retired; the round goes on."""


class ProtocolWarning(UserWarning):
    """A campaign goes on with another protocol, which does not apply to all of it."""


class SpaceWarning(UserWarning):
    """The disk has less space than a campaign will still write; it stops before the disk is full."""
