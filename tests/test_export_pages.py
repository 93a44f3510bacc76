"""Pages of an export: each row once, whatever changes meanwhile, and nothing held between two of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest

from app.errors import ApiError, Kind
from app.export import ExportFile
from app.export_pages import IN_FLIGHT_MS, MAX_PAGE_ROWS, MIN_PAGE_ROWS, Bound, Pages, settle
from app.export_request import Export, read_export
from app.export_sql import NAMES, count, page
from app.export_text import STEP_BYTES, Csv, UnknownField, ndjson, rows_of
from app.scope import Erased, Scope
from app.store import Result
from tests.query_data import EVENTS, to_row
from tests.query_engine import Engine

EVER = {"start": "1970-01-01", "end": "2101-01-01"}
BOUND = 1_800_000_000_000


def export_of(**request: Any) -> Export:
    return read_export(json.dumps({"time_period": EVER, **request}).encode(), "", BOUND)


def row(number: int, body: str = "{}") -> list[object]:
    made = {"event_name": "e", "event_time": "2026-01-01T00:00:00.000Z", "time_recorded": number}
    made |= {"unique_req_id": f"{number:032x}"}
    return [*(made.get(name) for name in NAMES), body]


class Store:
    """Holds rows 0 to `total`; answers pages of them, and is as it is told to be."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.limits: list[int] = []
        self.begins: list[int] = []
        self.turns = 0
        self.scope = Scope("p")
        self.most_rows = MAX_PAGE_ROWS
        self.error: ApiError | None = None
        self.fresh_as_of = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Any]:
        if self.error is not None:
            raise self.error
        self.turns += 1
        try:
            yield self
        finally:
            self.turns -= 1

    async def ask(self, sql: str, parameters: Mapping[str, Any], settings: Any = None) -> Result:
        values = list(parameters.values())
        start, end = values[1], values[2]
        if end - start > 10**12:
            raise ApiError(Kind.QUERY_TOO_EXPENSIVE, "time")
        return Result([], [], [[end - start]])

    async def read(self, sql: str, parameters: Mapping[str, Any], settings: Any = None) -> bytes:
        await asyncio.sleep(0)
        values = list(parameters.values())
        limit = int(values[-1])
        self.limits.append(limit)
        if limit > self.most_rows:
            raise ApiError(Kind.QUERY_TOO_EXPENSIVE, "size")
        begin = int(str(values[-2]), 16) + 1 if "event_name >=" in sql else 0
        self.begins.append(begin)
        rows = [row(n) for n in range(begin, min(self.total, begin + limit))]
        return msgspec.json.Encoder().encode_lines(rows)


def numbers_in(lines: bytes) -> list[int]:
    at = NAMES.index("time_recorded")
    return [int(str(one[at])) for some in rows_of(lines) for one in some]


async def numbers(pages: AsyncGenerator[bytes, None]) -> list[int]:
    return [number for lines in [found async for found in pages] for number in numbers_in(lines)]


def test_a_page_that_is_too_much_is_asked_for_in_smaller_ones() -> None:
    store = Store(2000)
    store.most_rows = 300

    async def run() -> list[int]:
        return await numbers(Pages(store.turn, export_of(), BOUND).read())

    assert asyncio.run(run()) == list(range(2000))
    assert min(store.limits) >= MIN_PAGE_ROWS


def test_a_page_that_is_too_much_at_its_smallest_is_an_error() -> None:
    store = Store(2000)
    store.most_rows = 1

    async def run() -> list[int]:
        return await numbers(Pages(store.turn, export_of(), BOUND).read())

    with pytest.raises(ApiError):
        asyncio.run(run())


def test_a_page_that_was_read_before_an_erasure_is_read_again() -> None:
    store = Store(10_000)

    async def run() -> None:
        pages = Pages(store.turn, export_of(), BOUND).read()
        await anext(pages)
        while len(store.begins) < 2:  # noqa: ASYNC110  (the fake tells nobody)
            await asyncio.sleep(0)  # the next is read ahead
        store.scope = Scope("p", erased=(Erased(BOUND),))
        await anext(pages)
        await pages.aclose()

    asyncio.run(run())
    assert store.begins[1] == store.begins[2]


def test_nothing_is_held_while_the_client_takes_a_page_and_a_key_that_ends_ends_it() -> None:
    store = Store(100_000)

    async def run() -> None:
        pages = Pages(store.turn, export_of(), BOUND).read()
        await anext(pages)
        for _ in range(100):
            await asyncio.sleep(0)
        assert (store.turns, len(store.limits)) == (0, 2)  # one page ahead, and no more
        store.error = ApiError(Kind.INVALID_QUERY_KEY, "revoked")
        with pytest.raises(ApiError):
            await anext(pages)

    asyncio.run(run())


def test_a_store_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.export_pages.RETRY_SECONDS", 0.001)
    store = Store(5000)

    async def run() -> list[int]:
        pages = Pages(store.turn, export_of(), BOUND).read()
        first = await anext(pages)
        store.error = ApiError(Kind.UNAVAILABLE, "away")
        rest = asyncio.create_task(numbers(pages))
        await asyncio.sleep(0.01)
        assert not rest.done()
        store.error = None
        return numbers_in(first) + await rest

    assert asyncio.run(run()) == list(range(5000))
    monkeypatch.setattr("app.export_pages.PATIENCE_SECONDS", 0.0)
    store.error = ApiError(Kind.UNAVAILABLE, "away")
    with pytest.raises(ApiError):
        asyncio.run(numbers(Pages(store.turn, export_of(), BOUND).read()))


