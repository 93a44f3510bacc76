"""The next batch of a partition: entries read in order, their records decoded, their rows built.

The drain reads ahead while the insert of the batch before is under way; that takes nothing from the promise,
since a batch that is read is nothing but memory: no plan names it, nobody has asked for its event ids, and
dropped it leaves no trace. It holds what lies behind the entries of the batch before, and nobody but the
partition's owner takes entries away. Next: `workers.plan`.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from app.enrich import Geography
from app.partition import Partition
from app.settings import Consumer
from workers.items import Items, read_items
from workers.rows import Rows

BITE_ENTRIES = 256  # of one question; `Partition.read` bounds its bytes
UPLOAD_SECONDS = 0.03  # of a full block of 9 MB, and some; the engine takes ten times as long for it
SLICE = 64  # rows that are built before others have their turn: uploads, leases


class Batch:
    """Whole entries from behind the id `after` on; `is_full` says that it may take no more.

    `spent`: the items of the batch before, while it is better not to free them: see `Reader.fill_ahead`.
    """

    def __init__(self, after: str | None = None) -> None:
        self.items = Items()
        self.spent = Items()
        self.rows = Rows()
        self.after = after
        self.bytes = 0
        self.is_full = False


class Reader:
    """For one partition. Errors: redis_client.UNREACHABLE."""

    def __init__(self, partition: Partition, geography: Geography, consumer: Consumer) -> None:
        self._partition = partition
        self._geography = geography
        self._max_rows = consumer.max_batch_size
        self._max_bytes = consumer.max_batch_bytes

    async def fill_ahead(self, batch: Batch, spent: Items) -> None:
        """`fill` beside an insert: when its block is on its way, which needs this thread too.

        To free the ten thousand items of a former batch takes milliseconds: here nobody waits for that.
        """
        await asyncio.sleep(UPLOAD_SECONDS)
        spent.clear()
        await self.fill(batch)

    async def fill(self, batch: Batch) -> None:
        """Add entries to `batch` until it is full or the stream holds no more."""
        built = 0  # rows since others had their turn
        while not batch.is_full:
            entries = await self._partition.read(batch.after, BITE_ENTRIES)
            if not entries:
                return
            for entry in entries:
                items = read_items(entry, self._geography, batch.rows)
                while some := list(islice(items, SLICE)):
                    batch.items += some
                    built += len(some)
                    if built >= SLICE:
                        built = 0
                        await asyncio.sleep(0)
                batch.bytes += len(entry.payload)
                batch.after = entry.id
                if len(batch.items) >= self._max_rows or batch.bytes >= self._max_bytes:
                    batch.is_full = True
                    batch.rows.whole()  # put together here, where nothing waits for it
                    batch.items.sum_up()
                    break
