"""One round of erasing: rows that tombstones mean leave the store, and the ledger follows exactly.

    1. choose      ids of the rows into the table `erasing`, under the round's number
    2. count       by project and hour; which partition's ledger gives how many up: written to Redis
    3. delete      ids, fates, rows; until a count finds none of the chosen
    4. move        stored -> erased, in each partition's ledger, once for the round's number
    5. tell        tombstones that chose nothing: the store holds no row of theirs any more

One round ends before the next begins, whoever carries it out: it is written down in Redis, and whoever finds
it there after a crash goes on with it. Until its counts are written (2) it begins anew, under another number,
so that what a former owner may still choose belongs to no round; from then on each step may be repeated.
Nothing can be added to what the tombstones mean: `workers.marks` has said so before the round began.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec
import structlog
from redis.asyncio import Redis

from app import erasure_scripts as scripts
from app import ledger, tombstone
from app.ledger import ERASED
from app.ledger_reader import LedgerReader
from app.scope import Erased
from app.store import Store, StoreRefused, StoreUnavailable, Value
from app.tombstone import Tombstone
from workers import erase_sql as sql
from workers.erase_sql import Choice

ROWS_A_ROUND = 1_000_000  # their ids are a set in the engine's memory
ROUND_ERASURES = 1000
Which = Mapping[str, Value]

log = structlog.get_logger()


class Round(msgspec.Struct, frozen=True):
    """`erasures`: id -> project. `moves`: partition -> bucket -> events; None until they are counted."""

    number: int
    erasures: dict[str, str]
    moves: dict[str, dict[str, int]] | None = None
    clean: list[str] = []


class Overtaken(Exception):
    """Another process has gone on with the round."""


_ENCODE = msgspec.json.Encoder(order="deterministic").encode
decode_round = msgspec.json.Decoder(Round).decode


class Rounds:
    """Carries rounds out. Methods raise redis_client.UNREACHABLE, StoreError and Overtaken."""

    def __init__(self, redis: Redis, store: Store, reader: LedgerReader) -> None:
        self._redis = redis
        self._store = store
        self._reader = reader
        self._swap = redis.register_script(scripts.SWAP)
        self.refused: set[str] = set()  # erasures of the last round whose rows the store did not choose

    async def unfinished(self) -> Round | None:
        """The round that somebody began."""
        payload = await self._redis.get(scripts.ROUND)
        return None if payload is None else decode_round(payload)

    async def begin(self, erasures: Mapping[str, str]) -> Round:
        """A round for these erasures: id -> project."""
        some = dict(list(erasures.items())[:ROUND_ERASURES])
        made = Round(int(await self._redis.incr(scripts.ROUNDS)), some)
        await self._replace(None, made)
        return made

    async def carry_out(self, made: Round) -> Round:
        """To its end. In what is returned, `clean` are the erasures of which the store holds no row."""
        if made.moves is None:
            chosen = msgspec.structs.replace(made, number=int(await self._redis.incr(scripts.ROUNDS)))
            await self._replace(made, chosen)
            counted = await self._choose(chosen)
            await self._replace(chosen, counted)
            made = counted
        if len(made.clean) < len(made.erasures):
            await self._delete(made)
            await self._move(made)
        await self._forget_ids(made.number)
        await self._replace(made, None)
        return made

    async def _forget_ids(self, number: int) -> None:
        """Those of this round, and what a former owner chose too late; never those of a later round."""
        sql = "SELECT DISTINCT round FROM erasing WHERE round <= {round:UInt64}"
        for (former,) in (await self._store.ask(sql, {"round": number})).rows:
            await self._store.command(f"ALTER TABLE erasing DROP PARTITION {int(str(former))}")

    async def _replace(self, old: Round | None, new: Round | None) -> None:
        arguments = [b"" if one is None else _ENCODE(one) for one in (old, new)]
        if not int(await self._swap(keys=[scripts.ROUND], args=arguments)):
            raise Overtaken

    async def _choose(self, made: Round) -> Round:
        ones, done = await self._tombstones(made)
        left = ROWS_A_ROUND
        complete: set[str] = set()
        self.refused = set()
        for choice in sql.choices(ones):
            if left <= 0:  # the rest is for the next round
                break
            which: Which = {"round": made.number, "project": choice.project_id, "limit": left}
            try:
                for statement in self._statements(choice):
                    await self._store.command(statement, which, timeout_seconds=sql.SECONDS)
            except StoreRefused as error:
                # Too much for it, or a bug of ours: the erasures of everybody else must not wait for that.
                log.error("rows cannot be chosen", erasures=choice.ids[:20], reason=error.brief)
                self.refused.update(choice.ids)
                continue
            left = ROWS_A_ROUND - sum((await self._found(made)).values())
            if left > 0:  # else it may have been cut, and which of its erasures has rows left is not known
                complete.update(choice.ids)
        projects = sorted(set(made.erasures.values()))
        copies: Which = {"round": made.number, "projects": projects}
        await self._store.command(sql.COPIES, copies, timeout_seconds=sql.SECONDS)
        found = await self._found(made)
        clean = [one for one in made.erasures if one in done or (one in complete and not found[one])]
        rows = await self._store.ask(sql.HOURS, {"round": made.number}, timeout_seconds=sql.SECONDS)
        hours = {(str(p), int(str(hour))): int(str(number)) for p, hour, number in rows.rows}
        return msgspec.structs.replace(made, moves=await self._allocate(hours), clean=clean)

    async def _tombstones(self, made: Round) -> tuple[list[tuple[Tombstone, Erased]], set[str]]:
        """Of the round's erasures; and those that have none any more."""
        found, done = [], set()
        by_project: dict[str, list[str]] = defaultdict(list)
        for erasure_id, project_id in made.erasures.items():
            by_project[project_id].append(erasure_id)
        for project_id, ids in by_project.items():
            payloads = await self._redis.hmget(scripts.hidden(project_id), ids)
            for erasure_id, payload in zip(ids, payloads, strict=True):
                if payload is None:
                    done.add(erasure_id)
                else:
                    found.append((tombstone.decode(payload), tombstone.to_erased(payload)))
        return found, done

    def _statements(self, choice: Choice) -> Sequence[str]:
        return (choice.rows(), choice.fates()) if choice.is_of_customers else (choice.rows(),)

    async def _found(self, made: Round) -> dict[str, int]:
        """Rows by erasure, those of fates too; copies, which have none, are not counted."""
        rows = (await self._store.ask(sql.FOUND, {"round": made.number}, timeout_seconds=sql.SECONDS)).rows
        found: dict[str, int] = defaultdict(int)
        for erasure_id, _, number in rows:
            if erasure_id:
                found[str(erasure_id)] += int(str(number))
        return found

    async def _allocate(self, hours: Mapping[tuple[str, int], int]) -> dict[str, dict[str, int]]:
        """Which partition gives up how many of each bucket. Rows do not tell through which they came."""
        moves: dict[str, dict[str, int]] = {}
        left = {
            ledger.bucket(project, hour * ledger.HOUR_MS): number for (project, hour), number in hours.items()
        }
        projects = {project for project, _ in hours}
        for partition, mover in (await self._reader.movers_by_partition()).items():
            stored: dict[str, int] = {}
            for project_id in projects:
                stored |= await mover.stored(project_id)
            own: dict[str, int] = defaultdict(int)
            for where, wanted in left.items():
                for bucket in ledger.places(where):
                    if some := min(wanted - own.get(where, 0), stored.get(bucket, 0)):
                        stored[bucket] -= some
                        own[where] += some
            left = {where: wanted - own.get(where, 0) for where, wanted in left.items()}
            moves[str(partition)] = own
        if missing := sum(left.values()):
            log.error("rows are erased that the ledger does not know as stored", rows=missing)
        return moves

    async def _delete(self, made: Round) -> None:
        which: Which = {"round": made.number, "projects": sorted(set(made.erasures.values()))}
        await self._store.command(sql.REMEMBER, which, timeout_seconds=sql.SECONDS)
        for statement in sql.DELETIONS:
            await self._store.command(statement, which, timeout_seconds=sql.SECONDS)
        left = await self._store.ask(sql.LEFT, which, timeout_seconds=sql.SECONDS)
        if left.rows != [[0]]:  # the deletion was killed: somebody begins this step again
            raise StoreUnavailable("rows that were deleted are still there")

    async def _move(self, made: Round) -> None:
        movers = await self._reader.movers_by_partition()
        began = time.monotonic()
        for partition, moves in (made.moves or {}).items():
            await movers[int(partition)].move_some(made.number, moves, ERASED)
        total = sum(sum(moves.values()) for moves in (made.moves or {}).values())
        seconds = round(time.monotonic() - began, 3)
        log.info("rows erased", round=made.number, rows=total, erasures=len(made.erasures), seconds=seconds)
