"""The programs that a protocol brings along, and whether they may run.

A descriptor of one's own is a Python file, and a force field file may have scripts in it. A protocol that its user runs
names them on purpose. A campaign that was received from somebody else has them in its `inputs`: there they run only if
this user has run the same ones before, or says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latf_sampling.core import trust
from latf_sampling.core.storage import checksum
from latf_sampling.errors import StoreError
from latf_sampling.settings import Protocol


@dataclass(frozen=True)
class Program:
    """A program that a protocol names.

    Attributes
    ----------
    key : str
        Where the protocol names it.
    file : pathlib.Path
        The file that holds it.
    digest : str
        SHA-256 of the program and of what it is called with.
    """

    key: str
    file: Path
    digest: str


def programs(protocol: Protocol) -> list[Program]:
    """The programs of descriptors, of the observed one too, and of force field files.

    Raises
    ------
    StoreError
        A file cannot be read.
    """
    entries: list[tuple[str, Any]] = [(f"features[{index}]", entry) for index, entry in enumerate(protocol.features)]
    if protocol.observe is not None:
        entries.append(("observe.descriptor", protocol.observe.descriptor))
    found = []
    for key, entry in entries:
        settings = entry.get("custom") if isinstance(entry, dict) else None
        if isinstance(settings, dict) and isinstance(settings.get("file"), str):
            arguments = {name: value for name, value in settings.items() if name != "file"}
            found.append(_program(f"{key}.custom", Path(settings["file"]), arguments))
    own = [(index, file) for index, file in enumerate(protocol.system.force_field) if isinstance(file, Path)]
    if own:
        from latf_sampling.systems.force_field import is_program  # which loads OpenMM

        for index, file in own:
            if is_program(file):
                found.append(_program(f"system.force_field[{index}]", file, {}))
    return found


def refuse_programs(protocol: Protocol) -> None:
    """Refuse a protocol of somebody else whose programs this user has never run.

    Raises
    ------
    StoreError
        It names such a program; says which.
    """
    refuse_untrusted(programs(protocol))


def refuse_untrusted(programs: Iterable[Program]) -> None:
    """Refuse programs that this user has never run.

    Raises
    ------
    StoreError
        Names the first one.
    """
    for program in programs:
        if not trust.is_trusted(program.digest):
            raise StoreError(
                f"{program.key}: {program.file} is a program that you have not run before, in a campaign that may come "
                "from somebody else; read it, and run it with --trust (from Python with trust=True)."
            )


def trust_programs(protocol: Protocol) -> None:
    """Remember that this user runs the programs of a protocol."""
    trust.trust(program.digest for program in programs(protocol))


def executor_program(protocol: Protocol) -> list[Program]:
    """The Python file that configures the executor of a protocol, which runs only where the campaign does.

    Raises
    ------
    StoreError
        It cannot be read.
    """
    file = protocol.executor.parsl
    return [] if file is None else [_program("executor.parsl", Path(file), {})]


def _program(key: str, file: Path, arguments: dict[str, Any]) -> Program:
    try:
        content = checksum(file)
    except OSError as error:
        raise StoreError(f"{key}: {file} cannot be read ({error.strerror}).") from error
    text = json.dumps([content, arguments], sort_keys=True, default=str)
    return Program(key, file, hashlib.sha256(text.encode()).hexdigest())