def test_what_is_too_much_for_one_statement_is_counted_in_halves() -> None:
    store = Store(0)
    export = export_of()
    counted = asyncio.run(Pages(store.turn, export, BOUND).count())
    assert counted == export.period.end_ms - export.period.start_ms


def behind(milliseconds: int | None) -> Callable[[], Awaitable[int | None]]:
    async def behind_ms() -> int | None:
        return milliseconds

    return behind_ms


def test_the_bound_is_the_present_once_the_drain_has_come_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(0)
    store.fresh_as_of = 10 + IN_FLIGHT_MS
    assert asyncio.run(settle(store.turn, behind(0), 10)) == Bound(10)
    monkeypatch.setattr("app.export_pages.FRESH_SECONDS", 0.0)
    assert asyncio.run(settle(store.turn, behind(0), 11)) == Bound(10)
    assert asyncio.run(settle(store.turn, behind(3), 11)) == Bound(7), "an edge's clock is behind"
    assert asyncio.run(settle(store.turn, behind(None), 8)) == Bound(8, is_settled=False)
    store.fresh_as_of = 0  # Redis is away, and never told: no export may go on from here
    assert asyncio.run(settle(store.turn, behind(3), 30)) == Bound(30, is_settled=False)


@pytest.mark.parametrize("is_settled", [True, False])
def test_only_what_another_export_can_go_on_from_is_told(is_settled: bool) -> None:
    made: Any = None
    file = ExportFile(made, made, export_of(), Bound(BOUND, is_settled=is_settled), count=3, project_id="p")
    headers = file.headers()
    assert headers["x-eventbunker-event-count"] == "3"
    assert headers.get("x-eventbunker-recorded-up-to") == (str(BOUND) if is_settled else None)
    assert ("recorded-up-to" in headers["access-control-expose-headers"]) == is_settled


def test_a_field_that_came_too_late_for_its_column_is_not_left_out() -> None:
    late = Csv(["known"], escapes_formulas=False)
    assert late.lines([row(1, '{"known": 1, "unknown": null}')]).count(b"\n") == 1
    with pytest.raises(UnknownField):
        late.lines([row(1, '{"unknown": 1}')])


def test_pages_of_the_engine_have_every_event_once_in_order(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Few names and moments: most pages end among events that share both."""
    export, scope = export_of(), Scope("p")
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        for start in range(0, len(EVENTS), 60):
            engine.insert([to_row(event) for event in EVENTS[start : start + 60]])
        engine.insert([{**to_row(event), "project_id": "q"} for event in EVENTS[:20]])

        class Asked(Store):
            async def read(self, sql: str, parameters: Mapping[str, Any], settings: Any = None) -> bytes:
                return msgspec.json.Encoder().encode_lines(engine.run(sql, dict(parameters)))

        async def run() -> list[dict[str, Any]]:
            pages = Pages(Asked(0).turn, export, BOUND)
            pages._rows = 7
            found: list[dict[str, Any]] = []
            async for lines in pages.read():
                for rows in rows_of(lines):
                    found += map(json.loads, ndjson(rows).splitlines())
            return found

        exported = asyncio.run(run())
        assert engine.run(*_parts(count(scope, export, export.period, BOUND))) == [[len(EVENTS)]]
        assert len(engine.run(*_parts(page(scope, export, 1_700_000_000_099, None, 10_000)))) == 100
    assert len(exported) == len(EVENTS)
    places = [(e["event_name"], e["event_time"], e["time_recorded"], e["unique_req_id"]) for e in exported]
    assert places == sorted(set(places))
    wanted = {event["unique_req_id"]: event for event in EVENTS}
    for event in exported:
        sent = {k: v for k, v in wanted[event["unique_req_id"]].items() if k not in ("event_time", "is_bot")}
        assert sent.items() <= event.items()


def _parts(statement: Any) -> tuple[str, dict[str, Any]]:
    return statement.sql, statement.parameters


@pytest.mark.parametrize("size", [1, 1000, STEP_BYTES, 3 * STEP_BYTES])
def test_lines_are_taken_apart_in_steps(size: int) -> None:
    made = [[n, "x" * (n % 7 * size // 7)] for n in range(20)]
    steps = list(rows_of(msgspec.json.Encoder().encode_lines(made)))
    assert [list(one) for some in steps for one in some] == made
    assert all(len(some) == 1 or len(str(some[:-1])) < 2 * STEP_BYTES for some in steps)
    assert list(rows_of(b"")) == []


def test_a_page_that_the_store_cut_short_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.export_pages.RETRY_SECONDS", 0.001)
    store, read = Store(3000), Store.read

    async def cut_short(self: Store, sql: str, parameters: Mapping[str, Any], settings: Any = None) -> bytes:
        lines = await read(self, sql, parameters, settings)
        return lines if len(self.begins) % 2 else lines + b"Code: 241. DB::Exception: memory"

    monkeypatch.setattr(Store, "read", cut_short)

    async def run() -> list[int]:
        return await numbers(Pages(store.turn, export_of(), BOUND).read())

    assert asyncio.run(run()) == list(range(3000))
