"""No SQL comes from input: a value never changes a statement's text, a name only where it is quoted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ApiError
from app.event import FIELD_NAME
from app.fields import COLUMNS
from app.query import read_query
from app.scope import Scope
from app.sql import Statement, to_statement
from tests.client import Client, equals, unique
from tests.waiting import until

NOW_MS = 1_800_000_000_000
HOSTILE = [
    *(
        "' OR 1=1 --",
        "'; DROP TABLE events; --",
        "\\'; SELECT 1 --",
        "{p0:String}",
        "') UNION ALL SELECT * FROM system.users --",
    ),
    *(
        "\\",
        "\\\\'",
        "\x00",
        "`",
        "a`b",
        "\n--\n",
        "/*",
        "%27",
        "\u2019 OR \u20181\u2019=\u20181",
        "\u02bc",
        "NULL",
        "\\N",
        "[1]",
        "1e5",
        "$1",
        "?",
        "{{}}",
    ),
]
TEXTS = st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=40)
NAMES = TEXTS | st.from_regex(FIELD_NAME, fullmatch=True) | st.tuples(TEXTS, TEXTS).map(".".join)


def statement(customer: str | None = None, project: str = "prj_x", **query: Any) -> Statement:
    scope = Scope(project, customer)
    return to_statement(read_query(json.dumps({"time_period": "today", **query}).encode(), NOW_MS), scope)


def filtered(field: str, op: str, value: object) -> dict[str, Any]:
    return {"filters": [{"field_name": field, "op": op, "value": value}]}


@settings(max_examples=200, deadline=None)
@given(
    value=TEXTS,
    op=st.sampled_from(["equals", "not_equals", "greater_than", "in"]),
    field=st.sampled_from(["event_name", "f", "a.b"]),
)
def test_a_value_never_changes_the_statement(value: str, op: str, field: str) -> None:
    def wrapped(text: str) -> object:
        return [text, text] if op == "in" else text

    assert (
        statement(**filtered(field, op, wrapped(value))).sql
        == statement(**filtered(field, op, wrapped("x"))).sql
    )


@settings(max_examples=200, deadline=None)
@given(customer=TEXTS, project=TEXTS)
def test_neither_does_a_scope(customer: str, project: str) -> None:
    made = statement(customer, project)
    assert made.sql == statement("x", "y").sql
    assert {customer, project} <= set(map(str, made.parameters.values()))


@settings(max_examples=400, deadline=None)
@given(name=NAMES)
def test_a_name_is_refused_or_stands_quoted(name: str) -> None:
    """Wherever a query takes one: the text is that of a harmless name, with this one in its place."""
    shapes: list[dict[str, Any]] = [
        {"group_by": ["@"], "computations": [{"function": "count"}]},
        {"computations": [{"function": "sum", "field_name": "@"}]},
        {
            "group_by": ["f"],
            "computations": [{"function": "count", "as": "@"}],
            "order_by": [{"field_name": "@"}],
        },
        {"order_by": [{"field_name": "@"}]},
        filtered("@", "equals", 1),
        filtered("@", "is_null", None),
    ]
    for shape in shapes:
        if "is_null" in str(shape):
            shape["filters"][0].pop("value")

        def named(text: str, shape: dict[str, Any] = shape) -> Statement:
            return statement(**json.loads(json.dumps(shape).replace('"@"', json.dumps(text))))

        try:
            made = named(name)
        except ApiError:
            continue
        if name not in COLUMNS:  # those are from a list of ours, and written as it says
            harmless = "zz.zz" if "." in name else "zz"
            expected = named(harmless).sql.replace(quoted(harmless), quoted(name))
            assert made.sql == expected.replace(f"`{harmless}:", f"`{name}:")  # its value, by type


def quoted(name: str) -> str:
    return ".".join(f"`{part}`" for part in name.split(".", 1))


@settings(max_examples=300, deadline=None)
@given(query=st.fixed_dictionaries({}, optional={
    "timezone": TEXTS, "group_by_time": TEXTS, "limit": TEXTS | st.integers(), "offset": TEXTS | st.integers(),
    "time_period": TEXTS | st.fixed_dictionaries({"start": TEXTS, "end": TEXTS}),
    "order_by": st.just([{"field_name": "event_name", "direction": "ASC; DROP TABLE events"}]),
}))  # fmt: skip
def test_everything_else_comes_from_a_list(query: dict[str, Any]) -> None:
    try:
        made = statement(**{"group_by": ["f"], **query})
    except ApiError:
        return
    for value in query.values():
        assert not isinstance(value, str) or len(value) < 4 or value not in made.sql


@pytest.mark.service
def test_injections_come_back_as_they_were_sent(client: Client) -> None:
    project, name = client.new_project(), unique("injection")
    for text in HOSTILE:
        project.track(event_name=name, customer_identifier=text, f=text, o={"f": [text]})
    until(lambda: project.count(name) == len(HOSTILE), 15, "all of them in a query")
    for text in HOSTILE:
        for field in ("f", "customer_identifier"):
            [found] = project.events(equals("event_name", name), equals(field, text))
            assert (found["f"], found["customer_identifier"], found["o"]) == (text, text, {"f": [text]})
    assert project.count(name) == len(HOSTILE)
