"""`eventbunker query`: one query, asked for a project by its operator, or over HTTP with a key.

The operator's way is the edge's own: the same parser, statements, scope and limits (`app.read`), only without
a key. So what is erased, or older than is kept, is not seen here either.

Exit codes: 0 answered; 1 the query is refused, each problem is named; 2 it could not be asked.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import click
import msgspec

from app.formats import Accepted, Format
from app.settings import Settings
from workers.running import NotRunning, find_running
from workers.state import State, StateError

if TYPE_CHECKING:
    from app.errors import ApiError

PATH = "/v1/query/json"
HTTP_SECONDS = 60.0
_NULL = msgspec.Raw(b"null")
FORMATS = {"table": Format.JSON, "json": Format.JSON, "ndjson": Format.NDJSON, "csv": Format.CSV}


class Wanted(msgspec.Struct, frozen=True):
    """Whose events: of `project_id`, "" for that of `dev`; narrowed to one customer unless that is None."""

    project_id: str
    customer_identifier: str | None


class _Failed(Exception):
    """It cannot be answered: the exit code, and what to change."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Problem(msgspec.Struct):
    path: str
    message: str


class _ErrorBody(msgspec.Struct):
    error: str = ""
    detail: str = ""
    errors: list[_Problem] = []


class _Answer(msgspec.Struct):
    data: list[dict[str, msgspec.Raw]]
    fresh_as_of: int
    next: str | None = None


def ask_store(settings: Settings, wanted: Wanted, query: str, *, format_: str) -> int:
    """Ask as the operator, straight from Redis and the store, print, and return the exit code."""
    try:
        running = find_running(settings, needs_store=True)
        project_id = wanted.project_id or _of_dev(settings)
        wanted = msgspec.structs.replace(wanted, project_id=project_id)
        content = asyncio.run(_ask_store(running, wanted, query.encode(), Accepted(FORMATS[format_])))
    except NotRunning as error:
        return _failed(_Failed(2, str(error)))
    except _Failed as error:
        return _failed(error)
    _print(content, format_)
    return 0


def ask_edge(url: str, key: str, query: str, *, format_: str) -> int:
    """Ask an edge over HTTP with a QUERY key, print, and return the exit code."""
    import httpx  # noqa: PLC0415 - costs a start that does not need it

    headers = {"x-eventbunker-query-key": key, "accept": FORMATS[format_].value}
    try:
        response = httpx.post(
            url.rstrip("/") + PATH, content=query.encode(), headers=headers, timeout=HTTP_SECONDS
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        where = urlsplit(url).netloc.rpartition("@")[2] or url
        return _failed(_Failed(2, f"{where} does not answer ({type(error).__name__}); check --url"))
    if response.status_code != 200:
        try:
            found = msgspec.json.decode(response.content, type=_ErrorBody)
        except msgspec.DecodeError:
            found = _ErrorBody(detail=f"HTTP {response.status_code}, and not from eventbunker; check --url")
        problems = [(one.path, one.message) for one in found.errors]
        code = 1 if response.status_code == 400 else 2
        return _failed(_Failed(code, _sentences(found.error, found.detail, problems)))
    _print(response.content, format_)
    return 0


async def _ask_store(settings: Settings, wanted: Wanted, query: bytes, accepted: Accepted) -> bytes:
    from app import layout, redis_client, registry_scripts  # noqa: PLC0415
    from app import store as store_client  # noqa: PLC0415
    from app.ask import Asker  # noqa: PLC0415
    from app.erasures import Erasures  # noqa: PLC0415
    from app.errors import ApiError  # noqa: PLC0415
    from app.grant import Grant, KeyType  # noqa: PLC0415
    from app.partition import Freshness  # noqa: PLC0415
    from app.read import ReadHandlers  # noqa: PLC0415
    from app.redis_client import UNREACHABLE  # noqa: PLC0415
    from app.registry import Registry  # noqa: PLC0415

    redis, store = redis_client.connect(settings), store_client.connect(settings)
    producer = settings.producer
    try:
        project = registry_scripts.project(wanted.project_id)
        account, status = cast("list[bytes | None]", await redis.hmget(project, ["account_id", "status"]))
        if status != b"ACTIVE":
            was = "was deleted" if status else "does not exist"
            raise _Failed(2, f"project {wanted.project_id!r} {was}; name another with --project")
        found = await layout.read(redis, producer.queue)
        freshness = Freshness(redis, producer.queue, producer.shards if found is None else found.most)
        erasures = Erasures(redis, store, producer.queue)
        asker = Asker(Registry(redis, settings), store, freshness, erasures, settings)
        grant = Grant(
            *(KeyType.QUERY, "", (account or b"").decode(), wanted.project_id, wanted.customer_identifier)
        )
        return (await ReadHandlers(asker).answer(query, grant, accepted)).content
    except ApiError as error:
        raise _refused(error) from None
    except UNREACHABLE as error:
        raise _Failed(2, f"Redis does not answer ({type(error).__name__}); check REDIS_URL") from None
    finally:
        await store.close()
        await redis.aclose()


def _of_dev(settings: Settings) -> str:
    """The project that `eventbunker dev` made. Errors: _Failed."""
    directory = Path(settings.dev.persist_to)
    try:
        kept = State(directory).read_json(directory / "dev.json") if directory.is_dir() else {}
    except StateError as error:
        raise _Failed(2, str(error)) from error
    if not kept.get("project_id"):
        raise _Failed(2, "whose events? Name a project with --project, or an edge with --url and a key")
    return kept["project_id"]


def _refused(error: ApiError) -> _Failed:
    problems = [(one.path, one.message) for one in error.problems]
    code = 1 if error.row.status == 400 else 2
    return _Failed(code, _sentences(error.row.error, error.detail, problems))


def _sentences(error: str, detail: str, problems: list[tuple[str, str]]) -> str:
    if problems:
        return "\n".join([error, *(f"  {path}: {message}" for path, message in problems)])
    return f"{error}: {detail}" if error else detail


def _print(content: bytes, format_: str) -> None:
    from workers import output, table  # noqa: PLC0415

    if format_ != "table":
        output.write(content if content.endswith(b"\n") or not content else content + b"\n")
        return
    answer = msgspec.json.decode(content, type=_Answer)
    rows = answer.data
    names = dict.fromkeys(name for row in rows for name in row)
    # An event has two dozen columns of its own; those that are empty throughout tell nothing.
    shown = [name for name in names if any(bytes(row.get(name, _NULL)) != b"null" for row in rows)]
    table.show(
        shown or list(names), [[bytes(row.get(name, _NULL)) for name in shown or names] for row in rows]
    )
    click.echo(f"{len(rows):,} row{'' if len(rows) == 1 else 's'}", err=True)
    if answer.next:
        click.echo(f'more: add "next": "{answer.next}"', err=True)


def _failed(error: _Failed) -> int:
    from workers.printable import printable  # noqa: PLC0415

    click.echo("\n".join(map(printable, str(error).splitlines())), err=True)
    return error.code
