"""Whatever the edge accepts, the store holds, byte for byte: msgspec and the engine's parser agree.

Bodies are generated; those that `app.event.read_event` accepts go through `to_row` into the real engine in
batches. An engine that refuses one is a bug of the edge: the event would have been answered 200 and
dead-lettered later.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.enrich import Geography
from app.event import ENVELOPE, RESERVED, BrokenRule, read_event
from app.event_problems import find
from app.store import Store, StoreRefused
from app.stream import Record
from tests.pipeline_kit import record
from tests.store_fixture import StoreServer
from tests.store_tables import make_tables
from workers.rows import INSERT, INSERT_SETTINGS, to_row

EXAMPLES = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
NOWHERE = Geography("")

# Written as JSON text, because the bytes are what is kept: `1E5`, `-0` and `"\\u0041"` are not what json.dumps makes.
SPACES = st.sampled_from(("", "", "", " ", "\n", "\t", "\r\n ", "  "))
NAMES = st.sampled_from(
    (
        *(
            "null",
            "true",
            "a b",
            "a  b",
            "$x",
            "size0",
            "size",
            "-",
            "_",
            "0",
            "12",
            "a-b",
            "A",
            "a",
            "values",
        ),
        *("keys", "null b", "x.y", "", " a", "é", "a`b", "Int64", "nested", "metric", "type", "a" * 128),
    )
) | st.from_regex(r"[A-Za-z0-9_$-][A-Za-z0-9_ $-]{0,20}", fullmatch=True)
CHARACTERS = st.characters(codec="utf-8")
ESCAPES = st.sampled_from(
    (r"\n", r"\t", r"\"", r"\\", r"\/", r"\b", r"\f", r"\r", r"\u0000", r"\u0041", r"\u00e9", r"\ud834\udd1e")
) | st.sampled_from((r"\ud800", r"\udfff\ud800", r"\uFFFF", r"\u2028", "\x7f", "\u2028", "\ufeff", "':{}[],"))
PLAIN = CHARACTERS.map(lambda c: json.dumps(c, ensure_ascii=False)[1:-1])
STRINGS = st.lists(PLAIN | ESCAPES, max_size=8).map(lambda parts: '"' + "".join(parts) + '"')
DATE_LIKE = st.sampled_from(
    ('"2024-01-01"', '"2024-01-01 00:00:00"', '"12"', '"1e5"', '"null"', '"[1]"', '"{}"', '"true"')
)
NUMBERS = st.sampled_from(
    (
        *(
            "0",
            "-0",
            "-0.0",
            "0.0",
            "1e300",
            "1E-400",
            "1e-308",
            "5e-324",
            "2.5E+3",
            "1e5",
            "1E05",
            "0e0",
            "-0e-9",
        ),
        *("9223372036854775807", "-9223372036854775808", "9223372036854775808", "18446744073709551615"),
        *(
            "18446744073709551616",
            "-9223372036854775809",
            "1.7976931348623157e308",
            "1e309",
            "-1e400",
            "1e22",
        ),
        *("123456789012345678901234567890", "1234567890123456789012.5", "0." + "1" * 60, "1" * 19 + ".0"),
        *("0.1", "-1", "1e0", "100000000000000000000e0", "1.0", "9007199254740993", "18446744073709551615.0"),
    )
) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
SCALARS = STRINGS | DATE_LIKE | NUMBERS | st.sampled_from(("true", "false", "null"))


@st.composite
def arrays(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from((STRINGS, NUMBERS, st.sampled_from(("true", "false")), SCALARS)))
    items = draw(st.lists(kind, max_size=5))
    space = draw(SPACES)
    return "[" + space + ("," + space).join(items) + space + "]"


LEAVES = SCALARS | arrays()


def join(space: str, pairs: list[tuple[str, str]]) -> str:
    members = (f'"{name}"{space}:{space}{value}' for name, value in pairs)
    return "{" + space + f"{space},".join(members) + space + "}"


@st.composite
def objects(draw: st.DrawFn) -> str:
    return join(draw(SPACES), draw(st.lists(st.tuples(NAMES, LEAVES), max_size=5)))


ENVELOPE_FIELDS = st.tuples(
    st.sampled_from([*sorted(ENVELOPE - {"event_name", "timestamp"}), "metric_name"]), STRINGS
) | st.sampled_from(
    (
        *(("timestamp", '"2021-06-26"'), ("timestamp", '"1970-01-01T00:00Z"'), ("metric_value", "1e3")),
        *(("timestamp", '"2100-12-31T23:59:59.999999999Z"'), ("metric_value", "18446744073709551615")),
        *(("is_bot", "true"), ("event_id", '"\\u0000"')),
    )
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Mostly acceptable bodies, and what comes near to one."""
    fields = draw(st.lists(st.tuples(NAMES, LEAVES | objects()) | ENVELOPE_FIELDS, max_size=8))
    if not draw(st.booleans()):  # else names repeat so often that little is accepted
        fields = list(dict(fields).items())
    position = draw(st.integers(0, len(fields)))
    fields.insert(position, ("event_name", '"test"'))
    space = draw(SPACES)
    return (draw(SPACES) + join(space, fields) + draw(SPACES)).encode()


