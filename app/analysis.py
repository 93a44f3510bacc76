"""What the requests of funnels, retention, timelines and fields have in common, read from a body. Pure.

Each has a typed Struct of its own, which says what members there are and gives the API's description; what no
type can say is read here: the period, the filters, the fields. All that is wrong is told at once.
Next readers: `app.funnel`, `app.retention`, `app.timeline`, `app.seen_fields`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app.errors import Problem, invalid_body
from app.event import FIELD_NAME, has_repeated_name
from app.fields import Field, Kind, resolve
from app.filters import Condition, Filter, each_filter, read_field, read_filters
from app.operators import Op, too_much
from app.time_period import Period, read_period, read_zone
from app.walk import find_problems

MAX_FILTERS = 200  # in all lists of one request

_PERIOD: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "required": ["start", "end"],
            "properties": {"start": {"type": "string"}, "end": {"type": "string"}},
        },
    ]
}
PeriodValue = Annotated[
    Any, Meta(description="Words or two timestamps, as of a query", extra_json_schema=_PERIOD)
]
FilterList = Annotated[
    list[Any],
    Meta(description="As of a query; all of them must hold", extra_json_schema={"items": {"type": "object"}}),
]
EventName = Annotated[str, Meta(min_length=1, max_length=256)]
FieldName = Annotated[
    str,
    Meta(
        description="A field's name; nested ones as parent.child",
        extra_json_schema={"pattern": rf"^{FIELD_NAME.pattern}(\.{FIELD_NAME.pattern})?$"},
    ),
]


class AnalysisRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What each of them may say. `timezone`: IANA name."""

    time_period: PeriodValue
    timezone: str = "UTC"
    filters: FilterList = []


class EventsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the events: those of a name that pass the filters; without both, all."""

    event_name: EventName | None = None
    filters: FilterList = []


class Reading:
    """One request while it is read: `value` holds the members that were sent, `problems` what is wrong."""

    def __init__(self, body: bytes, kind: type[msgspec.Struct], now_ms: int) -> None:
        """Errors: ApiError 400 where the body is no JSON object."""
        self.value = _decode(body)
        self.problems = find_problems(self.value, kind, "$")
        self._now_ms = now_ms
        self._filters: list[Filter] = []
        self.timezone = self._timezone()
        self.period = self._period()

    def check(self) -> None:
        """Errors: ApiError 400 that names all that was found so far."""
        if len(self._filters) > MAX_FILTERS:
            self.problems.append(
                Problem("$", f"at most {MAX_FILTERS} filters in one request; this has {len(self._filters)}")
            )
        elif reason := too_much((item.op, item.values) for item in self._filters):
            self.problems.append(Problem("$", reason))
        if self.problems:
            raise invalid_body(self.problems)

    def filters(self) -> tuple[Condition, ...]:
        """Those that hold for the whole request."""
        return self._conditions(self.value, "$")

    def events(self, value: object, path: str) -> tuple[Condition, ...]:
        """What an EventsRequest at `path` asks of an event; nothing where it is no object, as was said."""
        if not isinstance(value, Mapping):
            return ()
        conditions = self._conditions(value, path)
        name = value.get("event_name")
        if not isinstance(name, str):
            return conditions
        named = Filter(resolve("event_name"), Op.EQUALS, (name,))
        self._filters.append(named)
        return (named, *conditions)

    def grouped_by(self, most: int) -> tuple[Field, ...]:
        """The fields of `group_by`, of which at most `most` differ."""
        names = self.value.get("group_by", [])
        found: list[Field] = []
        for index, name in enumerate(names if isinstance(names, list) else []):
            field = self.field(name, f"$.group_by[{index}]")
            if field in found:
                self.problems.append(Problem(f"$.group_by[{index}]", f'"{field.name}" is there twice'))
            elif field is not None:
                found.append(field)
        return tuple(found[:most])

    def field(self, name: object, path: str) -> Field | None:
        """A field that values are told apart by; None and a problem where it is none."""
        field = read_field(name, path, self.problems)
        if field is not None and field.kind is Kind.TIME:
            self.problems.append(Problem(path, f'"{field.name}" is a time, which tells nobody apart'))
            return None
        return field

    def _conditions(self, value: Mapping[str, object], path: str) -> tuple[Condition, ...]:
        filters = value.get("filters", [])
        if not isinstance(filters, list):
            return ()
        conditions = read_filters(filters, self.problems, f"{path}.filters")
        self._filters += each_filter(conditions)
        return conditions

    def _timezone(self) -> str:
        name = self.value.get("timezone", "UTC")
        if not isinstance(name, str):
            return "UTC"
        try:
            read_zone(name)
        except ValueError as error:
            self.problems.append(Problem("$.timezone", str(error)))
            return "UTC"
        return name

    def _period(self) -> Period:
        """The period, or any where it cannot be read: nobody gets past `check` then."""
        if "time_period" not in self.value:
            return Period(0, 1)
        found = read_period(self.value["time_period"], read_zone(self.timezone), self._now_ms)
        if isinstance(found, Period):
            return found
        self.problems.append(found)
        return Period(0, 1)


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
