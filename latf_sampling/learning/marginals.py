"""A fixed map of each latent coordinate, which widens where data are many and shortens where they are few.

The variable of a model is steep between states and nearly constant within them: its states are narrow, with sharp
edges, and much of its range is next to empty. A flow on the bare coordinates would spend its splines on the empty
part, and a blur in proportion to the whole range would wipe out the states.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn


class MarginalMap(nn.Module):
    """Increasing rational-quadratic splines, one for each coordinate; straight lines beyond their outermost knots.

    It starts as the identity. After `fit`, the slope of a spline is FLOOR + (1 - FLOOR) p / mean(p) up to a factor,
    with p the density of the data in this coordinate and the mean over their range. Without the floor, passes between
    states would have no width, and the density sharp edges. Splines of this kind: Gregory and Delbourgo,
    doi:10.1093/imanum/2.2.123.

    Parameters
    ----------
    dim
        Number of coordinates d.

    Examples
    --------
    >>> marginals, data = MarginalMap(1), torch.tensor([[-1.0], [-0.9], [0.9], [1.0]])
    >>> marginals.fit(data, torch.ones(4), torch.tensor([0.05]), [0], 1.0)
    >>> _, log_slopes = marginals(torch.tensor([[-0.95], [0.0]]))  # in a state, and between states
    >>> bool(log_slopes[0] > log_slopes[1])
    True
    """

    FLOOR = 0.3
    """Share of the range of mapped coordinates that is divided evenly, and not by the density."""
    KNOTS = 49
    BINS = 4096
    """Bins of the histogram that the density is computed from."""
    REACH = 20.0
    """The histogram ends so many standard deviations from the mean: frames farther away, of next to no weight, would
    make bins so wide that all others fall into one."""

    knots: Tensor
    images: Tensor
    slopes: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        line = torch.linspace(-1.0, 1.0, self.KNOTS).repeat(dim, 1)
        self.register_buffer("knots", line)
        self.register_buffer("images", line.clone())
        self.register_buffer("slopes", torch.ones_like(line))

    @property
    def straight(self) -> bool:
        """Whether the map is the identity, as before `fit`, and in models of earlier versions."""
        return torch.equal(self.knots, self.images) and bool((self.slopes == 1).all())

    @torch.no_grad()
    def fit(self, data: Tensor, weights: Tensor, widths: Tensor, coordinates: list[int], spread: float) -> None:
        """Make the map for data, whose coordinates it gives the mean 0 and the standard deviation `spread`.

        Parameters
        ----------
        data, weights
            Points (n, d) and their weights (n,).
        widths
            Standard deviation of the kernel that the density of each coordinate is smoothed with (d,).
        coordinates
            Those that are mapped; the others stay as they are.
        spread
            Standard deviation of the mapped data.
        """
        share = (weights.double() / weights.double().sum()).cpu().numpy()
        for k in range(len(self.knots)):
            line = torch.linspace(-1.0, 1.0, self.KNOTS).to(self.knots)
            self.knots[k], self.images[k], self.slopes[k] = line, line, 1.0
            if k in coordinates:
                spline = self._spline(data[:, k].double().cpu().numpy(), share, float(widths[k]), spread)
                for buffer, values in zip((self.knots, self.images, self.slopes), spline):
                    buffer[k] = torch.from_numpy(values)

    def _spline(self, x: np.ndarray, share: np.ndarray, width: float, spread: float) -> tuple[np.ndarray, ...]:
        """Knots, their images and slopes of one coordinate, from its values and their shares (n,)."""
        center = share @ x
        reach = self.REACH * np.hypot(np.sqrt(share @ (x - center) ** 2), width)
        low, high = max(x.min() - 4 * width, center - reach), min(x.max() + 4 * width, center + reach)
        edges = np.linspace(low, high, self.BINS + 1)
        step = edges[1] - edges[0]
        density = gaussian_filter1d(np.histogram(x, edges, weights=share)[0], width / step, mode="constant")
        density /= density.sum()
        slope = self.FLOOR + (1 - self.FLOOR) * density / density.mean()
        image = np.concatenate([[0.0], np.cumsum(slope) * step])
        middle = 0.5 * (image[1:] + image[:-1])
        mean = density @ middle
        factor = spread / np.sqrt(density @ (middle - mean) ** 2)
        image, slope = factor * (image - mean), factor * slope
        images = np.linspace(image[0], image[-1], self.KNOTS)  # as many knots in a state as its width there asks for
        knots = np.interp(images, image, edges)
        return knots, images, np.interp(knots, 0.5 * (edges[1:] + edges[:-1]), slope)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images of points (n, d), and ln of the slope in each coordinate (n, d)."""
        x0, x1, y0, y1, d0, d1 = self._bins(self.knots, x)
        s = (y1 - y0) / (x1 - x0)
        place = (x - x0) / (x1 - x0)
        t = place.clamp(0, 1)
        cross = t * (1 - t)
        denominator = s + (d0 + d1 - 2 * s) * cross
        y = y0 + (y1 - y0) * (s * t.square() + d0 * cross) / denominator
        beyond = torch.where(place > 1, d1, d0) * (place - t) * (x1 - x0)
        slope = s.square() * (2 * s * cross + d0 * (1 - t).square() + d1 * t.square()) / denominator.square()
        return y + beyond, torch.log(slope)

    def inverse(self, y: Tensor) -> Tensor:
        """Points (n, d) whose images are y (n, d)."""
        x0, x1, y0, y1, d0, d1 = self._bins(self.images, y)
        s = (y1 - y0) / (x1 - x0)
        rise = torch.minimum(torch.maximum(y, y0), y1) - y0
        curvature = rise * (d0 + d1 - 2 * s)
        a, b, c = (y1 - y0) * (s - d0) + curvature, (y1 - y0) * d0 - curvature, -s * rise
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        beyond = y - y0 - rise
        return x0 + t * (x1 - x0) + beyond / torch.where(beyond > 0, d1, d0)

    def _bins(self, edges: Tensor, values: Tensor) -> list[Tensor]:
        """Knots, images and slopes at either side of the bin of each value (n, d), the outer bins being open."""
        left = torch.searchsorted(edges[:, 1:-1].contiguous(), values.T.contiguous())
        return [each.gather(1, left + side).T for each in (self.knots, self.images, self.slopes) for side in (0, 1)]
