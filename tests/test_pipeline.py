"""From a POST to a query, on the running service: freshness, and real data sets end to end.

The rows of public data sets go in as events over HTTP; then every count, sum, average and group that the
query API answers must equal the same computed from the file.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files

import pytest

from tests.client import Client, equals, unique
from tests.waiting import until

pytestmark = pytest.mark.service

Row = dict[str, object]
SINGLY = 1000  # of a file's rows: each of them is a request of its own


def data_set(name: str) -> list[Row]:
    """The rows of one of vega_datasets' files, numbers as numbers and the rest as strings."""
    path = files("vega_datasets").joinpath("_data", name)
    text = path.read_text()
    if name.endswith(".json"):
        rows: list[Row] = json.loads(text)
        return rows
    return [{key: _value(value) for key, value in row.items()} for row in csv.DictReader(text.splitlines())]


def _value(text: str) -> object:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def send(client: Client, event_name: str, rows: list[Row]) -> None:
    """Every row as one event, sixteen at a time; those after the first thousand in one batch."""
    events: list[Row] = [{"event_name": event_name, **row} for row in rows]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(client.post, events[:SINGLY]))
    assert {answer.status_code for answer in answers} == {200}
    ids = {answer.json()["unique_req_id"] for answer in answers}
    assert len(ids) == len(events[:SINGLY])
    if rest := events[SINGLY:]:
        key = {"x-eventbunker-write-key": client.keys["write_key"]}
        told = client.http.post("/batch", json=rest, headers=key).json()
        assert (told["accepted"], told["rejected"]) == (len(rest), 0)
    until(lambda: client.count(event_name) == len(rows), 20, "every event in a query")


@dataclass(frozen=True)
class Sent:
    """A file whose rows are events of a project of their own."""

    project: Client
    event_name: str
    rows: list[Row]


@pytest.fixture(scope="module")
def sent(client: Client) -> Callable[[str], Sent]:
    """Each file is sent once, by the first test that asks for it. A row with a date has it as its time, too."""

    @cache
    def send_once(name: str) -> Sent:
        one = Sent(client.new_project(), unique("rows"), data_set(name))
        for row in one.rows:
            if name == "seattle-weather.csv":
                row["timestamp"] = str(row["date"]).replace("/", "-")
        send(one.project, one.event_name, one.rows)
        return one

    return send_once


def grouped(rows: list[Row], by: str) -> dict[object, list[Row]]:
    groups: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.get(by)].append(row)
    return groups


def assert_same(client: Client, event_name: str, rows: list[Row], by: str, number: str) -> None:
    """count, sum, avg, min, max and count_distinct of `number`, for each `by`, and over all."""
    functions = ("sum", "avg", "min", "max", "count_distinct")
    computations = [{"function": "count"}, *({"function": f, "field_name": number} for f in functions)]
    selected = [equals("event_name", event_name)]
    for group_by, expected in (([by], grouped(rows, by)), ([], {None: rows})):
        answer = client.rows(group_by=group_by, computations=computations, filters=selected, limit=10_000)
        assert len(answer) == len(expected)
        for found in answer:
            members = expected[found.get(by)]
            numbers = [v for row in members if isinstance(v := row.get(number), int | float)]
            assert found["count"] == len(members)
            assert found[f"min_{number}"] == min(numbers, default=None)
            assert found[f"max_{number}"] == max(numbers, default=None)
            assert found[f"count_distinct_{number}"] == len({row[number] for row in members} - {None})
            assert math.isclose(found[f"sum_{number}"], math.fsum(numbers), rel_tol=1e-12)
            assert math.isclose(found[f"avg_{number}"], math.fsum(numbers) / len(numbers), rel_tol=1e-12)


@pytest.mark.parametrize(
    ("name", "by", "number"),
    [
        ("airports.csv", "state", "latitude"),
        ("stocks.csv", "symbol", "price"),
        ("iowa-electricity.csv", "source", "net_generation"),
        ("seattle-weather.csv", "weather", "temp_max"),
        ("seattle-weather.csv", "weather", "precipitation"),
        ("cars.json", "Origin", "Miles_per_Gallon"),
        ("barley.json", "variety", "yield"),
    ],
)
def test_real_data_comes_back_as_computed_from_the_file(
    sent: Callable[[str], Sent], name: str, by: str, number: str
) -> None:
    file = sent(name)
    assert_same(file.project, file.event_name, file.rows, by, number)


def test_filters_and_time_buckets_of_real_data(sent: Callable[[str], Sent]) -> None:
    file = sent("seattle-weather.csv")
    project, rows = file.project, file.rows
    selected = [equals("event_name", file.event_name)]

    def total(**filters: object) -> int:
        found = project.rows(computations=[{"function": "count"}], filters=[*selected, filters])
        return int(found[0]["count"])

    warm = [row for row in rows if isinstance(row["temp_max"], int | float) and row["temp_max"] > 25]
    assert total(field_name="temp_max", op="greater_than", value=25) == len(warm)
    wet = [row for row in rows if row["weather"] in ("rain", "snow")]
    assert total(field_name="weather", op="in", value=["rain", "snow"]) == len(wet)
    dry = [row for row in rows if row["weather"] != "rain"]
    assert total(field_name="weather", op="not_equals", value="rain") == len(dry)

    months: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        months[str(row["timestamp"])[:7]].append(row)
    answer = project.rows(
        group_by_time="month",
        computations=[{"function": "count"}, {"function": "sum", "field_name": "precipitation"}],
        filters=selected,
    )
    assert {found["event_time"][:7]: found["count"] for found in answer} == {
        m: len(r) for m, r in months.items()
    }
    for found in answer:
        rain = math.fsum(float(str(row["precipitation"])) for row in months[found["event_time"][:7]])
        assert math.isclose(found["sum_precipitation"], rain, rel_tol=1e-9, abs_tol=1e-9)


def project_has(project: Client, event_name: str, expected: int) -> bool:
    return project.count(event_name) == expected


def test_events_are_queryable_well_within_a_second(
    client: Client, record_property: Callable[[str, object], None]
) -> None:
    """One after another on an idle service. The figures are recorded; the bound is the promise, doubled,
    because a shared machine may stop for a moment."""
    project = client.new_project()
    event_name = unique("fresh")
    delays = []
    for number in range(1, 51):
        project.track(event_name=event_name)
        answered = time.monotonic()
        until(partial(project_has, project, event_name, number), 10, "the event in a query")
        delays.append(time.monotonic() - answered)
    delays.sort()
    record_property("freshness_p50_seconds", statistics.median(delays))
    record_property("freshness_worst_seconds", delays[-1])
    assert statistics.median(delays) < 2.0


def test_fresh_as_of_tells_what_a_query_has_seen(client: Client) -> None:
    """An event recorded before `fresh_as_of` is in the answer; ask until it is, and it must be there."""
    project = client.new_project()
    for number in range(1, 21):
        name = unique("fresh")
        recorded = project.track(event_name=name)["time_recorded"]

        def sees(name: str = name, recorded: int = recorded, number: int = number) -> bool:
            answer = project.ask(
                time_period="minus_5_minutes",
                computations=[{"function": "count"}],
                filters=[equals("event_name", name)],
            ).json()
            is_there = bool(answer["data"]) and answer["data"][0]["count"] == 1
            # The entry may be a few milliseconds younger than time_recorded: it is numbered on arrival.
            if answer["fresh_as_of"] > recorded + 1000:
                assert is_there, f"event {number} is missing although the answer claims to include it"
            return is_there

        until(sees, 10, "the event in a query")
