"""Questions of the query API against the SQL that a competent person would write by hand for the same table.

    python -m bench.queries 1          one million events
    python -m bench.queries 10         ten millions: five minutes, 1 GB of disk

Ours goes the whole way: `POST /v1/query/json` through the query endpoint (in this process; the key's look-up
in Redis left out), the store's HTTP interface, and the answer's JSON. The other goes to the store at once and
knows what the API cannot: which type each field has. It therefore reads one typed subcolumn, takes sums that
may overflow, and calls 1 and "1" whatever it likes. Both ask in turn; figures are medians of the clock, and
means of the processor time that the store's process used.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from app.ask import Asker
from app.grant import Grant, KeyType
from app.read import ReadHandlers
from app.scope import Erased
from app.store import Store
from bench import mix
from bench.storage import DATABASE, Filled, filled
from tests.pipeline_kit import make_settings

ROUNDS = 7
PERIOD = {"start": "2025-11-01", "end": "2025-12-01"}
_WHERE = f"FROM events WHERE project_id = '{mix.PROJECT}' AND event_time >= '2025-11-01' AND event_time < '2025-12-01'"
_HOUR = (
    f"FROM events WHERE project_id = '{mix.PROJECT}' AND event_name = 'page_view'"
    " AND event_time >= '2025-11-15 12:00:00' AND event_time < '2025-11-15 13:00:00'"
)
_STRING, _NUMBER = "fields.example_string_field.:String", "fields.example_number_field.:Int64"
_FLAG, _AMOUNT = "fields.example_bool_field.:Bool", "fields.order.amount.:Float64"
_SITE = mix.SITES[1]


def _is(name: str, value: object, op: str = "equals") -> dict[str, object]:
    return {"field_name": name, "op": op, "value": value}


def _of(function: str, name: str) -> dict[str, str]:
    return {"function": function, "field_name": name}


COUNT = {"function": "count"}
FLAGGED = _is("example_bool_field", True)
# Name -> (the request, the SQL). CUSTOMER stands for one with about as many events as most.
QUESTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "group by a custom string, count, sum, filter on a custom field": (
        {
            "group_by": ["example_string_field"],
            "computations": [COUNT, _of("sum", "example_number_field")],
            "filters": [FLAGGED],
            "order_by": [{"field_name": "count", "direction": "DESC"}],
            "limit": 100,
        },
        f"SELECT {_STRING} AS s, count() AS n, sum({_NUMBER}) {_WHERE} AND {_FLAG} = true"
        " GROUP BY s ORDER BY n DESC LIMIT 100",
    ),
    "sum of a number, filter on a custom string": (
        {
            "computations": [_of("sum", "example_number_field")],
            "filters": [_is("example_string_field", _SITE)],
        },
        f"SELECT sum({_NUMBER}) {_WHERE} AND {_STRING} = '{_SITE}'",
    ),
    "count, filter on a custom number": (
        {"computations": [COUNT], "filters": [_is("example_number_field", 500, "greater_than")]},
        f"SELECT count() {_WHERE} AND {_NUMBER} > 500",
    ),
    "count by event name and day": (
        {"group_by_time": "day", "group_by": ["event_name"], "computations": [COUNT]},
        f"SELECT toStartOfDay(event_time) AS d, event_name, count() {_WHERE} GROUP BY d, event_name ORDER BY d, event_name",
    ),
    "nested field: group by a string, sum of amounts": (
        {
            "group_by": ["order.plan"],
            "computations": [_of("sum", "order.amount")],
            "filters": [{"field_name": "order.plan", "op": "is_not_null"}],
        },
        f"SELECT fields.order.plan.:String AS p, sum({_AMOUNT}) {_WHERE} AND p IS NOT NULL GROUP BY p ORDER BY p",
    ),
    "minimum, maximum and mean of a number": (
        {"computations": [_of(function, "example_number_field") for function in ("min", "max", "avg")]},
        f"SELECT min({_NUMBER}), max({_NUMBER}), avg({_NUMBER}) {_WHERE}",
    ),
    "distinct customers by a custom string": (
        {
            "group_by": ["example_string_field"],
            "computations": [_of("count_distinct", "customer_identifier")],
        },
        f"SELECT {_STRING} AS s, uniqExact(customer_identifier) {_WHERE} GROUP BY s ORDER BY s LIMIT 1000",
    ),
    "newest 100 events": ({"limit": 100}, f"SELECT * {_WHERE} ORDER BY event_time DESC LIMIT 100"),
    "newest 100 of one event name": (
        {"limit": 100, "filters": [_is("event_name", "purchase")]},
        f"SELECT * {_WHERE} AND event_name = 'purchase' ORDER BY event_time DESC LIMIT 100",
    ),
    "newest 100 of one customer": (
        {"limit": 100, "filters": [_is("customer_identifier", "CUSTOMER")]},
        f"SELECT * {_WHERE} AND customer_identifier = 'CUSTOMER' ORDER BY event_time DESC LIMIT 100",
    ),
    "one hour of one event name, group by a custom string": (
        {
            "time_period": {"start": "2025-11-15T12:00:00Z", "end": "2025-11-15T13:00:00Z"},
            "group_by": ["example_string_field"],
            "computations": [COUNT],
            "filters": [_is("event_name", "page_view")],
        },
        f"SELECT {_STRING} AS s, count() {_HOUR} GROUP BY s ORDER BY s LIMIT 1000",
    ),
}


class Fresh:
    """Everything is in the store, since nothing else fills it, and nothing was erased."""

    async def hidden(self, project_id: str) -> tuple[Erased, ...]:
        return ()

    async def fresh_as_of(self) -> int:
        """A moment of the mix."""
        return mix.FIRST_MS


async def _authorise(_: str | None, __: KeyType) -> Grant:
    return Grant(KeyType.QUERY, "key", "account", mix.PROJECT, None)


def _endpoint(store: Store) -> httpx.AsyncClient:
    """A client of the query endpoint. Its settings are those of an empty deploy.toml."""
    with tempfile.TemporaryDirectory() as directory:
        settings = make_settings(Path(directory), "unix:///none")
    registry = cast("Any", SimpleNamespace(authorise=_authorise))
    handlers = ReadHandlers(Asker(registry, store, Fresh(), Fresh(), settings))
    app = Starlette(routes=[Route("/v1/query/json", handlers.query_json, methods=["POST"])])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge", timeout=60)


async def _ask(filled_store: Filled, only: str) -> dict[str, dict[str, Any]]:
    server = filled_store.server
    store = Store(server.url, database=DATABASE, username="default", password=server.token)
    customer = filled_store.text(
        f"SELECT customer_identifier FROM events WHERE project_id = '{mix.PROJECT}' AND customer_identifier != ''"
        " GROUP BY 1 HAVING count() BETWEEN 90 AND 110 ORDER BY 1 LIMIT 1"
    )
    results = {}
    async with _endpoint(store) as edge:
        for name, (request, sql) in QUESTIONS.items():
            if only in name:
                body = json.dumps({"time_period": PERIOD, **request}).replace("CUSTOMER", customer)
                results[name] = await _measure(filled_store, edge, body, sql.replace("CUSTOMER", customer))
    await store.close()
    return results


async def _measure(store: Filled, edge: httpx.AsyncClient, body: str, sql: str) -> dict[str, Any]:
    ours: list[float] = []
    by_hand: list[float] = []
    used = {"ours": 0.0, "by_hand": 0.0}
    for number in range(ROUNDS + 1):
        before, at = store.cpu_seconds(), time.perf_counter()
        answer = await edge.post("/v1/query/json", content=body)
        between, middle = store.cpu_seconds(), time.perf_counter()
        store.post(sql, default_format="JSONCompact")
        end, after = time.perf_counter(), store.cpu_seconds()
        answer.raise_for_status()
        if number:  # the first one of each warms the caches
            ours.append(middle - at)
            by_hand.append(end - middle)
            used["ours"] += between - before
            used["by_hand"] += after - between
    clock = {"ours": statistics.median(ours), "by_hand": statistics.median(by_hand)}
    return {
        **{f"{who}_ms": clock[who] * 1000 for who in clock},
        **{f"{who}_cpu_ms": used[who] * 1000 / ROUNDS for who in used},
        "ratio": statistics.median(a / b for a, b in zip(ours, by_hand, strict=True)),
        "cpu_ratio": used["ours"] / used["by_hand"] if used["by_hand"] else None,
        "rows_read": int(store.text(f"EXPLAIN ESTIMATE {sql}").split("\t")[3]),
    }


def measure(store: Filled, only: str = "") -> dict[str, dict[str, Any]]:
    """The figures of each question whose name contains `only`."""
    return asyncio.run(_ask(store, only))


def table(results: dict[str, dict[str, Any]]) -> str:
    """The figures in Markdown: milliseconds, of the processor in brackets."""
    lines = ["| Question | ours | by hand | ratio |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {one['ours_ms']:.0f} ({one['ours_cpu_ms']:.0f}) | {one['by_hand_ms']:.0f}"
        f" ({one['by_hand_cpu_ms']:.0f}) | {one['ratio']:.2f} |"
        for name, one in results.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    count = int(float(sys.argv[1]) * 1_000_000) if len(sys.argv) > 1 else 1_000_000
    with filled(count) as (store, cost):
        sizes = store.sizes()
        print(
            f"{sizes['rows']:,} events in {sizes['parts']} parts, {sizes['bytes_an_event']:.1f} bytes each; {cost}\n"
        )
        print(table(measure(store)))
        print(f"\nmemory of the store at most: {store.peak_megabytes()} MB")


if __name__ == "__main__":
    main()
