"""What settings are made of: quantities with their units, files, and models that refuse what they do not know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo

from latf_sampling import units
from latf_sampling.errors import SettingsError

Location = tuple[str | int, ...]
"""Where a value stands in a model: keys and indices from the outside in."""


def read(value: Any, dimension: str, info: ValidationInfo) -> float:
    """A quantity as settings hold it, from text with a unit, an openmm quantity or, from Python, a bare float."""
    from_file = bool(info.context and info.context.get("from_file"))
    convert = units.parse if from_file or isinstance(value, str) else units.to_float
    return convert(value, dimension, info.field_name or dimension)


def quantity(dimension: str, minimum: float | None = None, exclusive: bool = False):
    """A float field that takes text with a unit, an openmm quantity or, from Python, a bare float."""

    def convert(value: Any, info: ValidationInfo) -> float:
        number = read(value, dimension, info)
        if minimum is not None and (number < minimum or (exclusive and number == minimum)):
            raise SettingsError(
                f"{value!r} is too small; it must be {'more than' if exclusive else 'at least'} {minimum:g}."
            )
        return number

    return Annotated[float, BeforeValidator(convert)]


Time = quantity("time", 0.0, exclusive=True)
Temperature = quantity("temperature", 0.0, exclusive=True)
Energy = quantity("energy", 0.0, exclusive=True)
Mass = quantity("mass", 0.0, exclusive=True)
Friction = quantity("friction", 0.0, exclusive=True)
Length = quantity("length", 0.0, exclusive=True)
InverseLength = quantity("inverse length", 0.0, exclusive=True)
Pressure = quantity("pressure", 0.0)
Stiffness = quantity("stiffness", 0.0, exclusive=True)


def existing(file: Path, info: ValidationInfo) -> Path:
    """A file as it stands in a protocol, which lies in the directory of the context; from Python it stays as it is."""
    directory = (info.context or {}).get("directory")
    if directory is None:
        return file
    found = (directory / file).resolve()
    if not found.is_file():
        raise SettingsError(f"there is no file {found}; paths are relative to the protocol.")
    return found


File = Annotated[Path, AfterValidator(existing)]
"""A file; in a protocol it must exist, and a relative path is relative to the protocol."""


class _RefusingType(type(BaseModel)):
    """Turns pydantic's error into this package's where a model is made by calling its class.

    An `__init__` would be called for nested models too: the outer one would lose their faults, and they the context.
    """

    def __call__(cls, *args: Any, **data: Any) -> Any:
        try:
            return super().__call__(*args, **data)
        except ValidationError as error:
            raise SettingsError(explain(error, cls.__name__)) from error


class Settings(BaseModel, metaclass=_RefusingType):
    """Frozen, and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


def files_of(value: Any, location: Location = ()) -> Iterator[tuple[Location, Path]]:
    """Every file that settings name, with the place where they do."""
    if isinstance(value, Path):
        yield location, value
        return
    if isinstance(value, BaseModel):
        inner = [(key, getattr(value, key)) for key, field in type(value).model_fields.items() if not field.exclude]
    elif isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list | tuple):
        inner = list(enumerate(value))
    else:
        return
    for key, part in inner:
        yield from files_of(part, (*location, key))


def spell(location: Location) -> str:
    """A location as it would be written in Python: ``system.force_field[0]``."""
    words = ""
    for part in location:
        words += f"[{part}]" if isinstance(part, int) else f".{part}" if words else part
    return words


def explain(error: ValidationError, where: str, *, nested: bool = False, usage: str = "") -> str:
    """One line per fault, each with the key as it stands in the file.

    ``where`` is a file or a class; if ``nested``, it is a key itself (``features[0].rmsd``), which the keys of the
    faults continue. ``usage`` says what may be written, and follows a key that is missing or unknown.
    """
    lines = []
    usage = f"; {usage}." if usage else "."
    faults = error.errors()
    for fault in faults:
        key, depth = where if nested else "", len(fault["loc"])
        if fault["type"] == "too_short" and any(
            len(other["loc"]) > depth and other["loc"][:depth] == fault["loc"] for other in faults
        ):
            continue  # the list is short only because its faulty entries do not count
        parents = [None, *fault["loc"]]
        for parent, part in zip(parents, fault["loc"]):
            if parent == "bias" and part in ("metadynamics", "opes", "flow"):
                continue  # the kind of bias, which is no key
            key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
        kind, message = fault["type"], fault["msg"]
        if kind == "extra_forbidden":
            message = f"no such key{usage}"
        elif kind in ("union_tag_invalid", "union_tag_not_found"):
            key, message = f"{key}.kind", "must be 'metadynamics', 'opes' or 'flow'."
        elif kind == "missing":
            message = f"this key is missing{usage}"
        elif kind != "value_error" and len(got := repr(fault["input"])) <= 60:
            message = f"{message}, got {got}."
        field = next((part for part in reversed(fault["loc"]) if isinstance(part, str)), "")
        message = message.removeprefix("Value error, ").removeprefix(f"{field}: " if field else "")
        for line in message.splitlines():
            own = re.match(r"[a-z_]+: ", line)  # a check across keys names the one at fault itself
            item = re.match(r"\[\d+\]", line)  # one of a list its item
            separator = "" if not key or item else "." if own else ": "
            lines.append(f"{key}{separator}{line}" if nested else f"{where}: {key}{separator}{line}")
    return "\n".join(lines)
