"""A request of ClickHouse's HTTP interface -> what the engine shall do: options, body, rows.

The rows of an insert go from the connection into the file that the engine reads. A block has megabytes, and
the drain waits for it to be received, so nothing is joined or copied once more (docs/performance.md, "What
bounds the drain"). Every other body is small, or must be inflated first: `app.http.read_body`.
"""

from __future__ import annotations

import asyncio
from io import FileIO
from urllib.parse import parse_qsl

from starlette.requests import Request

from app.http import BODY_DEADLINE_SECONDS, body_cut_short, body_too_large, body_too_late, header
from workers.embedded_config import QUESTIONS, Limits
from workers.embedded_engine import Job, write
from workers.embedded_library import EngineError
from workers.embedded_statement import Statement

# Parameters of the protocol itself; every other one is a setting of the query.
_OWN = frozenset(
    {
        *("query", "database", "user", "password", "default_format", "query_id", "quota_key", "role"),
        *("session_id", "session_timeout", "session_check", "close_session", "stacktrace"),
        *("compress", "decompress", "buffer_size", "wait_end_of_query", "client_protocol_version"),
    }
)


def read_options(request: Request) -> dict[str, str]:
    """What the address says. Errors: EngineError 36."""
    try:
        pairs = parse_qsl(
            request.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict"
        )
    except (UnicodeDecodeError, ValueError):
        raise EngineError(36, "The URL is not percent-encoded UTF-8. (BAD_ARGUMENTS)") from None
    return dict(pairs)


def encoding(request: Request) -> str:
    """What must be undone before the body can be read; "" for nothing."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


async def receive(request: Request, file: FileIO, limit_bytes: int) -> int:
    """Write the body to the end of `file` as it comes; returns how many bytes it was.

    Errors: ApiError 413 as soon as it is known to exceed `limit_bytes`, 408, 400 when the client left.
    """
    declared = header(request.scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit_bytes:
        raise body_too_large(limit_bytes, int(declared))
    received = 0
    try:
        async with asyncio.timeout(BODY_DEADLINE_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise body_cut_short()
                piece: bytes = message.get("body", b"")
                received += len(piece)
                if received > limit_bytes:
                    raise body_too_large(limit_bytes, received)
                write(file, piece)
                if not message.get("more_body", False):
                    return received
    except TimeoutError:
        raise body_too_late(BODY_DEADLINE_SECONDS) from None


def make_job(
    request: Request,
    options: dict[str, str],
    query_id: str,
    statement: Statement,
    limits: Limits,
    *,
    data: bytes = b"",
    rows: FileIO | None = None,
) -> Job:
    """What the engine shall do: an INSERT's rows are in `data` or in the file `rows`. Errors: EngineError."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise EngineError(48, "Multipart bodies are not served. (NOT_IMPLEMENTED)")
    if options.get("decompress", "0") not in ("0", "false") or options.get("compress", "0") not in (
        "0",
        "false",
    ):
        raise EngineError(48, "Native compression is not served: leave it out. (NOT_IMPLEMENTED)")
    settings = {k: v for k, v in options.items() if k not in _OWN and not k.startswith("param_")}
    if request.method == "GET":
        settings["readonly"] = "2"  # a link must not change anything; settings may still be given
    is_question = settings.get("workload") == QUESTIONS
    if is_question:
        given = settings.get("max_memory_usage", "")
        most = limits.question_memory_bytes
        settings["max_memory_usage"] = str(min(int(given), most) if given.isdigit() else most)
        settings.pop("os_thread_priority", None)  # for a server: here `workers.embedded_nice` decides
    return Job(
        statement=statement,
        query_id=query_id,
        settings=settings,
        parameters={k[6:]: v for k, v in options.items() if k.startswith("param_")},
        database=options.get("database") or request.headers.get("x-clickhouse-database", ""),
        default_format=options.get("default_format")
        or request.headers.get("x-clickhouse-format", "TabSeparated"),
        data=(data,) if data else (),
        file=rows,
        is_question=is_question,
        quota_key=options.get("quota_key", ""),
    )
