"""A tombstone: which events an erasure means, and until when they were recorded. A leaf.

Everything that meets events applies tombstones: queries as a condition of their SQL (`app.scope.Erased`), the
drain to each record that was recorded before (`workers.judge`), which is how what a spool brings back days
later is erased too. For that they are kept for KEPT_DAYS, and then without naming anybody: a customer is
known by a digest. Filters cannot be digested, and are kept as they were asked for.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import msgspec

from app.errors import Problem
from app.filters import read_filters
from app.scope import Erased
from app.time_period import Period

KEPT_DAYS = 400  # a spool that is older must not be brought back; docs/erase.md says so
FOREVER_MS = 2**42  # the year 2109: of a deleted project


class Tombstone(msgspec.Struct, frozen=True, omit_defaults=True):
    """Events of the project recorded at `up_to_ms` or before for which all of the rest holds.

    `customers`: one of them; None for whomever. `digests`: the same, digested. `filters`: as in the request.
    """

    id: str
    project_id: str
    up_to_ms: int
    customers: tuple[str, ...] | None = None
    digests: tuple[str, ...] | None = None
    period: Period | None = None
    filters: tuple[object, ...] = ()

    @property
    def is_of_customers(self) -> bool:
        """Does it mean all that somebody has ever sent? Most do, and thousands of them must be cheap."""
        has_somebody = self.customers is not None or self.digests is not None
        return has_somebody and self.period is None and not self.filters


encode = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(Tombstone).decode


@lru_cache(maxsize=4096)
def decode(payload: bytes) -> Tombstone:
    """Errors: msgspec.DecodeError."""
    return _DECODE(payload)


def digest(project_id: str, customer_identifier: str) -> str:
    """What is kept of a customer's identifier. Whoever can guess the identifier can compute it."""
    return hashlib.sha256(f"{project_id}\0{customer_identifier}".encode()).hexdigest()[:32]


def of_project(erasure_id: str, project_id: str) -> Tombstone:
    """Everything of a project that is deleted, whenever it comes."""
    return Tombstone(erasure_id, project_id, FOREVER_MS)


def without_names(one: Tombstone) -> Tombstone:
    """The same with digests in place of customers."""
    if one.customers is None:
        return one
    digests = tuple(digest(one.project_id, customer) for customer in one.customers)
    return msgspec.structs.replace(one, customers=None, digests=digests)


@lru_cache(maxsize=4096)
def to_erased(payload: bytes) -> Erased:
    """As queries apply it. Errors: ValueError for what no version of this program has written."""
    one = decode(payload)
    problems: list[Problem] = []
    filters = read_filters(list(one.filters), problems)
    if problems or one.digests is not None:
        raise ValueError(f"the tombstone {one.id} cannot be read: {[*map(str, problems[:1])]}")
    return Erased(one.up_to_ms, one.customers, one.period, filters)
