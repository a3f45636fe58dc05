"""Faults of settings are explained with the key as it stands in the file, and with what to write instead."""

from __future__ import annotations

import pydoc
from typing import Annotated, Any, Literal

import pytest
from openmm import unit
from pydantic import Field, ValidationError

from latf_sampling.errors import SettingsError
from latf_sampling.settings import ModelSettings
from latf_sampling.settings.fields import MAX_LISTED, Dimension, Length, Settings, explain


class Circle(Settings):
    shape: Literal["circle"] = "circle"
    radius: Length


class Square(Settings):
    shape: Literal["square"] = "square"
    edge: Length
    corner: Circle | None = None


class Drawing(Settings):
    parts: tuple[Annotated[Circle | Square, Field(discriminator="shape")], ...]
    width: Annotated[float, Field(gt=0)] | Literal["automatic"] = 1.0
    labels: dict[str, int] = {}
    from_: int = Field(default=0, alias="from")


class Long(Settings):
    """More keys than are listed."""

    __annotations__ = {f"key_{k}": int for k in range(MAX_LISTED + 1)}


def faults(data: dict[str, Any], **options: Any) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        Drawing.model_validate(data)
    return explain(refused.value, "file", Drawing, **options).splitlines()


def test_kinds_of_a_union_are_no_keys_and_come_from_the_model():
    """A kind that only this test has is left out of the key like those of the package."""
    assert faults({"parts": [{"shape": "square"}]}) == ["file: parts[0].edge: this key is missing."]
    assert faults({"parts": [{"shape": "square", "edge": 1.0, "corner": {"radius": -1}}]}) == [
        "file: parts[0].corner.radius: -1 is too small; it must be more than 0."
    ]
    (line,) = faults({"parts": [{"shape": "triangle"}]})
    assert line == "file: parts[0].shape: must be one of 'circle', 'square', got 'triangle'."


def test_members_of_other_unions_are_no_keys():
    assert faults({"parts": [], "width": -1}) == ["file: width: must be greater than 0 or 'automatic', got -1."]


def test_keys_of_mappings_and_aliases_are_keys():
    assert faults({"parts": [], "labels": {"a": "b"}})[0].startswith("file: labels.a: ")
    assert faults({"parts": [], "from": "b"})[0].startswith("file: from: ")


def test_an_unknown_key_is_answered_with_the_nearest_and_the_known_ones():
    assert faults({"parts": [], "widht": 1}) == [
        "file: widht: no such key, did you mean 'width'? Known keys: parts, width, labels, from."
    ]
    assert faults({"parts": [{"shape": "circle", "radius": 1, "x": 1}]}) == [
        "file: parts[0].x: no such key. Known keys: shape, radius."
    ]


def test_many_keys_are_not_listed():
    with pytest.raises(SettingsError) as refused:
        Long(**{f"key_{k}": k for k in range(MAX_LISTED + 1)}, key_x=1)
    assert str(refused.value).startswith("Long: key_x: no such key, did you mean 'key_")
    assert "Known keys" not in str(refused.value)


def test_a_key_may_stand_before_the_location():
    usage = "write {parts: []}"
    assert faults({"widht": 1}, nested=True, usage=usage) == [
        "file.parts: this key is missing; write {parts: []}.",
        "file.widht: no such key, did you mean 'width'? Write {parts: []}.",
    ]


@pytest.mark.parametrize(
    ("dimension", "value", "number"),
    [
        (Dimension("time"), "-2 fs", -0.002),
        (Dimension("time", 0.0), 0, 0.0),
        (Dimension("energy", 0.0, exclusive=True), 1 * unit.kilocalorie_per_mole, 4.184),
    ],
)
def test_quantities_in_the_internal_unit(dimension, value, number):
    class Model(Settings):
        value: Annotated[float, dimension]

    assert Model(value=value).value == pytest.approx(number, rel=1e-12)


def test_a_quantity_below_its_minimum_is_refused():
    class Model(Settings):
        value: Annotated[float, Dimension("time", 0.0, exclusive=True)]

    with pytest.raises(SettingsError, match=r"^Model: value: '0 fs' is too small; it must be more than 0\.$"):
        Model(value="0 fs")


def test_help_lists_each_key_with_its_default_its_meaning_and_its_unit():
    class Balloon(Settings):
        """Goes up."""

        radius: Length = 0.5
        """Before it is blown up."""
        parts: Drawing
        from_: int = Field(default=3, alias="from")

    head, lines = Balloon.__doc__.split("\n", 1)
    assert head == "Goes up."
    assert [line for line in lines.split("\n") if line] == [
        *("Attributes", "----------", "radius : Length, default 0.5"),
        "    Before it is blown up. Text with a unit, like '0.5 nm'; from Python also a number in nm.",
        *("parts : Drawing", "from : int, default 3"),
    ]
    assert "temperature_mode : " in pydoc.plain(pydoc.render_doc(ModelSettings)).split("Method resolution order")[0]
