"""The short form of `make chaos`, and the proof that its verdict can be a bad one."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from tests.chaos.book import Attempt, Book, Event
from tests.chaos.schedule import KINDS, draw, rounds
from tests.chaos.verdict import Row, judge
from tests.service import ROOT

SHORT = ("--seed", "30201", "--faults", "9")  # a seed that deals the nastiest ones first
SHORT_SECONDS = 180.0


@pytest.mark.service
@pytest.mark.timeout(SHORT_SECONDS + 20)
def test_a_short_run_loses_and_doubles_nothing() -> None:
    """A process of its own: it takes a mount namespace, and the kernel ends its children with it."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *SHORT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SHORT_SECONDS,
        check=False,
    )
    print(f"{done.stdout}\n{time.monotonic() - began:.0f} s")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(
        r"seed 30201: (\d+) faults in \d+ s, (\d+) skipped\n  acknowledged (\d+), lost 0", done.stdout
    )
    assert found, done.stdout
    assert int(found[1]) + int(found[2]) == 9
    assert int(found[3]) > 300, "hardly anything was acknowledged: nothing was tested"


def test_the_same_seed_is_the_same_run() -> None:
    assert draw(7, 100) == draw(7, 100)
    assert draw(7, 100)[:40] == draw(7, 40)
    assert draw(7, 40) != draw(8, 40)


def test_a_run_has_every_kind_and_overlaps() -> None:
    faults = draw(3, 2 * len(KINDS))
    assert {fault.kind for fault in faults} == {kind.name for kind in KINDS}
    together = rounds(faults)
    assert {len(one) for one in together} == {1, 2}
    assert [fault for one in together for fault in one] == faults


def told(*attempts: Attempt, event_id: str = "") -> Book:
    """A book of one event."""
    book = Book()
    event = book.new(lambda number: event_id)
    event.attempts += attempts
    return book


KEPT = Attempt(1.0, 0, 200, "a")
REFUSED = Attempt(1.0, 0, 503, '{"detail":"Nothing was kept; send it again."}', retry_after=True)
UNKNOWN = Attempt(1.0, 0, 503, '{"detail":"It is not known whether it was kept"}', retry_after=True)
SILENCE = Attempt(1.0, 0, 0, "ReadTimeout")


@pytest.mark.parametrize(
    ("book", "rows", "wrong"),
    [
        (told(KEPT), [], "lost"),
        (told(KEPT), [Row(0, "b", "")], "lost"),
        (told(KEPT), [Row(0, "a", ""), Row(0, "a", "")], "doubled"),
        (told(KEPT), [Row(0, "a", ""), Row(0, "b", "")], "doubled"),
        (told(SILENCE), [Row(0, "a", ""), Row(0, "b", "")], "doubled"),
        (told(KEPT, event_id="i"), [], "lost"),
        (told(KEPT, event_id="i"), [Row(0, "a", "i"), Row(0, "b", "i")], "event_id more than once"),
        (told(REFUSED), [Row(0, "a", "")], "stored although refused"),
        (told(Attempt(1.0, 0, 503, "")), [], "503 without Retry-After"),
        (told(Attempt(1.0, 0, 500, "")), [], "unexpected answer"),
        (told(SILENCE), [Row(1, "a", "")], "never sent"),
    ],
)
def test_what_is_wrong_is_found(book: Book, rows: list[Row], wrong: str) -> None:
    assert wrong in judge(book, rows).wrong


@pytest.mark.parametrize(
    ("book", "rows"),
    [
        (told(KEPT), [Row(0, "a", "")]),
        (told(SILENCE), [Row(0, "a", "")]),
        (told(SILENCE), []),
        (told(UNKNOWN), [Row(0, "a", "")]),
        (told(REFUSED), []),
        (told(SILENCE, KEPT, event_id="i"), [Row(0, "b", "i")]),
    ],
)
def test_what_is_allowed_is_not_held_against_it(book: Book, rows: list[Row]) -> None:
    assert judge(book, rows).wrong == {}


def test_an_event_that_was_called_stored_and_not_seen() -> None:
    book = told(KEPT)
    book.events[0].unseen = "a"
    assert "answered as stored, not seen by the next query" in judge(book, [Row(0, "a", "")]).wrong


def test_an_event_knows_what_it_was_told() -> None:
    assert Event(0, "", [SILENCE, KEPT]).told == {"a"}
