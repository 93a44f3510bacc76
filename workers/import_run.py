"""`eventbunker import`: one run, from the key to the last row. What an earlier one did is `import_journal`'s.

    a thread reads, unpacks, parses and validates the next piece   import_formats, import_pieces
    meanwhile this one counts names, writes what is refused,       app.names, import_rejects
    writes down where the piece ends,                              import_journal
    and appends it                                                 import_queue

How it is started and what it says at the end is `workers.import_main`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import msgspec

from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from app.registry import Registry
from workers.import_content import InputError
from workers.import_formats import Opened
from workers.import_journal import Entry, Journal, Reached, TakenOver
from workers.import_options import Options
from workers.import_pieces import Piece, judge, judge_again
from workers.import_progress import Progress
from workers.import_queue import GaveUp, ImportQueue, Place, Stopped
from workers.import_reader import in_thread
from workers.import_rejects import Rejects

WORTHLESS_ROWS = 100  # so many at the beginning, and not one an event: it is the wrong format or mapping
FULL = "the project has its maximum"

T = TypeVar("T")


class Refusal(Exception):
    """--strict: a row was rejected. It and those behind it are not in; the message names it."""


class Summary(msgspec.Struct):
    """How it went. `rows`, `accepted` and `rejected` are of all rows up to where it is, by whichever run;
    `already_in` is how many of them an earlier run did. `undated`: this run's events without a timestamp."""

    state: str = "unfinished"
    rows: int = 0
    accepted: int = 0
    rejected: int = 0
    already_in: int = 0
    undated: int = 0
    reason: str = ""
    note: str = ""


