"""Who is at work on a queue: each drain and each edge says so with a beat, and hears of the others.

A beat is one script (`app.presence_scripts`): it registers, compares the number of partitions, and answers
with everybody alive in the order in which they joined. Who stops says so; who dies is forgotten a few
seconds later. `workers.sharing` divides the partitions among the drains by it; edges beat so that the number
of partitions is not changed under them, and that the groups in their spools are known.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import cast

import msgspec
import structlog
from redis.asyncio import Redis

from app import layout as layouts
from app import presence_scripts as scripts
from app import redis_client
from app.layout import WAIT_SECONDS, Expected, Layout, LayoutError, mismatch
from app.redis_client import UNREACHABLE
from app.redis_clock import Ahead, learn
from app.stream import QueueKeys, Role
from app.stream_scripts import with_oom_allowed

EDGE_BEAT_SECONDS = 1.0
EDGE_LIFE_SECONDS = 5.0
DISK_SECONDS = 1.0
START_SECONDS = 2.0  # an edge that starts while Redis is away learns later whether its number is right

log = structlog.get_logger()


class Replaced(Exception):
    """Another process has registered under this id: it has the place now."""


class View(msgspec.Struct, frozen=True):
    """What a beat answers. `members` are the ids of everybody alive, who joined first first."""

    layout: Layout
    members: list[str]


class Member(msgspec.Struct, frozen=True):
    """One process, as `shards` shows it. `dead_ms` is 0 while it is alive.

    `ahead`: of its clock before Redis's. `told_ms`: when it said so last, by Redis's clock: an edge that died
    has told nobody what it spooled after that. An import has no spool.
    """

    id: str
    place: str
    spooled: int
    dead_ms: int
    ahead: Ahead
    told_ms: int
    has_spool: bool = True


class _About(msgspec.Struct):
    place: str
    spooled: int
    ahead: float = 0
    most: float | None = None  # absent, like `told`, in what an edge of a former version said
    at: float = 0
    told: float | None = None
    spools: int = 1


class Presence:
    """The beats of one process. `id` is unique among the living; `place` names the disk with its spool.

    `spooled`: groups there, None for a process without a spool. `disk`: what tells that disk from others
    wherever it is mounted (`app.spool_slot.disk_id`); "" where that is not known.
    """

    def __init__(
        self,
        redis: Redis,
        expected: Expected,
        role: Role,
        *,
        id: str,
        place: str,
        life_seconds: float,
        redis_version: tuple[int, int],
        spooled: Callable[[], int] | None = None,
        disk: str = "",
    ) -> None:
        keys = QueueKeys(expected.queue)
        self.id = id
        self._keys = keys.alive(role)
        self._layout = keys.layout
        self._redis = redis
        self._redis_version = redis_version
        self._expected = expected
        self._life_ms = int(life_seconds * 1000)
        self._has_spool = spooled is not None
        self._disk = disk
        self._spooled = spooled or (lambda: 0)
        self._place = place
        self._incarnation = os.urandom(8).hex()
        self._joined = 0
        self._is_first = True
        self._ahead: Ahead | None = None
        self._beat = redis.register_script(with_oom_allowed(scripts.BEAT, redis_version))
        self._leave = redis.register_script(with_oom_allowed(scripts.LEAVE, redis_version))

    async def beat(self) -> View | None:
        """Say that this process is alive. None while somebody changes the number of partitions, or when the
        name of the dead letters was changed to ours just now: beat again.

        Errors: LayoutError; Replaced; redis_client.UNREACHABLE.
        """
        asked_ms = _now_ms()
        if self._ahead is None:
            seconds, microseconds = await self._redis.time()
            self._ahead = learn(None, asked_ms, int(seconds) * 1000 + int(microseconds) // 1000, _now_ms())
            asked_ms = _now_ms()
        answer = cast(
            "list[bytes]",
            await self._beat(
                keys=[*self._keys, self._layout],
                args=[
                    *(self.id, self._incarnation, self._life_ms, int(self._is_first)),
                    *(self._expected.shards, self._place, self._spooled(), self._joined),
                    *(self._ahead.least, self._ahead.most, asked_ms - self._ahead.most),
                    *(int(self._has_spool), self._disk, self._expected.dead_letter_queue),
                ],
            ),
        )
        verdict, *rest = (one.decode() for one in answer)
        if verdict == "changing":
            return None
        if verdict == "replaced":
            raise Replaced
        if verdict == "renamed":
            await layouts.rename(self._redis, self._expected, rest[0], self._redis_version)
            return None
        layout = Layout(int(rest[0]), int(rest[1]))
        if verdict == "other":
            raise LayoutError(mismatch(layout.shards, self._expected.shards))
        self._ahead = learn(self._ahead, asked_ms, int(rest[2]), _now_ms())
        joined = {id: int(at) for id, at in zip(rest[3::2], rest[4::2], strict=True)}
        self._is_first = False
        self._joined = joined[self.id]
        return View(layout, sorted(joined, key=lambda id: (joined[id], id)))

    def take_another_id(self, id: str) -> None:
        """Go on under a name that nobody else has; joins anew."""
        self.id, self._joined, self._is_first = id, 0, True

    async def leave(self) -> None:
        """Be gone at once. Errors: redis_client.UNREACHABLE; then it takes a few seconds."""
        await self._leave(keys=self._keys, args=[self.id, self._incarnation, self._spooled()])


async def listed(redis: Redis, queue: str, role: Role) -> list[Member]:
    """Everybody of `role` that is alive, or has left groups in a spool, or may have. Errors: UNREACHABLE."""
    rows = cast("list[bytes]", await redis.eval(scripts.LIST, 2, *QueueKeys(queue).alive(role)))
    found = []
    for id, about, dead_ms in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        said = msgspec.json.decode(about, type=_About)
        ahead = Ahead(int(said.ahead), int(said.ahead if said.most is None else said.most))
        told_ms = int(said.at if said.told is None else said.told)
        where = (id.decode(), said.place, said.spooled, int(dead_ms))
        found.append(Member(*where, ahead, told_ms, bool(said.spools)))
    return found


async def clocks(redis: Redis, queue: str) -> Ahead:
    """Between which bounds the clocks of edges, and Redis's own, are ahead of Redis's. Errors: UNREACHABLE.

    Of every edge that is listed: one that looks dead may be at work, if Redis was away and its next beat is
    still to come; and what is in the spool of one that is dead was recorded by its clock.
    """
    edges = [one.ahead for one in await listed(redis, queue, "edge")]
    return Ahead(min([0, *(one.least for one in edges)]), max([0, *(one.most for one in edges)]))


async def forget_dead(redis: Redis, queue: str, role: Role) -> None:
    """Strike off whoever is dead, whatever their spools held: for a disk that never comes back."""
    members, about = QueueKeys(queue).alive(role)
    for member in await listed(redis, queue, role):
        if member.dead_ms:
            await redis.zrem(members, member.id)
            await redis.hdel(about, member.id)


class EdgePresence:
    """An edge's beats, from the start of its lifespan to its end.

    `spooled` counts the groups in the spool at `place` that nobody else alive counts: those of this process
    and of slots without an owner; None without a spool. `disk` names that disk. `on_layout` hears how many
    partitions there are. `on_foreign` is called once if the number was changed under this edge, which then
    must end: it knows the wrong partitions.
    """

    def __init__(
        self,
        redis: Redis,
        expected: Expected,
        *,
        place: str,
        spooled: Callable[[], int] | None = None,
        disk: Callable[[], str] = lambda: "",
        on_layout: Callable[[Layout], None] = lambda _: None,
        on_foreign: Callable[[], None] = lambda: None,
    ) -> None:
        self._redis = redis
        self._expected = expected
        self._place = place
        self._spooled = spooled
        self._disk = disk
        self._on_layout = on_layout
        self._on_foreign = on_foreign
        self._presence: Presence | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_known = asyncio.Event()
        self._problem: LayoutError | None = None

    async def start(self) -> None:
        """Begin to beat, and wait for the first answer if Redis gives one soon. Errors: LayoutError."""
        self._task = asyncio.create_task(self._run())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await self._is_known.wait()
        if self._problem is not None:
            raise self._problem

    async def close(self) -> None:
        """Be gone at once, if Redis can be told within a second."""
        if self._task is not None:
            await redis_client.stop_tasks(self._task)
        if self._presence is not None:
            with contextlib.suppress(*UNREACHABLE):
                async with asyncio.timeout(1):
                    await self._presence.leave()

    async def _run(self) -> None:
        version = await redis_client.wait_for_version(self._redis, asyncio.Event())
        self._presence = Presence(
            self._redis,
            self._expected,
            "edge",
            id=f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}",
            place=self._place,
            life_seconds=EDGE_LIFE_SECONDS,
            redis_version=version,
            spooled=self._spooled,
            disk=await self._disk_id(),
        )
        while self._problem is None:
            try:
                await self._beat(self._presence)
            except UNREACHABLE:
                pass  # whoever sees no beat takes this edge for dead, and is right as far as Redis goes
            except Exception as error:  # beats that have ended would make a living edge look dead for ever
                log.error("a beat failed unexpectedly", error=type(error).__name__)
            await asyncio.sleep(EDGE_BEAT_SECONDS if self._is_known.is_set() else WAIT_SECONDS)

    async def _disk_id(self) -> str:
        """ "" while the disk does not answer: then the place alone tells whose spool is whose."""
        try:
            async with asyncio.timeout(DISK_SECONDS):
                return await asyncio.to_thread(self._disk)
        except OSError as error:  # a time-out is one too
            log.warning("the disk of the spool cannot be told from others", error=str(error))
            return ""

    async def _beat(self, presence: Presence) -> None:
        try:
            view = await presence.beat()
        except LayoutError as error:
            self._problem, self._expected.problem = error, str(error)
            if self._is_known.is_set():
                log.error("the edge stops", reason=str(error))
                self._on_foreign()
            self._is_known.set()
            return
        if view is not None:  # else somebody changes the number: wait for it
            self._on_layout(view.layout)
            self._is_known.set()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
