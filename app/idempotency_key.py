"""The `Idempotency-Key` header: an event id for clients that cannot put one into the body. Pure.

A quoted string of RFC 8941 (structured fields), as the header's draft wants it, or the bare characters, as
most clients send it. What it may hold is what `event_id` may hold, as far as a header can carry it.

Source: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-idempotency-key-header
"""

from __future__ import annotations

import re

from starlette.types import Scope

from app.errors import ApiError, Kind
from app.event import MAX_EVENT_ID_CHARACTERS
from app.http import header

NAME = b"idempotency-key"
_QUOTED = re.compile(r'"(?:[^"\\]|\\["\\])*"')
_ESCAPED = re.compile(r"\\(.)")


def choose_event_id(scope: Scope, of_body: str | None) -> str:
    """The event's id: of the header or of the body, "" without either. Errors: ApiError 400."""
    if header(scope, NAME) is None:
        return of_body or ""
    values = [value for name, value in scope["headers"] if name == NAME]
    if len(values) > 1:
        raise _invalid("the header stands more than once; send it once")
    of_header = _read(values[0])
    if of_body is not None and of_body != of_header:
        raise _invalid("the body's event_id is another one; send only one of them, or the same in both")
    return of_header


def _read(value: bytes) -> str:
    try:
        text = value.decode("ascii").strip(" \t")
    except UnicodeDecodeError:
        text = "\x7f"
    if any(not " " <= character <= "~" for character in text):
        raise _invalid("it may hold printable ASCII characters only; put any others into the body's event_id")
    if text.startswith('"'):
        if not _QUOTED.fullmatch(text):
            raise _invalid('a quoted key ends with its quote, and \\ stands only before " and \\')
        text = _ESCAPED.sub(r"\1", text[1:-1])
    if not 0 < len(text) <= MAX_EVENT_ID_CHARACTERS:
        raise _invalid(f"it must have 1 to {MAX_EVENT_ID_CHARACTERS} characters; it has {len(text)}")
    return text


def _invalid(reason: str) -> ApiError:
    return ApiError(Kind.INVALID_IDEMPOTENCY_KEY, f"Idempotency-Key: {reason}.")
