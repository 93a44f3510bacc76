"""Rows -> a piece: the events that keep every rule, and the rows that do not, each with its reasons. Pure.

The rules are those of `POST /post`, and the code that knows them is the same (`app.event`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec

from app import event_problems
from app.errors import Problem
from app.event import BrokenRule, Event, read_event
from app.names import Refused
from workers.import_content import Chunk, InputError, Mark, Unreadable

SHOWN_BYTES = 65_536
NO_PLACE = "a rule or limit refused it when its piece was first sent; it would pass now: import it by itself"


class Rejected(msgspec.Struct, frozen=True):
    """A row that is not imported."""

    line: int
    problems: list[Problem]
    body: bytes

    @property
    def reasons(self) -> str:
        """For people; the first ones."""
        problems = "; ".join(f"{one.path}: {one.message}" for one in self.problems[:3])
        return f"line {self.line}: {problems}"


class Piece(msgspec.Struct):
    """The rows between two marks; imported together or not at all."""

    end: Mark
    rows: list[tuple[int, bytes, Event]]
    rejected: list[Rejected]

    @property
    def size(self) -> int:
        """How many rows, good and bad."""
        return len(self.rows) + len(self.rejected)

    def shapes(self) -> list[tuple[str, tuple[str, ...]]]:
        """What the events need names for, each once: event name and field paths. In the order of the rows:
        if places are few, the first rows get them, in every run."""
        return list(dict.fromkeys((event.event_name, event.field_paths) for _, _, event in self.rows))

    def refuse(self, refused: Refused, what: str) -> None:
        """Set the events aside that carry a name without a place; `what` says what would give it one."""
        kept = []
        for line, body, event in self.rows:
            problems = []
            if event.event_name in refused.event_names:
                message = f"{event.event_name} is new, and {what} of distinct event names"
                problems.append(Problem("$.event_name", message))
            problems += [
                Problem(f"$.{path}", f"the field is new, and {what} of distinct fields")
                for path in event.field_paths
                if path in refused.field_paths
            ]
            if problems:
                self.rejected.append(Rejected(line, problems, body))
            else:
                kept.append((line, body, event))
        self.rows = kept
        self.rejected.sort(key=lambda one: one.line)


def judge_again(chunk: Chunk, max_event_bytes: int, left_out: Mapping[int, list[Problem]]) -> Piece:
    """`chunk` as an earlier run judged it, which may have appended it: without these lines, with all others.

    Their reasons are those of that run where it is known, else those that hold now. Errors: InputError.
    """
    then = judge(chunk, sys.maxsize)
    now = {one.line: one.problems for one in judge(chunk, max_event_bytes).rejected} if left_out else {}
    if others := [one for one in then.rejected if one.line not in left_out]:
        raise InputError(
            f"an earlier run took {others[0].reasons}. Go on with the version and the limits that it had, or "
            "import all of it as new rows with --again NAME"
        )
    bodies = {one.line: one.body for one in then.rejected}
    bodies |= {line: body[:SHOWN_BYTES] for line, body, _ in then.rows if line in left_out}
    rejected = [
        Rejected(line, left_out[line] or now.get(line) or [Problem("$", NO_PLACE)], body)
        for line, body in sorted(bodies.items())
    ]
    return Piece(then.end, [row for row in then.rows if row[0] not in left_out], rejected)


def judge(chunk: Chunk, max_event_bytes: int) -> Piece:
    """Read every row of `chunk`."""
    rows: list[tuple[int, bytes, Event]] = []
    rejected: list[Rejected] = []
    for line, body in zip(chunk.lines, chunk.bodies, strict=True):
        if not body:
            continue
        if isinstance(body, Unreadable):
            rejected.append(Rejected(line, [Problem("$", body.reason)], body.text[:SHOWN_BYTES]))
        elif len(body) > max_event_bytes:
            reason = (
                f"the event has {len(body):,} bytes; at most {max_event_bytes:,} (limits.max_event_bytes)"
            )
            rejected.append(Rejected(line, [Problem("$", reason)], body[:SHOWN_BYTES]))
        else:
            try:
                rows.append((line, body, read_event(body)))
            except BrokenRule:
                if body.isspace():
                    continue
                problems = event_problems.find(body) or [
                    Problem("$", "a rule is broken that has no name: a bug")
                ]
                rejected.append(Rejected(line, problems, body))
    return Piece(chunk.end, rows, rejected)
