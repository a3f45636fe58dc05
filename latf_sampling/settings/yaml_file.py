"""YAML files as they were written: no key twice, numbers as people write them, UTF-8 whatever the locale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from latf_sampling.errors import SettingsError
from latf_sampling.settings.fields import Location, spell

MAX_VALUES = 1_000_000
"""A file may have at most so many values, once every alias (*name) is replaced by what it stands for."""

_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?[0-9][0-9_]*"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}
_PLAIN = {"tag:yaml.org,2002:null", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:merge"}


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, 010 as ten and 1:30 as text, as YAML 1.2 does; PyYAML's rules are those of YAML 1.1."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rsplit(":", 1)[-1] in ("null", "bool", "int", "float", "str", "seq", "map")
    }


def _integer(loader: yaml.SafeLoader, node: yaml.Node) -> int:
    return int(str(node.value).replace("_", ""))


for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern.pattern})$"), list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file consists of.

    Raises
    ------
    SettingsError
        The file cannot be read, is not UTF-8 text or not YAML, or has a key twice; names the key and the lines.

    Examples
    --------
    >>> read_yaml(Path("protocols/alanine-dipeptide.yaml"))["seed"]  # doctest: +SKIP
    1
    """
    if path.is_dir():
        raise SettingsError(
            f"{path}: cannot be read as a protocol, since it is a directory; give a YAML file, and the directory of a "
            "campaign with -o."
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"{path}: not a YAML file (byte {error.start} is not text in UTF-8); save it as UTF-8."
        ) from error
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _check(node, path)
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise SettingsError(f"{path}: not a YAML file ({_reason(error)}).") from error
    except yaml.reader.ReaderError as error:
        raise SettingsError(
            f"{path}: not a YAML file (character {error.position} is the control character {error.character:#x})."
        ) from error
    except RecursionError as error:
        raise SettingsError(f"{path}: not a YAML file (values are nested too deeply).") from error
    except SettingsError:
        raise
    except (ValueError, yaml.YAMLError) as error:  # a number of more digits than Python reads
        raise SettingsError(f"{path}: not a YAML file ({' '.join(str(error).split())}).") from error
    if not isinstance(data, dict):
        received = "the file is empty" if data is None else f"got {type(data).__name__}"
        raise SettingsError(f"{path}: a protocol is a mapping of keys to values; {received}.")
    return data


def _reason(error: yaml.MarkedYAMLError) -> str:
    """The problem and its line."""
    problem = " ".join(filter(None, (error.context, error.problem, error.note)))
    mark = error.problem_mark or error.context_mark
    if "'\\t'" in problem:
        problem += "; indent with spaces instead of tabs"
    return problem if mark is None else f"line {mark.line + 1}: {problem}"


def _check(root: yaml.Node, path: Path) -> None:
    """Refuse keys that stand twice in a mapping or are no text, and values that contain themselves or are too many."""
    counts: dict[int, int] = {}
    open_nodes: set[int] = set()

    def count(node: yaml.Node, location: Location) -> int:
        if id(node) in open_nodes:
            line = node.start_mark.line + 1
            raise SettingsError(f"{path}: {spell(location)}: contains itself (the anchor in line {line}).")
        if id(node) in counts:
            return counts[id(node)]
        open_nodes.add(id(node))
        total = 1
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.tag == "tag:yaml.org,2002:merge":
                    total += count(value, location)
                    continue
                if key.tag != "tag:yaml.org,2002:str":
                    word = f"'{key.value}'" if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                    raise SettingsError(
                        f"{path}: {_inside(location)}line {line}: the key {word} is not text; write it in quotes."
                    )
                here = (*location, key.value)
                if key.value in lines:
                    raise SettingsError(
                        f"{path}: {spell(here)}: this key stands twice, in lines {lines[key.value]} and {line}; remove "
                        "one of them."
                    )
                lines[key.value] = line
                total += count(value, here)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                total += count(item, (*location, index))
        if total > MAX_VALUES:
            raise SettingsError(f"{path}: {_inside(location)}has more than {MAX_VALUES:,} values; protocols are small.")
        open_nodes.discard(id(node))
        counts[id(node)] = total
        return total

    count(root, ())


def _inside(location: Location) -> str:
    return f"{spell(location)}: " if location else ""
