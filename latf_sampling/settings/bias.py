"""Settings of the kinds of bias."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from latf_sampling.errors import SettingsError
from latf_sampling.settings.fields import Energy, File, Settings, Time


class TrustSettings(Settings):
    """The trust region: the part of latent space where the model had training data."""

    threshold: float = Field(default=30.0, gt=0, le=1e4)
    """A walker is outside where the flow's free energy is more than this above its minimum, in kT."""
    on_leaving: Literal["hold", "stop"] = "hold"
    """What happens at the border: a wall holds the walker back, or the walker is stopped and its frames are kept."""


DEFAULT_KIND = "metadynamics"
"""The kind of a bias that does not name one."""


class BiasSettings(Settings):
    """Settings that all kinds of bias have in common."""

    interval: Time
    """Time between two hills, or between two checks of the collective variable."""
    stride: int = Field(default=1, ge=1, le=10)
    """Time steps between two evaluations of the bias; all other forces are evaluated at each step."""
    backend: Literal["auto", "torchforce", "pythonforce"] = "auto"
    """The OpenMM force that carries the bias. "auto" takes the one that is faster on the platform, or the one that is
    installed."""
    variable: File | None = None
    """TorchScript file of a module that was trained elsewhere, such as an export of mlcolvar: it takes all columns of
    the protocol's `features` in their order, [n, F], and is biased in place of the learned variable. Its bounds and
    hill widths come from the frames of the rounds before. None takes the learned variable."""
    trust: TrustSettings | None = None
    """Trust region that walkers are kept in; None trusts the model everywhere between the walls of the bias."""

    @property
    def needs_model(self) -> bool:
        """Whether the bias depends on the model, beside its variable."""
        return self.trust is not None

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The key that says which kind it is may be left out for one kind only."""
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        kind = cls.model_fields.get("kind")
        if kind is not None and kind.default != DEFAULT_KIND:
            handler.resolve_ref_schema(schema)["required"].append("kind")
        return schema


class MetadynamicsSettings(BiasSettings):
    """Well-tempered metadynamics in the learned collective variables (doi:10.1103/PhysRevLett.100.020603)."""

    kind: Literal["metadynamics"] = "metadynamics"
    """Well-tempered metadynamics; also what a bias without this key is."""
    bias_factor: float = Field(gt=1, le=1e6)
    """Factor by which barriers are lowered: (T + delta T) / T."""
    height: Energy
    """Height of the first hills."""
    width: Annotated[float, Field(gt=0, le=1e3)] | Literal["adaptive"] = 1.0
    """Hill width in units of the width that the collective variable suggests (its sigma), or "adaptive":
    wider where the variable changes more steeply with the positions."""
    start: Literal["nothing", "flow"] = "nothing"
    """Initial bias: none, or the one that belongs to the free energy that the model has learned ("flow")."""

    @property
    def needs_model(self) -> bool:
        return super().needs_model or self.start == "flow"


class OPESSettings(BiasSettings):
    """OPES in the learned collective variables (doi:10.1021/acs.jpclett.0c00497, doi:10.1021/acs.jctc.2c00152)."""

    kind: Literal["opes"] = "opes"
    """On-the-fly probability-enhanced sampling."""
    barrier: Energy
    """Highest barrier to be crossed."""
    bias_factor: Annotated[
        Annotated[float, Field(gt=1, le=1e6)] | Literal["inf"] | None,
        BeforeValidator(lambda value: "inf" if value == math.inf else value),
    ] = None
    """Factor by which barriers are lowered; None is barrier / kT, and "inf" a uniform target."""
    width: Annotated[float, Field(gt=0, le=1e3)] | Literal["adaptive"] = 1.0
    """Width of the first kernels in units of the width that the collective variable suggests (its sigma), or
    "adaptive": from the fluctuations of each walker over ten intervals."""
    narrowest: float | None = Field(default=None, gt=0, le=1)
    """Kernels never get narrower than this, in units of the first width, or of the sigma for adaptive widths; None is
    0.2, 0.35 and 0.4 in 1, 2 and 3 dimensions."""
    explore: bool = False
    """Whether to sample the target soon rather than to estimate the free energy soon (OPES_METAD_EXPLORE)."""

    @model_validator(mode="after")
    def _uniform_target(self) -> OPESSettings:
        if self.bias_factor == "inf" and (self.explore or self.width == "adaptive"):
            key = "explore" if self.explore else "an adaptive width"
            raise SettingsError(f"bias_factor: {key} needs a finite one; got 'inf'.")
        return self


class FlowBiasSettings(BiasSettings):
    """The free energy that the model has learned, inverted, as a static bias."""

    kind: Literal["flow"] = "flow"
    """Static bias from the flow."""
    bias_factor: float = Field(gt=1, le=1e6)
    """Factor by which barriers are lowered: the bias is -(1 - 1 / bias_factor) times the free energy."""

    @property
    def needs_model(self) -> bool:
        return True


def _with_kind(bias: Any) -> Any:
    return {"kind": DEFAULT_KIND, **bias} if isinstance(bias, dict) else bias


AnyBiasSettings = Annotated[
    MetadynamicsSettings | OPESSettings | FlowBiasSettings,
    Field(discriminator="kind"),
    BeforeValidator(_with_kind),
]
"""Settings of one bias; its `kind` says which. A new kind is one class above and one entry in this union."""
