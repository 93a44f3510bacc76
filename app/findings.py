"""What each analysis asks the store, within a turn, and makes of the rows.

Knows no HTTP: `app.analyse` answers with it. The SQL is built by leaves, with the turn's scope in every one.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from app import cohorts, funnel, seen_fields, sql, sql_cohorts, sql_funnel, sql_seen_fields, sql_timeline
from app import timeline as timelines
from app.answer import data, next_of
from app.aside import aside
from app.ask import Turn
from app.errors import ApiError, Kind

Members = dict[str, object]  # of an answer
FIELDS_SECONDS = 30.0
# An answer is small and everything before it is large, so blocks are large too; in bytes they are bounded.
_BLOCKS = {"max_block_size": 131_072, "preferred_block_size_bytes": 16_000_000}


async def find_funnel(asked: funnel.Funnel, turn: Turn) -> Members:
    rows = await _rows(turn, *sql_funnel.to_statement(asked, turn.scope))
    steps, groups = await aside(turn.scope.project_id, funnel.groups, asked, rows)
    return {"steps": steps, "groups": groups, "window_ms": asked.window_ms}


async def find_retention(asked: cohorts.Retention, turn: Turn) -> Members:
    rows = await _rows(turn, *sql_cohorts.to_statement(asked, turn.scope))
    table, groups = await aside(turn.scope.project_id, cohorts.tables, asked, rows)
    return {"cohorts": table.cohorts, "total": table.total, "groups": groups}


async def find_fields(asked: seen_fields.SeenFields, turn: Turn) -> Members:
    """Several statements, so that one deadline for each would not bound the turn."""
    try:
        async with asyncio.timeout(FIELDS_SECONDS):
            return await _fields(asked, turn)
    except TimeoutError:
        raise ApiError(
            Kind.QUERY_TOO_EXPENSIVE,
            f"Reading all fields took over {FIELDS_SECONDS:g} seconds; narrow time_period, filters or limit.",
        ) from None


async def _fields(asked: seen_fields.SeenFields, turn: Turn) -> Members:
    names = seen_fields.seen_names(await _rows(turn, *sql_seen_fields.to_names(asked, turn.scope)))
    ((paths,),) = await _rows(turn, *sql_seen_fields.to_paths(asked, turn.scope))
    custom = seen_fields.custom_fields(paths)
    wanted = [*seen_fields.COLUMN_FIELDS, *custom[asked.offset : asked.offset + asked.limit]]
    found: list[seen_fields.SeenField] = []
    for start in range(0, len(wanted), sql_seen_fields.FIELDS_AT_ONCE):
        some = wanted[start : start + sql_seen_fields.FIELDS_AT_ONCE]
        (row,) = await _rows(turn, *sql_seen_fields.to_details(asked, turn.scope, some, paths))
        found += seen_fields.seen_fields(some, row)
    return {"event_names": names, "fields": found, "custom_field_count": len(custom)}


async def find_timeline(asked: timelines.Timeline, turn: Turn) -> Members:
    query = asked.query
    page = sql.to_statement(query, turn.scope)
    rows = (await turn.ask(page.sql, page.parameters)).rows
    events = await aside(turn.scope.project_id, data, query, page, rows)
    members: Members = {"data": events, "row_count": len(events)}
    members["next"] = next_of(query, page.outputs, rows)
    if asked.gap_ms is None:
        return members
    ((count, found),) = await _rows(turn, *sql_timeline.to_sessions(asked, turn.scope))
    return members | {"sessions": timelines.sessions(found), "session_count": count}


async def _rows(turn: Turn, sql: str, parameters: dict[str, Any]) -> list[list[Any]]:
    result = await turn.ask(sql, parameters, _BLOCKS)
    return cast("list[list[Any]]", result.rows)
