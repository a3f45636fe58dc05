"""The region of latent space in which a model can be trusted, since its flow had training data there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.ndimage import distance_transform_edt

from latf_sampling.bias.arguments import check_model, latent_points
from latf_sampling.bias.flow_density import check_dimension, flow_log_prob
from latf_sampling.bias.grid import BEHIND, WALL
from latf_sampling.core import arguments
from latf_sampling.core.arguments import describe
from latf_sampling.errors import LeftTrustRegion, SettingsError
from latf_sampling.units import TemperatureLike, to_kelvin

if TYPE_CHECKING:
    from latf_sampling.learning.model import LaTF


class TrustRegion:
    """The points at which the flow's free energy -ln p(u|T) lies less than a threshold above its lowest value.

    An encoder maps every structure to some point, also structures unlike any that it was trained on. How far outside
    the training data a walker is can be read off the flow's density, which falls steeply where no data were.

    Parameters
    ----------
    model
        The trained `LaTF`.
    temperature
        T, K, or a quantity.
    threshold
        kT. A barrier between known states is inside as long as it is lower.
    on_leaving
        "hold": a wall pushes the walker back, of 1/2 * 20 kJ/mol * (distance from the region in `cv.sigma`)^2, which
        grows evenly from five of them on. "stop": the simulation ends with `LeftTrustRegion` when the walker is outside
        at a multiple of the bias's frequency; its frames so far remain, for the next training.

    Raises
    ------
    SettingsError
        The threshold is not positive, or `on_leaving` is neither.

    Examples
    --------
    >>> trust = TrustRegion(model, 300.0, threshold=25)  # doctest: +SKIP
    >>> bias = Metadynamics(system, cv, 300.0, 10, 1.0, 250, trust=trust)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: LaTF,
        temperature: TemperatureLike,
        threshold: float = 30.0,
        on_leaving: Literal["hold", "stop"] = "hold",
    ) -> None:
        check_model("TrustRegion", model)
        threshold = arguments.number("TrustRegion", "threshold (kT)", threshold, above=0)
        if on_leaving not in ("hold", "stop"):
            raise SettingsError(f"TrustRegion: on_leaving must be 'hold' or 'stop'; got {describe(on_leaving)}.")
        self.model, self.temperature = model, to_kelvin(temperature, "TrustRegion: temperature")
        self.threshold, self.on_leaving = threshold, on_leaving
        self._used = model.used_components
        samples = model.sample(10_000, self.temperature, seed=0)[:, self._used]
        self._densest = float(model.marginal_log_prob(samples, self.temperature).max())

    def height(self, u: np.ndarray) -> np.ndarray:
        """Free energy above its lowest value at latent points (n, d), kT; above `threshold` a point is outside.

        Components that are functions of others do not count.
        """
        used = latent_points("TrustRegion", u, self.model.latent_dim).astype(np.float32)[:, self._used]
        return self._densest - self.model.marginal_log_prob(used, self.temperature).astype(np.float64)

    def _wall(self, nodes: list[np.ndarray], sigma: np.ndarray) -> np.ndarray:
        """Energy, kJ/mol, of the wall around the region at the nodes of a grid, which are given along each dimension.

        1/2 * 20 kJ/mol * (distance from the region in `sigma`)^2, and from a distance of 5 on as steep as there;
        zero with "stop".

        Raises
        ------
        SettingsError
            No node lies in the region, or the model has another dimension.
        """
        check_dimension(self.model, len(nodes))
        if self.on_leaving == "stop":
            return np.zeros([len(axis) for axis in nodes])
        inside = self._densest - flow_log_prob(self.model, self.temperature, nodes) <= self.threshold
        if not inside.any():
            raise SettingsError(
                "TrustRegion: the box of the variable contains no point of the region; raise threshold."
            )
        steps = [(axis[1] - axis[0]) / w for axis, w in zip(nodes, sigma)]
        away = np.asarray(distance_transform_edt(~inside, sampling=steps))
        near = np.minimum(away, BEHIND)
        return WALL * near * (away - 0.5 * near)

    def _check(self, u: np.ndarray, step: int) -> None:
        """Raise `LeftTrustRegion` if a walker at u (d,) is outside and `on_leaving` is "stop"."""
        if self.on_leaving == "hold":
            return
        height = float(self.height(u[None])[0])
        if not height <= self.threshold:
            raise LeftTrustRegion(
                f"at step {step} the walker left the trust region: the flow's free energy at {u} is {height:.0f} kT, "
                f"the threshold is {self.threshold:g} kT. Train again with its frames, or hold it by a wall."
            )
