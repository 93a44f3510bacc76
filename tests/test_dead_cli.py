"""`eventbunker dead …` as an operator types it, against a real Redis and the real engine."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from app import dead_letter, redis_client
from app import ledger as ledgers
from app.dead_letter import DeadLetter
from app.settings import Settings, load
from app.store import Store, connect
from app.stream import Keys
from tests.pipeline_kit import assert_conserved, entries, make_keys, record
from tests.pipeline_kit import ledger as read_ledger
from tests.service import COMMAND, FROM_OUTSIDE, ROOT
from tests.slow_answer import command, ended
from tests.store_fixture import StoreServer
from tests.store_tables import make_tables_for
from workers.cli import main

ESCAPE = b'{"event_name":"test","text":"\xc2\x9b31m"}'  # C1 CSI: legal in JSON, an order to a terminal
REASONS = ("no row can be made: a bad name", "Cannot parse \x1b[31mred", "unreadable entry: short")


class Desk:
    """An operator's settings, and the letters that lie before him: two events, one unreadable entry."""

    def __init__(self, directory: Path, environ: dict[str, str], settings: Settings) -> None:
        self.config = directory / "deploy.toml"
        self.environ = environ
        self.settings = settings
        self.events = [
            msgspec.structs.replace(record(body), project_id=project)
            for body, project in ((b'{"event_name":"test"}', "prj_a"), (ESCAPE, "prj_b"))
        ]
        self.names = [one.unique_req_id.hex() for one in self.events]

    def run(self, *words: str) -> Result:
        command = ["-c", str(self.config), "dead", *words]
        return CliRunner().invoke(main, command, env=self.environ, catch_exceptions=False)

    def lines(self, *words: str) -> list[dict[str, object]]:
        done = self.run("list", "--json", *words)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    async def lay_out(self) -> None:
        redis, store = redis_client.connect(self.settings), connect(self.settings)
        keys = make_keys(self.settings)
        try:
            await make_tables_for(self.settings)
            letters = [
                DeadLetter(reason, 1_767_268_800_000 + number, "1-0", one)
                for number, (reason, one) in enumerate(zip(REASONS, self.events, strict=False))
            ]
            letters.append(DeadLetter(REASONS[2], 0, "2-0", None, b"\xc1\x00", "prj_a|5=2;prj_b|5=1"))
            for number, letter in enumerate(letters):
                place = f"{number + 1}-0"
                await redis.xadd(keys.dead, {"d": dead_letter.encode(letter)}, id=place)
                if letter.record is not None:
                    await redis.hset(keys.dead_ids, letter.record.unique_req_id.hex(), place)
                for bucket, count in dead_letter.counts(letter).items():
                    for fate in (ledgers.APPENDED, ledgers.DEAD):
                        await redis.hincrby(keys.hours, ledgers.field(bucket, fate), count)
                        await redis.hincrby(keys.ledger, fate, count)
        finally:
            await store.close()
            await redis.aclose()

    def counts(self) -> dict[str, int]:
        async def read() -> dict[str, int]:
            redis = redis_client.connect(self.settings)
            try:
                keys = make_keys(self.settings)
                if not [one for _, one in await entries(redis, keys.entries) if one[b"r"] == b"\xc1\x00"]:
                    await assert_conserved(redis, keys)
                return await read_ledger(redis, keys)
            finally:
                await redis.aclose()

        return asyncio.run(read())

    def erased(self) -> list[str]:
        async def read(store: Store) -> list[str]:
            try:
                rows = (await store.ask("SELECT lower(hex(unique_req_id)) FROM fates FINAL ORDER BY 1")).rows
                return [str(row[0]) for row in rows]
            finally:
                await store.close()

        return asyncio.run(read(connect(self.settings)))


@pytest.fixture
def desk(tmp_path: Path, redis_url: str, store_server: StoreServer, store_database: str) -> Desk:
    config = tmp_path / "deploy.toml"
    config.write_text(
        f'[dev]\npersist_to = "{tmp_path}/state"\n\n[[stores]]\nbinding = "W"\ndatabase = "{store_database}"\n'
    )
    environ = {
        "REDIS_URL": redis_url,
        "CLICKHOUSE_URL": store_server.url,
        "CLICKHOUSE_PASSWORD": store_server.token,
        "DEPLOY_ENV": "",
    }
    made = Desk(tmp_path, environ, load(config, environ=environ))
    asyncio.run(made.lay_out())
    return made


