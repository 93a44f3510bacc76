"""What a field name in a query stands for: a column of the events table, or a path into the custom fields.

Pure. It knows names and kinds, no SQL: `app.sql` says how a field is read. The names of columns never
reach into the custom fields, and the event contract keeps clients from using them there.
Next reader: `app.query`.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from app.event import PREDEFINED_STRINGS, is_field_path
from app.rules import Rule

MAX_ECHO_CHARACTERS = 100  # of the client's own text in an error message
MAX_MATCHED_CHARACTERS = 64  # a longer name is no typing slip, and comparing it would cost
# What other tools call it: no slip, so the nearest letters would lead elsewhere (`mean` to `median`).
_ELSEWHERE = {
    **dict.fromkeys(("mean", "average"), "avg"),
    **dict.fromkeys(("p50", "percentile_50"), "median"),
    **dict.fromkeys(("unique", "uniq", "uniques", "distinct", "count_unique"), "count_distinct"),
    **dict.fromkeys(("std", "stdev"), "stddev"),
    **dict.fromkeys(("=", "==", "eq", "is"), "equals"),
    **dict.fromkeys(("!=", "<>", "ne", "neq", "is_not"), "not_equals"),
    **dict.fromkeys((">", "gt"), "greater_than"),
    **dict.fromkeys((">=", "gte", "ge"), "greater_than_or_equals"),
    **dict.fromkeys(("<", "lt"), "less_than"),
    **dict.fromkeys(("<=", "lte", "le"), "less_than_or_equals"),
    **dict.fromkeys(("like", "includes"), "contains"),
    **dict.fromkeys(("~", "=~", "regex", "regexp", "rlike"), "matches"),
    **dict.fromkeys(("exists", "is_set", "not_null"), "is_not_null"),
    **dict.fromkeys(("not_exists", "is_not_set", "null"), "is_null"),
}


class Kind(enum.Enum):
    """What values a field can have, which decides what may be asked of it."""

    TEXT = "text"
    TIME = "time"
    FLAG = "flag"
    CUSTOM = "custom"  # any JSON value, a different type in every event


class Field(msgspec.Struct, frozen=True):
    """`name` is a column's name, or the path of a custom field: `name` or `parent.child`."""

    name: str
    kind: Kind


_TEXTS = (
    *("project_id", "unique_req_id", "event_name", "customer_identifier", "event_id", *PREDEFINED_STRINGS),
    *("ip_country", "ip_region", "ip_city", "browser_name", "browser_version", "os_name", "os_version"),
    *("device_type", "user_agent"),
)
COLUMNS: dict[str, Field] = {
    **{name: Field(name, Kind.TEXT) for name in _TEXTS},
    "event_time": Field("event_time", Kind.TIME),
    "time_recorded": Field("time_recorded", Kind.TIME),
    "is_bot": Field("is_bot", Kind.FLAG),
}


def resolve(name: str) -> Field:
    """The field called `name`. Whether any event has it is the store's business.

    Errors: ValueError with a sentence for the client.
    """
    column = COLUMNS.get(name)
    if column is not None:
        return column
    if name == "timestamp":
        raise ValueError('the timestamp of an event is queried as "event_time"')
    parent = name.partition(".")[0]
    if parent != name and (parent in COLUMNS or parent == "timestamp"):
        raise ValueError(f'"{parent}" holds one value, so there is nothing below it')
    if not is_field_path(name):
        raise ValueError(
            f'"{echo(name)}" is not a field name: letters, digits, _, $, - and spaces, '
            "at most 128 characters, nested once as parent.child"
        )
    return Field(name, Kind.CUSTOM)


_NAME = "[A-Za-z0-9_$-][A-Za-z0-9_ $-]{0,127}"
FieldName = Annotated[
    str,
    Meta(
        title="field name",
        description="A field inside an object is `parent.child`.",
        extra_json_schema={"pattern": f"^{_NAME}(\\.{_NAME})?$"},
    ),
    Rule(resolve),
]


def echo(text: str) -> str:
    """`text`, cut to a length that fits an error message."""
    return text if len(text) <= MAX_ECHO_CHARACTERS else text[:MAX_ECHO_CHARACTERS] + "…"


def near_miss(given: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The word of `known` that `given` looks like a slip of, or is another word for; or ""."""
    words = {word.lower(): word for word in known}
    asked = given.lower()[:MAX_MATCHED_CHARACTERS]
    if (meant := _ELSEWHERE.get(asked)) in words:
        return words[meant]
    near = difflib.get_close_matches(asked, words, 1, likeness)
    return words[near[0]] if near else ""


def unknown(what: str, given: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The message for a word outside a closed list, with the nearest one if it looks like a slip."""
    choices = list(known)
    if near := near_miss(given, choices, likeness):
        return f"unknown {what} `{echo(given)}`, did you mean `{near}`?"
    return f"unknown {what} `{echo(given)}`; known are {', '.join(choices)}"
