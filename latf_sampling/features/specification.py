"""From a specification, as it stands in a protocol, to the terms of every kind of descriptor."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from latf_sampling.errors import SettingsError
from latf_sampling.features.descriptor import Term, refuse_too_many
from latf_sampling.features.registry import DESCRIPTORS
from latf_sampling.features.topology import Labels


class Specification(NamedTuple):
    """A specification after it was read."""

    normal_form: list[dict[str, Any]]
    """The specification in one normal form, ready for JSON."""
    terms: dict[str, list[Term]]
    """What is measured, by kind of descriptor, kinds in the order of their first entries."""
    nonperiodic: str
    """The first reason why it cannot be measured in a periodic box; empty if it can."""
    columns: list[str] | None
    """Names of the selected columns, or None for all."""


def read_specification(spec: Any, labels: Labels) -> Specification:
    """Read and check every entry of a specification.

    Raises
    ------
    SettingsError
        An entry is wrong, finds nothing, or makes a column that an entry before it makes; the message names its key.
    """
    if isinstance(spec, (str, Mapping)) or not isinstance(spec, Sequence) or not len(spec):
        raise SettingsError('features: need a list with one or more entries, like [{"torsions": "phi psi"}].')
    normal_form: list[dict[str, Any]] = []
    terms: dict[str, list[Term]] = {}
    owners: dict[tuple[tuple[int, ...], str], str] = {}
    nonperiodic = ""
    for index, entry in enumerate(spec):
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise SettingsError(f"features[{index}]: need one kind of descriptor, one of {', '.join(DESCRIPTORS)}.")
        ((kind, value),) = entry.items()
        where = f"features[{index}].{kind}"
        if kind == "columns":
            if index != len(spec) - 1 or not terms:
                raise SettingsError(f"{where}: has to be the last entry, after those that make the columns.")
            terms = _select_terms(terms, value, where)
            return Specification([*normal_form, {kind: list(value)}], terms, nonperiodic, list(value))
        if kind not in DESCRIPTORS:
            nearest = difflib.get_close_matches(kind, DESCRIPTORS, 1)
            hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
            raise SettingsError(f"{where}: is not a kind of descriptor; known are {', '.join(DESCRIPTORS)}.{hint}")
        result = DESCRIPTORS[kind].read(value, labels, where)
        for term in result.terms:
            if (owner := owners.get((term.atoms, term.label))) is not None:
                raise SettingsError(f"{where}: makes '{term.label}', which {owner} makes already.")
        refuse_too_many(len(owners) + len(result.terms), where)
        owners.update(((term.atoms, term.label), where) for term in result.terms)
        if result.nonperiodic and not nonperiodic:
            nonperiodic = f"{where}: cannot be measured in a periodic box; {result.nonperiodic}."
        normal_form.append({kind: result.spec})
        terms.setdefault(kind, []).extend(result.terms)
    return Specification(normal_form, terms, nonperiodic, None)


def _select_terms(terms: dict[str, list[Term]], columns: Any, where: str) -> dict[str, list[Term]]:
    """The terms that make some columns, by kind."""
    if isinstance(columns, str) or not isinstance(columns, Sequence) or not columns:
        raise SettingsError(f"{where}: need a list of names of columns.")
    names = {kind: _names(kind, members) for kind, members in terms.items()}
    counts = Counter(name for members in names.values() for name in members)
    for name in columns:
        if name not in counts:
            raise SettingsError(f"{where}: there is no column '{name}'.")
        if counts[name] > 1 or list(columns).count(name) > 1:
            raise SettingsError(f"{where}: '{name}' is named twice.")
    selected = {}
    for kind, all_names in names.items():
        needed = set(columns) & set(all_names)
        if not needed:
            continue
        by_term = [set(_names(kind, [term])) for term in terms[kind]]
        # the names of some kinds depend on the number of terms: then all terms stay
        separate = all(term_names <= set(all_names) for term_names in by_term)
        selected[kind] = [term for term, term_names in zip(terms[kind], by_term) if not separate or term_names & needed]
    return selected


def _names(kind: str, terms: list[Term]) -> list[str]:
    return [column.name for column in DESCRIPTORS[kind].columns(terms)]