class Table:
    """The events table in a database of its own."""

    def __init__(self, server: StoreServer, database: str) -> None:
        self._runner = asyncio.Runner()
        self._store = Store(server.url, database=database, username="default", password=server.token)
        self._runner.run(make_tables(server.url, server.token, database))
        self._count = 0

    def insert(self, records: list[Record]) -> None:
        """One insert. Errors: StoreRefused."""
        self._count += 1
        block = b"".join(to_row(one, NOWHERE).data for one in records)
        self._runner.run(
            self._store.insert(
                INSERT,
                block,
                token=f"t{self._count}",
                query_id=f"q{self._count}",
                settings=INSERT_SETTINGS,
                timeout_seconds=10,
            )
        )

    def bodies(self, records: list[Record]) -> dict[str, bytes]:
        """The stored bytes of `records` by the hex of their ids."""
        ids = [one.unique_req_id.hex() for one in records]
        sql = "SELECT lower(hex(unique_req_id)), hex(body) FROM events WHERE has({ids:Array(String)}, lower(hex(unique_req_id)))"
        rows = self._runner.run(self._store.ask(sql, {"ids": ids})).rows
        return {str(identity): bytes.fromhex(str(body)) for identity, body in rows}

    def close(self) -> None:
        self._runner.run(self._store.close())
        self._runner.close()


@pytest.fixture
def table(store_server: StoreServer, store_database: str) -> Iterator[Table]:
    made = Table(store_server, store_database)
    yield made
    made.close()


def is_accepted(body: bytes) -> bool:
    try:
        read_event(body)
    except BrokenRule:
        return False
    return True


def assert_held(table: Table, accepted: list[bytes]) -> None:
    """Every body is in the store as it came; a refusal names the body."""
    records = [record(body) for body in accepted]
    try:
        table.insert(records)
    except StoreRefused:
        for one in records:
            try:
                table.insert([one])
            except StoreRefused as error:
                raise AssertionError(f"accepted, but refused by the engine: {one.body!r}: {error}") from None
        raise
    stored = table.bodies(records)
    assert [stored[one.unique_req_id.hex()] for one in records] == accepted


@EXAMPLES
@given(bodies=st.lists(bodies(), min_size=1, max_size=10))
def test_what_the_edge_accepts_the_store_holds(table: Table, bodies: list[bytes]) -> None:
    """Safeguard: the contract of app/event.py is at least as strict as the engine's JSON parser."""
    accepted = [body for body in bodies if is_accepted(body)]
    if accepted:
        assert_held(table, accepted)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies() | st.binary(max_size=40))
def test_what_the_edge_refuses_it_can_explain(body: bytes) -> None:
    """Safeguard: the fast and the slow reader agree on every body, in both directions."""
    assert bool(find(body)) != is_accepted(body), find(body)


