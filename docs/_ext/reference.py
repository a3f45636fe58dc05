"""Pages that are made when the documentation is built: keys of a protocol, the command line, and public names.

A page has a comment like ``<!-- protocol keys -->`` where the text of one of the functions below goes.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import annotated_types
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import latf_sampling
from latf_sampling import units
from latf_sampling.cli.main import app as command_line
from latf_sampling.settings.changes import CHANGES
from latf_sampling.settings.fields import Dimension, Settings
from latf_sampling.settings.protocol import LargeFiles, Protocol

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LATER = {
    "free": "may be changed",
    "learn": "the last model is trained again",
    "starts": "the structures at the end are made again",
    "extends": "what is missing is simulated",
    "fixed": "refused once something was simulated with it",
}
"""What a change of a key means for a campaign with results, see `latf_sampling.settings.changes.Change`."""
_MATCHING = get_args(LargeFiles)[2]
"""What marks names of files that may be patterns."""


def protocol_keys() -> str:
    """Every section of a protocol with its keys, in Markdown."""
    sections = dict.fromkeys(_sections(Protocol, ""))  # kinds of bias have some in common
    return "\n\n".join(_section(model, path) for model, path in sections)


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[type[BaseModel], str]]:
    """A model and those inside of it, each with the key that it stands under."""
    yield model, path
    for key, field in model.model_fields.items():
        several = any(get_origin(part) is tuple for part in [field.annotation, *get_args(field.annotation)])
        for inner in dict.fromkeys(_models(field.annotation)):
            yield from _sections(inner, f"{path}.{key}".strip(".") + "[]" * several)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _section(model: type[BaseModel], path: str) -> str:
    kind = model.model_fields.get("kind")
    title = f"`{path}`" if path else "The protocol itself"
    title += f" with `kind: {kind.default}`" if kind is not None else ""
    about = " ".join((model.__doc__ or "").split("\n\n")[0].split()).replace("`latf_sampling.", "`")
    entries = [_entry(model, key, field) for key, field in model.model_fields.items()]
    return "\n\n".join([f"## {title}", about, *entries])


def _entry(model: type[BaseModel], key: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split())
    if field.is_required():
        default = "must be given"
    else:
        default = f"default: {_value(field.get_default(call_default_factory=True), field)}"
    later = LATER[CHANGES[model][key]]
    facts = f"{_words(field.annotation, field.metadata)}; {default}. Later: {later}."
    return f"`{key}`\n: {meaning}\n\n  *{facts}*"


def _value(value: Any, field: FieldInfo) -> str:
    """A default as it would stand in a file."""
    dimension = next((part for part in field.metadata if isinstance(part, Dimension)), None)
    if dimension is not None and value is not None:
        return f"`{units.to_text(value, dimension.name)}`"
    if isinstance(value, BaseModel):
        return "that of each of its keys"
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`".replace(" ", "")
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(str, value))}]`" if value else "none"
    return f"`{value}`" if value != {} else "none"


def _words(annotation: Any, metadata: Any = ()) -> str:
    """What a value has to be, with its unit and its range."""
    for part in metadata:
        if isinstance(part, Dimension):
            return _quantity(part)
        if part is _MATCHING:
            return "a name or pattern of files, or a list of these"
    if hasattr(annotation, "__metadata__"):
        return _words(get_args(annotation)[0], [*_limits(annotation.__metadata__), *metadata])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        inner = [part for part in arguments if part is not type(None)]
        words = list(dict.fromkeys(_words(part, metadata) for part in inner))
        return " or ".join(words + ["null"] * (len(inner) < len(arguments)))
    if origin is Literal:
        return "one of " + ", ".join(f"`{word}`" for word in arguments) if len(arguments) > 1 else f"`{arguments[0]}`"
    if origin is tuple:
        item = _words(arguments[0])
        return f"a list ({item})" if Ellipsis in arguments else f"{len(arguments)} values ({item})"
    if origin is dict or annotation is dict:
        return "a mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section of its own, below"
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return "a file, relative to the protocol"
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    return f"{names[annotation]}{_range(metadata)}"


def _limits(metadata: Any) -> list[Any]:
    return [limit for part in metadata for limit in (part.metadata if isinstance(part, FieldInfo) else [part])]


def _quantity(dimension: Dimension) -> str:
    low, high = (
        None if limit is None else _text(limit, dimension.name) for limit in (dimension.minimum, dimension.maximum)
    )
    words = f"{units.with_article(dimension.name)} like `{units.EXAMPLES[dimension.name]}`"
    if low is not None:
        words += f", {'more than' if dimension.exclusive else 'at least'} {low}"
    return words + (f", at most {high}" if high is not None else "")


def _text(value: float, dimension: str) -> str:
    """A quantity with its unit; times in one that makes the number readable."""
    if dimension != "time" or value == 0:
        return units.to_text(value, dimension)
    symbols = {"as": 1e-6, "fs": 1e-3, "ps": 1.0, "ns": 1e3, "us": 1e6, "ms": 1e9, "s": units.SECOND}
    unit = max((name for name in symbols if symbols[name] <= value * (1 + 1e-9)), key=symbols.__getitem__)
    return f"{value / symbols[unit]:g} {unit}"


def _range(metadata: Any) -> str:
    words = {
        annotated_types.Gt: "more than",
        annotated_types.Ge: "at least",
        annotated_types.Lt: "less than",
        annotated_types.Le: "at most",
    }
    parts = [
        f"{word} {_number(getattr(part, kind.__name__.lower()))}"
        for part in metadata
        for kind, word in words.items()
        if isinstance(part, kind)
    ]
    return f", {', '.join(parts)}" if parts else ""


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and value < 2**53 else f"{value:g}"


def commands() -> str:
    """Every command with its arguments and options, in Markdown."""
    group: Any = typer.main.get_command(command_line)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    arguments = [part for part in command.params if part.param_type_name == "argument"]
    options = [part for part in command.params if part.param_type_name == "option" and part.name != "help"]
    usage = " ".join(_usage(part) for part in arguments)
    lines = [
        f"## `latf {name}`",
        command.help.strip(),
        f"```text\nlatf {name} {usage}{' [OPTIONS]' * bool(options)}\n```",
    ]
    for part in [*arguments, *options]:
        names = _usage(part) if part in arguments else ", ".join([*part.opts, *part.secondary_opts])
        wanted = "" if part in arguments or part.is_flag else f" {_kind(part.type_descriptor.annotation)}"
        default = "" if callable(part.default) else part.default
        shown = f" Default: {default}." if default and not part.required else ""
        text = getattr(part, "help", None) or ""
        lines.append(f"`{names}{wanted}`\n: {text}{' Required.' * (part.required and part in options)}{shown}")
    return "\n\n".join(lines)


def _kind(annotation: Any) -> str:
    """What an option takes."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if parts:
        return " ".join(map(_kind, parts))
    return {int: "INTEGER", Path: "PATH", str: "TEXT"}[annotation]


