"""The JSON schema of a protocol, with which an editor completes and checks one."""

from __future__ import annotations

from typing import Any

from latf_sampling.settings.protocol import Protocol


def protocol_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a protocol file; every key has its description, default and unit.

    Whether keys fit together, and whether files exist, is left to `Protocol.load`.

    Examples
    --------
    >>> schema = protocol_schema()
    >>> schema["properties"]["segment"]["examples"]
    ['2 fs']
    >>> schema["$defs"]["IntegratorSettings"]["properties"]["timestep"]["default"]
    '0.002 ps'
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Protocol.model_json_schema()}
