"""The parts of all settings: quantities with units, files, and models that refuse unknown keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails

from latf_sampling import units
from latf_sampling.errors import SettingsError

Location = tuple[str | int, ...]
"""Where a value stands in a model: keys and indices from the outside in."""

MAX_LISTED = 12
"""An unknown key is answered with the list of known keys where there are at most so many."""


def read(value: Any, dimension: str, info: ValidationInfo) -> float:
    """Convert text with a unit, an openmm quantity or, from Python, a bare number to a float in the internal unit."""
    from_file = bool(info.context and info.context.get("from_file"))
    convert = units.parse if from_file or isinstance(value, str) else units.to_float
    return convert(value, dimension, info.field_name or dimension)


@dataclass(frozen=True)
class Dimension:
    """Makes a float field take text with a unit, an openmm quantity or, from Python, a bare number.

    Parameters
    ----------
    name
        A key of `latf_sampling.units.UNITS`.
    minimum
        The least value that is allowed, in the internal unit; None allows all.
    exclusive
        Whether the minimum itself is refused.

    Examples
    --------
    >>> class Walk(Settings):
    ...     duration: Annotated[float, Dimension("time", 0.0)]
    >>> Walk(duration="2 fs").duration
    0.002
    >>> Walk(duration="2 nm")
    Traceback (most recent call last):
        ...
    latf_sampling.errors.SettingsError: Walk: duration: '2 nm' is not a time; write it like '2 fs'.
    """

    name: str
    minimum: float | None = None
    exclusive: bool = False

    def convert(self, value: Any, info: ValidationInfo) -> float:
        number = read(value, self.name, info)
        if self.minimum is not None and (number < self.minimum or (self.exclusive and number == self.minimum)):
            least = f"{'more than' if self.exclusive else 'at least'} {self.minimum:g}"
            raise SettingsError(f"{value!r} is too small; it must be {least}.")
        return number

    @property
    def usage(self) -> str:
        """How a value is written, for the JSON schema."""
        example, unit = units.EXAMPLES[self.name], units.symbol(self.name)
        return f"Text with a unit, like '{example}'; from Python also a number in {unit}."

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return BeforeValidator(self.convert).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "description": self.usage, "examples": [units.EXAMPLES[self.name]]}


Time = Annotated[float, Dimension("time", 0.0, exclusive=True)]
Temperature = Annotated[float, Dimension("temperature", 0.0, exclusive=True)]
Energy = Annotated[float, Dimension("energy", 0.0, exclusive=True)]
Mass = Annotated[float, Dimension("mass", 0.0, exclusive=True)]
Friction = Annotated[float, Dimension("friction", 0.0, exclusive=True)]
Length = Annotated[float, Dimension("length", 0.0, exclusive=True)]
InverseLength = Annotated[float, Dimension("inverse length", 0.0, exclusive=True)]
Concentration = Annotated[float, Dimension("concentration", 0.0)]
Pressure = Annotated[float, Dimension("pressure", 0.0)]
Stiffness = Annotated[float, Dimension("stiffness", 0.0, exclusive=True)]


def existing(file: Path, info: ValidationInfo) -> Path:
    """The absolute path of a file that a protocol names; a path that was passed from Python stays as it is.

    Raises
    ------
    SettingsError
        The file does not exist beside the protocol, in the directory of the validation context.
    """
    directory = (info.context or {}).get("directory")
    if directory is None:
        return file
    path = (directory / file).resolve()
    if not path.is_file():
        raise SettingsError(f"there is no file {path}; paths are relative to the protocol.")
    return path


File = Annotated[Path, AfterValidator(existing)]
"""A file; one that a protocol names must exist, and its path is relative to the protocol."""


class _RefusingType(type(BaseModel)):
    """Turns pydantic's error into this package's where a model is made by calling its class.

    An `__init__` would be called for nested models too: the outer one would lose their faults, and they the context.
    """

    if not TYPE_CHECKING:  # which takes the parameters from the fields

        def __call__(cls, *args: Any, **data: Any) -> Any:
            try:
                return super().__call__(*args, **data)
            except ValidationError as error:
                raise SettingsError(explain(error, cls.__name__, cls)) from error


class Settings(BaseModel, metaclass=_RefusingType):
    """The base of all settings: immutable, and without unknown keys.

    The docstring below a field is its description in the JSON schema.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Pydantic's schema, with units in the descriptions and the defaults of quantities."""
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        resolved["description"] = _one_line((cls.__doc__ or "").split("\n\n")[0])
        for key, field in _fields(cls).items():
            entry, description = resolved["properties"][key], field.description or ""
            for dimension in {leaf for leaf in _leaves(field.annotation, *field.metadata) if type(leaf) is Dimension}:
                description += f" {dimension.usage}"
                if isinstance(entry.get("default"), float):
                    entry["default"] = units.to_text(entry["default"], dimension.name)
            if description:
                entry["description"] = _one_line(description)
        return schema


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _leaves(*annotations: Any) -> Iterator[Any]:
    """All types and validators that annotations consist of."""
    for annotation in annotations:
        yield annotation
        yield from _leaves(*get_args(annotation), *getattr(annotation, "__metadata__", ()))


