"""The `next` of raw events: where the page after this one begins, as a text that a client sends back. Pure.

It names the last event of a page, not a number of rows: events that arrive, late ones too, shift nothing. It
holds the period as it was at the first page, so a rolling one stands still, and a digest of the rest of the
query, to which alone it belongs. What may be seen is the key's business and not in it: whoever makes one up
gets another place in his own events, no more.
Next reader: `app.query`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta

from app.query_request import QueryRequest
from app.time_period import Period
from app.timestamp import MAX_MS, MIN_MS

VERSION = 1
# What raw events can be ordered by and still be paged.
PAGED_BY = ("event_time", "time_recorded", "unique_req_id")

Moment = Annotated[int, Meta(ge=0, le=10_413_791_999_999)]  # the store's times end with 2299


class Position(msgspec.Struct, frozen=True, array_like=True):
    """An event's place in every order by time. Unix milliseconds, and an id as hex."""

    event_time: Moment
    time_recorded: Moment
    unique_req_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Behind which event of which query, within a period in Unix milliseconds."""

    version: int
    query: str
    start_ms: Annotated[int, Meta(ge=MIN_MS, le=MAX_MS)]
    end_ms: Annotated[int, Meta(ge=MIN_MS, le=MAX_MS + 1)]
    after: Position


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Cursor)


def digest(asked: QueryRequest) -> str:
    """What a cursor of this query is told by. A page may have another size, and begins where it does."""
    same = msgspec.structs.replace(asked, cursor=UNSET, limit=1, offset=0)
    return hashlib.sha256(_ENCODER.encode(same)).hexdigest()[:16]


def write(query: str, period: Period, after: Position) -> str:
    """The cursor behind `after`; `query` is its digest."""
    content = _ENCODER.encode(Cursor(VERSION, query, period.start_ms, period.end_ms, after))
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def read(text: str, query: str) -> Cursor:
    """The cursor that `write` made for the query with this digest. Errors: ValueError with a sentence."""
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found = _DECODER.decode(content)
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise ValueError("is no `next` of an answer; send it as it came") from None
    if found.version != VERSION or found.start_ms >= found.end_ms:
        raise ValueError("is of another version; begin with the first page")
    if found.query != query:
        raise ValueError("belongs to another query; only limit may change from page to page")
    return found
