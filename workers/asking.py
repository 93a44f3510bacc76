"""Who asks: the operator, for a project and without a key; or whoever has a key, at an edge's address.

The operator's way is the edge's own: the same parser, statements, scope and limits, only without a key. So
what is erased, or older than is kept, is not seen here either. For `query`, `export` and `tail`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import msgspec

from app.settings import Settings
from workers import output
from workers.running import NotRunning, find_running
from workers.state import State, StateError

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from app.ask import Asker
    from app.erasures import Erasures
    from app.errors import ApiError
    from app.grant import Grant


class Wanted(msgspec.Struct, frozen=True):
    """Whose events: of `project_id`, "" for that of `dev`; narrowed to one customer unless that is None."""

    project_id: str
    customer_identifier: str | None


class Failed(Exception):
    """It cannot be answered: the exit code, and what to change."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Operator(msgspec.Struct, frozen=True):
    """What an edge has, for the events of `grant`."""

    asker: Asker
    erasures: Erasures
    redis: Redis
    grant: Grant


class _Problem(msgspec.Struct):
    path: str
    message: str


class _ErrorBody(msgspec.Struct):
    error: str = ""
    detail: str = ""
    errors: list[_Problem] = []


def find(settings: Settings, wanted: Wanted) -> tuple[Settings, Wanted]:
    """Both with what was left to be found. Errors: Failed."""
    try:
        running = find_running(settings, needs_store=True)
    except NotRunning as error:
        raise Failed(2, str(error)) from error
    project_id = wanted.project_id or _of_dev(settings)
    return running, msgspec.structs.replace(wanted, project_id=project_id)


@contextlib.asynccontextmanager
async def operator(settings: Settings, wanted: Wanted) -> AsyncIterator[Operator]:
    """Connected as `find` said. Errors, also for what is done meanwhile: Failed."""
    from app import layout, redis_client, registry_scripts  # noqa: PLC0415
    from app import store as store_client  # noqa: PLC0415
    from app.ask import Asker  # noqa: PLC0415
    from app.erasures import Erasures  # noqa: PLC0415
    from app.errors import ApiError  # noqa: PLC0415
    from app.grant import Grant, KeyType  # noqa: PLC0415
    from app.partition import Freshness  # noqa: PLC0415
    from app.redis_client import UNREACHABLE  # noqa: PLC0415
    from app.registry import Registry  # noqa: PLC0415

    redis, store = redis_client.connect(settings), store_client.connect(settings)
    producer = settings.producer
    try:
        project = registry_scripts.project(wanted.project_id)
        account, status = cast("list[bytes | None]", await redis.hmget(project, ["account_id", "status"]))
        if status != b"ACTIVE":
            was = "was deleted" if status else "does not exist"
            raise Failed(2, f"project {wanted.project_id!r} {was}; name another with --project")
        found = await layout.read(redis, producer.queue)
        freshness = Freshness(redis, producer.queue, producer.shards if found is None else found.most)
        erasures = Erasures(redis, store, producer.queue)
        asker = Asker(Registry(redis, settings), store, freshness, erasures, settings)
        grant = Grant(
            *(KeyType.QUERY, "", (account or b"").decode(), wanted.project_id, wanted.customer_identifier)
        )
        yield Operator(asker, erasures, redis, grant)
    except ApiError as error:
        raise _refused(error) from None
    except BrokenPipeError:  # Redis's are among RedisError: who reads what is written meanwhile has enough
        raise
    except UNREACHABLE as error:
        raise Failed(2, f"Redis does not answer ({type(error).__name__}); check REDIS_URL") from None
    finally:
        await store.close()
        await redis.aclose()


def away(url: str, error: Exception) -> Failed:
    """What to say of an edge that cannot be reached. Never the whole url: it may carry a password."""
    where = urlsplit(url).netloc.rpartition("@")[2] or url
    return Failed(2, f"{where} does not answer ({type(error).__name__}); check --url")


def refused(status: int, content: bytes) -> Failed:
    """What an edge said instead of an answer."""
    try:
        found = msgspec.json.decode(content, type=_ErrorBody)
    except msgspec.DecodeError:
        found = _ErrorBody(detail=f"HTTP {status}, and not from eventbunker; check --url")
    problems = [(one.path, one.message) for one in found.errors]
    return Failed(1 if status == 400 else 2, _sentences(found.error, found.detail, problems))


def say(error: Failed) -> int:
    """Print it, and return the exit code."""
    from workers.printable import printable  # noqa: PLC0415

    output.say("\n".join(map(printable, str(error).splitlines())))
    return error.code


def _refused(error: ApiError) -> Failed:
    problems = [(one.path, one.message) for one in error.problems]
    code = 1 if error.row.status == 400 else 2
    return Failed(code, _sentences(error.row.error, error.detail, problems))


def _sentences(error: str, detail: str, problems: list[tuple[str, str]]) -> str:
    if problems:
        return "\n".join([error, *(f"  {path}: {message}" for path, message in problems)])
    return f"{error}: {detail}" if error else detail


def _of_dev(settings: Settings) -> str:
    """The project that `eventbunker dev` made. Errors: Failed."""
    directory = Path(settings.dev.persist_to)
    try:
        kept = State(directory).read_json(directory / "dev.json") if directory.is_dir() else {}
    except StateError as error:
        raise Failed(2, str(error)) from error
    if not kept.get("project_id"):
        raise Failed(2, "whose events? Name a project with --project, or an edge with --url and a key")
    return kept["project_id"]
