"""Do independent ways to estimate one number agree within their errors?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

MOST = 2.0
"""Combined standard errors that two estimates may be apart, as in the comparison of campaigns."""


def disagreement(estimates: Mapping[str, tuple[float, float]], most: float = MOST) -> tuple[str, str] | None:
    """The two estimates that are farthest apart, if that is more than their errors say; `None` where all agree.

    Parameters
    ----------
    estimates
        Value and standard error of each, by its name. Those whose error is not known are left out.
    most
        Combined standard errors that two may be apart.

    Examples
    --------
    >>> disagreement({"c(t)": (8.4, 0.4), "MBAR": (9.0, 0.3), "flow": (12.0, 0.5)})
    ('c(t)', 'flow')
    >>> disagreement({"c(t)": (8.4, 0.4), "MBAR": (9.0, 0.3), "flow": (12.0, math.inf)}) is None
    True
    """
    known = {name: entry for name, entry in estimates.items() if all(map(math.isfinite, entry)) and entry[1] > 0}

    def apart(pair: tuple[str, str]) -> float:
        (one, error), (other, other_error) = (known[name] for name in pair)
        return abs(one - other) / math.hypot(error, other_error)

    farthest = max(combinations(known, 2), key=apart, default=None)
    return farthest if farthest is not None and apart(farthest) > most else None
