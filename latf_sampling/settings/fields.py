"""The parts of all settings: quantities with units, files, and models that refuse unknown keys."""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import numpy as np
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
from pydantic_core.core_schema import no_info_before_validator_function

from latf_sampling import units
from latf_sampling.errors import SettingsError

Location = tuple[str | int, ...]
"""Where a value stands in a model: keys and indices from the outside in."""

MAX_LISTED = 40
"""An unknown key is answered with the list of known keys where there are at most so many."""
LONGEST = 80
"""A value of more characters than this is not repeated in a message."""


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
    minimum, maximum
        The least and the greatest value that are plausible, in the internal unit; None allows all.
    exclusive
        Whether the minimum itself is refused.

    Raises
    ------
    SettingsError
        The value has another dimension, no unit, or is outside of the range.

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
    maximum: float | None = None
    exclusive: bool = False

    def convert(self, value: Any, info: ValidationInfo) -> float:
        if isinstance(value, bool) or (value is None and info.context is not None):
            example = units.EXAMPLES[self.name]
            raise SettingsError(f"{shown(value)} is not {units.with_article(self.name)}; write it like '{example}'.")
        number = read(value, self.name, info)
        if self.minimum is not None and (number < self.minimum or (self.exclusive and number == self.minimum)):
            if number <= 0 < self.minimum:
                least = "more than 0"
            elif self.minimum == 0:
                least = f"{'more than' if self.exclusive else 'at least'} 0"
            else:
                least = f"at least {units.to_text(self.minimum, self.name)}"
            raise SettingsError(f"{shown(value)} is too small; it must be {least}.")
        if self.maximum is not None and number > self.maximum:
            raise SettingsError(
                f"{shown(value)} is too large; it must be at most {units.to_text(self.maximum, self.name)}."
            )
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


# Ranges are generous: what is outside of them is a mistake of the unit or of the exponent, and no simulation.
Time = Annotated[float, Dimension("time", 1e-6, 1e12)]
"""1 as to 1 s."""
Temperature = Annotated[float, Dimension("temperature", 1e-3, 1e6)]
Energy = Annotated[float, Dimension("energy", 1e-6, 1e5)]
Friction = Annotated[float, Dimension("friction", 1e-6, 1e6)]
Length = Annotated[float, Dimension("length", 1e-5, 1e4)]
InverseLength = Annotated[float, Dimension("inverse length", 1e-4, 1e5)]
Concentration = Annotated[float, Dimension("concentration", 0.0, 20.0)]
Pressure = Annotated[float, Dimension("pressure", 0.0, 1e6)]
Stiffness = Annotated[float, Dimension("stiffness", 1e-6, 1e9)]


def is_stored(info: ValidationInfo) -> bool:
    """Whether the settings are those that a campaign stored, whose files are copies in one folder."""
    return bool(info.context and info.context.get("stored"))


def existing(file: Path, info: ValidationInfo) -> Path:
    """The absolute path of a file that a protocol names; a path that was passed from Python stays as it is.

    Raises
    ------
    SettingsError
        The file does not exist beside the protocol, in the directory of the validation context; or a stored protocol
        names a file in another folder than that of the campaign's copies.
    """
    directory = (info.context or {}).get("directory")
    if directory is None:
        return file
    path = (directory / file).resolve()
    if is_stored(info) and path != directory.resolve() / file.name:
        raise SettingsError(
            f"'{file}' is not the name of a file in {directory}; the stored protocol was changed, and is not followed "
            "to other places."
        )
    if not path.is_file():
        folder = ", which is a folder" if path.is_dir() else ""
        raise SettingsError(f"there is no file {path}{folder}; paths are relative to the protocol.")
    return path


File = Annotated[Path, AfterValidator(existing)]
"""A file; one that a protocol names must exist, and its path is relative to the protocol."""


