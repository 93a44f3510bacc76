"""What is known of imports: how far each one came, so that running it again goes on there, once.

The hash `imports` of the queue has an `Entry` for each, by its incarnation: the name under which APPEND knows
it (`app.stream_scripts`). A list bounds it. An import is known again by what its content begins with:

1. A new import's incarnation is a digest of its scope (project, format, mapping, --again) and first piece.
2. Before a piece is appended its end, the digest of everything up to there, and which of its rows are left
   out, are written here (`save`).
3. Running it again finds the entry whose `first` mark the content has, passes over everything up to `before`,
   and sends the piece from there to `last` once more, the same rows of it under the same id: if it was
   appended, APPEND knows.
4. A new import that APPEND knows was forgotten here. Nobody can tell how far it came: it is refused.
5. What was damaged may begin otherwise when it is mended, and its name is all that it is known by then: under
   that name nothing else is imported, until somebody says --again.

A piece holds whole rows, one at least. A row that was cut off, and empty lines alone, begin and end none: all
that they begin with would be taken for the rest of them.

So content is believed to be in only if a digest says so, whatever its file is called or packed with; a run
that was killed at any line goes on exactly; and two runs at once cannot double: the second takes the entry
over, and the first fails at its next `save`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from datetime import UTC, datetime

import msgspec
from redis.asyncio import Redis

from app.stream import QueueKeys
from workers.import_content import InputError, Mark, Source

MAX_ENTRIES = 10_000  # imports that are remembered; the one that got on longest ago goes first

# Compare and set, safe to repeat. KEYS: imports, order.
# ARGV: incarnation, the entry as it must be ("" for none), the new one, how many to remember.
# -> 1, 0 when the entry is another
SAVE = """
local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now == ARGV[3] then return 1 end
if now ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('LREM', KEYS[2], -1, ARGV[1])
redis.call('RPUSH', KEYS[2], ARGV[1])
if redis.call('LLEN', KEYS[2]) > tonumber(ARGV[4]) then
  redis.call('HDEL', KEYS[1], redis.call('LPOP', KEYS[2]))
