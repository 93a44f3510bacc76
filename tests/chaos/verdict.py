"""The book against what queries return. Pure: what is lost, what is doubled, who was told something untrue."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos.book import Book, Event


class Row(NamedTuple):
    """One event as a query returns it."""

    number: int
    unique_req_id: str
    event_id: str


@dataclass
class Verdict:
    """Every list names events or rows; `wrong` is what must be empty."""

    acknowledged: int = 0
    attempts: Counter[int] = field(default_factory=Counter)  # by status, 0 without an answer
    refusals: Counter[str] = field(default_factory=Counter)  # 503s by what they said
    stored: int = 0
    unanswered_stored: int = 0  # nobody was told of them: allowed
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    repeated_ids: list[str] = field(default_factory=list)
    untrue_refusals: list[str] = field(default_factory=list)
    without_retry_after: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> dict[str, list[str]]:
        """What must not be, by its name; empty when the promise was kept."""
        found = {
            "lost": self.lost,
            "doubled": self.doubled,
            "event_id more than once": self.repeated_ids,
            "stored although refused": self.untrue_refusals,
            "503 without Retry-After": self.without_retry_after,
            "unexpected answer": self.unexpected,
            "never sent": self.unknown,
            "answered as stored, not seen by the next query": self.unseen,
        }
        return {name: cases for name, cases in found.items() if cases}


def judge(book: Book, rows: Iterable[Row]) -> Verdict:
    """Compare."""
    verdict = Verdict()
    by_number: dict[int, Counter[str]] = defaultdict(Counter)
    for row in rows:
        verdict.stored += 1
        by_number[row.number][row.unique_req_id] += 1
        known = row.number < len(book.events) and book.events[row.number].event_id == row.event_id
        if not known:
            verdict.unknown.append(str(row))
    for event in book.events:
        _judge_answers(verdict, event)
        _judge_event(verdict, event, by_number[event.number])
    return verdict


def _judge_answers(verdict: Verdict, event: Event) -> None:
    for attempt in event.attempts:
        verdict.attempts[attempt.status] += 1
        if attempt.status not in (0, 200, 202, 503):
            verdict.unexpected.append(f"{event.number}: {attempt}")
        elif attempt.status == 503:
            verdict.refusals[_reason(attempt.told)] += 1
            if not attempt.retry_after:
                verdict.without_retry_after.append(f"{event.number}: {attempt}")


def _reason(body: str) -> str:
    try:
        return str(json.loads(body).get("detail", ""))
    except ValueError:
        return body


def _judge_event(verdict: Verdict, event: Event, found: Counter[str]) -> None:
    told = event.told
    verdict.acknowledged += bool(told)
    case = f"{event.number} {event.event_id}: {dict(found)} stored; {event.attempts}"
    if event.unseen:
        verdict.unseen.append(case)
    if any(times > 1 for times in found.values()):
        verdict.doubled.append(case)
    if event.event_id:
        if told and not found:
            verdict.lost.append(case)
        if len(found) > 1:
            verdict.repeated_ids.append(case)
    else:
        if told and not told <= found.keys():
            verdict.lost.append(case)
        if len(found) > 1:  # it was sent once
            verdict.doubled.append(case)
    if found and not told:
        verdict.unanswered_stored += 1
        if not any(attempt.may_be_kept for attempt in event.attempts):
            verdict.untrue_refusals.append(case)
