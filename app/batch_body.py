"""The body of a batch -> the bytes of each event, as slices of it. Nothing here reads an event.

Three forms, told apart by the body itself, whatever the content type says:

    [{…}, {…}]               a JSON array
    {"batch": [{…}], …}      an object around it, as SDKs send; its other members are ignored
    {…}                      NDJSON: one event a line; blank lines do not count. Also a single event
    {…}

Only `application/x-ndjson` decides: then a broken line never spoils the others. Elsewhere a body that
begins with `{` is NDJSON if its first line is a whole JSON object.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import msgspec

from app.errors import ApiError, Kind, Problem, invalid_body

NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
MAX_WRAPPER_BYTES = 64 * 1024  # of an object around a batch, without the batch
# An array of so many commas is read event by event: it may be millions of tiny things that are no events.
MANY_COMMAS = 200_000
TURN_BYTES = 64 * 1024  # of them; a millisecond or two, then others run

Slice = bytes | msgspec.Raw


class _Wrapper(msgspec.Struct):
    batch: msgspec.Raw = msgspec.Raw(b"")


_DECODE_ARRAY = msgspec.json.Decoder(list[msgspec.Raw]).decode
_DECODE_WRAPPER = msgspec.json.Decoder(_Wrapper).decode
_DECODE_ANY = msgspec.json.Decoder().decode
_SCAN = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=len).raw_decode
_PAIRS = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=list).decode
_BLANK = b" \t\r\n"


class Whole(Sequence[bytes]):
    """So many events of a JSON array that was read as a whole; they are cut out of it if one is asked for."""

    def __init__(self, array: bytes, number: int) -> None:
        self.array = array
        self._number = number

    @cached_property
    def _events(self) -> list[bytes]:
        return list(map(bytes, _DECODE_ARRAY(self.array)))

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        return self._events[at]


async def split(body: bytes, content_type: str, max_events: int) -> list[Slice]:
    """The bytes of each event, in order. They may be anything: whoever reads them decides.

    Errors: ApiError 400 where the body is none of the three forms, 413 for more than `max_events`.
    """
    start = body.lstrip(_BLANK)[:1]
    if not start:
        raise _invalid("$", "the body is empty; send a JSON array of events, or one event a line")
    if content_type in NDJSON:
        return _lines(body, max_events)
    if start == b"[":
        return await _array(body, "$", max_events)
    if start != b"{":
        raise _invalid("$", 'the body must be a JSON array of events, {"batch": [...]}, or one event a line')
    try:
        wrapper = _DECODE_WRAPPER(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if _is_object(next(_whole_lines(body))):
            return _lines(body, max_events)
        batch = _find_batch(body)
        if not batch:
            raise _malformed(body, error) from None
        return await _scan_all(_unwrap(body, batch), "$.batch", max_events)
    batch = bytes(wrapper.batch)
    return await _array(_unwrap(body, batch), "$.batch", max_events) if batch else [body.strip(_BLANK)]


def _find_batch(body: bytes) -> bytes:
    """The value of `batch` in an object that the decoder refuses for what an event holds; b"" without."""
    text = body.decode("latin-1")
    at, found = _skip(text, _skip(text, 0) + 1), b""
    try:
        while text[at : at + 1] == '"':
            name, end = _SCAN(text, at)
            at = _skip(text, end)
            if text[at : at + 1] != ":":
                return b""
            start = _skip(text, at + 1)
            _, end = _SCAN(text, start)
            if name == "batch":
                found = body[start:end]
            at = _skip(text, end)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
    except (json.JSONDecodeError, RecursionError):
        return b""
    return found if text[at : at + 1] == "}" and not body[at + 1 :].strip(_BLANK) else b""


async def _array(body: bytes, path: str, max_events: int) -> list[Slice]:
    if body[:1] != b"[" and body.lstrip(_BLANK)[:1] != b"[":
        raise _invalid(path, "expected an array of events")
    if len(body) > MANY_COMMAS and body.count(b",") > MANY_COMMAS:
        return await _scan_all(body, path, max_events)
    try:
        events = _DECODE_ARRAY(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Either this says where it ends to be an array, or one event is at fault: half a surrogate, a NaN.
        return await _scan_all(body, path, max_events)
    if len(events) > max_events:
        raise _too_many(max_events)
    return events  # type: ignore[return-value]


async def _scan_all(body: bytes, path: str, max_events: int) -> list[Slice]:
    events: list[Slice] = []
    scanned = 0
    for event in _scan(body, path, max_events):
        events.append(event)
        scanned += len(event)
        if scanned > TURN_BYTES:
            scanned = 0
            await asyncio.sleep(0)
    return events


def _scan(body: bytes, path: str, max_events: int) -> Iterator[bytes]:
    """The array's items, one by one: slower, but it stops at `max_events` and knows where it is."""
    text = body.decode("latin-1")  # the structure of JSON is ASCII, and so offsets stay those of the bytes
    at = _skip(text, _skip(text, 0) + 1)
    number = 0
    while text[at : at + 1] != "]" or number:
        if number == max_events:
            raise _too_many(max_events)
        try:
            _, end = _SCAN(text, at)
        except RecursionError:
            raise _invalid(f"{path}[{number}]", "it is nested too deeply") from None
        except json.JSONDecodeError as error:
            raise _invalid(f"{path}[{number}]", f"malformed JSON: {error.msg} (byte {error.pos})") from None
        yield body[at:end]
        number += 1
        at = _skip(text, end)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise _invalid(f"{path}[{number}]", f"malformed JSON: expected a comma or ] (byte {at})")
        at = _skip(text, at + 1)
    if rest := body[at + 1 :].strip(_BLANK):
        raise _invalid(path, f"{len(rest)} bytes follow the end of the array")


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n"):
        at += 1
    return at