def _usage(part: Any) -> str:
    word = (part.metavar or part.name).upper()
    word += "..." if part.nargs == -1 else ""
    return word if part.required else f"[{word}]"


NAMES = {
    "Campaigns": ["Campaign", "Protocol"],
    "Descriptors and data": ["Features", "Series", "Dataset", "select_columns", "KB"],
    "Learning": [
        *("LaTF", "ModelSettings", "TrainingSettings", "train", "evaluate", "scan_lags", "rank_descriptors"),
        *("rank_models", "expected_crossings"),
    ],
    "Collective variables": ["LatentCV", "cv.variable.Variable", "cv.collective_variable.CollectiveVariable"],
    "Biases": [
        *(
            "bias.base.Bias",
            "bias.grid.GridBias",
            "bias.adaptive.AdaptiveBias",
            "Metadynamics",
            "OPES",
            "FlowBias",
            "Umbrella",
            "UmbrellaWindows",
            "TrustRegion",
        ),
        *("free_energy_path", "even_path", "respa_integrator", "step_together"),
    ],
    "Structures": ["generate_starts", "structures_at", "structures_between", "starts.Starts"],
    "Free energies": [
        *("analysis.free_energy_difference", "analysis.Difference", "analysis.Convergence"),
        *("analysis.free_energy_profile", "analysis.free_energy_surface", "analysis.offset_weights"),
        *("analysis.last_bias_weights", "analysis.after_filling", "analysis.stages"),
        *("analysis.thermodynamics.GibbsHelmholtz", "analysis.thermodynamics.StateThermodynamics"),
    ],
    "Checks": ["testing.check_descriptors"],
    "Errors": [
        *("LatfError", "InstallationError", "SettingsError", "DataError", "TrainingError", "SingleStateError"),
        *("CVError", "SimulationError", "StoreError"),
    ],
}
"""Names under `latf_sampling`, by what they are for."""


def public_names() -> str:
    """Directives for autodoc, in Markdown."""
    if missing := set(latf_sampling.__all__).difference(*NAMES.values()):
        raise ValueError(f"docs/_ext/reference.py: NAMES lacks {', '.join(sorted(missing))}.")
    return "\n\n".join([f"## {title}\n\n" + "\n\n".join(map(_directive, names)) for title, names in NAMES.items()])


def _directive(name: str) -> str:
    value: Any = latf_sampling
    for part in name.split("."):
        value = getattr(value, part) if hasattr(value, part) else import_module(f"{value.__name__}.{part}")
    options: list[str] = []
    if not isinstance(value, type):
        kind = "function" if callable(value) else "data"
    else:
        kind = "class"
        if not issubclass(value, BaseModel):  # keys of settings have a page of their own
            options = [":members:"]
    lines = [f".. auto{kind}:: latf_sampling.{name}", *(f"   {option}" for option in options)]
    return "```{eval-rst}\n" + "\n".join(lines) + "\n```"


PAGES: dict[str, Callable[[], str]] = {
    "protocol keys": protocol_keys,
    "commands": commands,
    "public names": public_names,
}


def _fill(app: Sphinx, document: str, source: list[str]) -> None:
    for name, text in PAGES.items():
        if (marker := f"<!-- {name} -->") in source[0]:
            source[0] = source[0].replace(marker, text())


def _without_keys(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Leave the keys of settings, which have a page of their own, out of docstrings."""
    if isinstance(value, type) and issubclass(value, Settings):
        del lines[lines.index("Attributes") :]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _without_keys, priority=100)  # before napoleon reads them
    return {"parallel_read_safe": True, "parallel_write_safe": True}
