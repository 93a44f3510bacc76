"""What docs/operate.md promises of heavy queries: the real engine's own refusals, through a running edge."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import plain_http
from tests.client import FRESH_SECONDS, Client
from tests.edge_process import Edge
from tests.service import Service
from tests.slow_store import slow_store
from tests.test_cancelled import Store
from tests.waiting import until

pytestmark = pytest.mark.service

EVENTS = 1500  # of 1.5 KB: beyond the lowest limits that can be set
RAW: dict[str, Any] = {"time_period": "today", "limit": EVENTS}
COUNT: dict[str, Any] = {"time_period": "today", "computations": [{"function": "count"}]}
TEXTS: dict[str, Any] = {**COUNT, "computations": [{"function": "count_distinct", "field_name": "text"}]}
# Three of the one leave less than the other needs, which has enough where it is alone.
HELD = (
    "SELECT length(a) + sleepEachRow(60) AS asked FROM (SELECT groupArray(number) AS a FROM numbers(16000000))"
    " SETTINGS function_sleep_max_microseconds_per_block = 60000000"
)
LET_GO = "KILL QUERY WHERE query LIKE 'SELECT length(a) + sleep%' SYNC"
_ARRAYS = " + ".join(f"length(groupArray(number + {more}))" for more in range(3))
LARGEST = f"SELECT toString({_ARRAYS}) FROM numbers(8300000) SETTINGS max_threads = 1".encode()
# While an array grows it takes twice as much: those that still do could be the ones that are refused.
HOLDING = (
    "SELECT countIf(peak_memory_usage >= 256000000 AND memory_usage < 192000000)"
    " FROM system.processes WHERE Settings['workload'] = 'questions'"
)


@pytest.fixture(scope="module")
def project(client: Client) -> Client:
    """One with some events."""
    project = client.new_project()
    headers = {"x-eventbunker-write-key": project.keys["write_key"]}
    batch = [{"event_name": "heavy", "text": f"{number:04}" * 375} for number in range(EVENTS)]
    assert project.http.post("/batch", json=batch, headers=headers).json()["accepted"] == EVENTS
    until(lambda: project.count("heavy") == EVENTS, FRESH_SECONDS, "the events")
    return project


@contextmanager
def edge(directory: Path, service: Service, limits: str = "", **environ: str) -> Iterator[Edge]:
    """One with `limits` of its own."""
    server = f'engine = "uvicorn"\nshutdown_delay = 0\n[limits]\n{limits}\n'
    started = Edge(directory, service, server, workers=1, environ=environ)
    try:
        started.wait_ready()
        yield started
    finally:
        started.end()


def ask(edge: Edge, project: Client, query: dict[str, Any]) -> httpx.Response:
    headers = {"x-eventbunker-query-key": project.keys["query_key"]}
    return plain_http.post(f"{edge.url}/v1/query/json", json=query, headers=headers, timeout=60)


@pytest.mark.parametrize(
    "exceeded",
    [
        ("query_max_rows_read = 1_000", RAW, "rows"),
        ("query_max_bytes_read = 1_048_576", TEXTS, "bytes read"),
        ("query_max_result_bytes = 1_048_576", RAW, "size of the answer"),
    ],
    ids=lambda exceeded: exceeded[2],
)
def test_what_asks_for_too_much_is_told_which_limit_it_was(
    tmp_path: Path, service: Service, project: Client, exceeded: tuple[str, dict[str, Any], str]
) -> None:
    limit, query, what = exceeded
    assert project.ask(**query).status_code == 200, "without the limit"
    with edge(tmp_path, service, limit) as narrow:
        response = ask(narrow, project, query)
        assert response.status_code == 400
        told = response.json()
        assert (told["error"], told["code"]) == ("Query too expensive", "query_too_expensive")
        assert told["detail"] == f"The query exceeded its limit of {what}; narrow time_period or filters."
        assert "retry-after" not in response.headers


def test_who_has_the_most_of_a_memory_that_all_have_used_up_shall_try_again(
    tmp_path: Path, service: Service, project: Client
) -> None:
    """The engine ends the largest question (its code 777): a 503, for alone it would be answered."""
    store = Store(service)
    patient = "query_timeout = 50"  # the largest takes long on a busy machine, and must not end for that
    with (
        slow_store(store.url, LARGEST) as url,
        edge(tmp_path, service, patient, CLICKHOUSE_URL=url) as edge_,
    ):
        alone = ask(edge_, project, COUNT)
        assert alone.status_code == 200, alone.text
        assert alone.json()["data"] == [{"count": 24_900_000}]
        with ThreadPoolExecutor(3) as pool:
            for number in range(3):
                pool.submit(store.question, HELD, f"other-{number}")
            until(lambda: int(store.ask(HOLDING)) == 3, 20, "three questions that hold their memory")
            try:
                response = ask(edge_, project, COUNT)
                assert int(store.ask(HOLDING)) == 3, "smaller ones are left alone"
            finally:
                store.ask(LET_GO)
    assert response.status_code == 503, response.text
    assert response.json()["code"] == "service_unavailable"
    assert response.json()["detail"] == (
        "This query and others together took too much of the store's memory; try again, or narrow"
        " time_period or filters."
    )
    assert int(response.headers["retry-after"]) == 1