def shown(value: Any) -> str:
    """A value in a message: null, true and false as YAML has them; only its kind where it is long.

    Examples
    --------
    >>> shown(None), shown("2 fs"), shown(list(range(100)))
    ('null', "'2 fs'", 'a list of 100 items')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    if len(text) <= LONGEST:
        return text
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items"
    return f"{text[:LONGEST]}..."


_OF_PYDANTIC = frozenset(dir(BaseModel)) | {"model_config", "model_fields", "model_computed_fields"}


class _SettingsType(type(BaseModel)):
    """Turns pydantic's error into this package's where a model is made by calling its class.

    An `__init__` would be called for nested models too: the outer one would lose their faults, and they the context.
    """

    def __dir__(cls) -> list[str]:
        """Without what pydantic brings along, so that `help` shows what is of use to somebody who writes settings."""
        return [name for name in super().__dir__() if not name.startswith("_") and name not in _OF_PYDANTIC]

    if not TYPE_CHECKING:  # which takes the parameters from the fields

        def __call__(cls, *args: Any, **data: Any) -> Any:
            if args:
                first = next(iter(cls.model_fields))
                raise SettingsError(
                    f"{cls.__name__}: settings are given by name, {cls.__name__}({first}=...); got {shown(args[0])}."
                )
            try:
                return super().__call__(*args, **data)
            except ValidationError as error:
                raise SettingsError(explain(error, cls.__name__, cls)) from error


def _strict(schema: Any) -> Any:
    """A schema whose numbers, truth values and texts are those that were written; numpy's numbers count as Python's."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if isinstance(schema, tuple):
        return tuple(_strict(part) for part in schema)
    if not isinstance(schema, dict):
        return schema
    parts: Any = {key: part if key in ("metadata", "default") else _strict(part) for key, part in schema.items()}
    if parts.get("type") not in ("int", "float", "bool", "str"):
        return parts
    parts["strict"] = True
    return no_info_before_validator_function(_without_numpy, parts)


