"""Exports of the running service: every event once, as it was sent, in each format; a break is no end."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow.parquet
import pytest
from redis.asyncio import Redis

from app.layout import Expected
from app.presence import Presence
from app.timestamp import format_timestamp
from bench.export import export, fill
from tests.client import Client
from tests.export_check import FORMATS
from tests.service import Service
from tests.waiting import until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ALL = {"start": "1970-01-01", "end": "2101-01-01"}
COUNT = 3000  # more than the first page has
# By a field's name, so that some columns have one type and `mixed` has all of them.
VALUES: dict[str, list[Any]] = {
    "whole": [0, -1, 7, 2**63 - 1, -(2**63)],
    "large": [1, 2**63, 2**64 - 1],
    "real": [0.5, 1, -2.5, 1e300],
    "text": ["", "é😀", 'q"\\', "a,b", "line\r\nbreak", "=1+1", "null"],
    "flag": [True, False],
    "mixed": [1, "1", True, 1.5, [1], "x"],
    "numbers": [[1, 2], [2.5, 3], []],
    "names": [[], ["a", "b,\n"]],
}
pytestmark = pytest.mark.service


def made(seed: int) -> list[dict[str, Any]]:
    """Events as a client writes them. Many share one name and one moment."""
    chance = random.Random(seed)
    events: list[dict[str, Any]] = []
    for index in range(COUNT):
        event: dict[str, Any] = {
            "event_name": chance.choice(["view", "click", "Z.last"]),
            "timestamp": chance.choice(
                ["2026-01-02", f"2026-02-{1 + index % 28:02}T10:00:00.{index % 1000:03}Z"]
            ),
            "n": index,
        }
        if chance.random() < 0.5:
            event["customer_identifier"] = f"c{index % 50}"
        for name, values in VALUES.items():
            if chance.random() < 0.5:
                event[name] = chance.choice(values)
        if chance.random() < 0.3:
            event["inner"] = {"text": "x", "nothing": None, "list": [True, False]}
        elif chance.random() < 0.2:
            event["inner"] = chance.choice([{}, None, 3])
        events.append(event)
    return events


class Sent:
    """A project of its own with events in it."""

    def __init__(self, client: Client) -> None:
        self.client = client.new_project()
        self.events = made(5)
        for start in range(0, COUNT, 1500):
            answer = self.client.http.post(
                "/batch",
                json=self.events[start : start + 1500],
                headers={"x-eventbunker-write-key": self.client.keys["write_key"]},
            )
            assert answer.json()["accepted"] == 1500, answer.text
        count = {"computations": [{"function": "count"}]}
        until(lambda: self.client.rows(**count)[0]["count"] == COUNT, 30, "all events in queries")

    def export(self, **request: Any) -> httpx.Response:
        headers = {"x-eventbunker-query-key": self.client.keys["query_key"]}
        return self.client.http.post("/v1/export", json={"time_period": ALL, **request}, headers=headers)


@pytest.fixture(scope="module")
def sent(client: Client) -> Sent:
    return Sent(client)


def by_number(events: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """By `n`, which is another one in each event."""
    found = {event["n"]: event for event in events}
    assert len(found) == len(events), "an event is there twice"
    return found


def test_ndjson_has_every_event_once_as_a_query_shows_it(sent: Sent) -> None:
    response = sent.export()
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["x-eventbunker-event-count"] == str(COUNT)
    assert "events-" in response.headers["content-disposition"]
    exported = [json.loads(line) for line in response.text.splitlines()]
    shown = sent.client.rows(limit=10_000)
    assert by_number(exported) == by_number(shown)
    for number, event in by_number(exported).items():
        assert sent.events[number].items() <= event.items()
    places = [(e["event_name"], e["event_time"], e["time_recorded"], e["unique_req_id"]) for e in exported]
    assert places == sorted(places)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_it_is_the_same(sent: Sent, compression: str) -> None:
    headers = {"x-eventbunker-query-key": sent.client.keys["query_key"]}
    request = {"time_period": ALL, "compression": compression}
    with sent.client.http.stream("POST", "/v1/export", json=request, headers=headers) as response:
        assert response.headers["content-encoding"] == compression
        packed = b"".join(response.iter_raw())
    unpacked = gzip.decompress(packed) if compression == "gzip" else zstd.decompress(packed)
    assert unpacked == sent.export().content


def test_csv_has_a_column_for_each_field(sent: Sent) -> None:
    response = sent.export(format="csv")
    assert response.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert {"inner.text", "inner.list", "inner", "whole", "mixed", "timestamp"} <= set(rows[0])
    found = by_number([{**row, "n": int(row["n"])} for row in rows])
    assert len(found) == COUNT
    for number, event in enumerate(sent.events):
        row = found[number]
        flat = (
            {f"inner.{k}": v for k, v in event["inner"].items()}
            if isinstance(event.get("inner"), dict)
            else {}
        )
        for name, value in {**event, **flat}.items():
            if not isinstance(value, dict) and name != "n":
                assert row.get(name, "") == as_csv(value), (name, value)
        assert all(row[name] == "" for name in VALUES if name not in event)


def as_csv(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def test_parquet_has_typed_columns_and_loses_nothing(sent: Sent) -> None:
    response = sent.export(format="parquet")
    table = pyarrow.parquet.read_table(io.BytesIO(response.content))
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["event_time"] == kinds["time_recorded"] == "timestamp[ms, tz=UTC]"
    assert (kinds["whole"], kinds["large"], kinds["real"]) == ("int64", "decimal128(20, 0)", "double")
    assert (kinds["text"], kinds["flag"], kinds["mixed"]) == ("string", "bool", "string")
    assert pyarrow.types.is_list(table.schema.field("numbers").type)
    assert (kinds["inner.text"], kinds["is_bot"]) == ("string", "bool")
    rows = by_number(table.to_pylist())
    assert len(rows) == COUNT
    for number, event in enumerate(sent.events):
        row = rows[number]
        own = {k: v for k, v in event.items() if k not in ("event_name", "customer_identifier")}
        assert json.loads(row["custom_fields"]) == own
        assert (row["event_name"], row["customer_identifier"]) == (
            event["event_name"], event.get("customer_identifier"),
        )  # fmt: skip
        for name in ("whole", "large", "real", "text", "flag", "numbers", "names"):
            assert row[name] == event.get(name), name
        mixed = event.get("mixed")
        assert row["mixed"] == (None if mixed is None else as_csv(mixed))


def test_filters_and_period_narrow_it(sent: Sent) -> None:
    asked = {"field_name": "whole", "op": "equals", "value": 7}
    period = {"start": "2026-01-02", "end": "2026-01-03"}
    exported = [
        json.loads(line) for line in sent.export(filters=[asked], time_period=period).text.splitlines()
    ]
    wanted = [e["n"] for e in sent.events if e.get("whole") == 7 and e["timestamp"] == "2026-01-02"]
    assert sorted(by_number(exported)) == wanted
    assert sent.export(filters=[{**asked, "value": 8}]).content == b""
    empty = sent.export(filters=[{**asked, "value": 8}], format="parquet").content
    assert pyarrow.parquet.read_table(io.BytesIO(empty)).num_rows == 0


def test_thousands_of_fields_come_back_as_they_were_sent(client: Client) -> None:
    """Far more than get a column of their own; in text all do."""
    project = client.new_project()
    names = [f"field_{number:04}" for number in range(3000)]
    sent = [{"event_name": "e", **dict.fromkeys(names[index::300], index)} for index in range(300)]
    key = {"x-eventbunker-write-key": project.keys["write_key"]}
    for start in range(0, 300, 50):
        answer = project.http.post("/batch", json=sent[start : start + 50], headers=key)
        assert answer.json()["accepted"] == 50
    until(lambda: project.count("e") == 300, 20, "the events in a query")
    query_key = {"x-eventbunker-query-key": project.keys["query_key"]}

    def exported(format_: str) -> bytes:
        asked = {"time_period": "minus_60_minutes", "format": format_}
        answer = project.http.post("/v1/export", json=asked, headers=query_key)
        assert answer.status_code == 200, answer.text
        return answer.content

    known = set(names)

    def by_field(rows: list[dict[str, Any]]) -> dict[str, int]:
        return {
            name: int(value) for row in rows for name, value in row.items() if name in known and value != ""
        }

    wanted = {name: index for index in range(300) for name in names[index::300]}
    assert by_field(list(csv.DictReader(io.StringIO(exported("csv").decode())))) == wanted
    assert by_field([json.loads(line) for line in exported("ndjson").splitlines()]) == wanted
    table = pyarrow.parquet.read_table(io.BytesIO(exported("parquet")), columns=["custom_fields"])
    assert by_field([json.loads(str(text)) for text in table.column(0)]) == wanted
    project.delete()


def test_twenty_thousand_events_come_back_as_they_were_sent(client: Client, tmp_path: Path) -> None:
    """The short form of `python -m bench.export`."""
    project = client.new_project()
    events = fill(project, 20_000)
    for format_ in FORMATS:
        assert export(project, tmp_path / format_, format_) == events.whole.count
        events.check(tmp_path / format_, format_)


def test_exports_that_go_on_leave_nothing_out_while_large_batches_come(client: Client) -> None:
    """Each from where the last one ended; a batch is on its way to the stream for some hundredths of a second."""
    project, batches = client.new_project(), 12
    headers = {"x-eventbunker-write-key": project.keys["write_key"]}

    def send() -> None:
        for number in range(batches):
            events = [{"event_name": "e", "n": number * 5000 + index} for index in range(5000)]
            assert client.http.post("/batch", json=events, headers=headers).json()["accepted"] == 5000

    found: list[int] = []
    bound = 0

    def export() -> None:
        nonlocal bound
        after = {"field_name": "time_recorded", "op": "greater_than", "value": format_timestamp(bound)}
        response = project.http.post(
            "/v1/export",
            json={"time_period": ALL, "filters": [after]},
            headers={"x-eventbunker-query-key": project.keys["query_key"]},
        )
        assert response.status_code == 200, response.text
        numbers = [json.loads(line)["n"] for line in response.text.splitlines()]
        assert response.headers["x-eventbunker-event-count"] == str(len(numbers))
        found.extend(numbers)
        bound = int(response.headers["x-eventbunker-recorded-up-to"])

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        while not sending.done():
            export()
        sending.result()
    sent = time.time_ns() // 1_000_000

    def has_all() -> bool:
        export()
        return bound > sent

    # Where a drain is slow, that is not the next one.
    until(has_all, 60.0, "an export that is complete beyond the last event")
    project.delete()
    assert sorted(found) == list(range(batches * 5000))


def test_the_moment_of_a_file_stays_behind_the_slowest_clock(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an edge takes that is a minute behind would lie before it, and be in no file of a chain."""
    behind_ms = 60_000
    slow = SimpleNamespace(time_ns=lambda: time.time_ns() - behind_ms * 1_000_000)
    monkeypatch.setattr("app.presence.time", slow)

    async def bounds() -> list[int]:
        redis = Redis(unix_socket_path=str(service.redis_socket))
        expected, version = Expected("events", 1), (7, 0)
        edge = Presence(redis, expected, "edge", id="s", place="s", life_seconds=60, redis_version=version)
        assert await edge.beat()
        try:
            found = [await asyncio.to_thread(moment)]
        finally:
            await edge.leave()
            found.append(await asyncio.to_thread(moment))
            await redis.aclose()
        return found

    def moment() -> int:
        """Of a file that is asked for now, from now on."""
        response = client.http.post(
            "/v1/export",
            json={"time_period": "today"},
            headers={"x-eventbunker-query-key": client.keys["query_key"]},
        )
        return int(response.headers["x-eventbunker-recorded-up-to"]) - time.time_ns() // 1_000_000

    with_it, without = asyncio.run(bounds())
    assert with_it < -behind_ms
    assert with_it + behind_ms > -30_000, "no more than it has to"
    assert without > -30_000


def test_what_is_erased_is_in_no_file(client: Client, tmp_path: Path) -> None:
    project = client.new_project()
    for n in range(3):
        project.track(event_name="e", n=n)
    until(lambda: project.count("e") == 3, 30, "all events in queries")
    answer = project.http.post(
        "/v1/delete/events",
        json={"filters": [{"field_name": "n", "op": "equals", "value": 1}]},
        headers={"x-eventbunker-delete-key": project.keys["delete_key"]},
    )
    assert answer.status_code == 200, answer.text
    assert export(project, tmp_path / "e", "ndjson") == 2
    assert [json.loads(line)["n"] for line in (tmp_path / "e").read_text().splitlines()] == [0, 2]
