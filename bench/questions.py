"""Every kind of question over a million events of the mix, one after the other, as a client asks it."""

from __future__ import annotations

import time
from typing import Any

from bench import mix, mixed, whole
from bench.context import Bench
from bench.markdown import number, table
from bench.process import cpu_seconds
from bench.stats import centile
from tests.client import Client

TITLE = "Every kind of question over a million events"
SECONDS = (170.0, 60.0)
EVENTS, QUICK_EVENTS = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 21, 5
FEWEST_ROUNDS, ENOUGH_SECONDS = 5, 4.0  # a slow question is asked less often
NUMBER, TEXT = "example_number_field", "example_string_field"
COUNT = {"function": "count"}
NUMERIC = ("sum", "avg", "min", "max", "median", "p90", "p95", "p99", "stddev")
OF_ANYTHING = ("count_distinct", "first", "last")
Question = tuple[str, dict[str, Any]]  # path, body without its time period


def _is(name: str, op: str, value: object) -> dict[str, object]:
    return {"field_name": name, "op": op, "value": value}


def _query(**body: Any) -> Question:
    return "/v1/query/json", body


SITE, OTHER_SITE = mix.SITES[1], mix.SITES[5]
NESTED = {
    "or": [
        [_is("event_name", "equals", "purchase"), _is("order.amount", "greater_than", 50)],
        [_is(TEXT, "in", [SITE, OTHER_SITE]), {"or": [_is(NUMBER, "less_than", 20), _is("is_bot", "equals", True)]}],
    ]
}  # fmt: skip
STEPS = [{"event_name": name} for name in ("page_view", "add_to_cart", "purchase")]
QUESTIONS: dict[str, Question] = {
    "events: the newest 100": _query(limit=100),
    "events: the newest 100 of a customer": _query(
        limit=100, filters=[_is("customer_identifier", "equals", "CUSTOMER")]
    ),
    "events: 1,000 that pass a filter": _query(limit=1000, filters=[_is("event_name", "equals", "purchase")]),
    "count": _query(computations=[COUNT]),
    **{
        f"{function} of a number": _query(computations=[{"function": function, "field_name": NUMBER}])
        for function in NUMERIC
    },
    **{
        f"{function} of a string": _query(computations=[{"function": function, "field_name": TEXT}])
        for function in OF_ANYTHING
    },
    "group by a string, count": _query(group_by=[TEXT], computations=[COUNT]),
    "group by two fields, one nested, sum and p95": _query(
        group_by=["event_name", "order.plan"],
        computations=[
            {"function": "sum", "field_name": "order.amount"},
            {"function": "p95", "field_name": "order.amount"},
        ],
    ),
    "by hour with fill: 720 rows": _query(group_by_time="hour", fill=True, computations=[COUNT]),
    "by day in Berlin, group by event name": _query(
        group_by_time="day", timezone="Europe/Berlin", group_by=["event_name"], computations=[COUNT]
    ),
    "filter: nested or": _query(filters=[NESTED], computations=[COUNT]),
    "filter: regular expression": _query(
        filters=[_is(TEXT, "matches", r"^(cat|vip)\d*[02468]\.(com|net)$")], computations=[COUNT]
    ),
    "filter: contains in text": _query(filters=[_is(TEXT, "contains", "ail")], computations=[COUNT]),
    "filter: contains in an array": _query(
        filters=[_is("example_array_field", "contains", "vip")], computations=[COUNT]
    ),
    "funnel of three steps": ("/v1/query/funnel", {"steps": STEPS, "window": "7_days"}),
    "funnel by group": ("/v1/query/funnel", {"steps": STEPS, "window": "7_days", "group_by": [TEXT]}),
    "retention by week": (
        "/v1/query/retention",
        {"first": {"event_name": "page_view"}, "group_by_time": "week", "periods": 4},
    ),
    "timeline of a customer": ("/v1/query/timeline", {"customer_identifier": "CUSTOMER"}),
    "fields: names, types, counts": ("/v1/query/fields", {}),
    "usage of the project": ("/v1/manage/usage", {"project_id": "PROJECT"}),
    "chart: a line by day": (
        "/v1/query/iframe",
        {"group_by_time": "day", "computations": [COUNT], "chart": {"type": "line"}},
    ),
    "chart: areas by hour and event name": (
        "/v1/query/iframe",
        {"group_by_time": "hour", "group_by": ["event_name"], "computations": [COUNT], "chart": {"type": "area"}},
    ),
    **{
        f"export as {form}: first byte": ("/v1/export", {"format": form})
        for form in ("ndjson", "csv", "parquet")
    },
}  # fmt: skip


