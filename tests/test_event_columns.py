"""By column or one by one: the same events are good, and the same is known of them."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import event_alike, event_columns
from app.event import MAX_REMEMBERED_NAMES, BrokenRule, Event, read_event, read_shape
from app.event_alike import MAX_FIELDS, MAX_LOOKS, read_alike
from app.event_columns import Body, read_events
from tests.json_corpus import DISPUTED, RIGHT, WRONG
from tests.test_properties import EXAMPLES, bodies


def one_by_one(events: Sequence[bytes]) -> dict[int, Event]:
    good: dict[int, Event] = {}
    for position, body in enumerate(events):
        try:
            good[position] = read_event(body)
        except BrokenRule:
            continue
    return good


def assert_same(events: Sequence[bytes]) -> int:
    """Returns how many are good."""
    wanted = one_by_one(events)
    groups, refused = read_events([memoryview(body) for body in events], list(range(len(events))))
    found: dict[int, tuple[str, str | None, tuple[str, ...]]] = {}
    for group in groups:
        assert len(group.event_names) == len(group.positions)
        assert len(group.event_ids) in (0, len(group.positions))
        ids: Sequence[str | None] = group.event_ids or [None] * len(group.positions)
        for position, name, event_id in zip(group.positions, group.event_names, ids, strict=True):
            assert position not in found
            found[position] = name, event_id, group.field_paths
    assert found == {
        position: (event.event_name, event.event_id, event.field_paths) for position, event in wanted.items()
    }
    assert sorted(refused) == [position for position in range(len(events)) if position not in wanted]
    return len(wanted)


@EXAMPLES
@given(st.lists(bodies(), min_size=1, max_size=6), st.integers(0, 2**32))
def test_generated_events(events: list[bytes], seed: int) -> None:
    """Each several times over, so that there are columns, and shuffled."""
    many = events * 5
    random.Random(seed).shuffle(many)
    assert_same(many)
    assert_same(events)


@pytest.mark.parametrize("corpus", [RIGHT, WRONG, DISPUTED])
def test_the_corpus(corpus: dict[str, bytes]) -> None:
    for body in corpus.values():
        assert_same([body] * 5)
    assert_same([body for body in corpus.values() if len(body) < 20_000] * 5)


SAME = '{"event_name":"e","timestamp":"2026-11-25T10:00:00Z","customer_identifier":"c","event_id":"i","n":1,"s":"x","a":["y"]}'
BAD_VALUES = {
    "event_name": ['"a b"', "1", "null", '""', '["e"]', f'"{"x" * 257}"', '"é"'],
    "timestamp": [
        *('"2026-02-30T10:00:00Z"', '"2026-11-25T24:00:00Z"', '"2026-11-25T10:60:00Z"', '"2026-11-25"'),
        *('"2026-11-25T10:00:00+00:99"', '"2026-11-25T10:00:00+24:00"', '"2026-11-25T10:00:00-0099"'),
        *('"1969-12-31T23:59:59Z"', '"1970-01-01T00:00:00+00:01"', '"2100-12-31T23:59:59-00:01"'),
        *('"2026-W47-3"', '"20261125"', '"2026-11-25 10:00"', '"2026-11-25T10"', '"2026-11-25T10:00:00,5"'),
        *('"2026-11-25\\n2026-11-25"', '"2026-11-25T10:00:00z"', '"٢٠٢٦-11-25"', '"2026-11-25T10:00:00.1234567890"'),
        *('"Wed, 25 Nov 2026 10:00:00 GMT"', '""', "1", '"2026-11-25T10:00\\u003a00Z"', '"2100-01-01"'),
    ],
    "customer_identifier": ['""', f'"{"c" * 257}"', f'"{"c" * 256}"', "5", "null", '{"a":1}'],
    "event_id": ['""', f'"{"i" * 129}"', f'"{"i" * 128}"', "true"],
    "n": [
        *("18446744073709551615", "18446744073709551616", "-9223372036854775809", "1e400", "1e300", "NaN"),
        *("[1]", '"1"', "null", "true", '{"m":18446744073709551616}', '{"m":{"k":1}}', "{}"),
    ],
    "s": ['"a:b"', '"\\u003a"', '"\\":"', f'"{"x" * 8193}"', f'"{"é" * 4097}"', '"\\ud800"', '"\\\\u003a"', '{"s":":"}'],
    "a": [
        *('["y",1]', "[null]", "[[]]", "[]", "[true,1]", "[1,2.5]", "[18446744073709551616]", '["a:b"]'),
        *(f"[{'1,' * 1000}1]", f"[{'1,' * 999}1]", f'["{"x" * 9000}"]', '[":"]', '"y"'),
    ],
}  # fmt: skip


def with_value(name: str, value: str) -> bytes:
    """SAME with that text as the value of `name`."""
    one = json.loads(SAME)
    members = ((other, value if other == name else json.dumps(one[other])) for other in one)
    return ("{" + ",".join(f'"{other}":{text}' for other, text in members) + "}").encode()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values]
)
def test_one_value_among_many_events_of_its_shape(name: str, value: str) -> None:
    odd = with_value(name, value)
    for count in (1, 5):
        events = [SAME.encode()] * 20 + [odd] * count
        assert assert_same(events) in (20, 20 + count)
        assert_same([odd] * 5)


@pytest.mark.parametrize(
    "member",
    [
        *('"n":2', '"n" :2', '"\\u006e":2', '"n"\n:2', '"s":"a:b","n":2', '"s":"\\u003a","n":2', '"s":":","s":"::"'),
        *('"o":{"m":1,"m":2}', '"o":{"m":1},"o":{"m":2}', '"o":{"m":":"},"m":1', '"a.b":1', '"project_id":"x"'),
        *('"o":{"project_id":1}', '"é":1', '"":1', '"o":{"é":1}', '"metric_value":"1"', '"metric_value":1.5'),
        *('"metric_name":1', '"metric_name":"m"', '"utm_term":null', '"utm_term":{"a":1}', '"page_url":"https://x/"'),
    ],
)  # fmt: skip
def test_one_member_more(member: str) -> None:
    """Safeguard: repeated names, spaced or escaped colons, and colons in strings that would make up for them."""
    odd = f'{{"event_name":"e","n":1,{member}}}'.encode()
    for plain in (b'{"event_name":"e","n":1}', b'{"event_name":"e","n":1,"s":":"}', odd):
        assert_same([plain] * 6 + [odd] * 6)
        assert_same([odd, *[plain] * 6])


def test_like_events_are_not_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Safeguard: the columns prove what is common. Otherwise they would be a slower way to the same verdict."""

    def never(_body: bytes) -> Event:
        raise AssertionError("read singly")

    monkeypatch.setattr(event_columns, "read_event", never)
    events: list[Body] = [
        json.dumps(
            {
                "event_name": f"e{number % 3}",
                "timestamp": f"2026-11-25T10:00:{number % 60:02d}.{number:06d}+00:00",
                "page_url": f"https://shop.example/?n={number}",
                "note": 'said "10:30" in \n Zürich',
                "n": number if number % 2 else number / 7,
                "m": None if number % 2 else "x",
                "tags": ["a", "b:c"][: number % 3],
                "address": {"city": "Bern", "zip": number},
                **({"event_id": f"i{number}"} if number % 2 else {"product": {"sku": f"s:{number}"}}),
            },
            separators=(",", ":") if number % 3 else None,
            ensure_ascii=number % 5 == 0,
        ).encode()
        for number in range(100)
    ]
    groups, refused = read_events(events, list(range(1000, 1100)))
    assert not refused
    assert sorted(at for group in groups for at in group.positions) == list(range(1000, 1100))


