"""The query language (api.md section 5): bytes -> a Query, or every problem.

Pure: no clock, no store. What a Query means in SQL is `app.sql`'s business; filters and time periods have
modules of their own, and whose events it is asked of is decided elsewhere (`app.scope`). A Query holds only
checked words and values, so what reads it decides nothing.
Next reader: `app.sql`.
"""

from __future__ import annotations

import enum

import msgspec

from app.computations import Computation, check_outputs, read_computations
from app.errors import Problem, invalid_body
from app.event import has_repeated_name
from app.fields import Field, Kind, unknown
from app.filters import Condition, read_field, read_filters, read_word
from app.time_period import Period, read_period, read_zone

MAX_GROUP_BY = 10
MAX_ORDER_BY = 20
DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET = 1000, 10_000, 1_000_000
TIME_OUTPUT = "event_time"  # the column of a bucket


class Bucket(enum.Enum):
    """Lengths of `group_by_time`; those from a day on follow the calendar of the query's time zone."""

    MINUTE = "minute"
    FIVE_MINUTES = "5_minutes"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


class Order(msgspec.Struct, frozen=True):
    """`output` is an output column, or any field's name where the query returns raw events."""

    output: str
    descending: bool


class Query(msgspec.Struct, frozen=True):
    """A checked query."""

    period: Period
    timezone: str = "UTC"
    bucket: Bucket | None = None
    group_by: tuple[Field, ...] = ()
    computations: tuple[Computation, ...] = ()
    filters: tuple[Condition, ...] = ()
    order_by: tuple[Order, ...] = ()
    limit: int = DEFAULT_LIMIT
    offset: int = 0

    @property
    def is_raw(self) -> bool:
        """Does it return events as they came, not groups of them?"""
        return not self.computations and not self.group_by and self.bucket is None


_MEMBERS = (
    *("time_period", "timezone", "group_by", "group_by_time", "computations"),
    *("filters", "order_by", "limit", "offset"),
)
_LATER_MEMBERS = ("fill", "cursor", "next", "chart")
_BUCKETS = {bucket.value: bucket for bucket in Bucket}
_DIRECTIONS = {"ASC": False, "DESC": True}


def read_query(body: bytes, now_ms: int) -> Query:
    """The query in `body` at `now_ms` (Unix milliseconds).

    Errors: ApiError 400 that names every problem found.
    """
    request = _decode(body)
    problems: list[Problem] = []
    for name in request:
        if name not in _MEMBERS:
            problems.append(Problem(f"$.{name}"[:200], unknown("member", name, _MEMBERS, _LATER_MEMBERS)))
    timezone = _timezone(request.get("timezone", "UTC"), problems)
    period = _period(request, timezone, now_ms, problems)
    bucket = _bucket(request, problems)
    group_by = _group_by(request.get("group_by", []), problems)
    computations = read_computations(request.get("computations", []), problems)
    filters = read_filters(request.get("filters", []), problems)
    outputs = ([TIME_OUTPUT] if bucket else []) + [field.name for field in group_by]
    check_outputs(outputs, computations, problems)
    outputs += [computation.output for computation in computations]
    order_by = _order_by(request.get("order_by", []), outputs, problems)
    limit = _integer(request, "limit", DEFAULT_LIMIT, (1, MAX_LIMIT), problems)
    offset = _integer(request, "offset", 0, (0, MAX_OFFSET), problems)
    if problems or period is None:
        raise invalid_body(problems)
    return Query(
        period=period,
        timezone=timezone,
        bucket=bucket,
        group_by=group_by,
        computations=computations,
        filters=filters,
        order_by=order_by,
        limit=limit,
        offset=offset,
    )


def _decode(body: bytes) -> dict[str, object]:
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")[:200]
        raise invalid_body([Problem("$", f"malformed JSON: {reason}")]) from None
    if has_repeated_name(body):
        raise invalid_body([Problem("$", "a name stands twice in one object")])
    if not isinstance(request, dict):
        raise invalid_body([Problem("$", "the body must be one JSON object")])
    return request


def _timezone(name: object, problems: list[Problem]) -> str:
    try:
        if not isinstance(name, str):
            raise ValueError("expected an IANA name such as Europe/Berlin")
        read_zone(name)
    except ValueError as error:
        problems.append(Problem("$.timezone", str(error)))
        return "UTC"
    return name


def _period(request: dict[str, object], timezone: str, now_ms: int, problems: list[Problem]) -> Period | None:
    found = read_period(request.get("time_period"), read_zone(timezone), now_ms)
    if isinstance(found, Period):
        return found
    problems.append(found)
    return None


def _bucket(request: dict[str, object], problems: list[Problem]) -> Bucket | None:
    if "group_by_time" not in request:
        return None
    return read_word(
        request["group_by_time"], "length", _BUCKETS, (), path="$.group_by_time", problems=problems
    )


def _group_by(value: object, problems: list[Problem]) -> tuple[Field, ...]:
    if not isinstance(value, list) or len(value) > MAX_GROUP_BY:
        problems.append(Problem("$.group_by", f"expected an array of at most {MAX_GROUP_BY} field names"))
        return ()
    fields: list[Field] = []
    for index, name in enumerate(value):
        path = f"$.group_by[{index}]"
        field = read_field(name, path, problems)
        if field is None:
            continue
        if field.kind is Kind.TIME:
            problems.append(Problem(path, f'"{field.name}" is a time; use group_by_time'))
        elif field in fields:
            problems.append(Problem(path, f'"{field.name}" is there twice'))
        else:
            fields.append(field)
    return tuple(fields)


def _order_by(value: object, outputs: list[str], problems: list[Problem]) -> tuple[Order, ...]:
    if not isinstance(value, list) or len(value) > MAX_ORDER_BY:
        problems.append(Problem("$.order_by", f"expected an array of at most {MAX_ORDER_BY} objects"))
        return ()
    found = [_order(item, f"$.order_by[{i}]", outputs, problems) for i, item in enumerate(value)]
    return tuple(item for item in found if item is not None)


def _order(item: object, path: str, outputs: list[str], problems: list[Problem]) -> Order | None:
    if not isinstance(item, dict):
        problems.append(Problem(path, 'expected an object with "field_name" and "direction"'))
        return None
    for name in item:
        if name not in ("field_name", "direction"):
            message = unknown("member", name, ("field_name", "direction"))
            problems.append(Problem(f"{path}.{name}"[:200], message))
    direction = item.get("direction", "ASC")
    descending = read_word(
        direction, "direction", _DIRECTIONS, (), path=f"{path}.direction", problems=problems
    )
    name = item.get("field_name")
    if not isinstance(name, str):
        problems.append(Problem(f"{path}.field_name", "required: the name of an output column"))
        return None
    if outputs and name not in outputs:
        problems.append(Problem(f"{path}.field_name", unknown("output column", name, outputs)))
    if not outputs:
        read_field(name, f"{path}.field_name", problems)
    return Order(name, bool(descending))


def _integer(
    request: dict[str, object], name: str, default: int, allowed: tuple[int, int], problems: list[Problem]
) -> int:
    value = request.get(name, default)
    low, high = allowed
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        problems.append(Problem(f"$.{name}", f"expected an integer from {low} to {high}"))
        return default
    return value
