"""What `latf starts` asks for, from the texts of its options."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latf_sampling.data.layout import CampaignDirectory, locate_model
from latf_sampling.errors import ExtrapolationWarning, SettingsError
from latf_sampling.units import parse

if TYPE_CHECKING:
    from latf_sampling.starts import Starts


class StartsCommand:
    """Structures for samples of the flow, at points, or along a path.

    Parameters
    ----------
    temperature, output, count, at, between, seed
        The options of the command.

    Raises
    ------
    SettingsError
        Options contradict each other, or one has an impossible value; names it.
    """

    def __init__(
        self,
        temperature: str,
        output: Path,
        count: int | None,
        at: Sequence[str],
        between: tuple[str, str] | None,
        seed: int,
    ) -> None:
        if at and between:
            raise SettingsError("starts: give --at or --between, not both.")
        if at and count is not None:
            raise SettingsError("starts: --at already determines the number of structures; leave out -n.")
        if not at and count is None:
            raise SettingsError("starts: -n, the number of structures, is missing.")
        self.temperature, self.output, self.seed = parse(temperature, "temperature", "--temperature"), output, seed
        self.count = len(at) if count is None else count
        self.points = [_values(text) for text in at]
        self.ends = None if between is None else [_end(text) for text in between]

    def options(
        self, processes: int | None, cif: bool, times: Mapping[str, str | None], allowed: Mapping[str, bool]
    ) -> dict[str, Any]:
        """The further options of `Campaign.generate_starts`; those that are left out have the protocol's values."""
        options: dict[str, Any] = {
            "processes": processes,
            "directory": self.output,
            "structures": "cif" if cif else None,
        }
        options |= {name: parse(text, "time", f"--{name}") for name, text in times.items() if text is not None}
        return options | {name: True for name, wanted in allowed.items() if wanted}

    def run(
        self, directory: Path, trust: bool, options: Mapping[str, Any], progress: Callable[[float, str], None]
    ) -> Starts:
        """Make the structures, from the last model of a campaign or from a model file in it."""
        directory, learned = locate_model(directory) or (directory, None)
        _ = CampaignDirectory(directory).protocol()  # refuses what is no campaign before torch is loaded

        from latf_sampling.campaign.campaign import Campaign

        campaign = Campaign.load(directory, trust)
        options = {**options, "learned": learned, "progress": progress}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # too few structures are reported by the summary
            warnings.simplefilter("always", ExtrapolationWarning)
            if self.points:
                return campaign.structures_at(self.temperature, self.points, self.seed, **options)
            if self.ends is not None:
                return campaign.structures_between(self.temperature, self.ends, self.count, self.seed, **options)
            return campaign.generate_starts(self.temperature, self.count, self.seed, **options)


def _values(text: str) -> list[float]:
    """Values of the collective variable."""
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise SettingsError(f"starts: {text!r} are not values of the collective variable, like '0.3, -1.2'.") from error


def _end(text: str) -> int | list[float]:
    """A metastable state, as in "state 0", or values of the collective variable."""
    name, _, number = text.strip().partition(" ")
    return int(number) if name == "state" and number.strip().isdigit() else _values(text)
