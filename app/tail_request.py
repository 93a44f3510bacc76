"""The address of GET /v1/tail -> which events are shown, or every problem. Pure.

A GET has no body, so filters stand in the address: `filters` as JSON, as in a query; and for the commonest of
them a name and its value, `event_name=purchase`.
Next reader: `app.tail`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from app.errors import Problem, invalid_body
from app.fields import resolve, unknown
from app.filters import Condition, Filter, read_filters
from app.malformed import malformed
from app.operators import Op
from app.tail_frames import POSITION, Positions, read_positions

SUGAR = ("event_name", "customer_identifier")
_PARAMETERS = ("filters", *SUGAR)


class Wanted(msgspec.Struct, frozen=True):
    """`after`: where the client was when it was cut off, by partition; None for one that begins."""

    filters: tuple[Condition, ...]
    after: Positions | None


def read_tail(parameters: Iterable[tuple[str, str]], last_event_id: str | None) -> Wanted:
    """What the address' `parameters` and the header Last-Event-ID ask for.

    Errors: ApiError 400 that names every problem found.
    """
    problems: list[Problem] = []
    conditions: list[Condition] = []
    seen: set[str] = set()
    for name, value in parameters:
        if name not in _PARAMETERS:
            problems.append(Problem(f"$.{name}"[:200], unknown("parameter", name, _PARAMETERS)))
        elif name in seen:
            problems.append(Problem(f"$.{name}", "there twice; use filters with the op in, or with or"))
        elif name == "filters":
            conditions += _filters(value, problems)
        elif value:
            conditions.append(Filter(resolve(name), Op.EQUALS, (value,)))
        else:
            problems.append(Problem(f"$.{name}", "is empty; leave it out"))
        seen.add(name)
    after = None
    if last_event_id:
        if re.fullmatch(POSITION, last_event_id):
            after = read_positions(last_event_id)
        else:
            problems.append(Problem("Last-Event-ID", "no id of ours: send the last one that came, or none"))
    if problems:
        raise invalid_body(problems)
    return Wanted(tuple(conditions), after)


def _filters(text: str, problems: list[Problem]) -> tuple[Condition, ...]:
    try:
        return read_filters(msgspec.json.decode(text), problems)
    except msgspec.DecodeError as error:
        problems.append(Problem("$.filters", malformed(text, error)))
    except RecursionError:
        problems.append(Problem("$.filters", "nested too deeply"))
    return ()
