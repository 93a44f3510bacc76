"""The tombstones of a drain: those that it applies to what is to be stored, and those that hide rows.

Asked for each batch, between reading its entries and saving its plan. So an entry that was appended after a
tombstone is always judged by it, and what was planned before is acknowledged before the erasure goes on
(`workers.marks`).
"""

from __future__ import annotations

from typing import cast

import msgspec

from app import erasure_scripts as scripts
from app import tombstone, tombstones
from app.scope import Erased
from app.tombstones import Unreadable
from workers.items import Items
from workers.plan import Halted


class Tombstones(tombstones.Tombstones):
    """One for each drain process, which must not go on when it cannot read one.

    `refresh` raises redis_client.UNREACHABLE and Halted.
    """

    def add(self, payload: bytes) -> None:
        """Apply this one from now on. Errors: Halted where this version cannot read it."""
        try:
            super().add(payload)
        except Unreadable as error:
            raise Halted(str(error)) from None

    async def hidden(self, items: Items) -> dict[str, tuple[Erased, ...]]:
        """Project -> tombstones of which the store may still hold rows, for projects of events with an id.

        Errors: UNREACHABLE, Halted.
        """
        records = (items[row].record for row in items.keyed) if self._projects else ()
        projects = sorted({one.project_id for one in records if one is not None} & self._projects.keys())
        pipeline = self._redis.pipeline(transaction=False)
        for project_id in projects:
            pipeline.hvals(scripts.hidden(project_id))
        found = cast("list[list[bytes]]", await pipeline.execute()) if projects else []
        try:
            return {
                project_id: tuple(map(tombstone.to_erased, payloads))
                for project_id, payloads in zip(projects, found, strict=True)
                if payloads
            }
        except (msgspec.DecodeError, ValueError) as error:
            raise Halted(f"a tombstone cannot be read: {error}") from None
