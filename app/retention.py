"""How long events are kept, by the server's clock (`time_recorded`). Pure.

Older ones are hidden from every query at once (`app.scope`), refused by the drain (`workers.verdict`), and
deleted when the whole month is old (`workers.retention`), since a month of the table can be dropped at once.
"""

from __future__ import annotations

from datetime import UTC, datetime

DAY_MS = 86_400_000


def oldest_ms(retention_days: int, now_ms: int) -> int:
    """Events recorded before this moment are expired; 0 where everything is kept."""
    return max(0, now_ms - retention_days * DAY_MS) if retention_days else 0


def month_begin_ms(moment_ms: int) -> int:
    """The first millisecond of the month of `moment_ms`, in UTC, as the table is partitioned."""
    month = datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m-01T00:00:00+00:00")
    return int(datetime.fromisoformat(month).timestamp()) * 1000
