"""What drains do beside draining so that erased events are gone: rounds, and then the proof.

One process at a time, for as long as it renews its place; another takes it over after a crash. Two at once
would do each step twice, which changes nothing (`workers.erase_round`). Deleted projects: `workers.erase`.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

import structlog
from redis.asyncio import Redis

from app import erasure_scripts as scripts
from app import metrics, registry_scripts
from app.erasure_report import Open, decode_open
from app.ledger_reader import LedgerReader
from app.store import Store
from app.tombstone import KEPT_DAYS
from workers.chores import repeat
from workers.erase_letters import Letters
from workers.erase_proof import Proof
from workers.erase_round import Overtaken, Round, Rounds
from workers.marks import Mark, Marks
from workers.tombstones import Tombstones

LOOK_SECONDS = 0.5
POSTPONED_SECONDS = 10.0
ROUND_SECONDS = 20.0  # between two rounds: erasures that come meanwhile share one mutation
PROOF_SECONDS = 5.0
TRIM_SECONDS = 3600.0
PLACE_MS = 60_000
STAGES = ("hidden", "clean", "closing")

log = structlog.get_logger()


class Eraser:
    """One for each drain process. `proof` and `letters` are its own."""

    def __init__(
        self,
        redis: Redis,
        store: Store,
        reader: LedgerReader,
        tombstones: Tombstones,
        *,
        queue: str,
        owner: str,
        margin_ms: int,
        round_seconds: float = ROUND_SECONDS,
        proof_seconds: float = PROOF_SECONDS,
    ) -> None:
        self._redis = redis
        self._owner = owner
        self._marks = Marks(redis, reader)
        self._rounds = Rounds(redis, store, reader)
        self._letters = Letters(redis, store, reader, tombstones)
        self._proof = Proof(redis, store, self._letters, self._marks, queue, margin_ms=margin_ms)
        self._round_seconds = round_seconds
        self._proof_seconds = proof_seconds
        self._taken: dict[str, Mark] = {}
        self._again: set[str] = set()  # rows of these were deleted: the next round finds none, or goes on
        self._next_round = 0.0
        self._next_proof = 0.0
        self._next_trim = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`; what fails is tried again a little later."""
        await repeat(stop, "erasing", self._look, LOOK_SECONDS, postponed_seconds=POSTPONED_SECONDS)

    async def _look(self) -> None:
        try:
            await self.step()
        except Overtaken:
            log.info("another process erases")

    async def step(self) -> bool:
        """Whatever can be done now. False when nothing is to be done, or another process does it.

        Errors: UNREACHABLE, StoreError, Overtaken, Halted; ValueError for a tombstone of another version.
        """
        if not await self._has_place():
            return False
        if time.monotonic() >= self._next_trim:
            self._next_trim = time.monotonic() + TRIM_SECONDS
            await self.trim()
        erasures = await self._open()
        unfinished = await self._rounds.unfinished()
        if unfinished is not None:
            await self._end(await self._rounds.carry_out(unfinished), erasures)
            erasures = await self._open()
        # Rows of deleted projects go by themselves (`workers.erase`), and are counted there.
        deleted = cast("set[bytes]", await self._redis.smembers(registry_scripts.DELETED))
        hidden = {
            id_: one
            for id_, one in erasures.items()
            if one.stage == "hidden" and one.project_id.encode() not in deleted
        }
        if ready := await self._ready(hidden):
            self._next_round = time.monotonic() + self._round_seconds
            await self._letters.purge([])
            made = await self._rounds.begin({id_: hidden[id_].project_id for id_ in ready})
            await self._end(await self._rounds.carry_out(made), erasures)
            erasures = await self._open()
        if time.monotonic() >= self._next_proof:
            self._next_proof = time.monotonic() + self._proof_seconds
            await self._proof.prove(erasures)
        return bool(erasures)

    async def _has_place(self) -> bool:
        """Is it this process that erases?"""
        if await self._redis.set(scripts.ERASER, self._owner, nx=True, px=PLACE_MS):
            return True
        if await self._redis.get(scripts.ERASER) != self._owner.encode():
            return False
        return bool(await self._redis.pexpire(scripts.ERASER, PLACE_MS))

    async def _open(self) -> dict[str, Open]:
        payloads = cast("dict[bytes, bytes]", await self._redis.hgetall(scripts.OPEN))
        found = {id_.decode(): decode_open(payload) for id_, payload in sorted(payloads.items())}
        for stage in STAGES:
            metrics.ERASURES.labels(stage).set(sum(one.stage == stage for one in found.values()))
        oldest = min((one.up_to_ms for one in found.values()), default=0)
        metrics.ERASURE_AGE_SECONDS.set(max(0.0, time.time() - oldest / 1000) if oldest else 0)
        return found

    async def _ready(self, hidden: dict[str, Open]) -> list[str]:
        """Those of which no row can come any more, if it is time for a round."""
        self._taken = {id_: mark for id_, mark in self._taken.items() if id_ in hidden}
        self._again &= hidden.keys()
        if new := hidden.keys() - self._taken.keys():
            self._taken |= dict.fromkeys(new, await self._marks.take())
        candidates = hidden.keys() if time.monotonic() >= self._next_round else self._again
        left = await self._marks.each_left({id_: self._taken[id_] for id_ in sorted(candidates)})
        return [id_ for id_, number in left.items() if not number]

    async def _end(self, made: Round, erasures: dict[str, Open]) -> None:
        await self._proof.mark_clean({id_: erasures[id_] for id_ in made.clean if id_ in erasures})
        self._again = made.erasures.keys() - set(made.clean) - self._rounds.refused

    async def trim(self) -> None:
        """Forget tombstones that no spool is as old as."""
        oldest_ms = int((time.time() - KEPT_DAYS * 86_400) * 1000)
        await self._redis.xtrim(scripts.LOG, minid=str(oldest_ms))
