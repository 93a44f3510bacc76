"""Keys and what they permit. A leaf: the registry makes grants, the handlers obey them."""

from __future__ import annotations

import enum
import hashlib
import secrets

import msgspec

from app.errors import Kind


class KeyType(enum.Enum):
    """The five secrets (api.md section 1)."""

    WRITE = "WRITE"
    QUERY = "QUERY"
    DELETE = "DELETE"
    PROJECT = "PROJECT"
    ACCOUNT = "ACCOUNT"


class _Words(msgspec.Struct, frozen=True):
    prefix: str
    invalid: Kind
    not_one: Kind


# The readable prefix tells people and secret scanners what they have found.
_WORDS = {
    KeyType.WRITE: _Words("eb_w_", Kind.INVALID_WRITE_KEY, Kind.NOT_A_WRITE_KEY),
    KeyType.QUERY: _Words("eb_q_", Kind.INVALID_QUERY_KEY, Kind.NOT_A_QUERY_KEY),
    KeyType.DELETE: _Words("eb_d_", Kind.INVALID_DELETE_KEY, Kind.NOT_A_DELETE_KEY),
    KeyType.PROJECT: _Words("eb_pm_", Kind.INVALID_MASTER_KEY, Kind.NOT_A_PROJECT_KEY),
    KeyType.ACCOUNT: _Words("eb_am_", Kind.INVALID_MASTER_KEY, Kind.NOT_AN_ACCOUNT_KEY),
}
SECRET_BYTES = 24  # 192 random bits


class Grant(msgspec.Struct, frozen=True):
    """What a presented key permits. `expires_at_ms` is Unix milliseconds; `rate_limit` events a second
    for a WRITE key, requests a second for a QUERY key.

    `api_key_id` and `project_id` are "" where the level has none (master keys, account keys).
    """

    key_type: KeyType
    api_key_id: str
    account_id: str
    project_id: str
    customer_identifier: str | None = None
    expires_at_ms: int | None = None
    rate_limit: int | None = None
    allow_client_context: bool = False


def new_secret(key_type: KeyType) -> str:
    """A fresh secret. Shown once; only its digest is kept."""
    return _WORDS[key_type].prefix + secrets.token_urlsafe(SECRET_BYTES)


def digest(secret: str) -> str:
    """What is kept of a secret, and what it is looked up by: comparing digests leaks nothing of it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def invalid(key_type: KeyType) -> Kind:
    """The error for a key that is missing, unknown, expired or revoked where `key_type` is wanted."""
    return _WORDS[key_type].invalid


def not_one(key_type: KeyType) -> Kind:
    """The error for a valid key of another type."""
    return _WORDS[key_type].not_one
