"""What the tests of `eventbunker import` share: the command in a process of its own, and what reached the stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from click.testing import CliRunner

from app import redis_client
from app.layout import Expected
from app.registry import Registry
from app.settings import Settings, load
from app.stream import Keys, Record, split_group
from tests.pipeline_kit import entries
from tests.registries import new_key, registry
from tests.service import COMMAND, FROM_OUTSIDE, ROOT
from workers.cli import main
from workers.import_formats import Reading, open_source
from workers.import_journal import Journal
from workers.import_mapping import Mapping as Fields
from workers.import_options import Options
from workers.import_pieces import Piece
from workers.import_progress import Progress
from workers.import_queue import ImportQueue
from workers.import_rejects import Rejects
from workers.import_run import Import, Summary

PLAIN = Fields()
SECONDS = 60.0


class Desk:
    """An operator before one Redis: settings, a key, and the command."""

    def __init__(self, directory: Path, redis_url: str, deploy: str = "") -> None:
        self.directory = directory
        self.config = directory / "deploy.toml"
        self.config.write_text(f'[dev]\npersist_to = "{directory}/state"\n{deploy}')
        self.environ = {"REDIS_URL": redis_url, "DEPLOY_ENV": ""}
        self.settings: Settings = load(self.config, environ=self.environ)
        self.project_id, self.environ["WRITE_KEY"] = asyncio.run(self._key())

    async def _key(self, **more: Any) -> tuple[str, str]:
        async with registry(self.settings) as opened:
            project_id, _, secret = await new_key(opened, **more)
            return project_id, secret

    def bind(self, customer_identifier: str) -> None:
        """From now on with a key of another project that is bound to a customer."""
        self.project_id, self.environ["WRITE_KEY"] = asyncio.run(
            self._key(customer_identifier=customer_identifier)
        )

    def start(self, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """The command, with a pipe at each end."""
        inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
        command = [sys.executable, "-c", COMMAND, "-c", str(self.config), "import", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**inherited, **self.environ, **(environ or {})},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )

    def run(self, *words: str, content: bytes = b"", environ: Mapping[str, str] | None = None) -> Done:
        """The command to its end; nobody drains, so it does not wait for that."""
        words = ("--no-wait", "--json", *words)
        if not content:  # no pipe is needed: a call is quicker than a process
            return self._call(words, environ or {})
        process = self.start(*words, environ=environ)
        try:
            out, errors = process.communicate(content, SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(process.communicate()) from None
        return Done(process.returncode, out.decode(), errors.decode())

    def _call(self, words: Sequence[str], environ: Mapping[str, str]) -> Done:
        unset: dict[str, str | None] = dict.fromkeys(FROM_OUTSIDE)
        config = structlog.get_config()
        try:
            done = CliRunner().invoke(
                main,
                ["-c", str(self.config), "import", *words],
                env={**unset, **self.environ, **environ},
                catch_exceptions=False,
            )
        finally:
            structlog.configure(**config)
        return Done(done.exit_code, done.stdout, done.stderr)

    async def records(self) -> dict[int, list[Record]]:
        """What waits in each partition, by its number."""
        redis = redis_client.connect(self.settings)
        try:
            found = {}
            for number in range(self.settings.producer.shards):
                rows = await entries(redis, Keys(self.settings.producer.queue, number).entries)
                found[number] = [one for _, fields in rows for one in split_group(fields[b"r"])]
            return found
        finally:
            await redis.aclose()

    def bodies(self) -> Counter[bytes]:
        """The bytes of every event in the stream, whatever its partition."""
        return Counter(one.body for part in asyncio.run(self.records()).values() for one in part)


class Done:
    """How the command ended. `said` is its summary."""

    def __init__(self, code: int, out: str, errors: str) -> None:
        self.code = code
        self.errors = errors
        self.out = out

    @property
    def said(self) -> dict[str, Any]:
        found = json.loads(self.out.splitlines()[-1])
        assert isinstance(found, dict)
        return found

    def __repr__(self) -> str:
        return f"{self.code}\n{self.out}\n{self.errors}"


def lines(numbers: Sequence[int], size: int = 0) -> bytes:
    """NDJSON, one event for each number, each padded with `size` bytes."""
    padding = "x" * size
    return b"".join(b'{"event_name":"e","n":%d,"pad":"%s"}\n' % (n, padding.encode()) for n in numbers)


def kill(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
    """Send it, and wait. Exit code, and what it wrote to standard error."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors.decode()


def expected(content: bytes) -> Counter[bytes]:
    return Counter(line for line in content.splitlines() if line)


class Dies(Exception):
    """Where a process would be killed."""


def dying(when: str, at: int) -> type[ImportQueue]:
    """A queue whose process dies before or after the append of its piece number `at`."""

    class Dying(ImportQueue):
        appended = 0

        async def append(self, piece: Piece, *where: object) -> None:
            self.appended += 1
            if when == "before" and self.appended == at:
                raise Dies
            await super().append(piece, *where)  # type: ignore[arg-type]
            if when == "after" and self.appended == at:
                raise Dies

    return Dying


async def one_run(
    desk: Desk, path: Path, queue_type: type[ImportQueue] = ImportQueue, **options: object
) -> Summary:
    """A run in this process, against the desk's Redis."""
    settings, summary = desk.settings, Summary()
    limit, again = settings.limits.max_event_bytes, str(options.get("again", ""))
    async with contextlib.AsyncExitStack() as opened:
        redis = redis_client.connect(settings)
        opened.push_async_callback(redis.aclose)
        registry = Registry(redis, settings)
        opened.push_async_callback(registry.close)
        layout, stop = Expected("events", settings.producer.shards), asyncio.Event()
        queue = queue_type(redis, settings, layout, 5, stop=stop, say=lambda _: None)
        opened.push_async_callback(queue.close)
        source = opened.enter_context(
            contextlib.closing(open_source(Reading(str(path), PLAIN, grows="grown" in options), limit))
        )
        rejects = opened.enter_context(contextlib.closing(Rejects(path.with_suffix(".rejected"))))
        one = Import(
            source,
            str(path),
            Options(**options),  # type: ignore[arg-type]
            summary,
            max_event_bytes=limit,
            rejects=rejects,
            progress=Progress(None, None),
            stop=stop,
        )
        journal = Journal(redis, "events", desk.project_id, source.identity, again)
        await one.run(journal, queue, registry, desk.environ["WRITE_KEY"])
    return summary
