"""Protocols that a campaign has stored, also those of other versions of the package: what they hold, and what differs.

A stored protocol is the JSON content that `Protocol.canonical` made. Files in it are ``{"name", "sha256"}``, and
"counted" for PDB files: the SHA-256 of the records that a simulation depends on.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from latf_sampling import __version__
from latf_sampling.errors import RepairWarning, StoreError
from latf_sampling.settings.fields import Location, leaves, spell

VERSION = "version"
"""Key of the version of the package that made a campaign."""
ADDED_ROUNDS = "rounds_added"
"""Key of the number of rounds, copies of the last one, that a campaign has beyond those of its protocol's file."""
FIRST = "0.2.0"
"""Protocols without a version were stored by this version or an earlier one."""
RENAMED: dict[Location, str] = {("model", "temperature"): "temperature_mode"}
"""Keys of earlier versions, and their present names."""
_OWN = {VERSION, ADDED_ROUNDS}
IRRELEVANT = {("name",), ("system", "platform"), ("executor",), ("devices",), (VERSION,), (ADDED_ROUNDS,)}
"""Keys that change neither physics nor results."""
REMARKS = (
    *(b"HEADER", b"OBSLTE", b"TITLE ", b"SPLIT ", b"CAVEAT", b"COMPND", b"SOURCE", b"KEYWDS", b"EXPDTA", b"NUMMDL"),
    *(b"MDLTYP", b"AUTHOR", b"REVDAT", b"SPRSDE", b"JRNL  ", b"REMARK", b"MASTER", b"USER  "),
)
"""Records of a PDB file that no simulation depends on."""


def file_content(name: str, data: bytes) -> dict[str, str]:
    """What a stored protocol says about a file."""
    content = {"name": name, "sha256": hashlib.sha256(data).hexdigest()}
    if Path(name).suffix.lower() in (".pdb", ".ent"):
        content["counted"] = counted(data)
    return content


def counted(pdb: bytes) -> str:
    """SHA-256 of a PDB file without remarks, titles, blank lines and spaces at the ends of lines.

    Examples
    --------
    >>> counted(b"REMARK  1\\nATOM  \\n") == counted(b"ATOM\\n\\n")
    True
    """
    lines = (line.rstrip() for line in pdb.splitlines() if not line[:6].ljust(6).upper().startswith(REMARKS))
    return hashlib.sha256(b"\n".join(line for line in lines if line)).hexdigest()


def is_file(value: Any) -> bool:
    """Whether a stored value stands for a file."""
    return isinstance(value, dict) and {"name", "sha256"} <= value.keys() <= {"name", "sha256", "counted"}


def with_copies(data: Any, content: dict[str, Any], beside: Path, copies: Path) -> Any:
    """A protocol as YAML has it, in which the copies of a campaign stand for input files that are gone.

    A copy is that of the same key and name, with the bytes that were stored. Programs, which are descriptors of one's
    own, are not taken from a campaign.

    Parameters
    ----------
    data
        The protocol.
    content
        The stored one.
    beside
        Folder that paths in the protocol are relative to.
    copies
        Folder of the copies.

    Warns
    -----
    RepairWarning
        Names each file that is gone, and its copy.
    """
    names = set(_stored_names(content))

    def replaced(value: Any, old: Any, aligned: bool) -> Any:
        if isinstance(value, dict) and isinstance(old, dict) and not is_file(old):
            new = {key: item if key == "file" else replaced(item, old.get(key), aligned) for key, item in value.items()}
            if new.get("topology") != value.get("topology"):
                new.pop("include", None)  # of GROMACS, whose copy holds what it included
            return new
        if isinstance(value, list) and isinstance(old, list):
            same = aligned and len(value) == len(old)
            return [replaced(item, old[index] if index < len(old) else None, same) for index, item in enumerate(value)]
        if not (isinstance(value, str) and is_file(old)) or (beside / value).exists():
            return value
        # Entries may have been added before this one: its number tells copies of one name apart only without that.
        alike = [name for name in names if _is_copy_of(name, Path(value))]
        copy = copies.resolve() / old["name"]
        if old["name"] not in alike or (len(alike) > 1 and not aligned) or not copy.is_file():
            return value
        if hashlib.sha256(copy.read_bytes()).hexdigest() != old["sha256"]:
            return value
        words = f"{beside / value}: is gone; the campaign goes on with its copy, {copy}."
        warnings.warn(words, RepairWarning, stacklevel=3)
        return str(copy)

    return replaced(data, content, True)


def _stored_names(value: Any) -> Iterator[str]:
    if is_file(value):
        yield value["name"]
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _stored_names(item)


def _is_copy_of(name: str, file: Path) -> bool:
    """Whether a copy may have this name; those of one name from several folders have numbers."""
    return name == file.name or re.fullmatch(rf"{re.escape(file.stem)}-\d+{re.escape(file.suffix)}", name) is not None


