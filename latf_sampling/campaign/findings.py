"""What is known of the free-energy difference after a round, for the log and for whoever watches."""

from __future__ import annotations

import math
import warnings

from latf_sampling.campaign.log import Log
from latf_sampling.campaign.progress import Progress
from latf_sampling.records.records import Records
from latf_sampling.report.estimates import Estimates


def tell_free_energy(records: Records, index: int, progress: Progress, log: Log | None = None) -> None:
    """Report the free-energy difference of the observed variable from the rounds so far, as a step of its own.

    It takes one more look at the frames for the observed variable, a small part of what learning from them takes.

    Parameters
    ----------
    records
        Of the campaign; they are read anew.
    index
        The round that was finished last.
    progress
        Called with the name of the step, 1, and the estimate in words.
    log
        Where the numbers are noted too.
    """
    step = f"round {index}: free energy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the report says what is wrong with an estimate
        estimates = Estimates.from_records(Records.load(records.directory.path, trust=True))
    pooled = estimates.pooled
    if pooled is None:
        words = f"not known: nothing at {estimates.temperature:g} K has crossed yet"
    elif math.isfinite(pooled.error):
        words = f"{pooled.value:.1f} ± {pooled.error:.1f} kJ/mol of {estimates.state} at {estimates.temperature:g} K"
    else:
        words = f"{pooled.value:.1f} kJ/mol of {estimates.state} at {estimates.temperature:g} K, with an unknown error"
    if log is not None:
        log.note(
            "free energy",
            round=index,
            temperature=estimates.temperature,
            state=estimates.state,
            value=None if pooled is None else _finite(pooled.value),
            error=None if pooled is None else _finite(pooled.error),
            words=words,
        )
    progress(step, 1.0, words)


def _finite(value: float) -> float | None:
    """The value, or `None`, which JSON can hold."""
    return value if math.isfinite(value) else None
