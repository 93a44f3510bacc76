"""The real engine for tests of the query language: the events table, filled with the drain's settings.

It runs in a process of its own, since the engine allows a process one data directory for life.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import workers
from app.answer import render
from app.query import Query
from app.scope import Scope
from app.sql import RAW_COLUMNS, to_statement
from app.store import Value, encode_parameter
from workers.rows import INSERT_SETTINGS

MIGRATIONS = Path(workers.__file__).parent / "migrations"
ANSWER_SECONDS = 60.0
SETTINGS = {
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_escape_forward_slashes": 0,
    "enable_extended_results_for_datetime_functions": 1,
}


def _serve(pipe: Connection, path: str) -> None:
    from chdb.session import Session

    session: Any = Session(path)  # type: ignore[no-untyped-call]
    while True:
        try:
            sql, parameters = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((str(session.query(sql, "JSONCompact", params=parameters)), ""))
        except Exception as error:  # whatever the engine raises is the answer
            pipe.send(("", str(error)))


class Refused(Exception):
    """The engine's own message."""


class Engine:
    """`with Engine(path) as engine`. Statements run one at a time."""

    def __init__(self, path: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, path), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Engine:
        for migration in sorted(MIGRATIONS.glob("*.sql")):
            self.run(migration.read_text())
        for name, value in SETTINGS.items():
            self.run(f"SET {name} = {value}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(ANSWER_SECONDS)
        self._process.close()

    def run(self, sql: str, parameters: Mapping[str, Value] | None = None) -> list[list[Any]]:
        """The rows. Errors: Refused."""
        encoded = {name: encode_parameter(value) for name, value in (parameters or {}).items()}
        self._pipe.send((sql, encoded))
        if not self._pipe.poll(ANSWER_SECONDS):
            raise AssertionError(f"no answer within {ANSWER_SECONDS} s: {sql}")
        text, message = self._pipe.recv()
        if message:
            raise Refused(message)
        rows: list[list[Any]] = json.loads(text)["data"] if text.strip() else []
        return rows

    def insert(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Rows of the table by column name; times are Unix milliseconds, `body` is the client's text."""
        lines = "\n".join(json.dumps({"project_id": "p", **event}) for event in events)
        settings = ", ".join(f"{name} = {value}" for name, value in INSERT_SETTINGS.items())
        columns = [field.name for field in RAW_COLUMNS]
        values = [
            f"fromUnixTimestamp64Milli({c}, 'UTC')"
            if c in ("event_time", "time_recorded")
            else f"unhex({c})"
            if c == "unique_req_id"
            else c
            for c in columns
        ]
        shape = ", ".join(f"{c} {_KINDS.get(c, 'Nullable(String)')}" for c in [*columns, *_OTHERS])
        self.run(
            f"INSERT INTO events ({', '.join([*columns, *_OTHERS])}) SELECT {', '.join([*values, *_OTHERS])} "
            f"FROM format(JSONEachRow, {{shape:String}}, {{lines:String}}) SETTINGS {settings}",
            {"shape": shape, "lines": lines},
        )

    def answer(self, query: Query, scope: Scope) -> dict[str, Any]:
        """What a client gets, decoded; integers and floats of any size as Python reads them."""
        statement = to_statement(query, scope)
        rows = self.run(statement.sql, statement.parameters)
        decoded: dict[str, Any] = json.loads(
            render(query, statement, rows, elapsed_ms=1.0, fresh_as_of=0).content
        )
        return decoded


_OTHERS = ("project_id", "body")
_KINDS = {
    "event_time": "Int64",
    "time_recorded": "Int64",
    "unique_req_id": "String",
    "event_name": "String",
    "customer_identifier": "String",
    "event_id": "String",
    "project_id": "String",
    "body": "String",
    "is_bot": "Nullable(Bool)",
}
