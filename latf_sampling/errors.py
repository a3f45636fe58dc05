"""Every error this package raises on purpose.

LatfError
├── InstallationError   the installed OpenMM, torch and openmm-torch do not work together, or a part is missing
├── SettingsError       a protocol or an argument is wrong; names the key
├── DataError           a trajectory, an array or a descriptor is wrong; names the file, frame, column or atom
├── TrainingError       training produced NaN or cannot start; names the epoch or the setting
│   └── SingleStateError training was left with a single metastable state
├── CVError             a CV file does not fit the system, or does not reproduce its own values
├── SimulationError     a simulation exploded or a bias left its domain; names the step
│   └── LeftTrustRegion a walker that was to stop there left the region that its model knows
└── StoreError          a campaign directory is locked, damaged or belongs to another protocol

ExtrapolationWarning    a model is asked about a temperature that its data do not cover
ColumnWarning           columns of descriptors hardly change, or say the same
OutsideWarning          a biased simulation is where there was no training data
HistoryWarning          entries of a bias are missing where a simulation goes on

Each error is caught by the command line, printed as one sentence, and ends it with exit code 2.
"""


class LatfError(Exception):
    """Base of all errors raised on purpose by latf_sampling."""


class InstallationError(LatfError, RuntimeError):
    """The installed packages do not work together, or an optional one is missing."""


class SettingsError(LatfError, ValueError):
    """A protocol key or an argument has a value that cannot work."""


class DataError(LatfError, ValueError):
    """A trajectory, an array or a descriptor is not what it has to be."""


class TrainingError(LatfError, RuntimeError):
    """Training cannot start or has diverged."""


class SingleStateError(TrainingError):
    """Training was left with a single metastable state: the data hold no transition that is slow at this lag."""


class CVError(LatfError, ValueError):
    """A collective-variable file does not fit the system it is used with."""


class SimulationError(LatfError, RuntimeError):
    """A simulation cannot go on."""


class LeftTrustRegion(SimulationError):
    """A walker left the part of latent space that the model knows, and was to stop there."""


class StoreError(LatfError, RuntimeError):
    """A campaign directory is locked, damaged or made by another protocol."""


class ExtrapolationWarning(UserWarning):
    """An answer is asked for at a temperature where the data say little or nothing."""


class ColumnWarning(UserWarning):
    """Columns of descriptors hardly change, or say the same."""


class OutsideWarning(UserWarning):
    """A simulation under a bias is where the collective variable has seen no data."""


class HistoryWarning(UserWarning):
    """A simulation goes on from later than its bias does."""
