"""`eventbunker import`, from its options to its exit code: what it connects to, and what it says at the end.

Exit codes: 0 everything is in; 1 everything but the rejected rows; 2 it cannot be imported like this, and
nothing was; 3 not finished, and running it again goes on. The import itself is `workers.import_run`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import click
import msgspec
import structlog

from app import ledger, redis_client
from app.errors import ApiError, Kind
from app.grant import KeyType
from app.layout import Expected, LayoutError
from app.presence import EdgePresence
from app.redis_client import UNREACHABLE
from app.registry import Registry
from app.settings import Settings
from workers.import_content import EndsTooSoon, InputError, Source
from workers.import_formats import STDIN, Opened, Reading, open_source
from workers.import_journal import Journal, TakenOver
from workers.import_options import Options
from workers.import_progress import Progress
from workers.import_queue import GaveUp, ImportQueue, Stopped
from workers.import_reader import in_thread
from workers.import_rejects import Rejects
from workers.import_run import Import, Refusal, Summary
from workers.output import silence
from workers.printable import printable
from workers.running import NotRunning, find_running

DONE, REJECTED, UNUSABLE, UNFINISHED = range(4)
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Said(msgspec.Struct):
    """What stands in the summary beside the counts. `fates`: of the project's events since the run began."""

    seconds: float = 0.0
    event_names: int | None = None
    fields: int | None = None
    fates: dict[str, int] | None = None


def run(settings: Settings, reading: Reading, secret: str, options: Options) -> int:
    """Import, say how it went, and return the exit code."""
    # What matters is said in other words.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    return _Command(settings, reading, secret, options).run()


