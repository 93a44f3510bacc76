"""What is told of the rejected events of a batch: which, and why. Pure but for letting others run.

Every rejected event stands in the answer at least once. Reasons are looked up at the end, and for so many
events only: naming them takes far longer than judging.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from app import event_problems, metrics
from app.errors import MAX_PROBLEMS, ApiError, Kind, Problem, invalid_body

MAX_EXPLAINED = 1000  # events; of the others is said only that they break a rule
EXPLAINED_AT_ONCE = 20  # some milliseconds
INVALID, TOO_LARGE, UNAVAILABLE = (
    kind.value.code for kind in (Kind.INVALID_BODY, Kind.BODY_TOO_LARGE, Kind.UNAVAILABLE)
)
_UNEXPLAINED = (
    Problem("$", f"breaks a rule; send it again alone to be told which: only {MAX_EXPLAINED} are explained"),
)


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """One problem of one rejected event, as the answer says it."""

    index: int
    code: str
    path: str
    message: str


class Rejections:
    """Collects the positions of events that are not accepted."""

    def __init__(self, bodies: Sequence[bytes | memoryview]) -> None:
        self._bodies = bodies
        # position -> code and problems; None: not looked up yet
        self._found: dict[int, tuple[str, Sequence[Problem] | None]] = {}

    @property
    def number(self) -> int:
        return len(self._found)

    def broken(self, positions: Iterable[int]) -> None:
        """Events that break a rule."""
        for at in positions:
            self._found[at] = (INVALID, None)

    def refused(self, positions: Iterable[int], problems: Sequence[Problem]) -> None:
        """Events with a name that finds no place."""
        self._found.update((at, (INVALID, problems)) for at in positions)

    def oversized(self, positions: Iterable[int], limit_bytes: int) -> None:
        for at in positions:
            message = f"an event may have at most {limit_bytes} bytes; this one has {len(self._bodies[at])}"
            self._found[at] = (TOO_LARGE, [Problem("$", message)])

    def unkept(self, positions: Iterable[int], detail: str) -> None:
        """Good events that could not be kept."""
        problems = [Problem("$", detail)]
        self._found.update((at, (UNAVAILABLE, problems)) for at in positions)

    async def explain(self) -> list[Verdict]:
        """All of them in the order of the batch. Counts them, too."""
        verdicts: list[Verdict] = []
        explained = 0
        for at, (code, found) in sorted(self._found.items()):
            problems = found
            if problems is None:
                explained += 1
                problems = self._find(at) if explained <= MAX_EXPLAINED else _UNEXPLAINED
                if explained % (EXPLAINED_AT_ONCE if explained <= MAX_EXPLAINED else MAX_EXPLAINED) == 0:
                    await asyncio.sleep(0)
            verdicts += [Verdict(at, code, problem.path, problem.message) for problem in problems]
        for code, number in Counter(code for code, _ in self._found.values()).items():
            metrics.EVENTS_REJECTED.labels(code).inc(number)
        return verdicts

    def nothing_accepted(self) -> ApiError:
        """The 400 of a batch without a good event."""
        problems: list[Problem] = []
        for at, (_, found) in sorted(self._found.items()):
            problems += [
                Problem(f"$[{at}]{problem.path[1:]}", problem.message)
                for problem in (self._find(at) if found is None else found)
            ]
            if len(problems) >= MAX_PROBLEMS:
                break
        return invalid_body(problems or [Problem("$", "the batch is empty; send at least one event")])

    def _find(self, at: int) -> Sequence[Problem]:
        # None: the two readers disagree, which is our bug; the event was not kept.
        return event_problems.find(bytes(self._bodies[at])) or [
            Problem("$", "the event could not be checked. This is a bug; it was not kept")
        ]
