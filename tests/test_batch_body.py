"""The forms of a batch's body, and how each broken one is told."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from app import batch_body
from app.batch_body import split
from app.errors import ApiError, Kind

E = b'{"event_name":"e"}'


def events(body: bytes, content_type: str = "application/json", limit: int = 100) -> list[bytes]:
    return [bytes(one) for one in asyncio.run(split(body, content_type, limit))]


def refused(body: bytes, content_type: str = "application/json", limit: int = 100) -> tuple[Kind, str, str]:
    with pytest.raises(ApiError) as caught:
        events(body, content_type, limit)
    problem = caught.value.problems[0] if caught.value.problems else None
    return caught.value.kind, problem.path if problem else "", caught.value.detail


@pytest.mark.parametrize("commas", [0, 200_000], ids=["one by one", "at once"])
@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"[%s]", 1), (b"[%s,%s]", 2), (b" [ %s ,\n%s\t] \r\n", 2), (b"[]", 0), (b" [ ] ", 0), (b'[1,"a,]",%s]', 3),
        (b'{"batch":[%s,%s]}', 2), (b'{"sentAt":"now","batch":[%s],"context":{"batch":[1]}}', 1), (b' {"batch" : [ %s ]}\n', 1),
        (b'{"\\u0062atch":[%s]}', 1), (b'{"batch":[]}', 0),
        (b'{"x":' + b"1" * 5000 + b',"batch":[%s]}', 1), (b'{"x":[1e999999,-' + b"9" * 400 + b'.5],"batch":[%s]}', 1),
        (b"%s", 1), (b" %s ", 1), (b"%s\n%s", 2), (b"%s\r\n\r\n \t\n%s\n\n", 2), (b'{"a":\n1}', 1), (b"%s\n{broken\n%s", 3),
    ],
)  # fmt: skip
def test_forms(body: bytes, count: int, commas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_body, "MANY_COMMAS", commas - 1)
    content = body.replace(b"%s", E)
    for content_type in ("application/json", "text/plain", "", "application/x-www-form-urlencoded"):
        found = events(content, content_type)
        assert len(found) == count
        assert content.count(E) == sum(one == E for one in found)


def test_ndjson_by_name_never_fails_as_a_whole() -> None:
    body = b"[\n" + E + b"\n{\n\xff\n" + E
    assert events(body, "application/x-ndjson") == [b"[", E, b"{", b"\xff", E]


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        (b"", "$", "empty"), (b" \n", "$", "empty"), (b"null", "$", "must be"), (b'"a"', "$", "must be"), (b"\xef\xbb\xbf[]", "$", "must be"),
        (b"[", "$[0]", "byte 1"), (b"[%s", "$[1]", "byte 19"), (b"[%s,", "$[1]", "byte 20"), (b"[%s,]", "$[1]", "byte 20"), (b"[%s %s]", "$[1]", "byte 20"),
        (b"[%s]x", "$", "1 bytes follow"), (b"[%s,{'a':1}]", "$[1]", "byte 21"), (b"[,%s]", "$[0]", "byte 1"), (b"[%s,\xff]", "$[1]", "byte 20"),
        (b'{"batch":[%s}', "$", "malformed"), (b'{"batch":{}}', "$.batch", "array"), (b'{"batch":null}', "$.batch", "array"),
        (b'{"batch":[%s],"batch":[%s]}', "$.batch", "twice"), (b'{"batch":[%s],"b\\u0061tch":[]}', "$.batch", "twice"),
        (b'{"batch":[%s],}', "$", "malformed"), (b"{\n", "$", "malformed"), (b'{"event_name":\n', "$", "malformed"),
        (b'{"x":"\xff","batch":[%s]}', "$", "UTF-8"), (b'{"\xff":1,"batch":[%s]}', "$", "UTF-8"), (b'{"x":"a\x01b","batch":[%s]}', "$", "malformed"),
        (b'{"batch":[],"x":"' + b"x" * 70_000 + b'"}', "$", "65536"),
        (b"[" * 100_000, "$[0]", "deep"), (b'{"batch":' * 100_000, "$", "deep"), (b"[" * 50_000 + b"]" * 50_000, "$[0]", "deep"),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused_with_the_place(body: bytes, path: str, words: str) -> None:
    kind, where, detail = refused(body.replace(b"%s", E))
    assert kind is Kind.INVALID_BODY
    assert (where, words in detail) == (path, True), detail


@pytest.mark.parametrize(
    "odd",
    [
        b'{"event_name":"x","y":"\\ud800"}', b'{"event_name":"x","y":NaN}', b'{"event_name":"x","y":"\xff"}',
        b'{"event_name":"x","\\udc00":[{"a":-Infinity}]}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", [b"[%s]", b' {"sentAt" : "now", "batch" : [%s] , "x":{"batch":[]}} '])
def test_an_event_that_no_decoder_takes_spoils_no_other(form: bytes, odd: bytes) -> None:
    assert events(form.replace(b"%s", b",".join([E, odd, E]))) == [E, odd, E]


@pytest.mark.parametrize("form", [b"[%s]", b'{"batch":[%s]}', b"%s"])
def test_too_many_events(form: bytes) -> None:
    separator = b"\n" if form == b"%s" else b","
    assert len(events(form.replace(b"%s", separator.join([E] * 100)))) == 100
    kind, _, detail = refused(form.replace(b"%s", separator.join([E] * 101)))
    assert kind is Kind.BODY_TOO_LARGE
    assert "100 events" in detail


@pytest.mark.parametrize(
    "body", [b"[" + b"{}," * 1_300_000 + b"{}]", b"1\n" * 2_000_000, b"\n" * 4_000_000 + E]
)
def test_millions_of_tiny_things_are_not_made(body: bytes) -> None:
    tracemalloc.start()
    kind = Kind.BODY_TOO_LARGE
    if body.endswith(E):
        assert events(body, "application/x-ndjson", 10_000) == [E]
    else:
        kind = refused(body, "application/x-ndjson" if body.startswith(b"1") else "", 10_000)[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kind is Kind.BODY_TOO_LARGE
    assert peak < 3 * len(body)
