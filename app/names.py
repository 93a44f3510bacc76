"""The distinct event names and field paths of each project: known in memory, admitted in Redis.

An event whose names are all known costs no Redis call; one with a new name costs one, once; and when a
project's places are all taken, new names are refused from memory. The caps are enforced by one script for
all edges together. A deleted name is forgotten by every edge through the registry's changes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import registry_scripts as scripts
from app.errors import ApiError, Kind, Problem
from app.redis_client import UNREACHABLE
from app.single_flight import SingleFlight

KINDS = ("event_name", "field_path")
MAX_PROJECTS = 1000  # in the memory of one process; the least recently used goes
MAX_NOTED_NAMES = 100_000  # in shapes of events between two flushes; beyond, last use is a little older
REFUSAL_SECONDS = 1.0  # a flood of refused names must not become a Redis call each
MAX_REFUSALS, MAX_REFUSED_NAMES = 10_000, 50_000  # remembered at once, and the names in all of them
MAX_REMEMBERED = 300  # names of one of them: an event's; a batch may bring thousands
CALL_SECONDS = 2.0
MAX_CALLS = 16  # at once, of each kind; the connection pool has 100 for everybody


class KnownNames(msgspec.Struct):
    """What one project has admitted, as far as this process knows: a subset of the truth.

    `loaded_at`: monotonic seconds at which it was the whole truth.
    """

    event_names: set[str]
    field_paths: set[str]
    loaded_at: float = float("-inf")


class Refused(msgspec.Struct, frozen=True):
    """What found no place. Both empty: everything was admitted; otherwise nothing was."""

    event_names: frozenset[str] = frozenset()
    field_paths: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.event_names or self.field_paths)


def refusals(refused: Refused, event_names: Iterable[str], field_paths: Iterable[str]) -> list[Problem]:
    """What to say of an event that has these names, of which some found no place."""
    problems = [
        Problem(
            "$.event_name",
            f"{name} is new and the project already has its maximum of distinct event names; "
            "delete unused ones with /v1/manage/name/delete",
        )
        for name in sorted(refused.event_names.intersection(event_names))
    ]
    problems += [
        Problem(
            f"$.{path}",
            "the field is new and the project already has its maximum of distinct fields; "
            "delete unused ones with /v1/manage/name/delete",
        )
        for path in sorted(refused.field_paths.intersection(field_paths))
    ]
    return problems


class _Shape(msgspec.Struct, frozen=True):
    """What one event needs places for."""

    project_id: str
    event_names: tuple[str, ...]
    field_paths: tuple[str, ...]


class _Refusals:
    """The refusals of the last second, for one process. Bounded by their names: one may hold hundreds."""

    def __init__(self) -> None:
        self._found: dict[_Shape, tuple[float, Refused]] = {}
        self._names = 0

    def get(self, shape: _Shape, now: float) -> Refused:
        """What is remembered, or nothing refused."""
        until, refused = self._found.get(shape, (0.0, Refused()))
        return refused if until > now else Refused()

    def add(self, shape: _Shape, refused: Refused) -> None:
        names = _count(shape)
        if names > MAX_REMEMBERED:
            return
        if len(self._found) >= MAX_REFUSALS or self._names + names > MAX_REFUSED_NAMES:
            self.clear()
        if shape not in self._found:
            self._names += names
        self._found[shape] = (time.monotonic() + REFUSAL_SECONDS, refused)

    def forget(self, project_id: str) -> None:
        for shape in [shape for shape in self._found if shape.project_id == project_id]:
            del self._found[shape]
            self._names -= _count(shape)

    def clear(self) -> None:
        self._found.clear()
        self._names = 0


def _count(shape: _Shape) -> int:
    return len(shape.event_names) + len(shape.field_paths)


class Names:
    """The names of all projects, for one process."""

    def __init__(self, redis: Redis, max_event_names: int, max_field_paths: int) -> None:
        self._redis = redis
        self._caps = (max_event_names, max_field_paths)
        self._generation = 0  # how often names were forgotten
        self._known: OrderedDict[str, KnownNames] = OrderedDict()
        self._uses: set[tuple[str, str, tuple[str, ...]]] = set()
        self._noted = 0  # names in them
        self._refusals = _Refusals()
        self._loads: SingleFlight[str, KnownNames] = SingleFlight(MAX_CALLS)
        self._admissions: SingleFlight[_Shape, Refused] = SingleFlight(MAX_CALLS)
        self._admit = redis.register_script(scripts.ADMIT_NAMES)
        self._touch = redis.register_script(scripts.TOUCH_NAMES)
        self._delete = redis.register_script(scripts.DELETE_NAMES)

    def known(self, project_id: str) -> KnownNames | None:
        """From memory only; None where `load` must be called first."""
        known = self._known.get(project_id)
        if known is not None:
            self._known.move_to_end(project_id)
        return known

    async def load(self, project_id: str) -> KnownNames:
        """Read a project's names from Redis. Errors: ApiError 503."""
        try:
            return await self._loads.do(project_id, CALL_SECONDS, lambda: self._load(project_id))
        except UNREACHABLE:
            raise _unavailable() from None

    async def _load(self, project_id: str) -> KnownNames:
        generation, asked = self._generation, time.monotonic()
        event_names, field_paths = [
            {
                name.decode()
                for name in cast("list[bytes]", await self._redis.hkeys(scripts.names(project_id, kind)))
            }
            for kind in KINDS
        ]
        known = KnownNames(event_names, field_paths, asked)
        if self._generation == generation:  # otherwise a deletion may have come between
            self._known[project_id] = known
            self._known.move_to_end(project_id)
            if len(self._known) > MAX_PROJECTS:
                self._known.popitem(last=False)
        return known

    async def admit(self, project_id: str, event_names: Iterable[str], field_paths: Iterable[str]) -> Refused:
        """Give a place to all of these names, or to none and say which found none: the last of them.

        A refusal may be up to REFUSAL_SECONDS old.
        Errors: ApiError 503 when Redis does not answer, 401 when the project is gone.
        """
        known = self._known.get(project_id) or await self.load(project_id)
        shape = _Shape(
            project_id,
            tuple(name for name in dict.fromkeys(event_names) if name not in known.event_names),
            tuple(path for path in dict.fromkeys(field_paths) if path not in known.field_paths),
        )
        if not shape.event_names and not shape.field_paths:
            return Refused()
        refused = self._never_fits(shape) or self._refused_before(shape, known)
        if refused:
            return refused
        try:
            return await self._admissions.do(shape, CALL_SECONDS, lambda: self._ask(shape, known))
        except UNREACHABLE:
            raise _unavailable() from None

    def _never_fits(self, shape: _Shape) -> Refused:
        """What is beyond all places there are: a batch may bring hundreds of thousands of names."""
        names, paths = self._caps
        return Refused(frozenset(shape.event_names[names:]), frozenset(shape.field_paths[paths:]))

    def _refused_before(self, shape: _Shape, known: KnownNames) -> Refused:
        """What is certain to be refused, without asking."""
        now = time.monotonic()
        if now - known.loaded_at <= REFUSAL_SECONDS:
            # All places are taken and all who took them are known, so a new name can only be refused.
            full = [len(known.event_names) >= self._caps[0], len(known.field_paths) >= self._caps[1]]
            refused = Refused(
                frozenset(shape.event_names if full[0] else ()),
                frozenset(shape.field_paths if full[1] else ()),
            )
            if refused:
                return refused
        return self._refusals.get(shape, now)

    async def _ask(self, shape: _Shape, known: KnownNames) -> Refused:
        """Let Redis decide, and remember its answer."""
        names, paths = shape.event_names, shape.field_paths
        generation = self._generation
        places = await self._admit(
            keys=[
                scripts.project(shape.project_id),
                *(scripts.names(shape.project_id, kind) for kind in KINDS),
            ],
            args=[int(time.time()), *self._caps, len(names), *names, *paths],
        )
        if places == [-1]:
            raise ApiError(Kind.INVALID_WRITE_KEY, "The key's project was deleted.")
        if not places:
            if self._generation == generation:
                known.event_names.update(names)
                known.field_paths.update(paths)
            return Refused()
        new = [*names, *paths]
        over = [int(place) - 1 for place in places]
        refused = Refused(
            frozenset(new[place] for place in over if place < len(names)),
            frozenset(new[place] for place in over if place >= len(names)),
        )
        self._refusals.add(shape, refused)
        if time.monotonic() - known.loaded_at > REFUSAL_SECONDS:
            await self.load(shape.project_id)  # the next refusals need no call
        return refused

    def touch(self, project_id: str, event_name: str, field_paths: tuple[str, ...]) -> None:
        """Note a use; `flush` tells Redis later. Cheap: it runs for every event."""
        use = (project_id, event_name, field_paths)
        if self._noted < MAX_NOTED_NAMES and use not in self._uses:
            self._uses.add(use)
            self._noted += 1 + len(field_paths)

    async def flush(self) -> None:
        """Write the noted uses. Errors: redis_client.UNREACHABLE; the next events note them anew."""
        uses, self._uses, self._noted = self._uses, set(), 0
        used: dict[str, set[str]] = {}
        for project_id, event_name, field_paths in uses:
            used.setdefault(scripts.names(project_id, "event_name"), set()).add(event_name)
            used.setdefault(scripts.names(project_id, "field_path"), set()).update(field_paths)
        now = int(time.time())
        for key, names in used.items():
            for some in _slices(sorted(names), 1000):
                await self._touch(keys=[key], args=[part for name in some for part in (name, now)])

    def forget(self, project_id: str | None) -> None:
        """Forget one project's names, or all of them."""
        self._generation += 1
        if project_id is None:
            self._refusals.clear()
            self._known.clear()
        else:
            self._known.pop(project_id, None)
            self._refusals.forget(project_id)

    async def list(self, project_id: str, kind: str) -> dict[str, int]:
        """Name -> last use (Unix seconds, up to a few seconds behind)."""
        found = cast("dict[bytes, bytes]", await self._redis.hgetall(scripts.names(project_id, kind)))
        return {name.decode(): int(used) for name, used in sorted(found.items())}

    async def delete(self, project_id: str, event_names: Sequence[str], field_paths: Sequence[str]) -> int:
        """Free the places of these names and return how many were in use."""
        freed = await self._delete(
            keys=[scripts.names(project_id, kind) for kind in KINDS],
            args=[project_id, len(event_names), *event_names, *field_paths],
        )
        self.forget(project_id)
        return int(freed)


def _slices(items: list[str], size: int) -> Iterable[list[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _unavailable() -> ApiError:
    return ApiError(
        Kind.UNAVAILABLE, "New names cannot be checked now; nothing was kept.", retry_after_seconds=1
    )