def _lines(body: bytes, max_events: int) -> list[Slice]:
    lines: list[Slice] = []
    for line in _whole_lines(body):
        if len(lines) == max_events:
            raise _too_many(max_events)
        lines.append(line)
    return lines


def _whole_lines(body: bytes) -> Iterator[bytes]:
    """The lines that are not blank, one after another: a million of them are not made at once."""
    return (line for raw in io.BytesIO(body) if (line := raw.strip(_BLANK)))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(_DECODE_ANY(line), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _unwrap(body: bytes, batch: bytes) -> bytes:
    """The array of a wrapper, whose rest must be small and may name `batch` only once."""
    rest = len(body) - len(batch)
    if rest > MAX_WRAPPER_BYTES:
        raise _invalid("$", f"beside `batch` the object may have {MAX_WRAPPER_BYTES} bytes; it has {rest}")
    at = body.rindex(batch)  # the last of several wins in the decoder
    try:
        frame = _PAIRS((body[:at] + b"0" + body[at + len(batch) :]).decode())
    except (ValueError, RecursionError) as error:  # the decoder only skipped what is beside the batch
        raise _malformed(body, error) from None
    if sum(name == "batch" for name, _ in frame) > 1:
        raise _invalid("$.batch", "the name stands twice in one object")
    return batch


def _invalid(path: str, message: str) -> ApiError:
    return invalid_body([Problem(path, message)])


def _malformed(body: bytes, error: Exception) -> ApiError:
    if isinstance(error, RecursionError):
        return _invalid("$", "the body is nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return _invalid("$", "the body is not valid UTF-8")
    if isinstance(error, json.JSONDecodeError):
        return _invalid("$", f"malformed JSON beside `batch`: {error.msg}")
    return _invalid("$", f"malformed JSON: {str(error).removeprefix('JSON is malformed: ')[:200]}")


def _too_many(max_events: int) -> ApiError:
    return ApiError(
        Kind.BODY_TOO_LARGE,
        f"A batch may have at most {max_events} events; this one has more. Send it in several.",
    )
