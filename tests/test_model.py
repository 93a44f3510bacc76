"""Any order of appends, outages, crashes and takeovers against a model of ten lines: what was kept is stored once.

hypothesis chooses the steps; Redis, the spool and the engine are real. The model is the set of what was
answered; whatever happens in between, at the end the store holds exactly that, and the ledger agrees.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.ledger import bucket, count, encode_counts
from app.partition import LeaseLost
from app.producer import Group
from app.spool_format import Frame, encoded_bytes
from app.stream import Record, encode_record, join_group
from tests.append_edge import Edge
from tests.pipeline_kit import Bench, Fault, assert_conserved, bench, make_settings, record
from tests.store_fixture import StoreServer
from workers.drain import PartitionDrain

T = TypeVar("T")
LEASE_MS = 60_000  # no lease runs out by itself: the steps decide who owns
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "8"))


class Killed(Exception):
    """Stands for kill -9 at this line: nothing after it happens."""


async def killed_before(real: Callable[[], Awaitable[None]]) -> None:
    raise Killed


async def killed_after(real: Callable[[], Awaitable[None]]) -> None:
    await real()
    raise Killed


CRASHES: dict[str, Fault] = {"before the insert": killed_before, "after the insert": killed_after}


async def bury(edge: Edge) -> None:
    """What the kernel does for a dead process: close what it had open, change nothing."""
    await edge.appender.close()
    for producer in edge.replayer._producers.values():
        await producer.close()
    edge.spool._thread.shutdown()
    for segment in edge.spool._segments:
        os.close(segment._descriptor)


class Promise(RuleBasedStateMachine):
    """The steps; `kept` is the model."""

    redis_url = ""
    server: StoreServer | None = None

    @initialize()
    def begin(self) -> None:
        self.kept: set[str] = set()  # events without an id of the client's
        self.copies: dict[str, set[str]] = {}  # those with one: exactly one of each set is stored
        self.zombies: list[tuple[asyncio.Event, asyncio.Task[None]]] = []
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        database = f"model_{os.urandom(6).hex()}"
        chosen = make_settings(
            self.directory, self.redis_url, self.server, database, spool={"redis_timeout": 0.5}
        )
        self.stack = contextlib.AsyncExitStack()
        self.made: Bench = self.run(self.stack.enter_async_context(bench(chosen)))
        self.run(self.made.redis.flushall())
        self.edge = self.run(self.new_edge())

    def run(self, work: Awaitable[T]) -> T:
        return self.runner.run(asyncio.wait_for(work, 60))

    async def new_edge(self) -> Edge:
        made = Edge(self.made.settings, self.made.redis)
        assert await made.replayer.open()
        return made

    async def append(self, records: list[Record]) -> None:
        await asyncio.gather(
            *(
                self.edge.appender.append(encode_record(one), bucket(one.project_id, one.time_recorded))
                for one in records
            )
        )
        for one in records:
            where = self.copies.setdefault(one.event_id, set()) if one.event_id else self.kept
            where.add(one.unique_req_id.hex())

    # --- the edge -----------------------------------------------------------------------------------

    @rule(number=st.integers(1, 5))
    def clients_send(self, number: int) -> None:
        self.run(self.append([record() for _ in range(number)]))

    @rule(names=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4))
    def clients_repeat(self, names: list[str]) -> None:
        """The same event, sent again and again under its `event_id`."""
        self.run(self.append([msgspec.structs.replace(record(), event_id=name) for name in names]))

    @rule()
    def redis_takes_nothing_for_a_while(self) -> None:
        self.edge.pressure.reason = "away"

    @rule()
    def redis_is_back(self) -> None:
        self.edge.pressure.reason = ""
        self.run(self.edge.replayer._empty(self.edge.spool))

    @rule(is_kept_by_redis=st.booleans())
    def an_answer_is_lost(self, is_kept_by_redis: bool) -> None:
        """The group goes to the spool under its id, whether or not Redis has it."""

        async def work() -> None:
            one, appender, spool = record(), self.edge.appender, self.edge.spool
            appender._sequence += 1
            counts = encode_counts(count([one])).encode()
            group: Group = (1, counts, join_group([encode_record(one)]))
            sequence, incarnation = appender._sequence, appender._incarnation
            if is_kept_by_redis and not spool.has(0):
                await appender._producer.append(incarnation, sequence, [group], timeout_seconds=5)
            assert spool.reserve(encoded_bytes(len(counts), len(group[2])))
            await spool.write(Frame(incarnation, 0, sequence, 1, 0, counts, group[2]))
            self.kept.add(one.unique_req_id.hex())

        self.run(work())

    @rule()
    def the_edge_is_killed(self) -> None:
        """The kernel lets go of the slot's lock; the next life finds the files."""

        async def work() -> None:
            old = self.edge
            assert old.spool._slot is not None
            old.spool._slot.release()
            self.edge = await self.new_edge()
            await bury(old)

        self.run(work())

    @rule()
    def the_edge_is_killed_between_replay_and_removal(self) -> None:
        async def work() -> None:
            frames = await self.edge.spool.peek()
            for frame in frames:
                await self.edge.replayer._send([frame])

        self.run(work())
        self.the_edge_is_killed()

    # --- drains -------------------------------------------------------------------------------------

    async def new_owner(self) -> PartitionDrain:
        """A restarted drain of the one slot: takes the partition over at once."""
        drain = self.made.drain("slot")
        assert await drain._partition.acquire(LEASE_MS)
        return drain

    @rule()
    def a_drain_works(self) -> None:
        async def work() -> None:
            drain = await self.new_owner()
            await drain._recover()
            await drain._batch()

        self.run(work())

    @rule(where=st.sampled_from(sorted(CRASHES)))
    def a_drain_is_killed(self, where: str) -> None:
        async def work() -> None:
            drain = await self.new_owner()
            self.made.store.faults = [CRASHES[where]]
            with contextlib.suppress(Killed):
                await drain._recover()
                await drain._batch()
            self.made.store.faults = []

        self.run(work())

    @rule(is_done=st.booleans())
    def a_drain_is_killed_around_its_acknowledgement(self, is_done: bool) -> None:
        async def work() -> None:
            drain = await self.new_owner()
            real = drain._partition.acknowledge

            async def stuck(*arguments: object, **named: object) -> None:
                if is_done:
                    await real(*arguments, **named)  # type: ignore[arg-type]
                raise Killed

            drain._partition.acknowledge = stuck  # type: ignore[method-assign]
            with contextlib.suppress(Killed):
                await drain._recover()
                await drain._batch()

        self.run(work())

    @precondition(lambda self: len(self.zombies) < 3)
    @rule()
    def a_drain_falls_asleep_before_its_insert(self) -> None:
        """It has passed its fence; it will wake up with the insert in its hands."""

        async def work() -> None:
            drain = await self.new_owner()
            asleep, wake = asyncio.Event(), asyncio.Event()

            async def sleep(real: Callable[[], Awaitable[None]]) -> None:
                asleep.set()
                await wake.wait()
                await real()

            async def live() -> None:
                with contextlib.suppress(LeaseLost):
                    await drain._recover()
                    await drain._batch()

            self.made.store.faults = [sleep]
            task = asyncio.create_task(live())
            waiting = asyncio.create_task(asleep.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            self.made.store.faults = []
            if asleep.is_set():
                self.zombies.append((wake, task))

        self.run(work())

    @precondition(lambda self: bool(self.zombies))
    @rule()
    def a_sleeper_wakes_up(self) -> None:
        wake, task = self.zombies.pop(0)

        async def work() -> None:
            wake.set()
            await task

        self.run(work())

    # --- the end ------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "made"):
            return
        try:
            self.run(self.finish())
        finally:
            self.run(self.stack.aclose())
            self.runner.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    async def finish(self) -> None:
        """Heal everything, drain, let the last sleepers wake up, and compare."""
        self.edge.pressure.reason = ""
        await self.edge.replayer._empty(self.edge.spool)
        await self.append([record()])
        drain = await self.new_owner()
        await drain._recover()
        while await self.made.redis.xlen(self.made.keys.entries):
            await drain._batch()
        for wake, task in self.zombies:
            wake.set()
            await task
        await self.edge.appender.close()
        await self.edge.replayer.close()
        result = await self.made.store.ask("SELECT lower(hex(unique_req_id)) FROM events")
        stored = [str(row[0]) for row in result.rows]
        assert len(stored) == len(set(stored))
        for event_id, copies in self.copies.items():
            assert len(copies & set(stored)) == 1, event_id
        assert set(stored) - self.kept == set(stored) & set().union(*self.copies.values())
        assert self.kept <= set(stored)
        await assert_conserved(self.made.redis, self.made.keys)
        await self.made.store.command(f"DROP DATABASE {self.made.settings.store.database}")


@pytest.mark.timeout(300)
def test_the_promise_holds_in_any_order_of_steps(redis_url: str, store_server: StoreServer) -> None:
    """Safeguards: all of them; `MODEL_EXAMPLES` sets how many sequences are tried."""
    Promise.redis_url, Promise.server = redis_url, store_server
    run_state_machine_as_test(
        Promise,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