def test_list_is_a_table_or_json_lines(desk: Desk) -> None:
    table = desk.run("list").stdout.splitlines()
    assert table[0].split() == ["ID", "SET", "ASIDE", "(UTC)", "PROJECT", "BYTES", "REASON"]
    assert [line.split()[0] for line in table[1:]] == [*desk.names, "0/3-0"]
    assert "2026-01-01 12:00:00  prj_a" in table[1]
    assert table[2].endswith("refused by the store: Cannot parse \\x1b[31mred")
    lines = desk.lines()
    assert [line["unique_req_id"] for line in lines] == [*desk.names, None]
    assert lines[2] == {
        "unique_req_id": None,
        "place": "0/3-0",
        "project_id": None,
        "reason": "unreadable entry",
        "message": "short",
        "set_aside_at": 0,
        "time_recorded": None,
        "events": 3,
        "bytes": 2,
    }


@pytest.mark.parametrize("words", [("list",), ("show", "0/1-0"), ("show", "0/1-0", "--body")])
def test_what_cannot_be_written_is_no_trouble_with_redis(desk: Desk, words: tuple[str, ...]) -> None:
    named = ("-c", str(desk.config), "dead", *words)
    with (
        open("/dev/full", "wb") as full,
        command(*named, stdout=full.fileno(), environ=desk.environ) as dead,
    ):
        assert ended(dead) == (3, "Error: the output cannot be written: No space left on device\n")
    reads, writes = os.pipe()
    os.close(reads)
    with command(*named, stdout=writes, environ=desk.environ) as dead:
        os.close(writes)
        assert ended(dead) == (0, "")


@pytest.mark.parametrize(("words", "said"), [(("replay",), "put back"), (("purge", "--yes"), "purged")])
def test_what_was_done_is_no_trouble_with_redis(desk: Desk, words: tuple[str, ...], said: str) -> None:
    named = ("-c", str(desk.config), "dead", *words)
    with (
        open("/dev/full", "wb") as full,
        command(*named, desk.names[0], stdout=full.fileno(), environ=desk.environ) as dead,
    ):
        why = f"Error: the output cannot be written: No space left on device; it was:\n1 {said}\n"
        assert ended(dead) == (3, why)
    reads, writes = os.pipe()
    os.close(reads)
    with command(*named, desk.names[1], stdout=writes, environ=desk.environ) as dead:
        os.close(writes)
        assert ended(dead) == (0, "")
    assert [line["place"] for line in desk.lines()] == ["0/3-0"]