def same_molecule(new: str, old: str, model: type[BaseModel]) -> bool:
    """Whether two texts of `Protocol.made_from`, the old one maybe of an earlier version, mean the same molecule.

    Parameters
    ----------
    new, old
        JSON with the keys "system" and "seed".
    model
        The settings of a system.
    """
    if new == old:
        return True
    try:
        one, other = json.loads(new), json.loads(old)
        differing = differences(one["system"], other["system"], [model], ("system",))
        return one["seed"] == other["seed"] and next(differing, None) is None
    except (ValueError, KeyError, TypeError):  # texts of other origin
        return False


def current(content: Any, where: str) -> dict[str, Any]:
    """A stored protocol, of this version of the package or an earlier one, with the present names of its keys.

    Raises
    ------
    StoreError
        The protocol was stored by a later version, or is damaged.

    Examples
    --------
    >>> current({"version": "0.1.0", "model": {"temperature": "steered"}}, "protocol.json")["model"]
    {'temperature_mode': 'steered'}
    """
    if not (isinstance(content, dict) and (VERSION in content or "system" in content)):
        raise StoreError(f"{where}: is damaged; it holds no settings of a campaign.")
    version = content.get(VERSION, FIRST)
    if _numbers(version) > _numbers(__version__):
        raise StoreError(
            f"{where}: the campaign was made by latf_sampling {version}; this is {__version__}: update it with "
            "pip install --upgrade latf_sampling."
        )
    content = copy.deepcopy(content)
    for (*path, old), new in RENAMED.items():
        place: Any = content
        for key in path:
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict) and old in place:
            place.setdefault(new, place.pop(old))
    return content


def _numbers(version: Any) -> tuple[int, ...]:
    """The numbers of a version, without what follows as in 0.3.0rc1."""
    numbers = []
    for part in str(version).split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    if not numbers:
        raise StoreError(f"{VERSION}: {version!r} is not a version of latf_sampling; the stored protocol is damaged.")
    while numbers and numbers[-1] == 0:  # 0.2 is 0.2.0
        numbers.pop()
    return tuple(numbers)


def without_version(content: dict[str, Any]) -> dict[str, Any]:
    """A stored protocol without what is no setting, and with the bare name of each file."""
    return {key: _names(value) for key, value in content.items() if key not in _OWN}


def _names(value: Any) -> Any:
    if is_file(value):
        return value["name"]
    if isinstance(value, dict):
        return {key: _names(item) for key, item in value.items()}
    return [_names(item) for item in value] if isinstance(value, list) else value


def differences(new: Any, old: Any, models: Sequence[type[BaseModel]], location: Location = ()) -> Iterator[Location]:
    """Locations of keys in which the protocol of a campaign differs in what it means from a new one.

    Parameters
    ----------
    new, old
        Stored values at the same location, the old one by this or an earlier version. Keys that it lacks have their
        defaults.
    models
        The settings that may stand there, one or those of a union; none where there are no settings.

    Raises
    ------
    StoreError
        The old one has a key that this version does not know.
    """
    if location in IRRELEVANT or new == old:
        return
    if is_file(new) and is_file(old):
        if new["sha256"] != old["sha256"] and new.get("counted", "new") != old.get("counted", "old"):
            yield location
    elif isinstance(new, dict) and isinstance(old, dict):
        known = {key: field for model in models for key, field in model.model_fields.items()}
        unknown = sorted(old.keys() - known.keys() - _OWN) if models else []
        if unknown:
            raise StoreError(
                f"{spell((*location, unknown[0]))}: latf_sampling {__version__} has no such key any more; continue the "
                "campaign with the version that made it."
            )
        own = next((model.model_fields for model in models if new.keys() <= model.model_fields.keys()), {})
        for key in sorted(new.keys() | old.keys()):
            here, field = (*location, key), own.get(key)
            if key in new and key in old:
                yield from differences(new[key], old[key], models_of(field), here)
            elif key in old or field is None or new[key] != _default(field):
                if here not in IRRELEVANT:
                    yield here
    elif isinstance(new, list) and isinstance(old, list) and (models or len(new) == len(old)):
        for index, (one, other) in enumerate(zip(new, old)):
            yield from differences(one, other, models, (*location, index))
        for index in range(min(len(new), len(old)), max(len(new), len(old))):  # sections that one of them lacks
            yield (*location, index)
    else:
        yield location


def models_of(field: FieldInfo | None) -> list[type[BaseModel]]:
    """The settings that a field may hold."""
    parts = [] if field is None else leaves(field.annotation, *field.metadata)
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def _default(field: FieldInfo) -> Any:
    """The default of a field as it is stored; nothing equals that of a field without one."""
    default = field.get_default(call_default_factory=True)
    return to_jsonable_python(default) if default is not PydanticUndefined else default
