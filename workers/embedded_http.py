"""ClickHouse's HTTP interface, the part that its clients use, in front of the embedded engine.

Owns: authentication, statuses and headers, which lane a statement takes, and ending a query whose client went
away. What a request says is read in `workers.embedded_request`. Knows no chDB: it hands `Job`s to
`workers.embedded_engine`.
Next: `workers.embedded_store`, the process around it.

Source: https://clickhouse.com/docs/interfaces/http
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import re
import uuid

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from app.errors import ApiError
from app.http import read_body
from workers.embedded_config import Limits
from workers.embedded_engine import Answer, Engine, Job
from workers.embedded_lane import Lane
from workers.embedded_library import EngineError
from workers.embedded_request import encoding, make_job, read_options, receive
from workers.embedded_statement import parse

END_AGAIN_SECONDS = 0.2
_TOO_MANY, _CANCELLED = 202, 394
_STATUSES = {
    **dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 38, 41, 44, 53, 55, 56, 62, 72, 117, 167, 168, 223), 400),
    **dict.fromkeys((321, 376, 427, 441, 675, 676, 677), 400),
    **dict.fromkeys((192, 193, 497, 512, 516), 403),
    **dict.fromkeys((46, 47, 50, 60, 63, 73, 78, 81, 115, 277, 336, 511), 404),
    194: 401,
    159: 408,
    381: 411,
    229: 413,
    48: 501,
    **dict.fromkeys((76, 209, 439), 503),
}
_MEDIA_TYPES = (
    (re.compile("JSON.*EachRow"), "application/x-ndjson; charset=UTF-8"),
    (re.compile("JSON"), "application/json; charset=UTF-8"),
    (re.compile("TabSeparated|TSV"), "text/tab-separated-values; charset=UTF-8"),
    (re.compile("CSV"), "text/csv; charset=UTF-8"),
    (re.compile("Pretty|Vertical|Values|LineAsString|Markdown|XML"), "text/plain; charset=UTF-8"),
)


class Interface:
    """The handlers. One per process; `app` is what the server serves."""

    def __init__(self, engine: Engine, limits: Limits, *, username: str, token: str) -> None:
        self._engine = engine
        self._limits = limits
        self._credentials = (username.encode(), token.encode())
        # What the service itself asks never waits behind what its clients ask.
        queue = (limits.waiting, limits.queue_seconds)
        self._queries = Lane(limits.queries, *queue)
        self._questions = Lane(
            limits.questions, *queue, of_one=limits.questions_of_one, kept=limits.questions_kept
        )
        self._inserts = Lane(limits.inserts, *queue)
        self._inspections = Lane(2, *queue)
        self._buffered_bytes = 0
        self._common = {
            "X-ClickHouse-Server-Display-Name": engine.ask("SELECT displayName()").strip(),
            "X-ClickHouse-Timezone": engine.ask("SELECT timezone()").strip(),
            "Cache-Control": "no-store",
        }
        self.app = Starlette(
            routes=[
                Route("/", self._statement, methods=["GET", "POST"]),
                Route("/ping", _ok, methods=["GET"]),
                Route("/replicas_status", _ok, methods=["GET"]),
            ]
        )

    async def _statement(self, request: Request) -> Response:
        query_id = request.query_params.get("query_id") or str(uuid.uuid4())
        headers = {**self._common, "X-ClickHouse-Query-Id": _header_value(query_id)}
        try:
            options = read_options(request)
            self._authenticate(request, options)
            if request.method == "GET" and "query" not in options:
                return PlainTextResponse("Ok.\n", headers=headers)
            return await self._perform(request, options, query_id, headers)
        except EngineError as error:
            headers["X-ClickHouse-Exception-Code"] = str(error.code)
            return PlainTextResponse(f"{error}\n", _STATUSES.get(error.code, 500), headers)
        except ApiError as error:
            return PlainTextResponse(f"{error.detail}\n", error.row.status, headers)

    async def _perform(
        self, request: Request, options: dict[str, str], query_id: str, headers: dict[str, str]
    ) -> Response:
        reserved = self._limits.max_body_bytes if request.method == "POST" else 0
        length = request.headers.get("content-length", "")
        reserved = min(reserved, int(length)) if length.isdigit() else reserved
        # Bodies wait in memory: their sum is bounded as well as each.
        if self._buffered_bytes + reserved > 3 * self._limits.max_body_bytes:
            raise _too_many()
        self._buffered_bytes += reserved
        try:
            job = await self._job(request, options, query_id)
            answer = await self._run(request, job)
        finally:
            self._buffered_bytes -= reserved
        headers["X-ClickHouse-Format"] = answer.format
        headers["X-ClickHouse-Summary"] = _summary(answer)
        return Response(answer.body, 200, headers, media_type=_media_type(answer.format))

    async def _job(self, request: Request, options: dict[str, str], query_id: str) -> Job:
        query, data, rows = options.get("query", "").encode(), b"", None
        statement = parse(query + b"\n")
        takes_rows = bool(query) and statement.data is not None
        if takes_rows and request.method == "POST" and not encoding(request):
            rows = self._engine.file(statement.data or b"")
            if not await receive(request, rows, self._limits.max_body_bytes):
                statement, rows = parse(query), None
        else:
            body = await self._body(request)
            if takes_rows and body:
                data = body
            else:  # the statement is here or there, or goes on in the body
                statement = parse(query + b"\n" + body if query and body else query or body)
        return make_job(request, options, query_id, statement, self._limits, data=data, rows=rows)

    async def _body(self, request: Request) -> bytes:
        if request.method == "GET":
            return b""
        body = await read_body(request.scope, request.receive, self._limits.max_body_bytes)
        encoded = encoding(request)
        if not encoded or not body:
            return body
        inflate, limit = self._engine.inflate, self._limits.max_body_bytes
        return await asyncio.to_thread(inflate, body, encoded, limit)

    async def _run(self, request: Request, job: Job) -> Answer:
        self._engine.admit(job)
        lane = self._lane(job)
        task = lane.start(self._engine, job)
        # Not when this handler ends: the statement may outlive it, and must be known to run.
        task.add_done_callback(lambda _: self._engine.release(job.query_id))
        if not job.statement.reads:
            return await asyncio.shield(task)  # what may write runs to its end, heard or not
        gone = asyncio.ensure_future(_gone(request))
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        while not task.done():
            if lane.has_begun(job):
                with contextlib.suppress(EngineError, RuntimeError):  # no memory or no thread now: again
                    await asyncio.to_thread(self._engine.end, job.query_id)
            else:
                task.cancel()
            await asyncio.wait((task,), timeout=END_AGAIN_SECONDS)
        if task.cancelled():
            raise EngineError(_CANCELLED, "Query was cancelled. (QUERY_WAS_CANCELLED)")
        return task.result()

    def _lane(self, job: Job) -> Lane:
        if job.statement.inspects:
            return self._inspections
        if job.statement.inserts:
            return self._inserts
        return self._questions if job.is_question else self._queries

    def _authenticate(self, request: Request, options: dict[str, str]) -> None:
        name = request.headers.get("x-clickhouse-user", options.get("user", "default"))
        key = request.headers.get("x-clickhouse-key", options.get("password", ""))
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                name, _, key = base64.b64decode(credentials, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                key = ""
        given = (name.encode("utf-8", "replace"), key.encode("utf-8", "replace"))
        # Both are compared whatever the first says, and in a time that does not depend on where they differ.
        matches = [hmac.compare_digest(a, b) for a, b in zip(given, self._credentials, strict=True)]
        if not all(matches):
            raise EngineError(
                516,
                f"{name[:64]}: Authentication failed: password is incorrect, or there is no user with such"
                " name. (AUTHENTICATION_FAILED)",
            )


def _summary(answer: Answer) -> str:
    values = {
        "read_rows": answer.rows_read,
        "read_bytes": answer.bytes_read,
        "written_rows": answer.rows_written,
        "written_bytes": 0,
        "total_rows_to_read": 0,
        "result_rows": 0,
        "result_bytes": len(answer.body),
        "elapsed_ns": int(answer.elapsed_seconds * 1e9),
    }
    return msgspec.json.encode({name: str(value) for name, value in values.items()}).decode()


def _media_type(name: str) -> str:
    for pattern, media_type in _MEDIA_TYPES:
        if pattern.match(name):
            return media_type
    return "application/octet-stream"


def _header_value(text: str) -> str:
    return re.sub(r"[^\x21-\x7e]", "?", text)[:200]


def _too_many() -> EngineError:
    return EngineError(_TOO_MANY, "Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)")


async def _ok(request: Request) -> Response:
    return PlainTextResponse("Ok.\n")


async def _gone(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
