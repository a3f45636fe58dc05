"""The JSON schema accepts every protocol that is valid, refuses misspelled keys, and describes every key."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from latf_sampling import units
from latf_sampling.settings import SystemSettings
from latf_sampling.settings.schema import protocol_schema

PROTOCOLS = sorted((Path(__file__).parents[2] / "protocols").glob("*.yaml"))
SCHEMA = protocol_schema()
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
TYPES["null"] = type(None)
BOUNDS = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
    "minLength": lambda value, bound: len(value) >= bound,
    "minItems": lambda value, bound: len(value) >= bound,
    "maxItems": lambda value, bound: len(value) <= bound,
    "enum": lambda value, bound: value in bound,
    "const": lambda value, bound: value == bound,
}
ANNOTATIONS = {"$schema", "$defs", "title", "description", "default", "examples", "format", "discriminator"}


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value conforms to a schema (the part of draft 2020-12 that the schema of a protocol uses)."""
    unknown = set(schema) - ANNOTATIONS - set(BOUNDS)
    unknown -= {"$ref", "type", "anyOf", "oneOf", "properties", "required", "additionalProperties", "items"}
    assert not unknown - {"prefixItems"}, f"the validator of these tests lacks {unknown}"
    if "$ref" in schema and not is_valid(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]):
        return False
    if "type" in schema:
        boolean = isinstance(value, bool) and schema["type"] != "boolean"
        if boolean or not isinstance(value, TYPES[schema["type"]]):
            return False
    if not all(check(value, schema[name]) for name, check in BOUNDS.items() if name in schema):
        return False
    if "anyOf" in schema and not any(is_valid(value, option) for option in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(is_valid(value, option) for option in schema["oneOf"]) != 1:
        return False
    if isinstance(value, dict) and schema.get("type") == "object":
        properties = schema.get("properties", {})
        if not set(schema.get("required", ())) <= set(value):
            return False
        if schema.get("additionalProperties", True) is False and not set(value) <= set(properties):
            return False
        return all(is_valid(value[key], properties[key]) for key in value if key in properties)
    if isinstance(value, list):
        prefix = schema.get("prefixItems", [])
        items = [(item, prefix[k] if k < len(prefix) else schema.get("items", {})) for k, item in enumerate(value)]
        return all(is_valid(item, entry) for item, entry in items)
    return True


def test_the_schema_is_json():
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = json.dumps(SCHEMA)
    assert {*re.findall(r'"#/\$defs/(\w+)"', text)} == {*SCHEMA["$defs"]}


@pytest.mark.parametrize("file", PROTOCOLS, ids=lambda file: file.stem)
def test_protocols_of_the_package_conform(file):
    assert is_valid(yaml.safe_load(file.read_text()), SCHEMA)


BIASED = {"walkers": ["300 K"], "length": "1 ns"}
CHANGES = {
    "a misspelled key": ("sed", 1),
    "a misspelled key inside": ("integrator", {"time_step": "2 fs"}),
    "a number without unit": ("segment", 100),
    "no list": ("features", {"distances": "all"}),
    "an unknown word": ("system", {"structure": "a.pdb", "nonbonded": "Ewald"}),
    "a kind of bias without its keys": ("rounds", [BIASED | {"bias": {"kind": "opes"}}]),
    "another kind's key": (
        "rounds",
        [BIASED | {"bias": {"interval": "1 ps", "bias_factor": 8, "barrier": "9 kJ/mol"}}],
    ),
    "a negative number": ("seed", -1),
    "true for a number": ("seed", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_faulty_protocols_do_not_conform(change):
    content = yaml.safe_load(PROTOCOLS[0].read_text())
    key, value = CHANGES[change]
    content[key] = value
    assert not is_valid(content, SCHEMA)


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_protocols_without_a_required_key_do_not_conform(key):
    content = yaml.safe_load(PROTOCOLS[0].read_text())
    del content[key]
    assert not is_valid(content, SCHEMA)


BIASES = [
    {"bias_factor": 8, "height": "1 kJ/mol", "width": "adaptive"},
    {"kind": "metadynamics", "bias_factor": 8, "height": "1 kJ/mol", "backend": "torchforce"},
    {"kind": "opes", "barrier": "40 kJ/mol", "trust": {"on_leaving": "stop"}},
    {"kind": "opes", "barrier": "40 kJ/mol", "bias_factor": "inf", "width": 0.5, "narrowest": 0.3},
    {"kind": "opes", "barrier": "40 kJ/mol", "bias_factor": 12, "width": "adaptive", "explore": True},
    {"kind": "flow", "bias_factor": 8, "stride": 2},
]


@pytest.mark.parametrize("bias", BIASES, ids=lambda bias: bias.get("kind", "no kind"))
def test_each_kind_of_bias_conforms(bias):
    content = yaml.safe_load(PROTOCOLS[0].read_text())
    content["rounds"][1]["bias"] = {"interval": "1 ps", **bias}
    assert is_valid(content, SCHEMA)
    missing = copy.deepcopy(content)
    del missing["rounds"][1]["bias"]["interval"]
    assert not is_valid(missing, SCHEMA)
    if bias.get("kind") == "opes":
        del content["rounds"][1]["bias"]["kind"]  # which makes it metadynamics, without its keys
        assert not is_valid(content, SCHEMA)


def models() -> list[tuple[str, dict[str, Any]]]:
    return [("Protocol", SCHEMA), *SCHEMA["$defs"].items()]


@pytest.mark.parametrize(("name", "model"), models(), ids=lambda part: part if isinstance(part, str) else "")
def test_every_class_and_every_key_has_a_description(name, model):
    assert len(model["description"]) > 10
    assert "\n" not in model["description"]
    for key, entry in model["properties"].items():
        description = entry.get("description", "")
        assert re.match(r"[A-Z\"].{8,}\.$", description), f"{name}.{key}: {description!r}"


def quantities() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{name}.{key}", entry)
        for name, model in models()
        for key, entry in model["properties"].items()
        if "Text with a unit" in entry["description"]
    ]


def test_quantities_have_unit_and_example():
    entries = dict(quantities())
    assert len(entries) > 20
    assert {"Protocol.segment", "SolventSettings.box", "RoundSettings.walkers", "StartsSettings.release"} <= {*entries}
    for where, entry in entries.items():
        assert re.search(r"like '[^']+'; from Python also a number in \S", entry["description"]), where
        if "default" in entry and entry["default"] is not None:
            units.parse(entry["default"], _dimension(entry), where)


def _dimension(entry: dict[str, Any]) -> str:
    return next(name for name, example in units.EXAMPLES.items() if example == entry["examples"][0])


def test_defaults_are_those_of_the_settings():
    timestep = SCHEMA["$defs"]["IntegratorSettings"]["properties"]["timestep"]
    assert (timestep["default"], timestep["type"], timestep["examples"]) == ("0.002 ps", "string", ["2 fs"])
    assert SCHEMA["$defs"]["StartsSettings"]["properties"]["release"]["default"] == "0.1 ps"
    assert SCHEMA["$defs"]["ModelSettings"]["properties"]["encoder_hidden"]["default"] == [32, 32]
    assert SystemSettings.model_json_schema()["properties"]["nonbonded"]["default"] == "no cutoff"