@pytest.mark.parametrize("spare", [0, 1])
def test_shapes_are_remembered_only_if_all_of_their_names_are_few(spare: int) -> None:
    read_shape.cache_clear()
    below = {f"f{number}": number for number in range(MAX_REMEMBERED_NAMES - 1 - spare)}
    event = json.dumps({"event_name": "e", "o": below}).encode()
    assert len(read_events([event] * 8, list(range(8)))[0]) == 1
    assert read_shape.cache_info().currsize == spare


def look_alike(*events: dict[str, object]) -> int | None:
    """How many columns the short way finds; None where it is not taken."""
    columns = read_alike(dict(events[0]), [json.dumps(event).encode() for event in events])  # type: ignore[arg-type]
    return None if columns is None else len(columns)


def test_what_looks_alike_goes_the_short_way() -> None:
    """It is a promise of speed alone, so nothing else would notice that it is never taken."""
    one: dict[str, object] = {"event_name": "e", "n": 20, "ok": True, "tags": ["a"], "site": "x"}
    same: dict[str, object] = {"site": "y", "n": 19.99, "ok": False, "tags": [1, "b"], "event_name": "f"}
    assert look_alike(one, same) == look_alike(same, one) == 5
    for odd in ({**one, "n": "20"}, {**one, "n": None}, {**one, "more": 1}, {"event_name": "e", "n": 20}):
        assert look_alike(one, odd) is None
    assert look_alike({"event_name": "e", "page": {"path": "/"}}) is None
    assert look_alike({f"f{number}": 1 for number in range(MAX_FIELDS + 1)}) is None


@pytest.mark.parametrize("first", ["1", "1.5", "-1e300", "18446744073709551615"])
@pytest.mark.parametrize(
    "odd", ["18446744073709551616", "-9223372036854775809", "1e400", "1e300", "-0.0", "1E2"]
)
def test_numbers_of_both_kinds_in_one_column(first: str, odd: str) -> None:
    events = [f'{{"event_name":"e","n":{number}}}'.encode() for number in (first, *["2"] * 20, odd)]
    assert_same(events)
    assert_same([*events[:-1], b'{"event_name":"e","n":7}'])


def test_looks_are_forgotten_again() -> None:
    """Safeguard: clients choose the names, and each look is a type in memory."""
    for number in range(3 * MAX_LOOKS):
        assert_same([f'{{"event_name":"e","n{number}":1}}'.encode()] * 6)
    assert event_alike._reader.cache_info().currsize <= MAX_LOOKS
    gc.collect()
    assert sum(kept.__name__ == "Alike" for kept in msgspec.Struct.__subclasses__()) <= 2 * MAX_LOOKS
