"""The distinct event names and field paths of each project: known in memory, admitted in Redis.

An event whose names are all known costs no Redis call; one with a new name costs one, once. The caps
(api.md section 3.1) are enforced by one script for all edges together. A deleted name is forgotten by
every edge through the registry's changes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import registry_scripts as scripts
from app.errors import ApiError, Kind

KINDS = ("event_name", "field_path")
MAX_PROJECTS = 1000  # in the memory of one process; the least recently used goes
MAX_NOTED_USES = 10_000  # distinct events shapes between two flushes; beyond, last use is a little older
REFUSAL_SECONDS = 1.0  # a flood of refused names must not become a Redis call each
MAX_REFUSALS = 10_000


class KnownNames(msgspec.Struct):
    """What one project has admitted, as far as this process knows: a subset of the truth."""

    event_names: set[str]
    field_paths: set[str]


class Refused(msgspec.Struct, frozen=True):
    """What found no place. Both empty: everything was admitted; otherwise nothing was."""

    event_names: frozenset[str] = frozenset()
    field_paths: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.event_names or self.field_paths)


class Names:
    """The names of all projects, for one process. `generation` counts the registry's changes seen."""

    def __init__(
        self, redis: Redis, max_event_names: int, max_field_paths: int, generation: Callable[[], int]
    ) -> None:
        self._redis = redis
        self._caps = (max_event_names, max_field_paths)
        self._generation = generation
        self._known: OrderedDict[str, KnownNames] = OrderedDict()
        self._uses: set[tuple[str, str, tuple[str, ...]]] = set()
        self._refusals: dict[tuple[str, str], float] = {}
        self._admit = redis.register_script(scripts.ADMIT_NAMES)
        self._touch = redis.register_script(scripts.TOUCH_NAMES)
        self._delete = redis.register_script(scripts.DELETE_NAMES)

    def known(self, project_id: str) -> KnownNames | None:
        """From memory only; None where `load` must be called first."""
        return self._known.get(project_id)

    async def load(self, project_id: str) -> KnownNames:
        """Read a project's names from Redis. Errors: ApiError 503."""
        generation = self._generation()
        try:
            event_names, field_paths = [
                {
                    name.decode()
                    for name in cast("list[bytes]", await self._redis.hkeys(scripts.names(project_id, kind)))
                }
                for kind in KINDS
            ]
        except (RedisError, OSError, TimeoutError):
            raise _unavailable() from None
        known = KnownNames(event_names, field_paths)
        if self._generation() == generation:  # otherwise a deletion may have come between
            self._known[project_id] = known
            if len(self._known) > MAX_PROJECTS:
                self._known.popitem(last=False)
        return known

    async def admit(self, project_id: str, event_names: Iterable[str], field_paths: Iterable[str]) -> Refused:
        """Give a place to all of these names, or to none and say which found none.

        Errors: ApiError 503 when Redis does not answer, 401 when the project is gone.
        """
        known = self._known.get(project_id) or await self.load(project_id)
        new_names = [name for name in event_names if name not in known.event_names]
        new_paths = [path for path in field_paths if path not in known.field_paths]
        if self._was_refused(project_id, new_names, "event_name"):
            return Refused(event_names=frozenset(new_names))
        now, generation = int(time.time()), self._generation()
        try:
            refused = await self._admit(
                keys=[scripts.project(project_id), *(scripts.names(project_id, kind) for kind in KINDS)],
                args=[now, *self._caps, len(new_names), *new_names, *new_paths],
            )
        except (RedisError, OSError, TimeoutError):
            raise _unavailable() from None
        if refused == [-1]:
            raise ApiError(Kind.INVALID_WRITE_KEY, "The key's project was deleted.")
        if refused:
            return self._refuse(project_id, new_names, new_paths, {int(place) - 1 for place in refused})
        if self._generation() == generation:
            known.event_names.update(new_names)
            known.field_paths.update(new_paths)
        return Refused()

    def _refuse(
        self, project_id: str, new_names: list[str], new_paths: list[str], places: set[int]
    ) -> Refused:
        names = frozenset(name for place, name in enumerate(new_names) if place in places)
        paths = frozenset(path for place, path in enumerate(new_paths, len(new_names)) if place in places)
        if len(self._refusals) >= MAX_REFUSALS:
            self._refusals.clear()
        for name in names:
            self._refusals[project_id, name] = time.monotonic() + REFUSAL_SECONDS
        return Refused(names, paths)

    def _was_refused(self, project_id: str, names: Sequence[str], kind: str) -> bool:
        """Was one of these event names refused a moment ago?"""
        now = time.monotonic()
        return kind == "event_name" and any(
            self._refusals.get((project_id, name), 0.0) > now for name in names
        )

    def touch(self, project_id: str, event_name: str, field_paths: tuple[str, ...]) -> None:
        """Note a use; `flush` tells Redis later. Cheap: it runs for every event."""
        if len(self._uses) < MAX_NOTED_USES:
            self._uses.add((project_id, event_name, field_paths))

    async def flush(self) -> None:
        """Write the noted uses. Errors: RedisError; then they are noted anew with the next events."""
        uses, self._uses = self._uses, set()
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
        self._refusals.clear()
        if project_id is None:
            self._known.clear()
        else:
            self._known.pop(project_id, None)

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
