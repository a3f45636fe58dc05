"""Replica exchanges that a walker attempted, as the manifests of its segments have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latf_sampling.core.manifest import Manifest

KEY = "exchanges"
"""In the manifest of a segment: its exchanges, each as [frame, partner, probability, accepted]."""


@dataclass(frozen=True)
class Exchange:
    """One attempt of a walker to exchange its configuration with that of another.

    Attributes
    ----------
    frame : int
        Number of the walker's frames before it; if it was accepted, the next frame goes on from the other's.
    partner : int
        Number of the other walker.
    probability : float
        With which it is accepted.
    accepted : bool
    """

    frame: int
    partner: int
    probability: float
    accepted: bool


def exchanges_of(segments: Sequence[Manifest]) -> list[Exchange]:
    """The exchanges of a walker from the manifests of its segments; none in a round without."""
    return [Exchange(*entry) for segment in segments for entry in segment.content.get(KEY, ())]


def breaks_of(segments: Sequence[Manifest]) -> np.ndarray:
    """Frames of a walker that do not go on from the frame before, since configurations were exchanged; (n,)."""
    return np.array([entry.frame for entry in exchanges_of(segments) if entry.accepted], np.int64)