def _without_numpy(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


class Settings(BaseModel, metaclass=_SettingsType):
    """The base of all settings: immutable, and without unknown keys.

    The docstring below a field is its description, in the JSON schema and at the end of the docstring of the class.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def __setattr__(self, name: str, value: Any) -> None:
        kind = type(self).__name__
        raise SettingsError(f"{kind}: settings are not changed; make new ones, {kind}({name}=..., ...).")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """List the fields in the docstring: pydoc shows neither what they mean nor, in few words, their defaults."""
        super().__pydantic_init_subclass__(**kwargs)
        cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Attributes", "----------", *_described(cls)])

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Pydantic's schema, in which true is no number, 1 is not true, and 1.0 and "1" are no integers."""
        return _strict(handler(source))

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Pydantic's schema, with units in the descriptions and the defaults of quantities."""
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        resolved["description"] = _one_line((cls.__doc__ or "").split("\n\n")[0])
        for key, field in _fields(cls).items():
            entry, description = resolved["properties"][key], field.description or ""
            for dimension in {leaf for leaf in leaves(field.annotation, *field.metadata) if type(leaf) is Dimension}:
                description += f" {dimension.usage}"
                if isinstance(entry.get("default"), float):
                    entry["default"] = units.to_text(entry["default"], dimension.name)
            if description:
                entry["description"] = _one_line(description)
        return schema


def _described(model: type[BaseModel]) -> Iterator[str]:
    """The fields of a model in lines of a docstring: type, default and meaning of each."""
    types: dict[str, str] = {}
    for base in reversed(model.__mro__):
        types |= inspect.get_annotations(base)
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        default = f"{type(default).__name__}()" if isinstance(default, BaseModel) else repr(default)
        usage = [leaf.usage for leaf in leaves(field.annotation, *field.metadata) if type(leaf) is Dimension]
        yield f"{field.alias or name} : {types[name]}" + ("" if field.is_required() else f", default {default}")
        for line in textwrap.wrap(_one_line(" ".join([field.description or "", *dict.fromkeys(usage)])), 110):
            yield f"    {line}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def leaves(*annotations: Any) -> Iterator[Any]:
    """All types and validators that annotations consist of."""
    for annotation in annotations:
        yield annotation
        yield from leaves(*get_args(annotation), *getattr(annotation, "__metadata__", ()))


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
    by_location: dict[Location, list[tuple[ErrorDetails, type[BaseModel] | None]]] = {}
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
        by_location.setdefault(location, []).append((fault, owner))
    lines: list[str] = []
    for location, entries in by_location.items():
        for line in _messages(location, entries, usage):
            item = re.match(r"\[\d+\]", line)  # an item of the list at the location
            key = re.match(r"[A-Za-z_][\w.\[\]]*: ", line)  # a check across keys names the one at fault itself
            separator = "" if item else "." if key else ": "
            if nested:
                lines.append(f"{spell((where, *location))}{separator}{line}")
            else:
                lines.append(f"{where}: {spell(location)}{separator if location else ''}{line}")
    return "\n".join(dict.fromkeys(lines))


def _messages(
    location: Location, entries: list[tuple[ErrorDetails, type[BaseModel] | None]], usage: str
) -> Iterator[str]:
    """What is wrong at one location, in lines; members of a union that all refuse its value share one."""
    requirements = [_requirement(fault) for fault, _ in entries]
    required = list(dict.fromkeys(requirement for requirement in requirements if requirement))
    if required:
        fault = next(fault for (fault, _), requirement in zip(entries, requirements) if requirement)
        value = fault.get("ctx", {}).get("tag", fault["input"])
        yield f"must be {' or '.join(required)}, got {shown(value)}."
    for (fault, owner), requirement in zip(entries, requirements):
        if requirement is None:
            yield from _message(fault, location, owner, usage).splitlines()


def _requirement(fault: ErrorDetails) -> str | None:
    """What a value has to be; None for other faults than those of a single value."""
    kind, limits = fault["type"], fault.get("ctx", {})
    for bound, words in _BOUNDS.items():
        if kind == bound:
            return f"{words} {limits[_LIMITS[bound]]:g}"
    if "expected_tags" in limits:
        return f"one of {limits['expected_tags']}"
    if kind == "literal_error":
        return limits["expected"]
    return next((words for begin, words in _KINDS.items() if kind.startswith(begin)), None)


_BOUNDS = {
    "greater_than": "greater than",
    "greater_than_equal": "greater than or equal to",
    "less_than": "less than",
    "less_than_equal": "less than or equal to",
}
_LIMITS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_KINDS = {
    "int_": "a valid integer",
    "float_": "a number",
    "finite_number": "a finite number",
    "bool_": "true or false",
    "string_type": "text",
    "string_sub_type": "text",
    "string_unicode": "text",
    "path_type": "the name of a file",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (dictionary) of keys to values",
    "mapping_type": "a mapping (dictionary) of keys to values",
    "model_type": "a mapping (dictionary) of keys to values",
    "model_attributes_type": "a mapping (dictionary) of keys to values",
    "none_required": "null",
}
"""What a value has to be, by the beginning of pydantic's kind of error."""


def _message(fault: ErrorDetails, location: Location, owner: type[BaseModel] | None, usage: str) -> str:
    """What is wrong with a key, or with a value in other ways than its type and range."""
    name = next((part for part in reversed(location) if isinstance(part, str)), "")
    kind, message, hint = fault["type"], fault["msg"], f"; {usage}." if usage else "."
    limits = fault.get("ctx", {})
    if kind == "missing":
        return f"this key is missing{hint}"
    if kind == "extra_forbidden":
        known = [] if owner is None else list(_fields(owner))
        nearest = difflib.get_close_matches(name, known, 1)
        listed = f" Known keys: {', '.join(known)}." if 0 < len(known) <= MAX_LISTED and not usage else ""
        if not nearest:
            return f"no such key{hint}{listed}"
        advice = f" {usage[0].upper()}{usage[1:]}." if usage else ""
        return f"no such key, did you mean {nearest[0]!r}?{advice}{listed}"
    if kind in ("too_short", "too_long"):
        least, length = kind == "too_short", limits["min_length" if kind == "too_short" else "max_length"]
        items = f"{length} item{'' if length == 1 else 's'}"
        return f"must have {'at least' if least else 'at most'} {items}, got {limits['actual_length']}."
    if kind == "string_too_short":
        return "must not be empty."
    if kind == "string_too_long":
        return f"must have at most {limits['max_length']} characters, got {len(fault['input'])}."
    if kind == "value_error":  # from a validator of this package, which quotes the value itself
        return message.removeprefix("Value error, ").removeprefix(f"{name}: ")
    message = message[:1].lower() + message[1:]
    return f"{message.replace('input should be', 'must be')}, got {shown(fault['input'])}."


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
            parts = [] if field is None else list(leaves(field.annotation, *field.metadata))
            inner = [leaf for leaf in parts if isinstance(leaf, type) and issubclass(leaf, BaseModel)]
            mapping = any(leaf is dict or get_origin(leaf) is dict for leaf in parts)
    return tuple(keys), owner


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by their keys."""
    return {field.alias or key: field for key, field in model.model_fields.items()}


def _labels(model: type[BaseModel]) -> set[str]:
    """What pydantic may call a model among others: the name of its class, or the words that its tag allows."""
    literals = [field.annotation for field in model.model_fields.values() if get_origin(field.annotation) is Literal]
    return {model.__name__, *(word for literal in literals for word in get_args(literal))}
