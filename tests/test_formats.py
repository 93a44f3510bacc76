"""Which format `Accept` chooses, and what CSV and NDJSON hold."""

from __future__ import annotations

import contextlib
import csv
import io
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import formats
from app.errors import ApiError, Kind
from app.formats import Accepted, Cell, Format, choose

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        (None, Format.JSON),
        ("", Format.JSON),
        ("*/*", Format.JSON),
        ("garbage", Format.JSON),
        (BROWSER, Format.JSON),
        ("application/*", Format.JSON),
        ("application/x-ndjson", Format.NDJSON),
        ("application/jsonl", Format.NDJSON),
        ("text/csv", Format.CSV),
        ("TEXT/CSV ; charset=utf-8", Format.CSV),
        ("text/*", Format.CSV),
        # What is named is meant; a wildcard is for want of better.
        ("text/csv, */*", Format.CSV),
        ("*/*, application/x-ndjson", Format.NDJSON),
        ("application/json;q=0.5, text/csv;q=0.4", Format.JSON),
        ("application/json;q=0.5, text/csv;q=0.500", Format.JSON),
        ("application/json;q=0.1, text/csv;q=0.2, application/x-ndjson;q=0.15", Format.CSV),
        ("application/json;q=0, */*", Format.NDJSON),
        ("image/png, application/x-ndjson;q=0.001", Format.NDJSON),
        # An element that cannot be read is none.
        ("text/csv;q=high, application/json;q=0.1", Format.JSON),
    ],
)
def test_accept_chooses(accept: str | None, format_: Format) -> None:
    assert choose(accept) == Accepted(format_)


@pytest.mark.parametrize("accept", ["image/png", "text/csv;q=0", "*/*;q=0", "text/html, image/*"])
def test_what_there_is_not_is_a_406_that_says_what_there_is(accept: str) -> None:
    with pytest.raises(ApiError) as caught:
        choose(accept)
    assert caught.value.kind is Kind.NOT_ACCEPTABLE
    for one in Format:
        assert one.value in caught.value.detail


@given(st.text(max_size=200))
def test_no_accept_breaks_it(accept: str) -> None:
    with contextlib.suppress(ApiError):
        assert isinstance(choose(accept), Accepted)


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value, ensure_ascii=False).encode())


def test_csv_tells_types_and_nulls_apart() -> None:
    rows: list[dict[str, Cell]] = [
        {"a": raw("1"), "b": raw(1), "c": None, "d": "", "e": True},
        {"a": raw("true"), "b": raw(True), "c": raw(None), "d": 'x,"y"\r\n', "e": False, "f": 7},
        {"a": raw([1, "a"]), "b": msgspec.Raw(b"18446744073709551615"), "d": raw({"k": 1})},
    ]
    content = formats.csv(formats.columns(["a", "b"], rows), rows)
    assert content == (
        b'"a","b","c","d","e","f"\r\n'
        b'"1",1,,"",true,\r\n'
        b'"true",true,,"x,""y""\r\n",false,7\r\n'
        b'"[1, ""a""]",18446744073709551615,,"{""k"": 1}",,\r\n'
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=5))
def test_every_text_survives_any_reader_of_csv(rows: list[tuple[str, str]]) -> None:
    content = formats.csv(["a", "b"], [{"a": a, "b": raw(b)} for a, b in rows])
    read = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
    assert read == [["a", "b"], *map(list, rows)]


def test_a_single_null_is_still_a_row() -> None:
    content = formats.csv(["a"], [{"a": None}, {}])
    assert list(csv.reader(io.StringIO(content.decode()))) == [["a"], [""], [""]]
    assert formats.csv(["a"], []) == b'"a"\r\n'


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_formulas_are_data_unless_told(start: str) -> None:
    rows: list[dict[str, Cell]] = [{"a": f"{start}1+1", "b": -1}]
    assert formats.csv(["a", "b"], rows) == f'"a","b"\r\n"{start}1+1",-1\r\n'.encode()
    assert choose("text/csv; formulas=escaped") == Accepted(Format.CSV, escapes_formulas=True)
    escaped = formats.csv(["a", "b"], rows, escapes_formulas=True)
    assert escaped == f'"a","b"\r\n"\'{start}1+1",-1\r\n'.encode()


def test_ndjson_is_one_object_a_line() -> None:
    assert formats.ndjson([]) == b""
    assert formats.ndjson([{"a": raw("x\n")}, {"a": None}]) == b'{"a":"x\\n"}\n{"a":null}\n'


def test_an_event_is_one_line_however_its_client_wrote_it() -> None:
    rows: list[dict[str, Cell]] = [
        {"a": msgspec.Raw(b'{"x":\r\n 1,\n"y": "\\n"}')},
        {"a": msgspec.Raw(b"[1,\r2]")},
        {"a": 1},
    ]
    lines = formats.ndjson(rows).split(b"\n")
    assert lines.pop() == b""
    assert [msgspec.json.decode(line) for line in lines] == [
        {"a": {"x": 1, "y": "\n"}},
        {"a": [1, 2]},
        {"a": 1},
    ]
    assert b"\r" not in b"".join(lines)
