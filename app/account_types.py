"""What is told of accounts, projects and keys. A leaf; `app.accounts` fills these in, msgspec encodes them.

Those with a secret are made once, by the call that makes the secret, and never show it in a repr.
"""

from __future__ import annotations

import msgspec

from app.grant import Grant
from app.timestamp import format_timestamp


class CreatedAccount(msgspec.Struct, frozen=True):
    """`account_master_key` is the secret: shown now and never again."""

    account_id: str
    account_master_key: str

    def __repr__(self) -> str:
        return f"CreatedAccount({self.account_id})"


class CreatedProject(msgspec.Struct, frozen=True):
    """`master_api_key` is the secret: shown now and never again."""

    account_id: str
    project_id: str
    master_api_key: str
    status: str = "ACTIVE"

    def __repr__(self) -> str:
        return f"CreatedProject({self.project_id})"


class Project(msgspec.Struct, frozen=True):
    """A project in a list. `created_at` is Unix milliseconds."""

    project_id: str
    name: str
    description: str
    status: str
    created_at: int


class KeyFilter(msgspec.Struct, frozen=True):
    """`key_filter_data`: what a key is bound to."""

    customer_identifier: str


class KeyInfo(msgspec.Struct, frozen=True):
    """What is told of a key. `expires_at` is ISO 8601; `created_at` Unix milliseconds."""

    project_id: str
    api_key_id: str
    key_type: str
    name: str
    description: str
    key_filter_data: KeyFilter | None
    expires_at: str | None
    rate_limit: int | None
    allow_client_context: bool
    status: str
    created_at: int


class CreatedKey(KeyInfo, frozen=True, kw_only=True):
    """`api_key` is the secret: shown now and never again."""

    api_key: str

    def __repr__(self) -> str:
        return f"CreatedKey({self.api_key_id})"


class ListedKey(KeyInfo, frozen=True, kw_only=True):
    """A key in a list. `last_used_at` is Unix milliseconds, some seconds behind; None for never."""

    last_four: str
    last_used_at: int | None


def describe(grant: Grant, name: str, description: str, created_at: int) -> KeyInfo:
    """What may be told of an active key: everything but its secret."""
    bound = grant.customer_identifier
    return KeyInfo(
        grant.project_id,
        grant.api_key_id,
        grant.key_type.value,
        name,
        description,
        None if bound is None else KeyFilter(bound),
        None if grant.expires_at_ms is None else format_timestamp(grant.expires_at_ms),
        grant.rate_limit,
        grant.allow_client_context,
        "ACTIVE",
        created_at,
    )
