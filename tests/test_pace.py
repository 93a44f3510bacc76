"""How long events wait for others: freshness stays what it was while inserts take longer, and inserts stay few."""

from __future__ import annotations

import random
from statistics import median

import pytest

from workers.pace import AIM, SHORTEST, Pace

LONGEST = 0.2


def settled(takes: float) -> Pace:
    pace = Pace(LONGEST)
    for _ in range(100):
        pace.inserted(0.0, takes, is_backlog=False)
    return pace


def freshness(pace: Pace, takes: float) -> list[float]:
    """Of events that come at any time: each waits for the next insert, and then for its end."""
    chance = random.Random(7)
    return [chance.uniform(0, pace.seconds) + takes for _ in range(20_000)]


@pytest.mark.parametrize("takes", [0.033, 0.04, 0.045, 0.05, 0.056, 0.065])
def test_half_of_the_events_are_as_fresh_whatever_an_insert_takes(takes: float) -> None:
    assert median(freshness(settled(takes), takes)) == pytest.approx(AIM * LONGEST, rel=0.02)


def test_an_insert_that_takes_longer_makes_no_event_wait_longer_than_before() -> None:
    assert max(freshness(settled(0.055), 0.055)) < max(freshness(settled(0.035), 0.035))


@pytest.mark.parametrize("takes", [0.0, 0.001, 0.1, 1.0, 100.0])
def test_neither_more_nor_fewer_inserts_than_the_bounds(takes: float) -> None:
    assert SHORTEST * LONGEST <= settled(takes).seconds <= LONGEST


def test_one_slow_insert_changes_little_and_many_change_it() -> None:
    pace = settled(0.03)
    before = pace.seconds
    pace.inserted(0.0, 0.07, is_backlog=False)
    assert before - 0.02 < pace.seconds < before
    for _ in range(30):
        pace.inserted(0.0, 0.07, is_backlog=False)
    assert pace.seconds == pytest.approx(SHORTEST * LONGEST)


def test_a_batch_waits_for_the_pace_unless_there_is_a_backlog() -> None:
    pace = settled(0.05)
    pace.inserted(7.0, 7.05, is_backlog=False)
    assert pace.waits(7.05) == pytest.approx(pace.seconds - 0.05)
    assert pace.waits(8.0) == 0
    pace.inserted(7.0, 7.05, is_backlog=True)
    assert pace.waits(7.05) == 0