def files_of(value: Any, location: Location = ()) -> Iterator[tuple[Location, Path]]:
    """Every file that settings name, with its location."""
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


def explain(
    error: ValidationError,
    where: str,
    model: type[BaseModel] | None = None,
    *,
    nested: bool = False,
    usage: str = "",
) -> str:
    """One line per fault, each with the key as it stands in the file.

    Parameters
    ----------
    error
        What pydantic raised.
    where
        The file, the class or, with ``nested``, the key that was validated.
    model
        The model that refused it. With it, labels of unions are left out of keys, and an unknown key is answered with
        the known ones.
    nested
        Whether ``where`` is itself a key, which the others follow as ``where.key``.
    usage
        What to write instead, for keys that are missing or unknown.
    """
    lines = []
    faults = error.errors()
    for fault in faults:
        depth = len(fault["loc"])
        if fault["type"] == "too_short" and any(
            len(other["loc"]) > depth and other["loc"][:depth] == fault["loc"] for other in faults
        ):
            continue  # the list is too short only because its faulty entries do not count
        location, owner = _keys(fault["loc"], model)
        if "expected_tags" in fault.get("ctx", {}):  # a union of models, and no member of this kind
            location = (*location, fault.get("ctx", {})["discriminator"].strip("'"))
        name = next((part for part in reversed(location) if isinstance(part, str)), "")
        for line in _message(fault, name, owner, usage).splitlines():
            item = re.match(r"\[\d+\]", line)  # an item of the list at the location
            key = re.match(r"[A-Za-z_][\w.\[\]]*: ", line)  # a check across keys names the one at fault itself
            separator = "" if item else "." if key else ": "
            if nested:
                lines.append(f"{spell((where, *location))}{separator}{line}")
            else:
                lines.append(f"{where}: {spell(location)}{separator if location else ''}{line}")
    return "\n".join(lines)


def _message(fault: ErrorDetails, name: str, owner: type[BaseModel] | None, usage: str) -> str:
    """What is wrong with the value of a key, or with the key itself."""
    kind, message, hint = fault["type"], fault["msg"], f"; {usage}." if usage else "."
    if kind == "missing":
        return f"this key is missing{hint}"
    if kind == "extra_forbidden":
        known = [] if owner is None else list(_fields(owner))
        nearest = difflib.get_close_matches(name, known, 1)
        listed = f" Known keys: {', '.join(known)}." if 0 < len(known) <= MAX_LISTED and not usage else ""
        return f"no such key{f', did you mean {nearest[0]!r}' if nearest else ''}{hint}{listed}"
    if "expected_tags" in fault.get("ctx", {}):
        return f"must be one of {fault.get('ctx', {})['expected_tags']}."
    if kind == "value_error":  # from a validator of this package, which quotes the value itself
        return message.removeprefix("Value error, ").removeprefix(f"{name}: ")
    return f"{message}, got {fault['input']!r}." if len(repr(fault["input"])) <= 80 else f"{message}."


def _keys(location: Location, model: type[BaseModel] | None) -> tuple[Location, type[BaseModel] | None]:
    """A location without the labels that pydantic gives to the members of unions, and the model of its last key."""
    if model is None:
        return location, None
    keys: list[str | int] = []
    owner, inner, mapping = model, [model], False
    for part in location:
        if isinstance(part, int) or mapping:
            keys.append(part)
        elif len(inner) > 1:  # a union of models: the label says which of them
            inner = [candidate for candidate in inner if part in _labels(candidate)]
        elif inner:
            keys.append(part)
            owner = inner[0]
            field = _fields(owner).get(part)
            leaves = [] if field is None else list(_leaves(field.annotation, *field.metadata))
            inner = [leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, BaseModel)]
            mapping = any(leaf is dict or get_origin(leaf) is dict for leaf in leaves)
    return tuple(keys), owner


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by their keys."""
    return {field.alias or key: field for key, field in model.model_fields.items()}


def _labels(model: type[BaseModel]) -> set[str]:
    """What pydantic may call a model among others: the name of its class, or the words that its tag allows."""
    literals = [field.annotation for field in model.model_fields.values() if get_origin(field.annotation) is Literal]
    return {model.__name__, *(word for literal in literals for word in get_args(literal))}