def measure(bench: Bench) -> dict[str, Any]:
    """The whole service, Hypercorn, defaults; nothing else is asked of it meanwhile."""
    with whole.start(bench) as running:
        events = bench.choose(EVENTS, QUICK_EVENTS)
        bench.progress.say(f"{events:,} events")
        project = mixed.fill(running, events)
        names = {"CUSTOMER": _customer(project), "PROJECT": project.keys["project_id"]}
        found, failed = {}, {}
        bench.progress.say(f"{len(QUESTIONS)} questions")
        for name, (path, body) in QUESTIONS.items():
            told = {
                key: names.get(value, value) if isinstance(value, str) else value
                for key, value in body.items()
            }
            told |= {"filters": [_named(one, names) for one in body["filters"]]} if "filters" in body else {}
            try:
                found[name] = _ask(bench, running, project, path, {"time_period": mixed.PERIOD, **told})
            except RuntimeError as error:  # costs the others nothing
                failed[name] = str(error)
                bench.progress.say(f"{name}: {error}")
        return {"events": events, "questions": found, "failed": failed, "memory": running.memory()}


def _named(item: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    value = item.get("value")
    return {**item, "value": names[value]} if isinstance(value, str) and value in names else item


def _customer(project: Client) -> str:
    """One with as many events as most."""
    rows = project.rows(
        time_period=mixed.PERIOD,
        group_by=["customer_identifier"],
        computations=[COUNT],
        order_by=[{"field_name": "count", "direction": "DESC"}],
        limit=10_000,
    )
    return str(rows[len(rows) // 2]["customer_identifier"])


def _ask(
    bench: Bench, running: whole.Whole, project: Client, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    """Errors: RuntimeError when it is not answered with a 200."""
    key = ("x-eventbunker-apikey", "project_master_key") if "manage" in path else (
        "x-eventbunker-query-key", "query_key"
    )  # fmt: skip
    headers = {key[0]: project.keys[key[1]], "accept": "*/*"}
    times: list[float] = []
    size, store = 0, running.pid("store")
    rounds = bench.choose(ROUNDS, QUICK_ROUNDS)
    began = before = 0.0
    for turn in range(rounds + 1):
        if turn == 1:  # the first is not counted
            began, before = time.monotonic(), cpu_seconds(store)
        at = time.perf_counter()
        with project.http.stream("POST", path, json=body, headers=headers) as answer:
            if answer.status_code != 200:
                raise RuntimeError(f"{answer.status_code} {answer.read().decode()[:200]}")
            size = len(next(answer.iter_raw(), b"")) if path == "/v1/export" else len(answer.read())
        if turn:
            times.append((time.perf_counter() - at) * 1000)
        if len(times) >= FEWEST_ROUNDS and time.monotonic() - began > ENOUGH_SECONDS:
            break
    return {
        "p50_ms": round(centile(times, 50), 1),
        "p95_ms": round(centile(times, 95), 1),
        "store_cpu_ms": round((cpu_seconds(store) - before) * 1000 / len(times), 1),
        "bytes": size,
        "rounds": len(times),
    }


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    rows = [
        [name, number(one["p50_ms"]), number(one["p95_ms"]), number(one["store_cpu_ms"]), f"{one['bytes']:,}"]
        for name, one in result["questions"].items()
    ]
    chunks = [
        table(
            [f"{result['events']:,} events, 30 days", "p50 ms", "p95 ms", "CPU ms of the store", "bytes answered"],
            rows,
        )
    ]  # fmt: skip
    chunks += [f"* not answered: {name} ({reason})" for name, reason in result["failed"].items()]
    chunks.append(
        "The whole service with its defaults on this machine, over HTTP as a client asks, one question at a time, each "
        f"up to {ROUNDS} times after one that is not counted; all of the period. The events are those of `bench/mix.py`: "
        "12 event names, 10,000 customers in sessions, days and nights, strings, numbers, arrays, booleans, one "
        "event in four with a nested order, a tenth as many of other projects between them. CPU is that of the store's "
        "process, of all cores. Of an export it is the time to the first byte, and the client leaves then. Afterwards "
        f"the service had {number(result['memory']['together'])} MB together, the store {number(result['memory']['store'])}."
    )
    return "\n\n".join(chunks)
