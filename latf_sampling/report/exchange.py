"""Replica exchange: how often neighboring temperatures exchange, and how far configurations travel."""

from __future__ import annotations

from latf_sampling.analysis.exchange import round_trips
from latf_sampling.core.words import plural
from latf_sampling.records.records import Records
from latf_sampling.records.rounds import Round
from latf_sampling.report import page
from latf_sampling.report.estimates import Estimates

RARELY = 0.05
"""Share of accepted attempts below which two temperatures hardly exchange."""


def section(records: Records, estimates: Estimates) -> str:
    """Empty where no walkers exchanged configurations."""
    parts = [part for entry in records.rounds if any(walker.exchanges for walker in entry.begun) for part in _of(entry)]
    if not parts:
        return ""
    text = (
        "Walkers keep their temperatures and exchange configurations. A ladder works where neighbors accept a fifth of "
        "their attempts or more, and where configurations go from its lower end to its upper end and back: walkers at "
        "low temperatures then have frames from many passages at high ones. Crossings in the other sections count "
        "those by an exchange too, and time-lagged pairs that span one are left out of the training."
    )
    return page.section("Replica exchange", page.paragraph(text), *parts)


def _of(entry: Round) -> list[str]:
    rows, rare = [], []
    for (lower, upper), (attempts, accepted) in sorted(counts(entry).items()):
        share = accepted / attempts
        rows.append((f"{lower:g} K and {upper:g} K", f"{attempts:,}", f"{accepted:,}", f"{100 * share:.0f} %"))
        if share < RARELY:
            rare.append(f"{lower:g} K and {upper:g} K")
    trips = round_trips_of(entry)
    words = (
        f"Round {entry.index}: {plural(sum(trips), 'round trip')} between the lowest temperature and the highest, by "
        f"{sum(trip > 0 for trip in trips)} of {plural(len(trips), 'configuration')}."
    )
    if rare:
        words += f" {' and '.join(rare)} hardly exchange; put a temperature between them."
    return [page.table(("temperatures", "attempts", "accepted", "share"), rows), page.paragraph(words)]


def counts(entry: Round) -> dict[tuple[float, float], tuple[int, int]]:
    """Attempts, and how many of them were accepted, of each two neighboring temperatures of a round, K.

    The two walkers of an attempt both have it; it is counted where the lower temperature is.
    """
    temperatures, found = entry.settings.walkers, {}
    for walker in entry.begun:
        for exchange in walker.exchanges:
            pair = walker.frames.temperature, temperatures[exchange.partner]
            if pair[0] < pair[1]:
                attempts, accepted = found.get(pair, (0, 0))
                found[pair] = attempts + 1, accepted + exchange.accepted
    return found


def round_trips_of(entry: Round) -> list[int]:
    """Round trips of the configuration that each walker of a round began with."""
    swaps = sorted(
        (exchange.frame, walker.frames.walker, exchange.partner)
        for walker in entry.begun
        for exchange in walker.exchanges
        if exchange.accepted and walker.frames.temperature < entry.settings.walkers[exchange.partner]
    )
    return round_trips(entry.settings.walkers, [(one, other) for _, one, other in swaps]).tolist()
