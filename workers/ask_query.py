"""`eventbunker query`: one query, asked for a project by its operator, or over HTTP with a key.

Exit codes: 0 answered; 1 the query is refused, each problem is named; 2 it could not be asked; 3 the answer
cannot be written (`workers.output`).
"""

from __future__ import annotations

import asyncio

import msgspec

from app.formats import Accepted, Format
from app.settings import Settings
from workers import asking
from workers.asking import Failed, Wanted

PATH = "/v1/query/json"
HTTP_SECONDS = 60.0
_FIRST = ("event_time", "event_name", "customer_identifier")  # what an event is known by
_NULL = msgspec.Raw(b"null")
FORMATS = {"table": Format.JSON, "json": Format.JSON, "ndjson": Format.NDJSON, "csv": Format.CSV}


class _Answer(msgspec.Struct):
    data: list[dict[str, msgspec.Raw]]
    fresh_as_of: int
    next: str | None = None


def ask_store(settings: Settings, wanted: Wanted, query: str, *, format_: str) -> int:
    """Ask as the operator, straight from Redis and the store, print, and return the exit code."""
    try:
        running, wanted = asking.find(settings, wanted)
        content = asyncio.run(_ask_store(running, wanted, query.encode(), Accepted(FORMATS[format_])))
    except Failed as error:
        return asking.say(error)
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
        return asking.say(asking.away(url, error))
    if response.status_code != 200:
        return asking.say(asking.refused(response.status_code, response.content))
    _print(response.content, format_)
    return 0


async def _ask_store(settings: Settings, wanted: Wanted, query: bytes, accepted: Accepted) -> bytes:
    from app.read import ReadHandlers  # noqa: PLC0415

    async with asking.operator(settings, wanted) as operator:
        return (await ReadHandlers(operator.asker).answer(query, operator.grant, accepted)).content


def _print(content: bytes, format_: str) -> None:
    from workers import output, table  # noqa: PLC0415

    if format_ != "table":
        output.write(content if content.endswith(b"\n") or not content else content + b"\n")
        return
    answer = msgspec.json.decode(content, type=_Answer)
    rows = answer.data
    first = _FIRST if rows and "unique_req_id" in rows[0] else ()
    names = dict.fromkeys((*first, *(name for row in rows for name in row)))
    # An event has two dozen columns of its own; those that are empty throughout tell nothing.
    shown = [name for name in names if any(bytes(row.get(name, _NULL)) != b"null" for row in rows)]
    table.show(
        shown or list(names), [[bytes(row.get(name, _NULL)) for name in shown or names] for row in rows]
    )
    output.say(f"{len(rows):,} row{'' if len(rows) == 1 else 's'}")
    if answer.next:
        output.say(f'there are more: add "cursor": "{answer.next}"')