class Import:
    """One run over one opened source."""

    def __init__(
        self,
        opened: Opened,
        name: str,
        options: Options,
        summary: Summary,
        *,
        max_event_bytes: int,
        rejects: Rejects,
        progress: Progress,
        stop: asyncio.Event,
    ) -> None:
        self.summary = summary  # filled in as it goes: an error leaves it with what was done
        self._opened = opened
        self._source = opened.source
        self._name = name
        self._options = options
        self._max_event_bytes = max_event_bytes
        self._rejects = rejects
        self._progress = progress
        self._stop = stop
        self._reached = Reached(opened.source.mark)

    @property
    def _is_damaged(self) -> bool:
        """Is the content known to be? Not of Parquet, which is another file when it is mended."""
        return bool(self._source.advice) and self._opened.format != "parquet"

    async def dry_run(self) -> tuple[int, int]:
        """Validate everything, keep nothing. Returns the numbers of distinct event names and fields."""
        self._rejects.check()
        names: set[str] = set()
        fields: set[str] = set()
        async for piece in self._pieces():
            self._set_aside(piece)
            for name, paths in piece.shapes():
                names.add(name)
                fields.update(paths)
            self._count(self._behind(piece, self._reached), piece)
        return len(names), len(fields)

    async def run(self, journal: Journal, queue: ImportQueue, registry: Registry, secret: str) -> None:
        """Import everything that is not in yet.

        Errors: InputError, Refusal, Stopped, GaveUp, TakenOver, ApiError.
        """
        self._journal, self._queue, self._registry, self._secret = journal, queue, registry, secret
        self._rejects.check()
        candidates = await queue.insist(journal.candidates)
        entry = await self._unless_stopped(
            in_thread(lambda: journal.recognise(self._source, self._name, candidates))
        )
        self._reached = Reached(self._source.mark)
        if entry is not None:
            await self._go_on(entry)
        elif former := [one for _, _, one in candidates if one.source == self._name]:
            self.summary.note = (
                f"taken for a new file: what was imported from {self._name} {former[-1].date} begins "
                "with other rows"
            )
        try:
            await self._send_rest(entry)
        finally:  # who stops it is told of the damage, too, and to come back with the mended file
            if self._is_damaged and journal.entry is not None and not journal.entry.is_complete:
                damaged = journal.damaged(journal.entry)
                await queue.insist(lambda: journal.save(damaged))
        if not self._source.problem and journal.entry is not None and not journal.entry.is_complete:
            complete = journal.completed(journal.entry)
            await queue.insist(lambda: journal.save(complete))

    async def _send_rest(self, entry: Entry | None) -> None:
        """What follows the rows that are in. `entry`: of the earlier run, if there was one."""
        async for piece in self._pieces():
            # Empty lines, or what is no whole row yet: other content would be known by it.
            if not piece.size or piece.end.position == self._reached.mark.position:
                self._set_aside(piece)
                self._count(self._behind(piece, self._reached), piece)
                continue
            if entry is not None and entry.is_complete and not self._options.grown:
                raise InputError(
                    f"{self._name} begins with the {self._reached.rows:,} rows of an import that is "
                    f"complete (of {entry.date}, from {entry.source}), and has more. --grown imports what is "
                    "new; --again NAME imports all of it as new rows"
                )
            await self._send(piece)
            if self._stop.is_set():
                raise Stopped

    async def _go_on(self, entry: Entry) -> None:
        """Pass over what is in, and send the last piece again, which may not be."""
        before, last = entry.before, entry.last
        self._progress.say(f"known: its import began {entry.date}; passing over what is in")
        await self._unless_stopped(in_thread(lambda: self._source.skip_to(before.mark.position)))
        chunk = None
        if self._source.mark.digest == before.mark.digest:
            chunk = await self._unless_stopped(in_thread(lambda: self._source.read(last.mark.position)))
        if chunk is None or chunk.end.digest != last.mark.digest:
            raise InputError(
                f"{self._name} begins with rows that were imported {entry.date} from {entry.source}, "
                f"but is not the same up to row {last.rows:,}, as far as that import came. Nothing was "
                "imported now. --again NAME imports all of it as new rows, whatever was imported before"
            )
        self._reached = last if entry.is_complete else before
        self.summary.already_in = self._reached.rows
        reasons = self._rejects.go_on(self._reached.mark.line, last.mark.line)
        self._count(self._reached, None)
        if not entry.is_complete:
            left_out = {line: reasons.get(line, []) for line in entry.left_out}
            await self._send(judge_again(chunk, self._max_event_bytes, left_out), entry)

    async def _pieces(self) -> AsyncIterator[Piece]:
        """Piece after piece; the next one is read while one is at work. Errors: Stopped, InputError."""
        ahead = self._read_ahead()
        try:
            while (piece := await self._unless_stopped(ahead)) is not None:
                if not self._reached.rows and not piece.rows and len(piece.rejected) >= WORTHLESS_ROWS:
                    raise InputError(
                        f"not one of the first {len(piece.rejected):,} rows is an event; "
                        f"{piece.rejected[0].reasons}. Is the format right, and is a mapping missing "
                        "(--event-name, --rename)?"
                    )
                ahead = self._read_ahead()
                yield piece
        finally:
            ahead.cancel()

    def _read_ahead(self) -> asyncio.Task[Piece | None]:
        task = asyncio.create_task(in_thread(lambda: self._read(None)))
        # It may never be waited for.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def _read(self, until: int | None) -> Piece | None:
        chunk = self._source.read(until)
        return None if chunk is None else judge(chunk, self._max_event_bytes)

    async def _send(self, piece: Piece, repeats: Entry | None = None) -> None:
        """Everything that happens to one piece, in an order in which any line may be the last one.

        `repeats`: the entry of an earlier run, which may have appended it. Then names are not asked for
        again: another answer would make it another piece.
        """
        grant = await self._authorise()
        if repeats is None:
            if self._journal.entry is None:
                await self._begin(piece)
            await self._admit(grant, piece)
        self._set_aside(piece)
        reached = self._behind(piece, self._reached)
        if repeats is None:
            left_out = tuple(one.line for one in piece.rejected)
            entry = self._journal.next(self._name, self._reached, reached, self._queue.shards, left_out)
        else:
            entry = self._journal.repeated(repeats)
        if self._is_damaged:  # at once: it may be the last line
            entry = self._journal.damaged(entry)
        await self._queue.insist(lambda: self._journal.save(entry))
        place = Place(self._journal.incarnation, entry.sequence, entry.shards)
        await self._queue.append(piece, place, grant.project_id, grant.customer_identifier or "")
        for name, paths in piece.shapes():
            self._registry.names.touch(grant.project_id, name, paths)
        self._count(reached, piece)

    async def _begin(self, first: Piece) -> None:
        """The import gets its name. Errors: InputError, if it had it before; TakenOver, GaveUp, Stopped."""
        if not await self._queue.knows(self._journal.begin(first.end)):
            return
        if await self._queue.insist(self._journal.is_written):  # since we looked: another run began with it
            raise TakenOver
        raise InputError(
            f"{self._name} was imported before, but so many others since that it is no longer remembered how "
            "far that came. Nothing was imported now. --again NAME imports all of it as new rows"
        )

    async def _authorise(self) -> Grant:
        """The key may be revoked or expire while a long import runs. Errors: ApiError 401, GaveUp."""
        if grant := self._registry.cached(self._secret, KeyType.WRITE):
            return grant
        return await self._patiently(lambda: self._registry.authorise(self._secret, KeyType.WRITE))

    async def _admit(self, grant: Grant, piece: Piece) -> None:
        """Count new names against the project's caps; events that carry one without a place are set aside."""
        names, project_id = self._registry.names, grant.project_id
        while True:
            known = names.known(project_id)
            if known is None:
                known = await self._patiently(lambda: names.load(project_id))
            shapes = piece.shapes()
            new_names = [name for name, _ in shapes if name not in known.event_names]
            new_paths = [path for _, paths in shapes for path in paths if path not in known.field_paths]
            if not new_names and not new_paths:
                return
            refused = await self._patiently(partial(names.admit, project_id, new_names, new_paths))
            if not refused:
                return
            piece.refuse(refused, FULL)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Waits where a handler would answer 503. Errors: GaveUp, ApiError."""

        async def ask() -> T:
            try:
                return await call()
            except ApiError as error:
                if error.kind is Kind.UNAVAILABLE:
                    raise TimeoutError from None
                raise

        return await self._queue.insist(ask)

    def _set_aside(self, piece: Piece) -> None:
        if self._options.strict and piece.rejected:
            raise Refusal(piece.rejected[0].reasons)
        try:
            self._rejects.write(piece.rejected)
        except InputError as error:  # a full disk, say: what came before is in, and it can go on
            raise GaveUp(str(error)) from None

    def _behind(self, piece: Piece, before: Reached) -> Reached:
        return Reached(piece.end, before.accepted + len(piece.rows), before.rejected + len(piece.rejected))

    def _count(self, reached: Reached, piece: Piece | None) -> None:
        self._reached = reached
        summary = self.summary
        summary.rows, summary.accepted, summary.rejected = reached.rows, reached.accepted, reached.rejected
        if piece is not None:
            summary.undated += sum(event.event_time is None for _, _, event in piece.rows)
        self._progress.show(self._opened.bytes_read, summary.rows, summary.rejected)

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """The result of `work`, which is left alone as soon as somebody wants to stop. Errors: Stopped."""
        task, stop = asyncio.ensure_future(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                task.cancel()
                raise Stopped
            return await task
        finally:
            stop.cancel()
