"""What a command did, or made, where nobody can be told: closed, full, or a pipe whose reader has gone."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app import redis_client
from app.settings import load
from tests.slow_answer import command, ended
from workers import output

CLOSED = ("sh", "-c", 'exec "$@" >&-', "sh")
FULL = "Error: the output cannot be written: No space left on device"
GONE = "Error: the output cannot be written: who read it has gone"
SHUT = "Error: standard output is closed: nothing can be written there\n"
MAKES = [("account", "create", "--name", "x"), ("charts", "rotate-key")]


class Desk:
    """An operator with a Redis of his own."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.environ = {"REDIS_URL": redis_url, "DEPLOY_ENV": ""}
        self.config = directory / "deploy.toml"
        self.config.write_text(f'[dev]\npersist_to = "{directory}/state"\n')

    def run(
        self, *words: str, stdout: int = subprocess.DEVNULL, before: tuple[str, ...] = ()
    ) -> tuple[int, str]:
        """Exit code and standard error. `stdout` is closed here."""
        named = ("-c", str(self.config), *words)
        with command(*named, stdout=stdout, environ=self.environ, before=before) as made:
            if stdout != subprocess.DEVNULL:
                os.close(stdout)
            return ended(made)

    def kept(self) -> dict[bytes, bytes | None]:
        """All of Redis."""

        async def read() -> dict[bytes, bytes | None]:
            redis = redis_client.connect(load(self.config, environ=self.environ))
            try:
                return {key: await redis.dump(key) async for key in redis.scan_iter()}
            finally:
                await redis.aclose()

        return asyncio.run(read())


@pytest.fixture
def desk(tmp_path: Path, redis_url: str) -> Desk:
    return Desk(tmp_path, redis_url)


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def unread() -> int:
    reads, writes = os.pipe()
    os.close(reads)
    return writes


@pytest.mark.parametrize("words", MAKES, ids=" ".join)
def test_nothing_is_made_that_nobody_can_be_told_of(desk: Desk, words: tuple[str, ...]) -> None:
    """The key of an account is shown once; and whoever is not told that a key was replaced does it again."""
    before = desk.kept()
    assert desk.run(*words, before=CLOSED) == (3, SHUT)
    assert desk.run(*words, stdout=full()) == (3, f"{FULL}\n")
    assert desk.run(*words, stdout=unread()) == (3, f"{GONE}\n")
    assert desk.kept() == before
    assert desk.run(*words) == (0, "")
    assert desk.kept() != before


def test_a_disk_without_room_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(os.statvfs(tmp_path))
    found[3] = 0  # f_bfree
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result(found))
    with open(tmp_path / "key", "w") as file, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", file)
        with pytest.raises(output.Unwritten) as raised:
            output.look()
    assert "No space left on device" in str(raised.value)


@contextmanager
def fails_late(monkeypatch: pytest.MonkeyPatch, stdout: int) -> Iterator[None]:
    """Standard output, where it cannot be seen beforehand that nothing can be written there."""
    with open(stdout, "w") as file, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", file)
        yield


def test_what_is_said_once_is_said_on_standard_error_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with fails_late(monkeypatch, full()), pytest.raises(output.Unwritten) as raised:
        output.once("a key")
    assert f"Error: {raised.value}" == f"{FULL}; it was:\na key"
    with fails_late(monkeypatch, unread()), pytest.raises(output.Unwritten) as raised:
        output.once("a key")
    assert f"Error: {raised.value}" == f"{GONE}; it was:\na key"


def test_a_changed_number_of_partitions_is_no_trouble_with_redis(desk: Desk) -> None:
    said = "the queue has {} partitions now\nset queues.producers[0].shards = {} for every edge and drain"
    code, why = desk.run("shards", "3", stdout=full())
    assert (code, why.startswith(f"{FULL}; it was:\n{said.format(3, 3)}")) == (3, True), why
    assert desk.run("shards", "4", stdout=unread()) == (0, "")
    assert desk.run("shards", "5", before=CLOSED) == (0, "")
    assert desk.run("shards", stdout=full()) == (3, f"{FULL}\n")


@pytest.mark.parametrize("words", [("check",), ("schema",)])
def test_what_only_shows_says_that_it_cannot_be_written(desk: Desk, words: tuple[str, ...]) -> None:
    assert desk.run(*words, stdout=full()) == (3, f"{FULL}\n")
    assert desk.run(*words, before=CLOSED) == (3, SHUT)
    assert desk.run(*words, stdout=unread()) == (0, "")


def test_a_proof_that_cannot_be_written_is_none(desk: Desk) -> None:
    assert desk.run("verify", before=CLOSED) == (3, SHUT)
    assert desk.run("verify", "--json", before=CLOSED) == (3, SHUT)
    code, why = desk.run("verify", "--since", "2100-01-01", "--json", stdout=full())
    assert (code, why.startswith(f"{FULL}; it was:\n")) == (3, True), why
