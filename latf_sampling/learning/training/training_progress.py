"""How much of a training is done: in time, of which an epoch of each stage takes another amount."""

from __future__ import annotations

import time
from collections.abc import Callable

from latf_sampling.settings import TrainingSettings

COSTS = {"states": 1.0, "joint": 4.0, "flow": 4.0, "refit": 4.0, "ensemble": 4.0}
"""Time that an epoch takes relative to one of the first stage, before one of the stage was made. Measured with 400
frames of plain dynamics: 1, 2.1, 1.6, 1.7 and 1.6; with 800: 1, 2.9, 1.9, 2.0 and 1.9; with 2,000: 1, 5.3, 4.5, 4.0 and
4.8; with 4,000 of which half are biased: 1, 9, 13, 13 and 12."""
FLOW_EPOCHS = 12
"""The flow alone is expected to be finished after so many epochs, where the settings allow more."""
EARLY = 0.5
"""Share of the allowed iterations of the first stage that is expected to be made: it ends by itself."""


class TrainingProgress:
    """The fraction of a training that is done, as the share of the time that it takes in all.

    Parameters
    ----------
    settings
        Of the training.
    clock
        Returns the present time, s.

    Examples
    --------
    >>> moments = iter(range(100))
    >>> settings = TrainingSettings(refinements=1, refinement_epochs=4, joint_epochs=2, flow_epochs=0, ensemble=0)
    >>> progress = TrainingProgress(settings, lambda: next(moments))
    >>> progress.note("states", 0, 1)  # 1 s of 4 + 2 * 4 + 2 * 4
    0.05
    >>> progress.note("states", 0, 2)
    0.1
    """

    def __init__(self, settings: TrainingSettings, clock: Callable[[], float] = time.perf_counter) -> None:
        self.settings, self._clock = settings, clock
        self._last = self._clock()
        self._seconds: dict[str, list[float]] = {stage: [] for stage in COSTS}
        self._spent, self._fraction = 0.0, 0.0

    def begin(self) -> None:
        """The first epoch of a stage begins: what was done before it is no part of what an epoch takes."""
        now = self._clock()
        self._spent += now - self._last
        self._last = now

    def note(self, stage: str, iteration: int, epochs: int) -> float:
        """An epoch is finished, which makes so many of an iteration of a stage; returns the fraction that is done.

        Iterations of the first stage are counted over all restarts.

        The fraction never decreases, although what is left is estimated anew.
        """
        now = self._clock()
        self._spent += now - self._last
        self._seconds[stage].append(now - self._last)
        self._last = now
        left = sum(self._cost(each) * count for each, count in self._left(stage, iteration, epochs).items())
        if self._spent + left > 0:
            self._fraction = max(self._fraction, self._spent / (self._spent + left))
        return self._fraction

    def _cost(self, stage: str) -> float:
        """Seconds that an epoch of a stage takes."""
        made = self._seconds[stage][-20:]
        if made:
            return sum(made) / len(made)
        known = [each for each in COSTS if self._seconds[each]]
        if not known:
            return 0.0
        like = known[-1]  # the nearest stage before
        return self._cost(like) * COSTS[stage] / COSTS[like]

    def _left(self, stage: str, iteration: int, epochs: int) -> dict[str, float]:
        """Epochs that are expected to follow, by stage."""
        s = self.settings
        with_flow = s.joint_epochs + s.flow_epochs > 0
        counts = {
            "states": EARLY * s.refinements * s.refinement_epochs * s.restarts,
            "joint": s.joint_epochs,
            "flow": min(s.flow_epochs, FLOW_EPOCHS),
            "refit": s.ensemble_epochs * with_flow,
            "ensemble": s.ensemble * s.ensemble_epochs * with_flow,
        }
        stages = list(counts)
        left = {each: float(counts[each]) for each in stages[stages.index(stage) + 1 :]}
        if stage == "states":
            most = (s.restarts * s.refinements - iteration) * s.refinement_epochs - epochs
            left[stage] = s.refinement_epochs - epochs + EARLY * max(0, most - (s.refinement_epochs - epochs))
        elif stage == "flow":
            left[stage] = max(min(s.flow_epochs, FLOW_EPOCHS) - epochs, min(s.patience, s.flow_epochs - epochs), 0)
        elif stage == "ensemble":
            left[stage] = (s.ensemble - iteration) * s.ensemble_epochs - epochs
        else:
            left[stage] = counts[stage] - epochs
        return left