end
return 1
"""


class Reached(msgspec.Struct, frozen=True):
    """A mark, and what the rows before it were."""

    mark: Mark
    accepted: int = 0
    rejected: int = 0

    @property
    def rows(self) -> int:
        return self.accepted + self.rejected


class Entry(msgspec.Struct, frozen=True):
    """One import. Everything up to `before` is appended; the piece up to `last` is, or may be.

    `sequence` is that piece's, divided among `shards` partitions; `left_out` are the lines of its rows that
    were rejected, until the import is complete. `run` is drawn by the run that has the entry now. `family` is
    the scope whatever --again says; "" in an entry of an older version. Times are Unix milliseconds.
    """

    scope: str
    source: str
    first: Mark
    before: Reached
    last: Reached
    sequence: int
    shards: int
    run: str
    began: int
    is_complete: bool = False
    left_out: tuple[int, ...] = ()
    family: str = ""
    is_damaged: bool = False

    @property
    def date(self) -> str:
        """For people: when it began."""
        return datetime.fromtimestamp(self.began / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


class _Foreign(msgspec.Struct):
    """What an entry of any version tells."""

    scope: str
    first: Mark


class TakenOver(Exception):
    """Another run works on this import now."""


class Journal:
    """The entries of one scope, for one run. Methods raise redis_client.UNREACHABLE when Redis is."""

    def __init__(self, redis: Redis, queue: str, project_id: str, identity: bytes, again: str) -> None:
        keys = QueueKeys(queue)
        self._redis = redis
        self._keys = [keys.imports, f"{keys.imports}:order"]
        self._save = redis.register_script(SAVE)
        self._scope, self._family = (
            hashlib.sha256(msgspec.json.encode([project_id, identity.decode(), name])).hexdigest()
            for name in (again, "")
        )
        self._run = os.urandom(8).hex()
        self._stored = b""
        self._foreign: list[Mark] = []  # where imports begin that another version has written down
        self._relatives: list[Entry] = []  # what may have been imported from the same names before
        self.incarnation = ""
        self.entry: Entry | None = None

    async def candidates(self) -> list[tuple[bytes, bytes, Entry]]:
        """The entries of this scope: incarnation, entry as it is stored, entry."""
        found, self._foreign, self._relatives = [], [], []
        async for incarnation, payload in self._redis.hscan_iter(self._keys[0], count=1000):
            try:
                entry = msgspec.json.decode(payload, type=Entry)
            except msgspec.DecodeError:
                with contextlib.suppress(msgspec.DecodeError):
                    foreign = msgspec.json.decode(payload, type=_Foreign)
                    if foreign.scope == self._scope:
                        self._foreign.append(foreign.first)
                continue
            if entry.scope == self._scope:
                found.append((incarnation, payload, entry))
            # Another --again of the same content is asked for on purpose; without one, all of them count.
            if self._scope in {entry.scope, entry.family}:
                self._relatives.append(entry)
        return found

    def recognise(
        self, source: Source, name: str, candidates: list[tuple[bytes, bytes, Entry]]
    ) -> Entry | None:
        """The entry of this very content, as far as its first piece tells. Takes nothing from `source`.

        Errors: InputError when only another version knows how far it came, and when it may be what was
        damaged.
        """
        if any(source.digest_at(first.position) == first.digest for first in self._foreign):
            raise InputError(
                "this was imported by another version of eventbunker, and this one cannot read how far that "
                "came: run that version again, or import all of it as new rows with --again NAME"
            )
        found = [
            (entry.last.mark.position, incarnation, payload, entry)
            for incarnation, payload, entry in candidates
            if source.digest_at(entry.first.position) == entry.first.digest
        ]
        if not found:
            self._refuse_mended(source, name)
            return None
        _, incarnation, self._stored, self.entry = max(found, key=lambda one: one[:2])
        self.incarnation = incarnation.decode()
        return self.entry

    def former(self, name: str) -> list[Entry]:
        """What was imported from this name before, the newest last."""
        return sorted((one for one in self._relatives if one.source == name[:500]), key=lambda one: one.began)

    def _refuse_mended(self, source: Source, name: str) -> None:
        """Errors: InputError if this may be what was damaged, mended.

        It is not any more where --again has been said since, and not of this content.
        """
        former = self.former(name)
        damaged = [one for one in former if one.is_damaged]
        if damaged and (
            former[-1].is_damaged
            or any(source.digest_at(one.first.position) == one.first.digest for one in former)
        ):
            raise InputError(
                f"what was imported from {name} {damaged[-1].date} was damaged, up to row "
                f"{damaged[-1].last.rows:,}, and this begins with other rows. If it is the mended file, rows "
                "of it are in already, beside damaged ones. Nothing was imported now. --again NAME imports "
                "all of it as new rows; if it is another file, so does another file name"
            )

    def begin(self, first: Mark) -> str:
        """The incarnation of an import that no entry tells of."""
        digest = hashlib.sha256(f"{self._scope} {first.digest}".encode()).hexdigest()
        self.incarnation = f"import-{digest[:32]}"
        return self.incarnation

    async def is_written(self) -> bool:
        """Is there an entry of this incarnation by now?"""
        return bool(await self._redis.hexists(self._keys[0], self.incarnation))

    def next(
        self, name: str, before: Reached, last: Reached, shards: int, left_out: tuple[int, ...]
    ) -> Entry:
        """The entry with the piece from `before` to `last`, the first or another; `save` writes it."""
        if self.entry is not None:
            sequence = self.entry.sequence + 1
            return msgspec.structs.replace(
                self.entry,
                before=before,
                last=last,
                sequence=sequence,
                shards=shards,
                run=self._run,
                is_complete=False,
                left_out=left_out,
            )
        now = time.time_ns() // 1_000_000
        return Entry(
            *(self._scope, name[:500], last.mark, before, last, 1, shards, self._run, now, False, left_out),
            family=self._family,
        )

    def repeated(self, entry: Entry) -> Entry:
        """`entry` as this run takes it over, to send its last piece again under the same id."""
        return msgspec.structs.replace(entry, run=self._run)

    def completed(self, entry: Entry) -> Entry:
        """`entry` when nothing is under way any more."""
        return msgspec.structs.replace(entry, is_complete=True, left_out=(), is_damaged=False)

    def damaged(self, entry: Entry) -> Entry:
        """`entry` when its content is known to be."""
        return msgspec.structs.replace(entry, is_damaged=True)

    async def save(self, entry: Entry) -> None:
        """Write `entry` in place of the last one. Safe to repeat. Errors: TakenOver."""
        payload = msgspec.json.encode(entry)
        args: list[str | bytes | int] = [self.incarnation, self._stored, payload, MAX_ENTRIES]
        if not int(await self._save(keys=self._keys, args=args)):
            raise TakenOver
        self._stored, self.entry = payload, entry
