"""Keys of a protocol with the reason for each, as YAML with comments."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 120
"""Characters of a line at most, where that is possible."""
_PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z][\w./+ -]*|\d+(\.\d+)? [A-Za-z/1][\w./+ -]*", re.ASCII)
_WORDS = frozenset("true false null yes no on off y n none inf nan".split())  # noqa: SIM905


@dataclass(frozen=True)
class Key:
    """A key of a protocol.

    Attributes
    ----------
    name : str
        As it stands in the file; "- walkers" begins an item of a list.
    value
        Text, number, truth value, list or mapping; `None` for a section, whose keys are in `inner`.
    why : str
        The reason for the value.
    inner : sequence of Key
        Keys of a section.
    """

    name: str
    value: Any = None
    why: str = ""
    inner: Sequence[Key] = ()

    def lines(self, indent: str = "") -> list[str]:
        """Lines of the file: the reason stands behind the value where there is space, otherwise above it.

        Examples
        --------
        >>> print(*Key("system", inner=[Key("cutoff", "1 nm", "usual with PME")]).lines(), sep="\\n")
        system:
          cutoff: 1 nm  # usual with PME
        """
        text = f"{indent}{self.name}:" if self.value is None else f"{indent}{self.name}: {flow(self.value)}"
        if self.why and self.value is not None and len(f"{text}  # {self.why}") <= WIDTH:
            lines = [f"{text}  # {self.why}"]
        else:
            lines = [*comment(self.why, text[: len(text) - len(text.lstrip())]), text]
        return lines + [line for key in self.inner for line in key.lines(indent + "  ")]


def as_dict(keys: Sequence[Key]) -> dict[str, Any]:
    """The values of keys, and of those in sections.

    >>> as_dict([Key("seed", 1), Key("system", inner=[Key("cutoff", "1 nm")])])
    {'seed': 1, 'system': {'cutoff': '1 nm'}}
    """
    return {key.name: as_dict(key.inner) if key.inner else key.value for key in keys}


def comment(text: str, indent: str = "") -> list[str]:
    """Lines of a comment.

    >>> comment("Two words.")
    ['# Two words.']
    """
    begin = f"{indent}# "
    return textwrap.wrap(text, WIDTH, initial_indent=begin, subsequent_indent=begin, break_on_hyphens=False)


def flow(value: Any) -> str:
    """A value in one line of YAML, with quotes where they are needed.

    >>> flow({"structure": "a b.pdb", "walkers": ["300 K", "450 K"], "of": "element != H", "chains": "no"})
    '{structure: a b.pdb, walkers: [300 K, 450 K], of: "element != H", chains: "no"}'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(key)}: {flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS and value == value.strip()
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
