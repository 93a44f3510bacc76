"""The token that embeds a chart: made, signed and read. A leaf; `app.embeds` keeps what it stands for.

    eb_c_ + base64url( id 8 | expiry in Unix ms 6 | secret 18 | signature 16 ), 69 characters

Both signed and looked up. The lookup (`app.embeds`) makes it revocable at once, keeps the address short and
the query out of it: whoever looks at the page's source learns no filter. The signature, HMAC-SHA256 of what
stands before it, lets an edge tell a made-up token from an expired one and from a revoked one, and refuse
made-up ones without asking Redis. Redis has the secret's digest only, so that reading Redis gives no token,
though the signing keys are there too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence

import msgspec

PREFIX = "eb_c_"
CHARACTERS = len(PREFIX) + 64
SIGNING_KEY_BYTES = 32
_ID, _EXPIRY, _SECRET, _SIGNATURE = 8, 6, 18, 16
_SIGNED = _ID + _EXPIRY + _SECRET


class EmbedToken(msgspec.Struct, frozen=True):
    """A token whose signature is right. `digest`: of the whole token, hex; it need not be secret."""

    token_id: str
    expires_at_ms: int
    digest: str


def new_token(expires_at_ms: int, key: bytes) -> tuple[str, EmbedToken]:
    """A fresh token, shown once, and what is kept of it."""
    content = secrets.token_bytes(_ID) + expires_at_ms.to_bytes(_EXPIRY, "big") + secrets.token_bytes(_SECRET)
    text = PREFIX + base64.urlsafe_b64encode(content + _sign(content, key)).decode()
    return text, _describe(text, content)


def read_token(text: str, keys: Sequence[bytes]) -> EmbedToken | None:
    """The token in `text`; None where none of `keys` signed it."""
    if len(text) != CHARACTERS or not text.startswith(PREFIX):
        return None
    try:
        raw = base64.b64decode(text[len(PREFIX) :].encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    content, signature = raw[:_SIGNED], raw[_SIGNED:]
    if not any(hmac.compare_digest(signature, _sign(content, key)) for key in keys):
        return None
    return _describe(text, content)


def _sign(content: bytes, key: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")[:_SIGNATURE]


def _describe(text: str, content: bytes) -> EmbedToken:
    token_id = f"cht_{content[:_ID].hex()}"
    expires_at_ms = int.from_bytes(content[_ID : _ID + _EXPIRY], "big")
    return EmbedToken(token_id, expires_at_ms, hashlib.sha256(text.encode()).hexdigest())