def corner_cases() -> dict[str, bytes]:
    """Bodies at the limits of the contract, by what is special about them."""
    long_names = ",".join(f'"{n:0128d}":1' for n in range(255))
    nested = ",".join(f'"o{n}":{{"v":{n}}}' for n in range(255))
    pairs = ",".join(
        f'"p{n}":{value}' for n, value in enumerate(["1", "1.5", '"x"', "true", "[1,2.5]", "null"] * 42)
    )
    everything = bytes(range(0x20, 0x7F)).replace(b'"', b"").replace(b"\\", b"").decode()
    return {
        "longest names": f'{{"event_name":"t",{long_names}}}'.encode(),
        "most objects": f'{{"event_name":"t",{nested}}}'.encode(),
        "most kinds": f'{{"event_name":"t",{pairs}}}'.encode(),
        "longest array": ('{"event_name":"t","a":[' + ",".join(["1e300"] * 1000) + "]}").encode(),
        "longest string": b'{"event_name":"t","a":"%s"}' % (b"x" * 8192),
        "all NUL": b'{"event_name":"t","a":"%s"}' % (rb"\u0000" * 1000),
        "all printable": f'{{"event_name":"t","a":"{everything}"}}'.encode(),
        "empty values": b'{"event_name":"t","a":{},"b":[],"c":"","d":null,"e":[""],"f":{"g":[],"h":null}}',
        "mixed numbers": b'{"event_name":"t","a":[1,2.5,-3,1e300,18446744073709551615,-9223372036854775808,-0]}',
        "numbers": b'{"event_name":"t","a":1e300,"b":-0,"c":1E-400,"d":18446744073709551615,"e":-9223372036854775808}',
        "names that look like types": b'{"event_name":"t","null":1,"a b":2,"$x":3,"size0":4,"0":5,"-":6,"true":7}',
        "a name and its child": b'{"event_name":"t","a":{"b":1},"a b":1,"A":1,"a-b":2}',
        "colons and spaces": b' { "event_name" : "t" , "a" : "\\":\\":" , "b" : { "c" : "\\" :" } } ',
        "dates": b'{"event_name":"t","a":"2024-01-01","b":["2024-01-01 00:00:00"],"c":"12:00","d":["2024-01-01","x"]}',
        "every envelope name": json.dumps(
            dict.fromkeys(ENVELOPE, "x") | {"timestamp": "2021-06-26", "metric_value": 1}
        ).encode(),
        "envelope name inside an object": b'{"event_name":"t","a":{"event_name":1,"timestamp":[1],"page_url":null}}',
        "reserved name inside an object": json.dumps(
            {"event_name": "t", "a": dict.fromkeys(RESERVED, 1)}
        ).encode(),
    }


@pytest.mark.parametrize("name", corner_cases())
def test_corner_cases_are_accepted_and_held(table: Table, name: str) -> None:
    body = corner_cases()[name]
    assert is_accepted(body), find(body)
    assert_held(table, [body])


def test_the_same_field_in_every_kind(table: Table) -> None:
    """One name with another type in each event: the JSON column keeps them beside each other."""
    values = [
        "1",
        '"1"',
        "1.5",
        "true",
        "null",
        "[1]",
        '["a"]',
        "[]",
        "[true]",
        '{"x":1}',
        "18446744073709551615",
    ]
    assert_held(table, [b'{"event_name":"t","a":%s}' % value.encode() for value in values * 20])


def test_five_thousand_names_in_one_batch(table: Table) -> None:
    """Far more names than the column keeps as columns of their own."""
    names = [f"f{n}" for n in range(5000)]
    random.Random(1).shuffle(names)
    batches = [names[n : n + 50] for n in range(0, 5000, 50)]
    made = [json.dumps({"event_name": "t", **dict.fromkeys(batch, 1)}).encode() for batch in batches]
    assert_held(table, made)
