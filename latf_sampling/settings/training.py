"""Settings of a model, of its training, and of training as part of a campaign."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from latf_sampling.errors import SettingsError
from latf_sampling.settings.fields import Settings, Temperature, Time

Width = Annotated[int, Field(gt=0, le=100_000)]
"""Number of units of a hidden layer."""
Epochs = Annotated[int, Field(le=1_000_000)]


class ModelSettings(Settings):
    """Shape and objective of a `LaTF` model."""

    latent_dim: int | None = Field(default=None, ge=1, le=10)
    """Dimension d of the latent space, that is of the collective variable. None makes it as large as the states that
    training finds ask for: one less than there are, at most 3."""
    reference_temperature: Temperature = 300.0
    """T0: the prior at temperature T has the scale s = T / T0."""
    temperature_mode: Literal["auto", "reweighted", "thermodynamic", "steered"] = "auto"
    """How the flow depends on temperature. "reweighted": it is trained at all temperatures to which MBAR can reweight
    the frames, which needs the potential energies of neighboring temperatures to overlap, as those of small molecules
    without solvent do. "thermodynamic": at all temperatures between the simulated ones and somewhat beyond, by the mean
    potential energy at each point of the latent space, which needs no overlap
    (`latf_sampling.analysis.mean_energy`). "steered": through the width of the prior alone, as in the paper, which
    needs no energies and misplaces populations. "auto": "reweighted" where energies overlap, else "thermodynamic", and
    "steered", with a warning, where frames have no energies."""
    encoder_hidden: tuple[Width, ...] = Field(default=(32, 32), max_length=100)
    """Widths of the hidden layers of the encoder."""
    decoder_hidden: tuple[Width, ...] = Field(default=(32,), max_length=100)
    """Widths of the hidden layers of the decoder."""
    beta: float = Field(default=1e-4, gt=0, le=1e6)
    """Weight of log q(u|x) - log p(u|T) relative to the prediction of the future state."""
    tau: float = Field(default=2.0, ge=0, le=100)
    """Tilt of the prior exp(tau |z| - |z|^2 / 2s); 0 makes it a Gaussian."""
    flow: Literal["spline", "realnvp"] = "spline"
    """Kind of the normalizing flow: rational-quadratic splines or RealNVP. Over five seeds splines came closer to the
    reference in the same time: KL of 0.020 to 0.025 against 0.031 to 0.070 on the Lennard-Jones cluster
    (benchmarks/learning.md)."""
    flow_transforms: int = Field(default=3, ge=1, le=1000)
    """Number of transforms that the flow consists of."""
    flow_hidden: tuple[Width, ...] = Field(default=(48, 48), max_length=100)
    """Widths of the hidden layers of each transform."""
    flow_bins: int = Field(default=16, ge=2, le=1000)
    """Bins of each rational-quadratic spline; RealNVP has none."""


class TrainingSettings(Settings):
    """How a model is trained; the stages are described in `latf_sampling.learning.training.stages`."""

    initial_states: int = Field(default=200, ge=2, le=5000)
    """Number of small clusters that are merged to metastable states, for data without labels; fewer where they would
    have less than 50 frames each."""
    batch_size: int = Field(default=4096, ge=2, le=1_000_000_000)
    """Largest number of pairs in a batch; a small data set has smaller batches."""
    learning_rate: float = Field(default=2e-3, gt=0, le=10)
    """Learning rate of the optimizer at the beginning of each stage."""
    encoder_decay: float = Field(default=0.3, ge=0, le=1e6)
    """Decoupled weight decay of the encoder (Loshchilov and Hutter, arXiv:1711.05101); less than 1 / learning_rate."""
    slowness: float = Field(default=1.0, ge=0, le=1e6)
    """Weight of the squared autocorrelations of the variable after one lag, which are the larger the less it contains
    of fast motions, relative to the prediction of the state for each pair of states. With 0 the encoder only has to
    predict the state, as in the paper; a bias then crosses less often."""
    evenness: float = Field(default=0.1, ge=0, le=1e6)
    """Weight of a term that makes the variable rise evenly on the way from state to state, where frames are few:
    without it the variable becomes a step there, and hills exert forces that tear the molecule apart."""
    restarts: int = Field(default=1, ge=1, le=100)
    """Number of encoders that are trained with different initial weights to the end of the first stage, of which the
    one goes on along which a bias is expected to cross most often (`latf_sampling.expected_crossings`). One that does
    not tell states apart is replaced without being asked for: of five seeds on a model with three wells one was, along
    which walkers never crossed, and 68 to 84 times per ns along the others. Otherwise several are hardly worth it: on
    alanine dipeptide five seeds had 285 to 342 crossings per ns, and expected ones of 198 to 220 with errors of 50;
    each costs about half of a training without a flow (benchmarks/variables.md)."""
    refinements: Epochs = Field(default=12, ge=1)
    """Largest number of iterations of training in the first stage, each with new representatives of the states."""
    refinement_epochs: Epochs = Field(default=5, ge=1)
    """Epochs of training in each of these iterations."""
    label_change: float = Field(default=0.01, gt=0, lt=1)
    """The first stage ends once an iteration changes the most likely state of a smaller fraction of the frames, and
    removes a smaller fraction of the loss of prediction."""
    minimum_population: float = Field(default=0.0005, ge=0, lt=1)
    """States with a smaller fraction of the frames are merged with others."""
    joint_epochs: Epochs = Field(default=6, ge=0)
    """Epochs of training encoder, decoder and flow together; with 0 the flow is trained afterwards only."""
    flow_epochs: Epochs = Field(default=40, ge=0)
    """Largest number of epochs of training the flow alone, on the finished encoder. With 0 here and for the joint
    epochs, the model has states and no density."""
    patience: Epochs = Field(default=4, ge=1)
    """After so many epochs without a lower loss on the validation blocks the learning rate is reduced, and the second
    time the stage ends."""
    ensemble: int = Field(default=4, ge=0, le=1000)
    """Number of additional flows, trained on bootstrap samples of the frames, whose spread is the standard error."""
    ensemble_epochs: Epochs = Field(default=2, ge=1)
    """Epochs of training each of these flows."""
    balance_temperatures: bool = False
    """Whether every temperature has the same total weight, however many frames it has."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=0.9)
    """Fraction of the blocks of frames that is held out for validation."""

    @model_validator(mode="after")
    def _decay_of_one_step(self) -> TrainingSettings:
        # Weights are multiplied by 1 minus this in each step.
        if self.encoder_decay * self.learning_rate >= 1:
            raise SettingsError(
                f"encoder_decay: must be less than {1 / self.learning_rate:g}, 1 / learning_rate, so that weights "
                f"become smaller and do not change their sign; got {self.encoder_decay:g}."
            )
        return self


class SelectSettings(Settings):
    """Selection of columns of descriptors before training, see `latf_sampling.select_columns`."""

    keep: int = Field(ge=1, le=1_000_000)
    """Largest number of columns that are kept."""
    correlation: float = Field(default=0.95, gt=0, le=1)
    """Among columns whose correlation is higher, the one with the highest autocorrelation after one lag is kept."""


class LearningSettings(TrainingSettings):
    """Training as part of a campaign, where the lag is a time instead of a number of frames."""

    lag: Time
    """Lag time: the model predicts the state of the molecule this long after a frame."""
    select: SelectSettings | None = None
    """Selection of columns of descriptors to train on; None keeps all."""
    warm_start: bool = False
    """Whether encoder and decoder begin with the weights of the model of the round before, where that has as many
    states and components and the same columns, instead of random ones."""
    retrain: Literal["always", "more_data", "new_regions", "density"] = "always"
    """When a model is trained after a round, where otherwise that of the round before is kept: always; when the new
    frames are at least a fifth of those that it was trained on ("more_data"); when more than 1 % of them lie where its
    free energy exceeds 30 kT ("new_regions"); or when their density is not the flow's ("density"). The report states
    the reason."""
