"""`eventbunker sql`: the operator's own SQL against the configured store. It reads, and can do nothing else.

Twice refused is what writes: here by its first word, with a sentence that says so, and by the engine's own
`readonly`, which no statement can take off. (The engine alone would let KILL and BACKUP pass.)
It sees every project, and rows that are erased but not deleted yet: no key narrows it.

Exit codes: 0 answered; 1 the statement is refused; 2 the store cannot be asked; 3 the answer cannot be
written (`workers.output`).
"""

from __future__ import annotations

import asyncio
import re

import msgspec

from app import store as store_client
from app.ask import QUEUE_SECONDS, WORKLOAD
from app.settings import Settings
from app.store import StoreRefused, StoreUnavailable
from workers import output, table
from workers.embedded_statement import Statement, parse
from workers.running import NotRunning, find_running

MAX_RESULT_BYTES = 64 * 1024 * 1024  # the whole answer is held in memory, here and in the store
READONLY = 164  # the engine's code
TOO_LARGE = 396
_TOO_LARGE = f"the answer has more than {MAX_RESULT_BYTES:,} bytes: add a LIMIT, or select less"
FORMATS = {
    "table": "JSONCompactEachRowWithNames",
    "json": "JSON",
    "ndjson": "JSONEachRow",
    "csv": "CSVWithNames",
}
_READERS = ("SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS")
_OPENING = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*", re.S)
_ROW = msgspec.json.Decoder(list[msgspec.Raw])


class Asked(msgspec.Struct, frozen=True):
    """A statement, the values that it names as `{name:Type}`, and how long it may take."""

    sql: str
    parameters: dict[str, str]
    seconds: float


def ask(settings: Settings, asked: Asked, *, format_: str) -> int:
    """Run one statement, print its rows in a format of FORMATS, and return the exit code."""
    sql = asked.sql.strip().rstrip("; \t\r\n")
    statement = parse(sql.encode())
    if reason := _refusal(statement, sql):
        return _failed(1, reason)
    try:
        running = find_running(settings, needs_store=True)
        content = asyncio.run(_ask(running, sql, asked, FORMATS[format_]))
    except NotRunning as error:
        return _failed(2, str(error))
    except StoreRefused as error:
        return _failed(1, _sentence(error))
    except StoreUnavailable as error:
        return _failed(2, f"the store cannot be asked: {error}; check CLICKHOUSE_URL and that it runs")
    if len(content) > MAX_RESULT_BYTES:  # a constant that is computed on reading escapes the engine's limits
        return _failed(1, _TOO_LARGE)
    if format_ == "table" and statement.format is None:
        names, *rows = [_ROW.decode(line) for line in content.splitlines()] or [[]]
        table.show([str(msgspec.json.decode(name)) for name in names], [[*map(bytes, row)] for row in rows])
        output.say(f"{len(rows):,} row{'' if len(rows) == 1 else 's'}")
    else:
        output.write(content)
    return 0


def _refusal(statement: Statement, sql: str) -> str:
    """Why this is not even sent, or ""."""
    if statement.unclear:
        return (
            "comments in comments, names with $ and quotes beyond ASCII could hide a word: write it without"
        )
    if statement.several:
        return "one statement at a time; this is more than one"
    # Behind brackets: `(SELECT …) UNION ALL (SELECT …)` begins with one. An INSERT may hide behind a WITH.
    opened = _OPENING.match(sql)
    verb = "INSERT" if statement.inserts else parse(sql[opened.end() if opened else 0 :].encode()).verb
    if not verb:
        return "there is no statement"
    if verb in _READERS:
        return ""
    return f"{verb} is refused: `eventbunker sql` only reads ({', '.join(_READERS)})"


def _sentence(error: StoreRefused) -> str:
    if error.code == READONLY:
        return f"refused: `eventbunker sql` only reads, and nothing can change that ({error.message})"
    if error.code == TOO_LARGE:
        return _TOO_LARGE
    return f"the store refuses it: {error.message}"


async def _ask(settings: Settings, sql: str, asked: Asked, format_: str) -> bytes:
    store = store_client.connect(settings)
    own: dict[str, str | int | float] = {
        "readonly": 2,  # its own SETTINGS may set limits, but not this one
        # Among the clients' queries, within their share of memory: no insert fails because somebody looks.
        "workload": WORKLOAD,
        "quota_key": "operator",
        "max_memory_usage": settings.limits.query_max_memory_bytes,
        "max_result_bytes": MAX_RESULT_BYTES,
        "result_overflow_mode": "throw",
        "output_format_json_quote_64bit_integers": 0,
        # Custom fields are of any type, and people group and sort by them; a statement may say otherwise.
        "allow_suspicious_types_in_group_by": 1,
        "allow_suspicious_types_in_order_by": 1,
        "output_format_json_quote_denormals": 1,
        "wait_end_of_query": 1,  # else an error after the first rows would arrive among them
    }
    try:
        return await store.read(
            sql,
            asked.parameters,
            format_=format_,
            settings=own,
            timeout_seconds=asked.seconds,
            queue_seconds=QUEUE_SECONDS,
        )
    finally:
        await store.close()


def _failed(code: int, message: str) -> int:
    output.say(message)
    return code
