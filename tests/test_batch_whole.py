"""An array of good events that look alike is read and kept as a whole: to the same end as event by event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import event_alike
from app.append import MAX_GROUP_EVENTS
from app.batch_body import Whole
from app.event_alike import MAX_FIELDS
from app.event_columns import FEW, Body, read_events, read_whole
from app.stream import Record, choose_partition, encode_request, join_group, split_group
from tests.test_batch_keep import REQUEST_ID, Stub, keep
from tests.test_event_columns import BAD_VALUES, SAME, one_by_one, with_value
from tests.test_properties import EXAMPLES, bodies


def whole(events: Sequence[bytes], comma: bytes = b",") -> bytes:
    return b"[" + comma.join(events) + b"]"


def assert_same(events: Sequence[bytes], comma: bytes = b",") -> bool:
    """Were they read as a whole? If so, each is good by itself, and the same is known of it."""
    found = read_whole(whole(events, comma))
    if found is None:
        return False
    wanted = one_by_one(events)
    assert list(found.positions) == list(wanted) == list(range(len(events)))
    assert list(found.event_names) == [event.event_name for event in wanted.values()]
    assert list(found.event_ids) == [
        event.event_id for event in wanted.values() if event.event_id is not None
    ]
    assert {event.field_paths for event in wanted.values()} == {found.field_paths}
    assert list(Whole(whole(events, comma), len(events))) == list(events)
    return True


@EXAMPLES
@given(st.lists(bodies(), min_size=1, max_size=2), st.sampled_from([b",", b", ", b" ,\n"]))
def test_generated_events(events: list[bytes], comma: bytes) -> None:
    events = [event.strip() for event in events]
    assert_same(events[:1] * FEW, comma)
    assert_same(events * FEW, comma)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_VALUES.items() for value in values]
)
def test_one_value_among_many_events_of_its_shape(name: str, value: str) -> None:
    odd = with_value(name, value)
    assert_same([SAME.encode()] * 20 + [odd])
    assert_same([odd] * 10)


@pytest.mark.parametrize(
    "text", ["é" * 4096, "é" * 4097, "x" * 8192, "x" * 8193, "\\u00e9" * 4097, "{", "}", "},{", '\\"},{\\"']
)
@pytest.mark.parametrize("form", ['"{}"', '["{}"]'])
def test_strings_by_their_bytes_and_braces_in_them(text: str, form: str) -> None:
    value = form.replace("{}", text)
    assert_same([f'{{"event_name":"e","s":{value}}}'.encode()] * FEW)


@pytest.mark.parametrize("comma", [",", ", "])
def test_events_that_look_alike_are_read_as_a_whole(comma: str) -> None:
    """It is a promise of speed alone, so nothing else would notice that it is never taken."""
    events = [
        json.dumps(
            {
                **{"event_name": f"e{number % 3}", "timestamp": f"2026-11-25T10:00:{number:02}.000Z"},
                **{"page_url": f"https://x/?n={number}", "n": number, "tags": ["a", "b:c"], "event_id": f"i{number}"},
            }
        ).encode()
        for number in range(50)
    ]  # fmt: skip
    assert assert_same(events, comma.encode())
    assert not assert_same([*events, b'{"event_name":"e","n":1,"n":1}'])
    assert not assert_same([event.replace(b'"n":', b'"n": 1, "n":') for event in events])


@pytest.mark.parametrize(
    "array", [b"[]", b"[", b"", b"[1]", b"[{}]", b'[{"event_name":"e"}] ' * 9, b"[{}" * 9]
)
def test_what_is_no_array_of_events(array: bytes) -> None:
    assert read_whole(array) is None


def test_no_type_is_made_of_a_look_that_is_not_good_or_of_few_events() -> None:
    """Safeguard: types are remembered with their names. A client's body must not stay in memory for its names."""
    event_alike._reader.cache_clear()
    many = ",".join(f'"n{number}":1' for number in range(MAX_FIELDS))
    for refused in (
        f'"event_name":"e",{many}',
        f'"event_name":"e","{"n" * 60_000}":1',
        '"event_name":"e","a":null',
    ):
        events = [f"{{{refused}}}".encode()] * FEW
        assert read_whole(whole(events)) is None
        read_events(cast("list[Body]", events), list(range(FEW)))
    few = [b'{"event_name":"e","n":1}'] * (FEW - 1)
    assert read_whole(whole(few)) is None
    assert event_alike._reader.cache_info().currsize == 0
    assert read_whole(whole([*few, few[0]])) is not None
    assert event_alike._reader.cache_info().currsize == 1


EVENTS = [b'{"event_name":"e", "n":%d}' % number for number in range(50)]


def pairs(stub: Stub) -> list[list[tuple[int, bytes, str]]]:
    return [[(record.index, record.body, record.event_id) for record in piece] for piece in stub.pieces]


def kept(bodies: Sequence[Body], **about: object) -> list[list[list[tuple[int, bytes, str]]]]:
    stubs = [Stub(), Stub(), Stub()]
    assert keep(stubs, cast("list[Body]", bodies), **about)[0] is None  # type: ignore[arg-type]
    return [pairs(stub) for stub in stubs]


@pytest.mark.parametrize("key", ["", "k"])
@pytest.mark.parametrize("ids", [{}, {at: f"id-{at}" for at in range(0, 50, 2)}])
def test_what_is_kept_is_the_same_either_way(key: str, ids: dict[int, str]) -> None:
    """Safeguard: copies by event_id meet in one partition, and a header's id is known with each event."""
    as_whole = kept(Whole(whole(EVENTS, b" , "), len(EVENTS)), key=key, ids=ids)
    assert as_whole == kept(EVENTS, key=key, ids=ids)
    if not key and not ids:
        assert len(as_whole[choose_partition(3, "prj_test", "", REQUEST_ID)]) == 1


def test_more_than_a_group_holds_is_kept_in_pieces() -> None:
    events = [b"{}"] * (MAX_GROUP_EVENTS + 1)
    stub = Stub()
    assert keep([stub], cast("list[Body]", Whole(whole(events), len(events))))[0] is None
    assert [len(piece) for piece in stub.pieces] == [MAX_GROUP_EVENTS, 1]


def test_a_failure_names_all() -> None:
    stub = Stub(fails_at=0)
    failure, rejections = keep([stub], cast("list[Body]", Whole(whole(EVENTS), len(EVENTS))))
    assert failure is not None
    assert rejections.number == len(EVENTS)


def test_the_stream_gives_each_event_its_own_bytes() -> None:
    about = (bytes(12), 1, "prj_test", "c")
    context = ("ip", "agent", "referer")
    carried = [(at + 1, body, "") for at, body in enumerate(EVENTS)]
    cut = encode_request(*about, context=context, events=carried)
    array = encode_request(*about, context=context, events=whole(EVENTS, b",\n "))
    found: list[Record] = split_group(join_group([array]))
    assert found == split_group(join_group([cut]))
    for damaged in (b"[{}", b"{}", b"[{}]]"):
        with pytest.raises(msgspec.DecodeError):
            split_group(join_group([encode_request(*about, context=context, events=damaged)]))