def test_a_question_that_nobody_sees_purges_nothing(desk: Desk) -> None:
    """The answer would come from a terminal."""
    reads, gone = os.pipe()
    os.close(reads)
    words = [sys.executable, "-c", COMMAND, "-c", str(desk.config), "dead", "purge", "--all"]
    ours, theirs = pty.openpty()
    with open("/dev/full", "wb") as full:
        for stdout, code, said in ((full.fileno(), 3, "cannot be written"), (gone, 1, "Aborted!")):
            done = subprocess.run(
                words,
                cwd=ROOT,
                env={**os.environ, **desk.environ},
                stdin=theirs,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
            assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    for one in (ours, theirs, gone):
        os.close(one)
    assert len(desk.lines()) == 3


def test_filters(desk: Desk) -> None:
    def places(*words: str) -> list[object]:
        return [line["place"] for line in desk.lines(*words)]

    assert places("--project", "prj_b") == ["0/2-0"]
    assert places("--reason", "CANNOT") == ["0/2-0"]
    assert places("--since", "1h") == []
    assert places("--since", "1970-01-01T00:00:00.002Z") == ["0/2-0", "0/3-0"]
    assert places("--limit", "2") == ["0/1-0", "0/2-0"]
    assert "more than 2" in desk.run("list", "--limit", "2").stderr
    wrong = desk.run("list", "--since", "tuesday")
    assert (wrong.exit_code, "a number of s, m, h or d ago" in wrong.stderr) == (2, True)


def test_show_prints_everything_and_the_bytes_exactly(desk: Desk) -> None:
    shown = desk.run("show", desk.names[1])
    assert shown.exit_code == 0
    head, _, body = shown.stdout_bytes.partition(b"\n\n")
    assert body == ESCAPE + b"\n"
    for line in (
        "project    prj_b",
        "reason     refused by the store",
        "message    Cannot parse \\x1b[31mred",
    ):
        assert line in head.decode().splitlines()
    assert desk.run("show", desk.names[1], "--body").stdout_bytes == ESCAPE
    assert desk.run("show", "0/2-0", "--body").stdout_bytes == ESCAPE
    assert desk.run("show", "0/3-0", "--body").stdout_bytes == b"\xc1\x00"
    assert "writes its bytes" in desk.run("show", "0/3-0").stdout
    absent, wrong = desk.run("show", "0" * 32), desk.run("show", "\x1b")
    assert (absent.exit_code, wrong.exit_code) == (1, 1)
    assert "there is no dead letter 000" in absent.stderr
    assert "\\x1b is neither 32 lower-case hex digits" in wrong.stderr


def test_replay_by_name_and_all(desk: Desk) -> None:
    refused = desk.run("replay", desk.names[0], "0" * 32)
    assert (refused.exit_code, len(desk.lines())) == (1, 3), "a misspelt id changes nothing"
    assert desk.run("replay", desk.names[0]).stdout == "1 put back\n"
    assert desk.counts() == {"appended": 5, "dead": 4}
    assert desk.run("replay", "--all", "--project", "prj_b").stdout == "1 put back\n"
    assert desk.run("replay", "--all").stdout == "1 put back\n"
    assert desk.run("replay", "--all").stdout == "0 put back\n"
    assert desk.counts() == {"appended": 5, "dead": 0}
    assert desk.lines() == []


def test_letters_of_former_partitions_are_there(desk: Desk) -> None:
    """Safeguard: fewer partitions than before hide nothing."""

    async def lay_out() -> None:
        redis = redis_client.connect(desk.settings)
        former = Keys(desk.settings.producer.queue, 3, desk.settings.consumer.dead_letter_queue)
        await redis.xadd(former.dead, {"d": dead_letter.encode(DeadLetter("x", 0, "1-0", None))}, id="7-0")
        await redis.hset(former.ledger, "dead", 0)
        await redis.aclose()

    asyncio.run(lay_out())
    assert desk.lines()[3]["place"] == "3/7-0"
    assert desk.run("purge", "3/7-0", "--yes").stdout == "1 purged\n"


def test_purge_needs_a_yes(desk: Desk) -> None:
    unasked = desk.run("purge", "--all")
    assert (unasked.exit_code, "add --yes" in unasked.stderr) == (2, True)
    assert desk.run("purge", "0/3-0", "--yes").stdout == "1 purged\n"
    assert desk.counts() == {"appended": 5, "dead": 2, "erased": 3}
    assert desk.erased() == []
    assert on_a_terminal(desk, b"n\n", "purge", "--all") == 1
    assert len(desk.lines()) == 2
    assert on_a_terminal(desk, b"y\n", "purge", "--all", "--limit", "1") == 0
    assert desk.erased() == [desk.names[0]]
    assert desk.run("purge", "--all", "--yes").stdout == "1 purged\n"
    assert desk.erased() == sorted(desk.names)
    assert desk.counts() == {"appended": 5, "dead": 0, "erased": 5}


def on_a_terminal(desk: Desk, typed: bytes, *words: str) -> int:
    """The exit code of a command whose input is a terminal."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    command = [sys.executable, "-c", COMMAND, "-c", str(desk.config), "dead", *words]
    try:
        os.write(ours, typed)
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**inherited, **desk.environ},
            stdin=theirs,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"for good? [y/N]" in done.stdout + done.stderr
    return done.returncode


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("replay",), "name letters by ID"),
        (("purge", "--yes"), "name letters by ID"),
        (("replay", "--all", "0/1-0"), "name letters by ID"),
        (("replay", "0/1-0", "--project", "p"), "named need none"),
        (("list", "--limit", "0"), "is not in the range"),
    ],
)
def test_usage(desk: Desk, words: Sequence[str], said: str) -> None:
    done = desk.run(*words)
    assert (done.exit_code, said in done.stderr) == (2, True)
    assert len(desk.lines()) == 3


def test_a_full_redis_takes_nothing_back_and_says_so(desk: Desk) -> None:
    settings = desk.settings

    async def limit(text: str) -> None:
        redis = redis_client.connect(settings)
        await redis.config_set("maxmemory", text)
        await redis.aclose()

    asyncio.run(limit("100kb"))
    try:
        refused = desk.run("replay", "--all")
        assert (refused.exit_code, "of its memory; the rest stays" in refused.stderr) == (1, True)
    finally:
        asyncio.run(limit("0"))
    assert len(desk.lines()) == 3


def test_nothing_to_connect_to_is_said(desk: Desk, tmp_path: Path) -> None:
    desk.environ = {**desk.environ, "REDIS_URL": f"unix://{tmp_path}/none.sock"}
    assert "Redis does not answer" in desk.run("list").stderr
    desk.environ = {**desk.environ, "REDIS_URL": ""}
    done = desk.run("list")
    assert (done.exit_code, "no Redis: set REDIS_URL" in done.stderr) == (1, True)
