"""`eventbunker import` cut off at any point and run again: every row once. A real Redis, nobody drains."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from app import redis_client
from app.stream import choose_partition
from tests.import_kit import Desk, Dies, dying, expected, kill, lines, one_run
from tests.redis_fixture import start_redis
from tests.waiting import until


@pytest.fixture
def desk(tmp_path: Path, redis_url: str) -> Desk:
    return Desk(tmp_path, redis_url)


IN_THE_STREAM = "Every accepted row is in the stream; queries have them when the drain has stored them"


def test_killed_again_and_again_every_row_is_there_once(desk: Desk) -> None:
    """Through a pipe, which cannot be rewound: each time more of it was there before the kill."""
    content = lines(range(10_000), 1000)
    for share in (1, 2, 3):
        part = content[: share * len(content) // 4]
        before = sum(desk.bodies().values())
        process = desk.start("-", "--quiet")
        assert process.stdin is not None
        process.stdin.write(part)
        process.stdin.flush()
        until(lambda before=before: sum(desk.bodies().values()) > before, 20, "rows in the stream")  # type: ignore[misc]
        kill(process)
    assert 0 < sum(desk.bodies().values()) < 10_000
    done = desk.run("-", content=content)
    assert done.code == 0, done
    assert desk.bodies() == expected(content)
    assert (done.said["rows"], done.said["accepted"]) == (10_000, 10_000)
    assert done.said["already_in"] > 2000
    again = desk.run("-", content=gzip.compress(content))
    assert (again.code, again.said["already_in"]) == (0, 10_000), "packed or not, it is the same content"
    assert desk.bodies() == expected(content)


def test_a_signal_ends_it_after_the_piece_in_hand(desk: Desk) -> None:
    content = lines(range(4000), 1000)
    for number in (signal.SIGINT, signal.SIGTERM):
        before = sum(desk.bodies().values())
        process = desk.start("-")
        assert process.stdin is not None
        process.stdin.write(content[: len(content) // 2] if number is signal.SIGINT else content)
        process.stdin.flush()
        until(lambda before=before: sum(desk.bodies().values()) > before, 20, "rows in the stream")  # type: ignore[misc]
        code, errors = kill(process, number)
        assert (code, "run the same command again" in errors) == (3, True), errors
    assert desk.run("-", content=content).code == 0
    assert desk.bodies() == expected(content)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", [1, 3])
def test_a_death_between_any_two_steps_costs_nothing(
    tmp_path: Path, redis_url: str, shards: int, when: str, at: int
) -> None:
    """The end of a piece is written down before it is appended; both ways of dying in between are exact."""
    desk = Desk(tmp_path, redis_url, f'[[queues.producers]]\nbinding = "E"\nshards = {shards}\n')
    content = lines(range(12_000), 100)[:-1].replace(b'"n":7,', b'"n":[],"n":7,')
    path = desk.directory / "a.ndjson"
    path.write_bytes(content)
    with pytest.raises(Dies):
        asyncio.run(one_run(desk, path, dying(when, at)))
    summary = asyncio.run(one_run(desk, path))
    assert (summary.rows, summary.accepted, summary.rejected) == (12_000, 11_999, 1)
    assert desk.bodies() == expected(content) - Counter([content.splitlines()[7]])
    rejected = path.with_suffix(".rejected").read_bytes().splitlines()
    assert [json.loads(line)["line"] for line in rejected] == [8], "and no row is listed twice"


@pytest.mark.parametrize("when", ["before", "after"])
def test_content_that_grows_while_it_is_down(desk: Desk, when: str) -> None:
    """The piece that was in hand is cut where it was cut before, however much follows it now."""
    path = desk.directory / "a.ndjson"
    path.write_bytes(lines(range(6000)))
    with pytest.raises(Dies):
        asyncio.run(one_run(desk, path, dying(when, 2)))
    path.write_bytes(lines(range(12_000)))
    assert asyncio.run(one_run(desk, path)).accepted == 12_000
    assert desk.bodies() == expected(lines(range(12_000)))


def test_the_number_of_partitions_changes_between_two_runs(tmp_path: Path, redis_url: str) -> None:
    """The last piece is sent again to the partitions that may have it, whatever takes events now."""
    deploy = '[[queues.producers]]\nbinding = "E"\nshards = {}\n'
    desk = Desk(tmp_path, redis_url, deploy.format(2))
    content = b"".join(b'{"event_name":"e","event_id":"i%d"}\n' % n for n in range(12_000))
    path = desk.directory / "a.ndjson"
    path.write_bytes(content)
    with pytest.raises(Dies):
        asyncio.run(one_run(desk, path, dying("after", 2)))
    other = Desk(tmp_path, redis_url, deploy.format(3))
    other.project_id, other.environ = desk.project_id, desk.environ

    async def change() -> None:
        redis = redis_client.connect(desk.settings)
        await redis.hset("eb:{events}:layout", mapping={"shards": 3, "most": 3})
        await redis.aclose()

    asyncio.run(change())
    assert asyncio.run(one_run(other, path)).accepted == 12_000
    assert other.bodies() == expected(content)


def test_two_runs_at_once_double_nothing(desk: Desk) -> None:
    """The second takes over, and the first ends at its next piece."""
    content = lines(range(6000), 1000)
    path = desk.directory / "a.ndjson"
    path.write_bytes(content)
    first = desk.start("-", "--quiet", "--no-wait")
    assert first.stdin is not None
    first.stdin.write(content[: len(content) // 2])
    first.stdin.flush()
    until(lambda: sum(desk.bodies().values()), 20, "rows in the stream")
    assert desk.run(str(path)).code == 0
    _, errors = first.communicate(content[len(content) // 2 :], 30)
    assert (first.returncode, b"another run of this import has taken over" in errors) == (3, True), errors
    assert desk.bodies() == expected(content)


def test_a_file_that_changed_is_never_doubled_in_silence(desk: Desk) -> None:
    path = desk.directory / "a.ndjson"
    content = lines(range(10))
    path.write_bytes(content)
    assert desk.run(str(path)).said["accepted"] == 10
    path.write_bytes(content + lines(range(10, 15)) + b'{"event_name":')
    refused = desk.run(str(path))
    assert (refused.code, "has more. --grown imports what is new" in refused.said["reason"]) == (2, True)
    assert sum(desk.bodies().values()) == 10
    grown = desk.run(str(path), "--grown")
    assert (grown.code, grown.said["rows"], grown.said["already_in"]) == (0, 15, 10)
    path.write_bytes(content + lines(range(10, 17)))
    assert desk.run(str(path), "--grown").said["rows"] == 17, "its last line was not finished before"
    path.write_bytes(content + lines(range(20, 37)))
    changed = desk.run(str(path))
    assert (changed.code, "is not the same up to row 17" in changed.said["reason"]) == (2, True)
    assert desk.bodies() == expected(lines(range(17)))
    path.write_bytes(lines(range(1, 5)))
    other = desk.run(str(path))
    assert (other.code, "taken for a new file" in other.said["note"]) == (0, True)
    assert desk.run(str(path), "--again", "on purpose").said["accepted"] == 4
    assert desk.run(str(path), "--again", "on purpose").said["already_in"] == 4
    assert sum(desk.bodies().values()) == 17 + 8


def test_a_file_that_broke_off_goes_on_when_it_is_whole(desk: Desk) -> None:
    content = lines(range(3000), 100)
    packed = gzip.compress(content, 0)
    cut = desk.run("-", content=packed[: len(packed) // 2])
    assert (cut.code, cut.said["state"]) == (3, "unfinished")
    assert "the gzip data ends in the middle" in cut.said["reason"]
    assert 1000 < sum(desk.bodies().values()) < 2000
    assert desk.run("-", content=packed).code == 0
    assert desk.bodies() == expected(content)


def test_partitions(tmp_path: Path, redis_url: str) -> None:
    """Copies of one event_id meet in one partition, as the edges' do; another number is refused."""
    desk = Desk(tmp_path, redis_url, '[[queues.producers]]\nbinding = "E"\nshards = 4\n')
    path = tmp_path / "a.ndjson"
    path.write_bytes(
        b"".join(b'{"event_name":"e","event_id":"i%d"}\n' % n for n in range(5000)) + lines(range(500))
    )
    assert desk.run(str(path)).code == 0
    assert desk.run(str(path)).said["already_in"] == 5500
    records = asyncio.run(desk.records())
    assert sum(map(len, records.values())) == 5500
    for number, part in records.items():
        named = [json.loads(one.body).get("event_id") for one in part]
        assert len(set(named)) > 1000
        for event_id in filter(None, named):
            assert choose_partition(4, desk.project_id, event_id, "") == number
    desk.config.write_text("")
    refused = desk.run(str(path), "--again", "x")
    assert (refused.code, "set queues.producers[0].shards = 4" in refused.said["reason"]) == (2, True)


