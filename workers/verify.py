"""`eventbunker verify`: says whether the ledger and the store agree. The comparing is `workers.verifier`'s.

Exit codes: 0 they agree; 1 they do not, each difference is named; 2 it could not be found out; 3 what was
found cannot be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import click
import msgspec

from app import ledger, redis_client
from app import store as store_client
from app.ledger_reader import LedgerReader
from app.redis_client import UNREACHABLE
from app.settings import Settings
from app.store import StoreError
from workers import elsewhere, output
from workers.reconcile import Finding, Report
from workers.running import NotRunning, find_running
from workers.verifier import Verifier

SHOWN = 50  # lines on a terminal; --json has all of them


def verify(settings: Settings, *, since_ms: int | None, wait_seconds: float, as_json: bool) -> int:
    """Compare, print, and return the exit code. `since_ms`: Unix milliseconds, None for everything."""
    if since_ms is not None and since_ms > time.time() * 1000:
        return _failed(
            "--since lies in the future: nothing would be compared; name a moment before now", as_json
        )
    output.is_terminal()  # where it is closed, nothing needs to be compared
    since_hour = None if since_ms is None else since_ms // ledger.HOUR_MS
    try:
        running = find_running(settings, needs_store=True)
        report = asyncio.run(_verify(running, since_hour, wait_seconds))
    except NotRunning as error:
        return _failed(str(error), as_json)
    except UNREACHABLE as error:
        return _failed(f"Redis does not answer ({type(error).__name__}); check REDIS_URL", as_json)
    except StoreError as error:
        hint = "check CLICKHOUSE_URL, and that `eventbunker migrate` has run"
        return _failed(f"the store cannot be asked: {str(error)[:300]}; {hint}", as_json)
    with contextlib.suppress(BrokenPipeError), output.told():  # who reads no further has the exit code
        _print(report, as_json)
    return 0 if report.clean else 1


def _failed(message: str, as_json: bool) -> int:
    if as_json:
        output.done(msgspec.json.encode({"error": message}).decode())
    else:
        output.say(message)
    return 2


async def _verify(settings: Settings, since_hour: int | None, wait_seconds: float) -> Report:
    redis, store = redis_client.connect(settings), store_client.connect(settings)
    producer, consumer = settings.producer, settings.consumer
    reader = LedgerReader(redis, producer.queue, producer.shards, consumer.dead_letter_queue)
    try:
        report = await Verifier(
            *(redis, store, reader),
            since_hour=since_hour,
            wait_seconds=wait_seconds,
            retention_days=settings.store.retention_days,
        ).run()
        report.elsewhere = [
            *await elsewhere.describe(redis, settings),
            *await elsewhere.counted(redis, settings),
        ]
        return report
    finally:
        await store.close()
        await redis.aclose()


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"clean": report.clean, **msgspec.structs.asdict(report)}).decode())
        return
    fates = report.fates
    click.echo(f"since    {report.since or 'the beginning'}")
    click.echo(f"ledger   {fates.get(ledger.APPENDED, 0):,} appended")
    for fate in (*ledger.FINAL, ledger.QUEUED):
        number = ledger.queued(fates) if fate == ledger.QUEUED else fates.get(fate, 0)
        click.echo(f"         {number:,} {fate}")
    click.echo(f"store    {report.rows:,} rows, in {report.buckets:,} pairs of project and hour")
    _list("moving: not different, but it did not come to rest", report.moving)
    _list("different", report.differences)
    if report.elsewhere:
        click.echo("elsewhere in this Redis: not compared")
    for line in report.elsewhere:
        click.echo(f"  {line}")
    count = len(report.differences)
    click.echo("clean" if report.clean else f"{count} difference{'s' if count > 1 else ''}")


def _list(title: str, findings: list[Finding]) -> None:
    if findings:
        click.echo(title)
    for one in findings[:SHOWN]:
        # Rows that nobody tracked may be of a project whose name a terminal would act on.
        project = one.project_id if one.project_id.isprintable() else repr(one.project_id)
        place = "  ".join(filter(None, (project, one.hour)))
        click.echo(f"  {place}\n    {one.what}: expected {one.expected:,}, found {one.found:,}")
        click.echo(f"    {one.hint}")
    if len(findings) > SHOWN:
        click.echo(f"  and {len(findings) - SHOWN} more; --json lists all")
