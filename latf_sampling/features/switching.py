"""Switching functions of distances: 1 for near, 0 for far, smooth in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from latf_sampling.errors import SettingsError
from latf_sampling.settings.fields import Length, Settings

if TYPE_CHECKING:
    import torch


_Exponent = Annotated[int, Field(strict=True, ge=2, multiple_of=2)]


class SwitchingSettings(Settings):
    """Settings of a switching function: `Rational` with ``r0``, ``n`` and ``m``, or `Fermi` with ``r0`` and width."""

    r0: Length
    n: _Exponent = 6
    m: _Exponent = Field(default=12, validate_default=True)
    fermi: Length | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, value: Any) -> Any:
        if value.get("fermi") is not None and ("n" in value or "m" in value):
            raise SettingsError("takes n and m, or fermi, the width of the other switching function; got both.")
        return value

    @field_validator("m")
    @classmethod
    def _steeper(cls, m: int, info: ValidationInfo) -> int:
        if m <= info.data.get("n", 0):
            raise SettingsError(f"{m} has to be greater than n, which is {info.data['n']}.")
        return m

    def normal_form(self) -> dict[str, Any]:
        """The settings ready for JSON, without the keys of the other function."""
        unused = {"fermi"} if self.fermi is None else {"n", "m"}
        return self.model_dump(mode="json", by_alias=True, exclude=unused, exclude_none=True)

    @property
    def description(self) -> str:
        """The function in the name of a column."""
        if self.fermi is not None:
            return f"within {self.r0:g} nm (fermi {self.fermi:g} nm)"
        return f"within {self.r0:g} nm" + ("" if (self.n, self.m) == (6, 12) else f" (n {self.n}, m {self.m})")

    def function(self, axes: str = "xyz") -> torch.nn.Module:
        """Module of difference vectors (..., rows, 3) -> (..., rows)."""

        from latf_sampling.features.modules.switching import Fermi, Rational

        if self.fermi is not None:
            return Fermi(self.r0, self.fermi, axes)
        return Rational(self.r0, self.n, self.m, axes)
