"""Settings of the kinds of bias."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from latf_sampling.settings.fields import Energy, Settings, Time


class TrustSettings(Settings):
    """The part of latent space that the model knows, and what happens to a walker that leaves it."""

    threshold: float = Field(default=30.0, gt=0)
    """kT; a walker is outside where the flow's free energy is so far above its lowest value."""
    on_leaving: Literal["hold", "stop"] = "hold"
    """A wall, or the end of this walker, whose frames are learned from."""


class BiasSettings(Settings):
    """What all kinds of bias have in common."""

    interval: Time
    """Time between hills, or between looks at where a walker is."""
    stride: int = Field(default=1, ge=1, le=10)
    """The bias is evaluated every so many time steps, all other forces at each."""
    trust: TrustSettings | None = None
    """None trusts the model everywhere between the walls."""


class MetadynamicsSettings(BiasSettings):
    """Well-tempered metadynamics in the learned collective variables."""

    kind: Literal["metadynamics"] = "metadynamics"
    bias_factor: float = Field(gt=1)
    height: Energy
    """Height of the first hills."""
    width: Annotated[float, Field(gt=0)] | Literal["adaptive"] = 1.0
    """Hill width in units of the width that the CV suggests, or adapted to how steep the CV is."""
    start: Literal["nothing", "flow"] = "nothing"
    """Whether the bias starts from the free energy that the model has learned."""


class OpesSettings(BiasSettings):
    """OPES in the learned collective variables."""

    kind: Literal["opes"] = "opes"
    barrier: Energy
    """Highest barrier to be crossed."""
    bias_factor: float | None = Field(default=None, gt=1)
    """None is barrier / kT."""
    width: float = Field(default=1.0, gt=0)
    """Width of the first kernels in units of the width that the CV suggests."""


class FlowBiasSettings(BiasSettings):
    """The free energy that the model has learned, as a static bias."""

    kind: Literal["flow"] = "flow"
    bias_factor: float = Field(gt=1)


def _kind(bias: Any) -> Any:
    return bias.get("kind", "metadynamics") if isinstance(bias, dict) else getattr(bias, "kind", None)


AnyBiasSettings = Annotated[
    Annotated[MetadynamicsSettings, Tag("metadynamics")]
    | Annotated[OpesSettings, Tag("opes")]
    | Annotated[FlowBiasSettings, Tag("flow")],
    Discriminator(_kind),
]