class _Command:
    def __init__(self, settings: Settings, reading: Reading, secret: str, options: Options) -> None:
        self._settings = settings
        self._reading = reading
        self._secret = secret
        self._options = options
        # Of standard input in the working directory.
        default = Path(("import" if reading.path == STDIN else reading.path) + ".rejected.ndjson")
        self._rejects = Rejects(options.rejects or default, is_named=options.rejects is not None)
        self._summary = Summary()
        self._said = Said()
        self._broken: Source | None = None  # of which not all could be read

    def run(self) -> int:
        began, summary = time.monotonic(), self._summary
        try:
            code = asyncio.run(self._run())
        except EndsTooSoon as error:
            code, summary.reason = UNFINISHED, str(error)
        except (InputError, LayoutError, NotRunning) as error:
            code, summary.state, summary.reason = UNUSABLE, "unusable", str(error)
        except ApiError as error:
            if error.kind is Kind.UNAVAILABLE:
                code, summary.reason = UNFINISHED, "Redis does not answer; check REDIS_URL"
            else:
                code, summary.state, summary.reason = (
                    UNUSABLE,
                    "unusable",
                    f"{error.row.error}. {error.detail}",
                )
        except Refusal as error:
            code, summary.state, summary.reason = UNFINISHED, "rejected", str(error)
        except (GaveUp, Stopped) as error:
            code, summary.reason = UNFINISHED, str(error) or "stopped"
        except TakenOver:
            code, summary.reason = UNFINISHED, "another run of this import has taken over"
        except UNREACHABLE as error:
            code = UNFINISHED
            summary.reason = f"Redis does not answer ({type(error).__name__}); check REDIS_URL"
        try:
            self._rejects.close()
        except InputError as error:  # what ended it before is the first thing to mend
            if code in {DONE, REJECTED}:
                code, summary.reason = UNFINISHED, str(error)
                if not self._options.dry_run:
                    summary.reason += (
                        " and --dry-run, which lists them all; another run lists no row that was in"
                    )
        if code == UNFINISHED and summary.state == "queued":  # only its wait for queries was cut short
            if self._broken is not None:
                summary.reason += f"; and {self._break_off(self._broken)}"
            else:
                summary.reason += (
                    ". Every accepted row is in the stream; queries have them when the drain has stored them"
                )
        self._said.seconds = round(time.monotonic() - began, 3)
        self._report()
        return code

    async def _run(self) -> int:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop.set)
        max_bytes = self._settings.limits.max_event_bytes
        # While FILE is a pipe that nobody writes to, only a signal ends the wait.
        opening = asyncio.create_task(in_thread(lambda: open_source(self._reading, max_bytes)))
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({opening, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            raise Stopped
        opened = await opening
        progress = Progress(None if self._options.quiet else sys.stderr, opened.input.total)
        one = Import(
            opened,
            self._reading.name,
            self._options,
            self._summary,
            max_event_bytes=max_bytes,
            rejects=self._rejects,
            progress=progress,
            stop=stop,
        )
        try:
            if self._options.dry_run:
                self._said.event_names, self._said.fields = await one.dry_run()
                self._summary.state = "valid" if not self._summary.rejected else "rejected"
            else:
                await self._import(one, opened, progress, stop)
        finally:
            self._broken = opened.source if opened.source.problem else None
            progress.end()
            waiting.cancel()
            opened.close()
        if self._broken is not None:
            self._summary.reason = self._break_off(self._broken)
            return UNFINISHED
        return REJECTED if self._summary.rejected else DONE

    def _break_off(self, source: Source) -> str:
        """The input ended before its end. Returns why."""
        self._summary.state = "damaged" if source.advice else "unfinished"
        return source.problem if self._options.dry_run else f"{source.problem}; the rows before that are in"

    async def _import(self, one: Import, opened: Opened, progress: Progress, stop: asyncio.Event) -> None:
        """Registers as an edge does, so that the number of partitions stays while it runs."""
        settings, patience = find_running(self._settings, needs_store=False), self._options.patience_seconds
        producer = settings.producer
        expected = Expected(producer.queue, producer.shards)
        redis = redis_client.connect(settings)
        registry = Registry(redis, settings)
        queue = ImportQueue(redis, settings, expected, patience, stop=stop, say=progress.say)
        is_registered = asyncio.Event()
        presence = EdgePresence(
            redis,
            expected,
            place=f"import:{socket.gethostname()}:{os.getpid()}",  # no edge's: this process knows of no spool
            on_layout=lambda _: is_registered.set(),
        )
        try:
            grant = await registry.authorise(self._secret, KeyType.WRITE)
            await presence.start()
            try:
                async with asyncio.timeout(patience):
                    await is_registered.wait()
            except TimeoutError:
                raise GaveUp("somebody changes the number of partitions, or Redis does not answer") from None
            await registry.start()
            journal = Journal(redis, producer.queue, grant.project_id, opened.identity, self._options.again)
            first_hour = _hour()
            before = await queue.fates(grant.project_id, [first_hour])
            await one.run(journal, queue, registry, self._secret)
            self._summary.state = "queued"
            if self._options.waits:
                await queue.wait_until_stored()
                after = await queue.fates(grant.project_id, range(first_hour, _hour() + 1))
                self._said.fates = dict(after - before)
                self._summary.state = "stored"
        finally:
            await registry.close()
            await presence.close()
            await queue.close()
            with contextlib.suppress(*UNREACHABLE):
                await redis.aclose()

    def _report(self) -> None:
        summary, said, options = self._summary, self._said, self._options
        out, errors = [], []
        if options.as_json:
            found = {
                "file": self._reading.path,
                **msgspec.structs.asdict(summary),
                **msgspec.structs.asdict(said),
            }
            if summary.rejected:
                found["rejects"] = str(self._rejects.path)
            out.append(msgspec.json.encode({k: v for k, v in found.items() if v is not None}).decode())
        else:
            if summary.state != "unusable" or summary.rows != summary.already_in:
                out += _lines(summary, said, str(self._rejects.path), options)
            if summary.reason:
                errors.append(_lines_of(summary.reason))
        if summary.state == "unfinished" and not options.dry_run:
            same = "with the same input" if self._reading.path == STDIN else "to go on"
            errors.append(f"not finished: run the same command again {same}; no row will be doubled")
        if self._broken is not None and self._broken.advice and not options.dry_run:
            errors.append(f"not finished: {self._broken.advice}")
        _say(out, errors)


def _say(out: list[str], errors: list[str]) -> None:
    """What was imported is in, whether that can be said or not: the exit code stays what it is."""
    try:
        if out:
            click.echo("\n".join(out))
    except BrokenPipeError:  # who read it has gone
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        errors.append(f"the summary cannot be written: {error.strerror}")
    try:
        for line in errors:
            click.echo(line, err=True)
    except OSError:
        silence(sys.stderr)


def _lines_of(text: str) -> str:
    """It may cite the file."""
    return "\n".join(map(printable, text.split("\n")))


def _hour() -> int:
    return time.time_ns() // 1_000_000 // ledger.HOUR_MS


def _lines(summary: Summary, said: Said, rejects: str, options: Options) -> list[str]:
    fresh = summary.rows - summary.already_in
    rate = f"{fresh / said.seconds:,.0f} a second" if said.seconds else ""
    verb = "valid" if options.dry_run else "imported"
    lines = [f"{verb:<9} {summary.accepted:,} of {summary.rows:,} rows"]
    if summary.already_in:
        lines.append(f"{'before':<9} {summary.already_in:,} rows were in from an earlier run")
    lines.append(f"{'now':<9} {fresh:,} rows in {said.seconds:,.1f} s, {rate}")
    if summary.rejected:
        lines.append(f"{'rejected':<9} {summary.rejected:,} rows; each with its reason in {rejects}")
    if summary.undated:
        lines.append(
            f"{'undated':<9} {summary.undated:,} rows have no timestamp: their time is that of the import"
        )
    if summary.note:
        lines.append(f"{'note':<9} {printable(summary.note)}")
    if said.event_names is not None:
        lines.append(f"{'names':<9} {said.event_names:,} event names, {said.fields:,} fields")
    if said.fates is not None:
        fates = said.fates
        text = "everything is in queries now"
        if copies := fates.get(ledger.DUPLICATE):
            text += f"; {copies:,} were copies of events with the same event_id"
        if dead := fates.get(ledger.DEAD):
            text += f"; {dead:,} events of this project became dead letters meanwhile: eventbunker dead list"
        lines.append(f"{'stored':<9} {text}")
    return lines
