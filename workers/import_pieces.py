"""Rows -> a piece: the events that keep every rule, and the rows that do not, each with its reasons. Pure.

The rules are those of `POST /post`, and the code that knows them is the same (`app.event`).
"""

from __future__ import annotations

import msgspec

from app import event_problems
from app.errors import Problem
from app.event import BrokenRule, Event, read_event
from app.names import Refused
from workers.import_content import Chunk, Mark, Unreadable

SHOWN_BYTES = 65_536


class Rejected(msgspec.Struct, frozen=True):
    """A row that is not imported."""

    line: int
    problems: list[Problem]
    body: bytes


class Piece(msgspec.Struct):
    """The rows between two marks; imported together or not at all."""

    end: Mark
    rows: list[tuple[int, bytes, Event]]
    rejected: list[Rejected]

    @property
    def size(self) -> int:
        """How many rows, good and bad."""
        return len(self.rows) + len(self.rejected)

    def shapes(self) -> set[tuple[str, tuple[str, ...]]]:
        """What the events need names for: event name and field paths."""
        return {(event.event_name, event.field_paths) for _, _, event in self.rows}

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
