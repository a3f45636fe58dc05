"""Writing the ledger of a campaign: by the one process that runs the campaign, from what its tasks left on the disk."""

from __future__ import annotations

import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from latf_sampling.campaign.progress import Progress
from latf_sampling.core import storage
from latf_sampling.core.outputs import output_file
from latf_sampling.core.words import plural
from latf_sampling.data.layout import CampaignDirectory
from latf_sampling.errors import RepairWarning, StoreError
from latf_sampling.records.ledger import COLUMNS, FORMAT, Ledger, Task, read_rows

INTERVAL = 5.0
"""s between two looks at what was finished meanwhile, at least; they take no more than a twentieth of the time."""
SHARE = 0.05


@contextmanager
def ledger(directory: CampaignDirectory, progress: Progress) -> Iterator[Progress]:
    """Keep the ledger of a campaign up to date while it runs.

    It is compared with the files first. A row without its task is dropped with a warning, since somebody removed what
    was finished; one that is missing, as after a process was killed between a manifest and its row, is added.

    Parameters
    ----------
    directory
        The campaign, whose lock this process holds.
    progress
        Is told of steps as before.

    Yields
    ------
    Progress
        To be told of steps; rows are written when one of them ends, and every few seconds.

    Raises
    ------
    StoreError
        The ledger cannot be written, such as where something else has its name.
    """
    output_file(directory.ledger)
    _warn_of_lost(directory, update(directory))
    due = time.monotonic() + INTERVAL

    def report(step: str, fraction: float, words: str) -> None:
        nonlocal due
        progress(step, fraction, words)
        began = time.monotonic()
        if began >= due or (fraction >= 1 and words != "finished before"):
            update(directory)
            took = time.monotonic() - began
            due = time.monotonic() + max(INTERVAL, took / SHARE)

    try:
        yield report
    except BaseException:
        with suppress(StoreError):  # as on the full disk that the error may be about
            update(directory)
        raise
    update(directory)


def update(directory: CampaignDirectory) -> list[Task]:
    """Bring the ledger to what the files say; returns tasks that were finished and are gone.

    Raises
    ------
    StoreError
        The ledger cannot be written.
    """
    directory.check_present()
    reader = Ledger(directory)
    path = reader.path
    try:
        connection, rows = _connect(reader)
        with closing(connection):
            tasks = reader.tasks(rows)
            changed = [task.row() for name, task in tasks.items() if rows.get(name) != task]
            gone = [(name,) for name in rows.keys() - tasks.keys()]
            if changed or gone:
                with connection:  # one transaction
                    places = ", ".join("?" * len(COLUMNS))
                    connection.executemany(f"INSERT OR REPLACE INTO task VALUES ({places})", changed)
                    connection.executemany("DELETE FROM task WHERE name = ?", gone)
            return reader.lost(rows, tasks)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be written ({error}); what is finished is kept.") from error


def _connect(reader: Ledger) -> tuple[sqlite3.Connection, dict[str, Task]]:
    """The ledger and its rows; made anew where it is damaged."""
    path = reader.path
    if path.exists():
        connection = sqlite3.connect(path, timeout=10.0)
        try:
            return connection, read_rows(connection, path)
        except (sqlite3.DatabaseError, StoreError) as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            reason = str(error) if isinstance(error, StoreError) else f"{path}: is damaged ({error})."
            warnings.warn(f"{reason} It is made again from the manifests.", RepairWarning, stacklevel=6)
            for ending in ("", "-wal", "-shm", "-journal"):
                storage.remove(f"{path}{ending}")
    connection = sqlite3.connect(path, timeout=10.0)
    try:
        _lay_out(connection, path.parent)
    except BaseException:
        connection.close()
        raise
    return connection, {}


def _lay_out(connection: sqlite3.Connection, folder: Path) -> None:
    """Make the empty table."""
    if storage.network_file_system(folder) is None:
        connection.execute("PRAGMA journal_mode = WAL").fetchone()  # it answers with the mode that it could set
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    with connection:
        connection.execute("BEGIN")
        connection.execute(f"CREATE TABLE task ({columns}, PRIMARY KEY (name))")
        connection.execute(f"PRAGMA user_version = {FORMAT}")


def _warn_of_lost(directory: CampaignDirectory, tasks: list[Task]) -> None:
    if tasks:
        rest = f", and {plural(len(tasks) - 1, 'further task')} too" if len(tasks) > 1 else ""
        words = f"{directory.path / tasks[0].marker}: is missing, although it was finished{rest}."
        warnings.warn(f"{words} What nothing that is left was made from is made again.", RepairWarning, stacklevel=4)
