"""How much of a step is done, and how long the rest takes."""

from __future__ import annotations

import pytest

from latf_sampling.campaign.progress import Pace, Paces


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("notes", "later", "left"),
    [
        ([], 0, None),
        ([(0, 0.0)], 30, None),  # nothing is known before anything is done
        ([(0, 0.0), (0.5, 0.1)], 0, None),  # too early to tell
        ([(0, 0.0), (10, 0.1)], 0, 90),
        ([(0, 0.0), (10, 0.1)], 10, 180),  # the longer nothing happens, the longer it will take
        ([(0, 0.6), (10, 0.8)], 0, 10),  # what was done before was not fast
        ([(0, 0.6), (10, 0.8), (10, 0.7)], 0, 60),  # rolled back
        ([(0, 0.6), (10, 0.5), (10, 0.75)], 0, 20),  # behind where it began: the time counts
        ([(0, 0.0), (10, 1.0)], 50, 0),
    ],
)
def test_time_left(notes, later, left):
    clock = Clock()
    pace = Pace(clock)
    for seconds, fraction in notes:
        clock.now += seconds
        pace.note(fraction)
    clock.now += later
    assert pace.seconds_left() == (None if left is None else pytest.approx(left))


def test_a_finished_step_takes_no_longer():
    clock = Clock()
    pace = Pace(clock)
    pace.note(0.0)
    clock.now += 7
    pace.note(1.0)
    clock.now += 50
    assert (pace.seconds, pace.done) == (7, 1.0)


def test_the_line_of_a_step():
    clock = Clock()
    paces = Paces(clock)
    paces("learn", 0.0, "begun")
    assert paces.line("learn") == "learn: 0 %. begun"
    clock.now += 60
    paces("learn", 0.2, "")
    assert (paces.current, paces.line("learn")) == ("learn", "learn: 20 %, about 4.0 min left.")
