"""What Redis remembers of imports: the verdict on the piece under way, and what follows when it forgets one."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from redis.asyncio import Redis

from app import redis_client
from app.errors import Problem
from app.registry_scripts import names
from app.stream import Keys, QueueKeys
from app.stream_scripts import APPEND, MAX_PRODUCERS
from tests.import_kit import Desk, Dies, dying, expected, one_run
from workers.import_content import Chunk, InputError, Mark, Unreadable
from workers.import_journal import Journal, TakenOver
from workers.import_pieces import NO_PLACE, judge_again

T = TypeVar("T")
IMPORTS = QueueKeys("events").imports


@pytest.fixture
def desk(tmp_path: Path, redis_url: str) -> Desk:
    return Desk(tmp_path, redis_url)


def rows(number: int, kind: str = "e") -> bytes:
    return b"".join(b'{"event_name":"%s","n":%d}\n' % (kind.encode(), n) for n in range(number))


def in_redis(desk: Desk, ask: Callable[[Redis], Awaitable[T]]) -> T:
    async def run() -> T:
        redis = redis_client.connect(desk.settings)
        try:
            return await ask(redis)
        finally:
            await redis.aclose()

    return asyncio.run(run())


def entries_of(desk: Desk) -> dict[str, dict[str, Any]]:
    """The journal: incarnation -> entry."""
    found = in_redis(desk, lambda redis: cast("Awaitable[dict[bytes, bytes]]", redis.hgetall(IMPORTS)))
    return {name.decode(): json.loads(payload) for name, payload in found.items()}


def forget(desk: Desk) -> None:
    """What 10,000 other imports do."""
    in_redis(desk, lambda redis: redis.delete(IMPORTS, f"{IMPORTS}:order"))


def with_limits(desk: Desk, limits: str) -> Desk:
    """The same project after deploy.toml was changed."""
    other = Desk(desk.directory, desk.environ["REDIS_URL"], f"[limits]\n{limits}\n")
    other.project_id, other.environ = desk.project_id, desk.environ
    return other


NAMES = ("max_field_paths = 3", "max_field_paths = 100")
SIZES = ("max_event_bytes = 2048", "max_event_bytes = 65536")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("limits", "left_out"), [(NAMES, [4]), (NAMES[::-1], []), (SIZES, [5]), (SIZES[::-1], [])]
)
def test_a_piece_that_is_sent_again_holds_the_same_rows_whatever_the_limits_are_by_now(
    tmp_path: Path, redis_url: str, when: str, limits: tuple[str, str], left_out: list[int]
) -> None:
    """APPEND passes over what it knows: what counts as accepted must be what was appended."""
    desk = Desk(tmp_path, redis_url, f"[limits]\n{limits[0]}\n")
    content = rows(10).splitlines()
    content[0] = b'{"event_name":"e","n":0,"pad":""}'
    content[3] = b'{"event_name":"e","n":3,"zz":1,"yy":1,"xx":1}'
    content[4] = b'{"event_name":"e","n":4,"pad":"%s"}' % (b"x" * 3000)
    path = desk.directory / "a.ndjson"
    path.write_bytes(b"\n".join(content) + b"\n")
    with pytest.raises(Dies):
        asyncio.run(one_run(desk, path, dying(when, 1)))
    said = path.with_suffix(".rejected")
    reasons = said.read_bytes() if left_out else b""
    assert next(iter(entries_of(desk).values()))["left_out"] == left_out
    named = [names(desk.project_id, kind) for kind in ("event_name", "field_path")]
    in_redis(desk, lambda redis: redis.delete(*named))  # an operator makes room
    changed = with_limits(desk, limits[1])
    summary = asyncio.run(one_run(changed, path))
    assert (summary.accepted, summary.rejected) == (10 - len(left_out), len(left_out))
    stored = [line for number, line in enumerate(content, 1) if number not in left_out]
    assert desk.bodies() == Counter(stored)
    assert (said.read_bytes() if said.exists() else b"") == reasons
    assert next(iter(entries_of(desk).values()))["left_out"] == [], "nothing is under way any more"


def test_a_verdict_that_is_repeated_has_reasons_or_says_that_it_has_none() -> None:
    bodies: list[bytes | Unreadable] = [b'{"event_name":"%d"}' % n for n in range(4)]
    bodies.append(Unreadable("no CSV", b"x"))
    chunk = Chunk(bodies, range(1, 6), Mark(9, 6, "d"))
    piece = judge_again(chunk, 65_536, {2: [Problem("$.a", "once")], 3: [], 5: []})
    assert [line for line, _, _ in piece.rows] == [1, 4]
    assert [(one.line, one.problems[0].message, one.body) for one in piece.rejected] == [
        (2, "once", b'{"event_name":"1"}'),
        (3, NO_PLACE, b'{"event_name":"2"}'),
        (5, "no CSV", b"x"),
    ]
    with pytest.raises(InputError, match=r"an earlier run took line 5: .*no CSV.* --again NAME"):
        judge_again(chunk, 65_536, {})


def test_an_import_that_is_no_longer_remembered_is_refused_and_loses_nothing(desk: Desk) -> None:
    """Its pieces would be passed over, though they are cut differently by now."""
    path = desk.directory / "a.ndjson"
    path.write_bytes(rows(5000))  # as many as a piece may have
    asyncio.run(one_run(desk, path))
    for number in (5010, 5020):
        path.write_bytes(rows(number))
        asyncio.run(one_run(desk, path, grown=True))
    forget(desk)
    path.write_bytes(rows(10_000))
    for _ in range(2):
        with pytest.raises(InputError, match=r"no longer remembered .* --again NAME imports all of it"):
            asyncio.run(one_run(desk, path))
    assert desk.bodies() == expected(rows(5020))
    assert asyncio.run(one_run(desk, path, again="x")).accepted == 10_000
    assert desk.bodies() == expected(rows(5020)) + expected(rows(10_000))


def test_it_is_looked_for_in_every_partition_there_ever_was(desk: Desk) -> None:
    path = desk.directory / "a.ndjson"
    path.write_bytes(rows(10))
    asyncio.run(one_run(desk, path))
    (name,) = entries_of(desk)
    forget(desk)

    async def move(redis: Redis) -> None:
        await redis.hset(QueueKeys("events").layout, mapping={"shards": 1, "most": 3})
        assert await redis.rename(Keys("events", 0).imports, Keys("events", 2).imports)
        assert await redis.hexists(Keys("events", 2).imports, name)

    in_redis(desk, move)
    with pytest.raises(InputError, match="no longer remembered"):
        asyncio.run(one_run(desk, path))
    assert desk.bodies() == expected(rows(10))


def test_of_two_runs_that_begin_at_once_the_one_that_comes_late_is_not_told_of_long_ago(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = desk.directory / "a.ndjson"
    path.write_bytes(rows(10))
    asyncio.run(one_run(desk, path))

    async def none(_: Journal) -> list[Any]:
        return []  # as it was before the other one began

    monkeypatch.setattr(Journal, "candidates", none)
    with pytest.raises(TakenOver):
        asyncio.run(one_run(desk, path))
    assert desk.bodies() == expected(rows(10))


def test_the_import_that_got_on_longest_ago_is_forgotten_first(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.import_journal.MAX_ENTRIES", 2)
    paths = {name: desk.directory / f"{name}.ndjson" for name in "abc"}
    for name in "ab":
        paths[name].write_bytes(rows(10, name))
        asyncio.run(one_run(desk, paths[name]))
    paths["a"].write_bytes(rows(12, "a"))
    asyncio.run(one_run(desk, paths["a"], grown=True))
    paths["c"].write_bytes(rows(10, "c"))
    asyncio.run(one_run(desk, paths["c"]))
    assert asyncio.run(one_run(desk, paths["a"])).already_in == 12
    with pytest.raises(InputError, match="no longer remembered"):
        asyncio.run(one_run(desk, paths["b"]))


def test_imports_do_not_displace_edges_and_are_bounded_by_themselves(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.producer.APPEND", APPEND.replace(str(MAX_PRODUCERS), "3"))
    path, keys = desk.directory / "a.ndjson", Keys("events", 0)
    for name in "abcde":
        path.write_bytes(rows(1, name))
        asyncio.run(one_run(desk, path))

    async def look(redis: Redis) -> tuple[int, int, int]:
        return (
            await redis.hlen(keys.imports),
            await redis.llen(keys.imports_order),
            int(await redis.exists(keys.producers, keys.producers_order)),
        )

    assert in_redis(desk, look) == (3, 3, 0)


def test_an_entry_of_another_version_is_passed_over_or_refused(desk: Desk) -> None:
    path = desk.directory / "a.ndjson"
    path.write_bytes(rows(10))
    asyncio.run(one_run(desk, path))
    ((name, entry),) = entries_of(desk).items()
    del entry["sequence"]

    async def rewrite(redis: Redis) -> None:
        strange = {name: json.dumps(entry), "x": b"\xff", "y": b'{"version":9}', "z": b"[]"}
        await redis.hset(IMPORTS, mapping=cast("dict[Any, Any]", strange))

    in_redis(desk, rewrite)
    refused = desk.run(str(path))
    assert (refused.code, "by another version of eventbunker" in refused.said["reason"]) == (2, True)
    path.write_bytes(rows(10, "other"))
    assert desk.run(str(path)).said["accepted"] == 10
    assert desk.bodies() == expected(rows(10)) + expected(rows(10, "other"))
