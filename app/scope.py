"""What one request may see: its key's project, its key's customer, and nothing that was erased. A leaf.

Every statement that reads events for a client is built with a Scope (`app.sql_filters.where`), so that no
request, however it is shaped, can name what lies outside.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from app.filters import Condition
from app.grant import Grant
from app.time_period import Period


class Erased(msgspec.Struct, frozen=True):
    """A tombstone: events recorded at `up_to_ms` or before for which all of this holds are erased.

    What is None or empty restricts nothing; of `customers` it is one.
    """

    up_to_ms: int
    customers: tuple[str, ...] | None = None
    period: Period | None = None
    filters: tuple[Condition, ...] = ()

    @property
    def is_of_customers(self) -> bool:
        """Does it mean all that somebody has ever sent?"""
        return self.customers is not None and self.period is None and not self.filters


class Scope(msgspec.Struct, frozen=True):
    """One project, narrowed to one customer where the key is bound to one, without what was `erased` and
    what was recorded before `oldest_ms`, which is expired."""

    project_id: str
    customer_identifier: str | None = None
    erased: tuple[Erased, ...] = ()
    oldest_ms: int = 0


class Hiding(Protocol):
    """Who knows what was erased and may still be stored (`app.erasures`)."""

    async def hidden(self, project_id: str) -> tuple[Erased, ...]:
        """What no query of the project may see. Errors: StoreError where nobody can tell."""
        ...


def scope_of(grant: Grant, erased: tuple[Erased, ...] = (), *, oldest_ms: int = 0) -> Scope:
    """What the holder of a QUERY or DELETE key may see."""
    return Scope(grant.project_id, grant.customer_identifier, erased, oldest_ms)
