"""Named streams of random numbers from one master seed."""

from __future__ import annotations

import hashlib
import json
import operator
from typing import Any

import numpy as np

from latf_sampling.errors import SettingsError


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A random generator for one purpose, from a master seed.

    Parameters
    ----------
    seed
        The master seed, any integer.
    names
        The purpose of the numbers, such as ("train", 3, "shuffle"). Order and type matter: 3 is not "3".

    Returns
    -------
    numpy.random.Generator
        It is the same for the same seed and names in every process, Python version and machine, and independent of
        the one for any other names, since its entropy is a SHA-256 hash of seed and names. A new stream does not change
        any other.

    Raises
    ------
    SettingsError
        The seed is not an integer, or a name is neither text nor an integer.

    Examples
    --------
    >>> int(stream(0, "train").integers(1000))
    682
    >>> stream(0, "train").random() == stream(0, "simulate").random()
    False
    """
    entropy = int.from_bytes(_digest("stream", seed, names), "big")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def stream_seed(seed: int, *names: str | int) -> int:
    """A seed for a generator other than numpy's, from 1 to 2**31 - 1; OpenMM chooses a random seed itself for 0.

    Parameters
    ----------
    seed, names
        As in `stream`. The seed is independent of the stream for the same names.

    Raises
    ------
    SettingsError
        As in `stream`.

    Examples
    --------
    >>> stream_seed(0, "simulate", "round", 1)
    1272719149
    """
    return 1 + int.from_bytes(_digest("seed", seed, names), "big") % (2**31 - 1)


def _digest(kind: str, seed: Any, names: tuple[Any, ...]) -> bytes:
    key: list[str | int] = [kind, _integer(seed, "seed")]
    key += [name if isinstance(name, str) else _integer(name, "name of a random stream") for name in names]
    return hashlib.sha256(json.dumps(key).encode("ascii")).digest()  # JSON keeps 3 and "3", "ab" and "a", "b" apart


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool):
        raise SettingsError(f"{what}: {value!r} is not an integer.")
    try:
        return operator.index(value)
    except TypeError as error:
        raise SettingsError(f"{what}: {value!r} is not an integer.") from error
