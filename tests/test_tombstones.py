"""What is erased before it is stored: the drain judges each event by every tombstone that was there first."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec
import pytest

from app import erasure_scripts as scripts
from app import tombstone
from app.answer import data
from app.enrich import Geography
from app.query import read_query
from app.scope import Scope
from app.shown import as_shown
from app.sql import to_statement
from app.stream import Record
from app.time_period import Period
from app.timestamp import parse_timestamp
from app.tombstone import Tombstone
from tests.pipeline_kit import POISON, Bench, assert_conserved, ledger, record
from tests.pipeline_steps import Open, has_inserted, insert_then_hang, opened
from tests.waiting import async_until
from workers.plan import Halted
from workers.tombstones import Tombstones

__all__ = ["opened"]

NOW = time.time_ns() // 1_000_000
AGENT = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Mobile/15E148 Safari/604.1"


def event(
    customer: str = "", *, ago: int = 0, bound: str = "", project: str = "prj_test", **fields: object
) -> Record:
    body = {"event_name": "e", **({"customer_identifier": customer} if customer else {}), **fields}
    encoded = msgspec.json.encode(body)
    return Record(
        os.urandom(12), 1, NOW - ago, project, bound, "", AGENT, "https://a.example/?utm_source=s", encoded
    )


def kept(**members: Any) -> Tombstone:
    one = Tombstone(**{"id": "era_1", "project_id": "prj_test", "up_to_ms": NOW, **members})
    return tombstone.without_names(one)


def found(tombstones: list[Tombstone], records: list[Record]) -> list[int]:
    made = Tombstones(None, Geography(""))  # type: ignore[arg-type]  # never refreshed
    for one in tombstones:
        made.add(tombstone.encode(one))
    return [position for position, _ in made.find(records)]


def test_a_customer_is_whoever_the_store_would_say_it_is() -> None:
    records = [
        event("anna"),
        event("bert"),
        event(),
        event("bert", bound="anna"),
        event("anna", bound="bert"),
    ]
    records += [event("anna", project="prj_other"), event("anna", ago=-1), event("anna", ago=10_000)]
    assert found([kept(customers=("anna",))], records) == [0, 3, 7]
    assert found([kept(customers=("anna",)), kept(customers=("bert",), up_to_ms=NOW - 1)], records) == [
        0,
        3,
        7,
    ]
    assert found([kept(customers=("anna", "bert")), kept(customers=("anna",), up_to_ms=5)], records) == [
        0,
        1,
        3,
        4,
        7,
    ]


def test_filters_see_the_event_as_a_query_shows_it() -> None:
    records = [event("anna", n=n, timestamp=f"2024-01-0{n + 1}") for n in range(3)]
    over = {"field_name": "n", "op": "greater_than", "value": 0}
    assert found([kept(filters=(over,))], records) == [1, 2]
    assert found([kept(filters=(over,), customers=("bert",))], records) == []
    until = parse_timestamp("2024-01-03")
    assert found([kept(filters=(over,), period=Period(0, until))], records) == [1]
    assert found([kept(period=Period(0, until))], records) == [0, 1]
    derived = {"field_name": "device_type", "op": "equals", "value": "mobile"}
    campaign = {"field_name": "utm_source", "op": "equals", "value": "s"}
    assert found([kept(filters=(derived, campaign))], records) == [0, 1, 2]
    broken = Record(os.urandom(12), 1, NOW, "prj_test", "anna", "", "", "", b"{")
    assert found([kept(filters=(over,)), kept(customers=("anna",))], [broken]) == [0]


def test_a_tombstone_of_another_version_stops_the_drain() -> None:
    """Rather than store what somebody was promised to be rid of."""
    strange = {"field_name": "n", "op": "resembles", "value": 0}
    for payload in (b"{", tombstone.encode(kept(filters=(strange,)))):
        with pytest.raises(Halted):
            Tombstones(None, Geography("")).add(payload)  # type: ignore[arg-type]


def test_what_is_shown_is_what_the_store_has(opened: Open) -> None:
    plain = b'{"event_name":"e","customer_identifier":"anna","n":1.5,"o":{"a":[1,2]},"page_url":"https://b.example/?utm_medium=m"}'
    records = [
        event("anna", timestamp="2024-01-01T12:00:00.123Z", utm_source="own", event_id="i1"),
        event(bound="bert", page_url="https://b.example/?utm_term=t", referrer="https://c.example/"),
        Record(os.urandom(12), 7, NOW, "prj_test", "", "", "curl/8", "", plain, "header-id"),
    ]  # fmt: skip

    async def run() -> None:
        async with opened() as made, made.draining():
            await made.put(records)
            await async_until(made.is_empty, 15)
            query = read_query(b'{"time_period":{"start":"1970-01-01","end":"2101-01-01"}}', 0)
            statement = to_statement(query, Scope("prj_test"))
            result = await made.store.ask(statement.sql, statement.parameters)
            stored = {str(one["unique_req_id"]): one for one in data(query, statement, result.rows)}
            for one in records:
                shown = as_shown(one, Geography(""))
                raw = stored[one.unique_req_id.hex()]
                seen: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(raw))
                seen["event_time"] = parse_timestamp(seen["event_time"])
                del shown["project_id"]  # in the answer it would be the same in each
                assert {**shown, "timestamp": None} == {**seen, "timestamp": None}

    asyncio.run(run())


async def entomb(made: Bench, **members: Any) -> None:
    await made.redis.xadd(scripts.LOG, {"t": tombstone.encode(kept(**members))})


async def fates(made: Bench) -> list[list[object]]:
    sql = "SELECT fate, detail, customer_identifier, uniqExact(unique_req_id) FROM fates GROUP BY ALL ORDER BY ALL"
    return (await made.store.ask(sql)).rows


def test_what_comes_late_is_erased_and_counted(opened: Open) -> None:
    """A spool brings it back days later: it has one fate, and its copies are not copies of nothing."""

    async def run() -> None:
        async with opened() as made:
            await entomb(made, customers=("anna",), up_to_ms=NOW - 1000)
            late = [event("anna", ago=5 * 86_400_000) for _ in range(4)] + [
                event("anna", ago=2000, event_id="one")
            ]
            await made.put([*late, event("anna", event_id="one"), event("bert", ago=5000), record(POISON)])
            async with made.draining():
                await async_until(made.is_empty, 15)
            assert await ledger(made.redis, made.keys) == {"appended": 8, "erased": 5, "stored": 2, "dead": 1}
            await assert_conserved(made.redis, made.keys)
            rows = await made.store.ask("SELECT customer_identifier FROM events ORDER BY ALL")
            assert rows.rows == [["anna"], ["bert"]]
            assert await fates(made) == [["erased", "era_1 stream", "", 5]]

    asyncio.run(run())


def test_the_verdict_survives_a_crash(opened: Open) -> None:
    """The plan keeps it; and a tombstone that came in between changes no plan."""

    async def run() -> None:
        async with opened(insert_then_hang) as made:
            await entomb(made, customers=("anna",))
            await made.put([event("anna"), event("bert"), event("carl")])
            async with made.draining("a"):
                await async_until(lambda: has_inserted(made, 0), 15)
            await entomb(made, customers=("bert",))
            await made.put([event("bert"), event("dora")])
            async with made.draining("b"):
                await async_until(made.is_empty, 15)
            assert await ledger(made.redis, made.keys) == {"appended": 5, "erased": 2, "stored": 3}
            rows = await made.store.ask("SELECT customer_identifier FROM events ORDER BY ALL")
            assert rows.rows == [["bert"], ["carl"], ["dora"]]
            assert await fates(made) == [["erased", "era_1 stream", "", 2]]

    asyncio.run(run())