def test_the_number_of_partitions_stays_while_it_runs(desk: Desk) -> None:
    process = desk.start("-", "--quiet")
    assert process.stdin is not None
    process.stdin.write(lines(range(3000), 1000))
    process.stdin.flush()
    until(lambda: sum(desk.bodies().values()), 20, "rows in the stream")

    async def living() -> int:
        redis = redis_client.connect(desk.settings)
        try:
            return int(await redis.zcard("eb:{events}:edges"))
        finally:
            await redis.aclose()

    assert asyncio.run(living()) == 1
    assert kill(process, signal.SIGTERM)[0] == 3
    assert asyncio.run(living()) == 0


def test_redis_away_in_the_middle(tmp_path: Path) -> None:
    """It waits and goes on; or gives up when patience ends, and the next run goes on."""
    server = start_redis(tmp_path)
    try:
        desk = Desk(tmp_path, server.url)
        content = lines(range(6000), 1000)
        waits = desk.start("-", "--no-wait", "--patience", "30")
        hurries = desk.start("-", "--no-wait", "--patience", "1", "--again", "other")
        for process in (waits, hurries):
            assert process.stdin is not None
            process.stdin.write(content[: len(content) // 2])
            process.stdin.flush()
        until(lambda: sum(desk.bodies().values()) > 4000, 20, "rows of both")
        server.kill()
        _, errors = hurries.communicate(content[len(content) // 2 :], 30)
        assert (hurries.returncode, b"not finished: run the same command again" in errors) == (3, True), (
            errors
        )
        server.start()
        _, errors = waits.communicate(content[len(content) // 2 :], 60)
        assert waits.returncode == 0, errors
        assert desk.run("-", "--again", "other", content=content).code == 0
        assert desk.bodies() == expected(content) + expected(content)
    finally:
        server.stop()


def test_a_drain_that_does_not_move_is_waited_for_with_a_bound(desk: Desk) -> None:
    """Nobody drains: the backlog stays short, and patience ends."""
    desk.config.write_text(desk.config.read_text() + "[[queues.consumers]]\nmax_batch_size = 1000\n")
    path = desk.directory / "a.ndjson"
    path.write_bytes(lines(range(40_000)))
    done = desk.run(str(path), "--patience", "1")
    assert (done.code, "nothing has moved for 1 s" in done.said["reason"]) == (3, True)
    assert 0 < sum(desk.bodies().values()) <= 10_000


def test_a_wait_for_queries_that_ends_tells_of_the_rows_that_are_missing(desk: Desk) -> None:
    packed = gzip.compress(lines(range(3000), 100), 0)
    process = desk.start("-", "--patience", "1")
    _, errors = process.communicate(packed[: len(packed) // 2], 30)
    said = errors.decode()
    assert (process.returncode, IN_THE_STREAM in said, "not finished" in said) == (3, False, True), said
    assert "nothing has moved for 1 s; and the gzip data ends in the middle" in said


def test_a_wait_for_queries_that_ends_says_that_all_rows_are_in(desk: Desk) -> None:
    """By Ctrl-C, and by patience: nobody drains."""
    content = lines(range(1000))
    stopped, impatient = desk.start("-"), desk.start("-", "--patience", "1", "--again", "other")
    for process in (stopped, impatient):
        assert process.stdin is not None
        process.stdin.write(content)
        process.stdin.close()
        process.stdin = None  # or communicate would flush it
    assert stopped.stderr is not None
    for line in stopped.stderr:  # until it says what it waits for
        if b"the drain" in line:
            break
    code, errors = kill(stopped, signal.SIGINT)
    assert (code, f"stopped. {IN_THE_STREAM}" in errors, "not finished" in errors) == (3, True, False), errors
    _, said = impatient.communicate(timeout=30)
    assert (impatient.returncode, f"1 s. {IN_THE_STREAM}" in said.decode()) == (3, True), said
    assert desk.bodies() == expected(content) + expected(content)
