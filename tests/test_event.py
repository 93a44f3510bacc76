"""The event contract: every rule of api.md section 3.1, its limit, and one step beyond."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import event_problems
from app.event import (
    ENVELOPE,
    MAX_REMEMBERED_NAMES,
    MAX_SHAPES,
    METRIC,
    RESERVED,
    BrokenRule,
    Event,
    has_repeated_name,
    read_event,
    read_shape,
)


def read(fields: dict[str, object]) -> Event:
    return read_event(json.dumps({"event_name": "e", **fields}).encode())


def problems(body: bytes) -> list[tuple[str, str]]:
    """What is wrong with a body that must be refused."""
    with pytest.raises(BrokenRule):
        read_event(body)
    found = event_problems.find(body)
    assert found, "a refused body must have a problem with a name"
    return [(problem.path, problem.message) for problem in found]


def refused(fields: dict[str, object]) -> str:
    """The path of the only problem of an event with these fields."""
    [(path, _)] = problems(json.dumps({"event_name": "e", **fields}).encode())
    return path


def test_the_originals_example_is_read() -> None:
    body = (
        b'{"event_name":"my_first_event_name","timestamp":"2021-06-26T14:48:00.000",'
        b'"customer_identifier":"your_app_customer_id","s":"abc.com","n":123,"a":["cat","dog"],"b":true,"o":{"k":1}}'
    )
    event = read_event(body)
    assert event.event_name == "my_first_event_name"
    assert event.event_time == 1_624_718_880_000
    assert event.customer_identifier == "your_app_customer_id"
    assert event.field_paths == ("s", "n", "a", "b", "o.k")


@pytest.mark.parametrize(
    "fields",
    [
        {"event_name": "A.b_c-9"}, {"event_name": "x" * 256},
        {"customer_identifier": "x" * 256}, {"event_id": "ü" * 128},
        {"metric_name": "", "metric_value": -1.5}, {"page_url": "", "utm_source": "x"},
        {"f": None}, {"f": []}, {"f": {}}, {"f": [1, 2.5]}, {"f": ["a"] * 1000}, {"f": "x" * 8192},
        {"f": {"g": None, "h": [True], "i i": "x", "event_name": 1, "user_agent": "nested names are free"}},
        {"$f-1 b_": 1}, {"-": 1}, {"f" * 128: 1}, {"f": 2**64 - 1}, {"f": -(2**63)}, {"f": 1e300}, {"f": "\0\t\n"},
        {"f": '":'}, {"f": 'x":y', "g": '":":"'},
    ],
)  # fmt: skip
def test_accepted(fields: dict[str, object]) -> None:
    assert read(fields)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"event_name": ""}, "$.event_name"), ({"event_name": "a b"}, "$.event_name"),
        ({"event_name": "x" * 257}, "$.event_name"), ({"event_name": 1}, "$.event_name"),
        ({"event_name": None}, "$.event_name"), ({"event_name": "é"}, "$.event_name"), ({"event_name": "a\n"}, "$.event_name"),
        ({"timestamp": 5}, "$.timestamp"), ({"timestamp": "soon"}, "$.timestamp"), ({"timestamp": None}, "$.timestamp"),
        ({"customer_identifier": ""}, "$.customer_identifier"), ({"customer_identifier": 5}, "$.customer_identifier"),
        ({"customer_identifier": "x" * 257}, "$.customer_identifier"), ({"customer_identifier": None}, "$.customer_identifier"),
        ({"event_id": "x" * 129}, "$.event_id"), ({"event_id": ""}, "$.event_id"),
        ({"metric_name": 1}, "$.metric_name"), ({"metric_value": "1"}, "$.metric_value"), ({"metric_value": True}, "$.metric_value"),
        ({"page_url": 1}, "$.page_url"), ({"utm_term": None}, "$.utm_term"), ({"referrer": ["x"]}, "$.referrer"),
        ({"f": [1, "a"]}, "$.f"), ({"f": [True, 1]}, "$.f"), ({"f": [None]}, "$.f"), ({"f": [[1]]}, "$.f"), ({"f": [{}]}, "$.f"),
        ({"f": ["a"] * 1001}, "$.f"), ({"f": "x" * 8193}, "$.f"), ({"f": "é" * 4097}, "$.f"), ({"f": ["é" * 4097]}, "$.f"),
        ({"f": {"g": {"h": 1}}}, "$.f.g"), ({"f": {"g": [None]}}, "$.f.g"), ({"f": {"": 1}}, "$.f."),
        ({"f": 2**64}, "$.f"), ({"f": -(2**63) - 1}, "$.f"), ({"f": [2**64]}, "$.f"), ({"f": {"g": 2**64}}, "$.f.g"),
        ({"": 1}, "$."), ({" f": 1}, "$. f"), ({"a.b": 1}, "$.a.b"), ({"é": 1}, "$.é"), ({"f" * 129: 1}, "$." + "f" * 129),
        ({"f\n": 1}, "$.f\n"), ({"f`": 1}, "$.f`"), ({"f'": 1}, "$.f'"), ({"f": {"g.h": 1}}, "$.f.g.h"),
        *(({name: "x"}, f"$.{name}") for name in sorted(RESERVED)),
        *(({name: {"a": 1}}, f"$.{name}") for name in sorted(ENVELOPE | METRIC)),
    ],
)  # fmt: skip
def test_refused_at_its_path(fields: dict[str, object], path: str) -> None:
    assert refused(fields) == path


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"), (b"  \n", "empty"), (b"null", "one JSON object"), (b"[]", "an array"), (b'"x"', "a string"), (b"1", "a number"),
        (b"{", "malformed"), (b'{"event_name":"a"', "malformed"), (b'{"event_name":"a"}}', "malformed"),
        (b'{"event_name":"a",}', "malformed"), (b'{"event_name":"a" "b":1}', "malformed"), (b"{'event_name':'a'}", "malformed"),
        (b'{"event_name":"a","f":NaN}', "NaN"), (b'{"event_name":"a","f":Infinity}', "Infinity"), (b'{"event_name":"a","f":01}', "malformed"),
        (b'{"event_name":"a","f":+1}', "malformed"), (b'{"event_name":"a","f":.5}', "malformed"), (b'{"event_name":"a","f":1.}', "malformed"),
        (b'{"event_name":"a","f":1e400}', "too large"), (b'{"event_name":"a","f":' + b"9" * 5000 + b"}", "too large"),
        (b'{"event_name":"a","f":"\xff"}', "UTF-8"), (b'{"event_name":"a","f":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"event_name":"a","f":"\\ud800"}', "surrogate"), (b'{"event_name":"a","f":"x\\udc00 x"}', "surrogate"),
        (b'{"event_name":"a","\\ud800":1}', "surrogate"), (b'{"event_name":"a","f":"\x01"}', "malformed"),
        (b'{"event_name":"a","event_name":"a"}', "twice"), (b'{"event_name":"a","f":1,"f" :2}', "twice"),
        (b'{"event_name":"a","f":{"g":1,"\\u0067":2}}', "twice"), (b'{"event_name":"a","f":"\\":","f":1}', "twice"),
        (b"\xef\xbb\xbf{}", ""), (b"[" * 50_000, "deep"), (b'{"a":' * 50_000, "deep"), (b"{}", "required"),
    ],
)  # fmt: skip
def test_what_is_not_an_event_is_refused_with_the_reason(body: bytes, words: str) -> None:
    assert words in problems(body)[0][1]


def test_every_problem_is_named_at_once() -> None:
    body = b'{"timestamp":"soon","customer_identifier":"","f":[null],"g":{"h":{}},"ip_city":"x"}'
    paths = [path for path, _ in problems(body)]
    assert paths == ["$.event_name", "$.timestamp", "$.customer_identifier", "$.f", "$.g.h", "$.ip_city"]


def test_limits_on_the_number_of_fields() -> None:
    assert read({f"f{i}": 1 for i in range(255)})
    assert refused({f"f{i}": 1 for i in range(256)}) == "$"
    assert refused({"o": {f"f{i}": 1 for i in range(300)}}) == "$"
    many = json.dumps({f"é{i}": 1 for i in range(100)}).encode()
    assert len(problems(many)) == 20


scalars = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)
names = st.one_of(
    st.sampled_from([*sorted(ENVELOPE), "metric_value", "user_agent", "f", "f ", "$g"]), st.text(max_size=6)
)
values = st.one_of(
    scalars,
    st.lists(scalars, max_size=4),
    st.dictionaries(names, st.one_of(scalars, st.lists(scalars, max_size=3))),
)


@settings(max_examples=400)
@given(st.dictionaries(names, values, max_size=5), st.booleans())
def test_refusal_and_reason_never_disagree(fields: dict[str, object], spaced: bool) -> None:
    """`read_event` refuses exactly the bodies in which `find` finds a problem."""
    body = json.dumps({"event_name": "e", **fields}, separators=(" , ", " : ") if spaced else None).encode()
    found = event_problems.find(body)
    try:
        read_event(body)
    except BrokenRule:
        assert found
    else:
        assert not found


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_garbage_never_raises_anything_else(garbage: bytes) -> None:
    body = b'{"event_name":"e"' + garbage
    if garbage.strip(b" \t\r\n") == b"}":  # the one that is none
        assert not event_problems.find(body)
        return
    with pytest.raises(BrokenRule):
        read_event(body)
    assert event_problems.find(body)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["x", '":', " :", "\\"])), min_size=1, max_size=4
    )
)
def test_repeated_names_are_always_found(pairs: list[tuple[str, str]]) -> None:
    """Against the definition, with strings chosen to fool the shortcut."""
    members = ",".join(f"{json.dumps(name)}:{json.dumps(text)}" for name, text in pairs)
    body = f'{{"event_name":"e",{members}}}'.encode()
    is_repeated = len({name for name, _ in pairs}) < len(pairs)
    assert has_repeated_name(body) is is_repeated
    if is_repeated:
        assert "twice" in problems(body)[0][1]
    else:
        assert read_event(body)


def test_a_nested_name_and_one_with_a_dot_are_told_apart() -> None:
    nested = b'{"event_name":"e","a":{"b":1}}'
    literal = b'{"event_name":"e","a.b":1}'
    for _ in range(2):  # the second time from the memory of shapes
        assert read_event(nested).field_paths == ("a.b",)
        with pytest.raises(BrokenRule):  # would be the same path in the store
            read_event(literal)
    assert re.match(r"\$\.a\.b", event_problems.find(literal)[0].path)


def test_shapes_are_told_apart_by_which_name_holds_an_object() -> None:
    assert read_event(b'{"event_name":"e","a":{"x":1},"b":2}').field_paths == ("a.x", "b")
    assert read_event(b'{"event_name":"e","a":1,"b":{"x":2}}').field_paths == ("a", "b.x")
    assert read_event(b'{"event_name":"e","a":{},"b":{"x":2}}').field_paths == ("a", "b.x")
    assert read_event(b'{"event_name":"e","a":{},"b":{}}').field_paths == ("a", "b")


def test_shapes_that_are_remembered_are_few_and_small() -> None:
    for number in range(MAX_SHAPES + 50):
        read_event(b'{"event_name":"e","f%d":1}' % number)
    assert read_shape.cache_info().currsize == MAX_SHAPES
    read_shape.cache_clear()
    wide = json.dumps({"event_name": "e"} | {f"f{number}": 1 for number in range(MAX_REMEMBERED_NAMES)})
    assert len(read_event(wide.encode()).field_paths) == MAX_REMEMBERED_NAMES
    deep = json.dumps({"event_name": "e", "o": {f"f{number}": 1 for number in range(MAX_REMEMBERED_NAMES)}})
    assert len(read_event(deep.encode()).field_paths) == MAX_REMEMBERED_NAMES
    assert read_shape.cache_info().currsize == 0


def test_a_shape_that_is_remembered_says_nothing_of_values() -> None:
    for _ in range(2):
        assert read_event(b'{"event_name":"e","a":"x","metric_value":1}').field_paths == ("a", "metric_value")
        for wrong in (
            b'{"event_name":1,"a":"x","metric_value":1}',
            b'{"event_name":null,"a":"x","metric_value":1}',
            b'{"event_name":"e","a":"x","metric_value":true}',
            b'{"event_name":"e","a":18446744073709551616,"metric_value":1}',
            b'{"event_name":"e","a":["x",1],"metric_value":1}',
            b'{"event_name":"e","a":{"b":18446744073709551616},"metric_value":1}',
            b'{"event_name":"e","a":{"b":["x",1]},"metric_value":1}',
            b'{"event_name":"e","a":"x","timestamp":null}',
        ):
            with pytest.raises(BrokenRule):
                read_event(wrong)
