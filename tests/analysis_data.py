"""Events of many customers, close together and often at one moment: what the tests of the analyses work on."""

from __future__ import annotations

import json
import os
import random
from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from app.scope import Scope

PROJECTS = ("dense", "sparse", "turning")
NAMES = ["view", "cart", "buy", "ping"]
PLANS: list[Any] = [None, "pro", "free", 1, 1.0, "1", True]
SESSIONS: list[Any] = [None, "s1", "s2", 7]
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
START = int(datetime.fromisoformat("2024-03-25T00:00:00+00:00").timestamp() * 1000)  # six days before DST
ZONES = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Pacific/Apia"]


def examples(number: int) -> int:
    """How many a property is tried with: `make oracle` has more patience than CI."""
    return number * int(os.environ.get("EVENTBUNKER_PATIENCE", "1"))


def _moment(rng: random.Random, project: str) -> int:
    if project == "dense":  # twenty moments in two hours
        return START + rng.randrange(20) * 6 * MINUTE
    if project == "sparse":
        return START + rng.randrange(90 * DAY)
    return START + rng.randrange(12) * DAY + rng.choice([-1, 0, 1, HOUR, 22 * HOUR, 23 * HOUR, 23 * HOUR - 1])


def random_events(project: str, customers: int, seed: int) -> list[dict[str, Any]]:
    """Events as Python values; `event_time` and `time_recorded` in Unix milliseconds."""
    rng = random.Random(f"{project}{seed}")
    events: list[dict[str, Any]] = []
    for customer in range(customers):
        for _ in range(rng.choice([1, 1, 2, 3, 5, 8, 13, 30])):
            event: dict[str, Any] = {
                "event_name": rng.choice(NAMES),
                "event_time": _moment(rng, project),
                # Not in the order of `event_time`, and often equal: then the id decides.
                "time_recorded": START + 100 * DAY + rng.randrange(4),
                "unique_req_id": f"{rng.getrandbits(128):032x}",
                "customer_identifier": f"c{customer}" if customer % 10 else None,
                "is_bot": rng.choice([None, True, False]),
                "utm_source": rng.choice([None, "News", "Mail"]),
            }
            event |= {"plan": rng.choice(PLANS), "session": rng.choice(SESSIONS), "n": rng.randrange(5)}
            events.append({name: value for name, value in event.items() if value is not None})
    return events


EVENTS = {project: random_events(project, 60, 1) for project in PROJECTS}
COLUMNS = ("event_time", "time_recorded", "unique_req_id", "is_bot")
ENVELOPE = ("event_name", "customer_identifier", "utm_source")


def to_row(event: dict[str, Any], project: str) -> dict[str, Any]:
    """The event as a row: its columns, and the body that a client would have sent."""
    body = {name: value for name, value in event.items() if name not in COLUMNS}
    row = {name: event.get(name) for name in (*COLUMNS, *ENVELOPE)}
    row |= {"customer_identifier": event.get("customer_identifier") or "", "event_id": ""}
    return {**row, "project_id": project, "body": json.dumps(body, ensure_ascii=False)}


def scope(project: str, customer: str | None = None) -> Scope:
    return Scope(project, customer)


def in_scope(project: str, customer: str | None) -> list[dict[str, Any]]:
    """What a key may see, in order."""
    found = [e for e in EVENTS[project] if customer in (None, e.get("customer_identifier"))]
    return sorted(found, key=order_of)


def order_of(event: dict[str, Any]) -> tuple[int, int, str]:
    return event["event_time"], event["time_recorded"], event["unique_req_id"]


def filters() -> st.SearchStrategy[dict[str, Any]]:
    def equals(name: str, values: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
        made = {"field_name": st.just(name), "op": st.sampled_from(["equals", "not_equals"])}
        return st.fixed_dictionaries({**made, "value": st.sampled_from([v for v in values if v is not None])})

    return st.one_of(
        equals("plan", PLANS),
        equals("utm_source", ["News", "Mail"]),
        st.fixed_dictionaries(
            {
                "field_name": st.just("n"),
                "op": st.sampled_from(["less_than", "greater_than"]),
                "value": st.integers(0, 4),
            }
        ),
    )


def selections() -> st.SearchStrategy[dict[str, Any]]:
    """Some of the events, by name, by filters, or by both."""
    name = st.sampled_from(NAMES)
    named = st.fixed_dictionaries({"event_name": name}, optional={"filters": st.lists(filters(), max_size=1)})
    return named | st.fixed_dictionaries({"filters": st.lists(filters(), min_size=1, max_size=1)})


def periods() -> st.SearchStrategy[dict[str, str]]:
    """Nearly all of the time, or some of it."""
    moments = st.integers(0, 40 * DAY).map(lambda gap: START - 2 * DAY + gap)
    some = st.tuples(moments, moments).filter(lambda two: two[0] != two[1]).map(sorted)
    whole = st.just([START - 3 * DAY, START + 95 * DAY])
    return (whole | some).map(lambda two: {"start": _iso(two[0]), "end": _iso(two[1])})


def _iso(moment_ms: int) -> str:
    text = datetime.fromtimestamp(moment_ms / 1000).astimezone().isoformat(timespec="milliseconds")
    return text


def bounds(period: dict[str, str]) -> tuple[int, int]:
    start, end = (round(datetime.fromisoformat(period[name]).timestamp() * 1000) for name in ("start", "end"))
    return start, end
