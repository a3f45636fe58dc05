"""Names of the files that a set of structures consists of."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latf_sampling.core.arrays import read_npz
from latf_sampling.core.manifest import Manifest
from latf_sampling.data.layout import RoundDirectory
from latf_sampling.errors import DataError, StoreError

FORMATS = ("pdb", "cif")
"""Formats of structures: PDB and PDBx/mmCIF."""


class StartFiles:
    """Files of a set of structures.

    Parameters
    ----------
    folder
        Where they are, or will be.

    Attributes
    ----------
    folder : pathlib.Path
    table : pathlib.Path
        Everything but coordinates, JSON; it is written last.
    spreadsheet : pathlib.Path
        One line for each target, CSV.
    trajectory : pathlib.Path
        All structures, XTC.
    unfinished : pathlib.Path
        Folder of the targets of a set that is not complete yet.

    Examples
    --------
    >>> StartFiles("starts-450K").arrays(3).as_posix()
    'starts-450K/start-003.npz'
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.table = self.folder / "starts.json"
        self.spreadsheet = self.folder / "starts.csv"
        self.trajectory = self.folder / "starts.xtc"
        self.unfinished = self.folder / "targets"

    @property
    def complete(self) -> bool:
        """Whether all files are written."""
        return self.table.exists()

    @staticmethod
    def name(index: int) -> str:
        """Name of a structure, which is that of its files without their endings."""
        return f"start-{index:03d}"

    def structure(self, index: int, suffix: str) -> Path:
        """A structure as PDB or PDBx/mmCIF; the suffix is one of `FORMATS`."""
        return self.folder / f"{self.name(index)}.{suffix}"

    def state(self, index: int) -> Path:
        """XML of an OpenMM state: positions, velocities and box of a structure."""
        return self.folder / f"{self.name(index)}.xml"

    def arrays(self, index: int) -> Path:
        """NPZ with "positions" and "velocities" (N, 3) and, in periodic systems, "box" (3, 3); nm and ps."""
        return self.folder / f"{self.name(index)}.npz"

    def manifest(self) -> Manifest:
        """The table with the digests of all files, which are not looked at.

        Raises
        ------
        StoreError
            It is missing or was changed.
        """
        return Manifest.load(self.table, ("valid", "requested", "temperature", "settings"))

    def read_table(self) -> dict:
        """The table, as `Starts.save` writes it.

        Raises
        ------
        StoreError
            It or another file of the set is missing or was changed; names it.
        """
        return self.manifest().verified().content

    def read_arrays(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of a structure by their names.

        Raises
        ------
        StoreError
            The file is missing or damaged.
        """
        path = self.arrays(index)
        try:
            return read_npz(path)
        except DataError as error:
            raise StoreError(str(error)) from error


def start_of(files: RoundDirectory, walker: int) -> Path:
    """The arrays of the structure that a walker of a round starts from.

    Examples
    --------
    >>> start_of(RoundDirectory(Path("rounds/01")), 3).as_posix()
    'rounds/01/starts/start-003.npz'
    """
    first = max(number for number in files.start_sets() if number <= walker)
    return StartFiles(files.start_set(first)).arrays(walker - first)
