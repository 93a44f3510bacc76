"""`eventbunker dead`: what its commands do, and how they say it. The operator sees every project's letters.

Whatever a client sent may hold escape sequences: on a terminal they are shown, not obeyed.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import click
import msgspec

from app import layout, redis_client
from app import store as store_client
from app.dead import LETTERS_A_BATCH, DeadLetters
from app.dead_letter import Found, Wanted
from app.ledger_reader import LedgerReader
from app.redis_client import UNREACHABLE
from app.settings import Settings
from app.store import Store, StoreError
from workers import output
from workers.printable import printable
from workers.running import NotRunning, find_running

ID_WIDTH = 32
PIPE_WIDTH = 1_000_000  # nothing is cut where a program reads


class Chosen(msgspec.Struct, frozen=True):
    """Letters by their ids or, without any, up to `limit` of all that `wanted` admits."""

    ids: tuple[str, ...]
    wanted: Wanted
    limit: int | None


class _Failed(Exception):
    """The command cannot do it; the message says why."""


def list_letters(settings: Settings, wanted: Wanted, limit: int, *, as_json: bool) -> int:
    """Print them. Returns the exit code, like every function here."""

    async def work(letters: DeadLetters) -> int:
        shown = 0
        width = shutil.get_terminal_size().columns if output.is_terminal() else PIPE_WIDTH
        if not as_json:
            output.line(_line(("ID", "SET ASIDE (UTC)", "PROJECT", "BYTES", "REASON"), width))
        async for found in _all(letters, wanted, limit + 1):
            if shown == limit:
                output.say(f"There are more than {limit}; see --limit.")
                break
            shown += 1
            one = found.describe()
            if as_json:
                output.line(msgspec.json.encode(one).decode())
                continue
            reason = printable(f"{one.reason}: {one.message}")
            moment, project = _moment(one.set_aside_at), one.project_id or "-"
            output.line(_line((found.address, moment, project, str(one.bytes), reason), width))
        return 0

    return _run(settings, work)


def show(settings: Settings, address: str, *, only_body: bool) -> int:
    """Print one letter, or its bytes alone."""

    async def work(letters: DeadLetters) -> int:
        found = await _find(letters, address)
        body, is_event = found.letter.body, found.letter.record is not None
        if only_body:
            _as_it_came(body)
            return 0
        one = found.describe()
        lines = {
            "id": found.address,
            "place": one.place,
            "project": one.project_id or "unknown",
            "reason": one.reason,
            "message": printable(one.message),
            "set aside": _moment(one.set_aside_at),
            "recorded": "unknown" if one.time_recorded is None else _moment(one.time_recorded),
            "entry": found.letter.entry,
            "events": str(one.events),
            "bytes": str(one.bytes),
        }
        output.line("\n".join(f"{name:<10} {value}" for name, value in lines.items()) + "\n")
        if is_event and not output.is_terminal():
            _as_it_came(body + b"\n")
        elif is_event:
            output.line(printable(body.decode("utf-8", "backslashreplace")))
        else:
            output.line(f"No event: `eventbunker dead show --body {address} > file` writes its bytes.")
        return 0

    return _run(settings, work)


def replay(settings: Settings, chosen: Chosen) -> int:
    """Put the chosen back, a batch at a time, for as long as Redis has room."""

    async def work(letters: DeadLetters) -> int:
        done, left = 0, 0
        async for batch in _batches(letters, chosen):
            if reason := await letters.refusal():
                output.done(f"{done} put back")
                raise _Failed(f"{reason}; the rest stays where it is. Try again later.")
            replayed = await letters.replay(batch)
            done += replayed.done
            left += len(replayed.refused)
            for address, why in replayed.refused:
                output.say(f"{address}: {why}")
        output.done(f"{done} put back")
        return 1 if left else 0

    return _run(settings, work)


def purge(settings: Settings, chosen: Chosen, *, asks: bool) -> int:
    """Give the chosen up, after a question if `asks`."""

    async def work(letters: DeadLetters, store: Store) -> int:
        if asks:
            number = sum([len(batch) async for batch in _batches(letters, chosen)])
            if not number:
                output.done("no dead letter to purge")
                return 0
            _ask(f"Purge {number} for good?")
        done = 0
        async for batch in _batches(letters, chosen):
            done += await letters.purge(batch, store)
        output.done(f"{done} purged")
        return 0

    async def with_store(letters: DeadLetters) -> int:
        store = store_client.connect(find_running(settings, needs_store=True))
        try:
            return await work(letters, store)
        finally:
            await store.close()

    return _run(settings, with_store)


def _run(settings: Settings, work: Callable[[DeadLetters], Awaitable[int]]) -> int:
    async def connected() -> int:
        running = find_running(settings, needs_store=False)
        redis = redis_client.connect(running)
        try:
            letters = DeadLetters(redis, running)
            producer, dead_letter_queue = running.producer, running.consumer.dead_letter_queue
            ledgers = LedgerReader(redis, producer.queue, producer.shards, dead_letter_queue)
            recorded = await layout.read(redis, producer.queue)
            if recorded and recorded.dead_letter_queue not in ("", dead_letter_queue):
                why = f'those of the queue lie under the name "{recorded.dead_letter_queue}"'
                raise _Failed(layout.other_name(recorded.dead_letter_queue, dead_letter_queue, why))
            letters.watch(1 + max(partition for partition, _ in await ledgers.partitions()))
            return await work(letters)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(connected())
    except (_Failed, NotRunning) as error:
        output.say(str(error))
    except UNREACHABLE as error:
        output.say(f"Redis does not answer as it should ({type(error).__name__}); check REDIS_URL")
    except StoreError as error:
        output.say(f"the store does not do it ({str(error)[:300]}); what is not purged stays")
    return 1


def _ask(question: str) -> None:
    """Errors: Abort, also where nobody can see the question; Unwritten."""
    try:
        with output.told():
            click.confirm(question, abort=True)
    except BrokenPipeError:
        raise click.Abort from None


def _as_it_came(content: bytes) -> None:
    output.is_terminal()  # or it is closed; where it is one, too, the bytes are what was asked for
    with output.told_or_enough():
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


async def _find(letters: DeadLetters, address: str) -> Found:
    try:
        found = await letters.find(address)
    except ValueError as error:
        raise _Failed(f"{printable(address)} {error}") from error
    if found is None:
        raise _Failed(f"there is no dead letter {address}; `eventbunker dead list` shows them")
    return found


async def _all(letters: DeadLetters, wanted: Wanted, limit: int | None) -> AsyncIterator[Found]:
    cursor, number = "", 0
    while True:
        page = await letters.page(wanted, cursor, LETTERS_A_BATCH)
        for found in page.found:
            if number == limit:
                return
            number += 1
            yield found
        cursor = page.cursor
        if not cursor:
            return


async def _batches(letters: DeadLetters, chosen: Chosen) -> AsyncIterator[list[Found]]:
    """The chosen letters. Named ones are all looked up first: a misspelt id must change nothing."""
    batch = [await _find(letters, address) for address in dict.fromkeys(chosen.ids)]
    if not chosen.ids:
        async for found in _all(letters, chosen.wanted, chosen.limit):
            batch.append(found)
            if len(batch) == LETTERS_A_BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _line(columns: tuple[str, str, str, str, str], width: int) -> str:
    address, moment, project, size, reason = columns
    line = f"{address:<{ID_WIDTH}}  {moment:<19}  {project:<32}  {size:>7}  {reason}"
    return line[: max(width, 40)]


def _moment(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
