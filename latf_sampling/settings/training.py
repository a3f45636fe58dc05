"""Settings of a model, of its training, and of training as part of a campaign."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from latf_sampling.settings.fields import Settings, Temperature, Time


class ModelSettings(Settings):
    """Shape and objective of a `LaTF` model."""

    latent_dim: int = Field(default=2, ge=1, le=10)
    """Dimension d of the latent space, that is of the collective variable."""
    reference_temperature: Temperature = 300.0
    """T0: the prior at temperature T has the scale s = T / T0."""
    temperature_mode: Literal["reweighted", "steered"] = "reweighted"
    """How the flow follows temperature. "reweighted": it is trained at all temperatures that MBAR weights of the
    frames reach, which needs their potential energies. "steered": through the width of the prior alone, as in the
    paper."""
    encoder_hidden: tuple[PositiveInt, ...] = (32, 32)
    decoder_hidden: tuple[PositiveInt, ...] = (32,)
    beta: float = Field(default=1e-4, gt=0)
    """Weight of log q(u|x) - log p(u|T) against the prediction of the future state."""
    tau: float = Field(default=2.0, ge=0)
    """Tilt of the prior exp(tau |z| - |z|^2 / 2s); 0 makes it a Gaussian."""
    flow: Literal["spline", "realnvp"] = "spline"
    """Over five seeds splines came nearer to the reference than RealNVP in the same time: KL of 0.020 to 0.025 against
    0.031 to 0.070 on the Lennard-Jones cluster (benchmarks/learning.md)."""
    flow_transforms: int = Field(default=3, ge=1)
    flow_hidden: tuple[PositiveInt, ...] = (48, 48)
    flow_bins: int = Field(default=8, ge=2)
    """Bins of each rational-quadratic spline; unused by RealNVP."""


class TrainingSettings(Settings):
    """How a model is trained; the stages are described in `latf_sampling.learning.training.stages`."""

    initial_states: int = Field(default=20, ge=2)
    """Number of small clusters that the refinement starts from, where the data carry no labels."""
    batch_size: int = Field(default=4096, ge=2)
    """At most so many pairs per batch; fewer where there are few in all."""
    learning_rate: float = Field(default=2e-3, gt=0)
    encoder_decay: float = Field(default=3.0, ge=0)
    """Decoupled weight decay of the encoder (Loshchilov and Hutter, arXiv:1711.05101). It keeps the variable smooth
    between states, where frames are few: without it the variable jumps there, and hills shake the molecule apart."""
    refinements: int = Field(default=12, ge=1)
    """At most so many rounds of training and relabelling in the first stage."""
    refinement_epochs: int = Field(default=5, ge=1)
    label_change: float = Field(default=0.01, gt=0, lt=1)
    """Labels are self-consistent once a smaller fraction of the frames changes its state."""
    minimum_population: float = Field(default=0.0005, ge=0, lt=1)
    """States with a smaller fraction of the frames are dropped when labels are refined."""
    joint_epochs: int = Field(default=6, ge=0)
    """Epochs of encoder, decoder and flow together; 0 fits the flow afterwards only."""
    flow_epochs: int = Field(default=40, ge=0)
    """At most so many epochs of the flow alone, on the finished encoder. Without these and the joint ones, states are
    learned and no density."""
    patience: int = Field(default=4, ge=1)
    """Where held-out blocks have gained nothing for so many epochs the learning rate falls, and then the stage ends."""
    ensemble: int = Field(default=4, ge=0)
    """Number of further flows, trained on bootstrap samples of the frames, whose spread is the standard error."""
    ensemble_epochs: int = Field(default=2, ge=1)
    balance_temperatures: bool = False
    """Whether every temperature weighs the same, however many frames it has."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of the blocks held out for validation."""


class SelectSettings(Settings):
    """Fewer columns than the descriptors have, see `latf_sampling.select_columns`."""

    keep: int = Field(ge=1)
    """At most so many columns."""
    correlation: float = Field(default=0.95, gt=0, le=1)
    """Of columns whose correlation is higher, the one that remembers longest is kept."""


class LearningSettings(TrainingSettings):
    """Training as part of a campaign: the lag is a time there."""

    lag: Time
    select: SelectSettings | None = None
    """None learns from all columns."""
