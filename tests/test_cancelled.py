"""A question ends in the store when nobody waits for it any more: the client left, or the edge was killed."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import h2.events
import pytest

from app import ask
from tests import plain_http
from tests.client import Client
from tests.edge_process import Edge
from tests.engines import ENGINES
from tests.service import Service
from tests.slow_store import slow_store
from tests.test_hostile_http2 import Peer
from tests.waiting import until

pytestmark = pytest.mark.service

SECONDS = 20.0
RUNNING = "SELECT count() FROM system.processes WHERE Settings['workload'] = 'questions'"
GONE_SECONDS = 7.0  # less than the time that a question may take
PERIOD = {"time_period": "minus_60_minutes"}
QUESTIONS: dict[str, dict[str, Any]] = {
    "/v1/query/json": PERIOD,
    "/v1/query/funnel": {**PERIOD, "steps": [{"event_name": "e"}, {"event_name": "e"}]},
    "/v1/query/retention": {**PERIOD, "first": {"event_name": "e"}},
    "/v1/query/timeline": {**PERIOD, "customer_identifier": "c"},
    "/v1/query/fields": PERIOD,
    "/v1/query/iframe": PERIOD,
    "/v1/export": PERIOD,
}


class Store:
    """The service's own store, as an operator asks it."""

    def __init__(self, service: Service) -> None:
        about = json.loads((service.state / "store.json").read_text())
        self.url = about["url"]
        self._headers = {"X-ClickHouse-User": about["user"], "X-ClickHouse-Key": about["password"]}

    def ask(self, sql: str, **options: str) -> str:
        answer = plain_http.post(self.url, params=options, content=sql, headers=self._headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.text.strip()

    def question(self, sql: str, whose: str) -> str:
        """As one of a client's."""
        return self.ask(sql, workload=ask.WORKLOAD, quota_key=whose)

    def wait_for_questions(self, number: int, what: str) -> None:
        seconds = SECONDS if number else GONE_SECONDS
        until(lambda: int(self.ask(RUNNING)) == number, seconds, what)


@pytest.fixture(scope="module")
def store(service: Service) -> Store:
    return Store(service)


@pytest.fixture(scope="module", params=ENGINES)
def edge(
    request: pytest.FixtureRequest, service: Service, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Edge]:
    """One whose questions last, under each engine."""
    directory = tmp_path_factory.mktemp("slow")
    with slow_store(store.url) as url:
        server = f'engine = "{request.param}"\nshutdown_delay = 0\n'
        started = Edge(directory, service, server, workers=1, environ={"CLICKHOUSE_URL": url})
        try:
            started.wait_ready()
            yield started
        finally:
            started.end()


def connect(url: str, path: str, key: str, body: bytes) -> socket.socket:
    """A connection with the whole request on it."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    opened = socket.create_connection((address.hostname, address.port), timeout=SECONDS)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nx-eventbunker-query-key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    opened.sendall(head.encode() + body)
    return opened


def test_when_the_client_leaves(edge: Edge, client: Client, store: Store) -> None:
    """HTTP/1.1, each kind of question."""
    for path, body in QUESTIONS.items():
        store.wait_for_questions(0, "a store at rest")
        with connect(edge.url, path, client.keys["query_key"], json.dumps(body).encode()):
            store.wait_for_questions(1, f"the question of {path}")
        store.wait_for_questions(0, f"its end after {path} was left")


def test_when_a_stream_is_reset(edge: Edge, client: Client, store: Store) -> None:
    """HTTP/2: the connection stays, and answers others."""
    if 'engine = "uvicorn"' in edge.config:
        pytest.skip("it speaks HTTP/1.1 only")
    store.wait_for_questions(0, "a store at rest")
    with Peer(edge.url) as peer:
        key = client.keys["query_key"]
        stream = peer.request("/v1/query/json", "POST", ends=False, x_eventbunker_query_key=key)
        peer.h2.send_data(stream, json.dumps(PERIOD).encode(), end_stream=True)
        peer.flush()
        store.wait_for_questions(1, "the question")
        peer.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        peer.flush()
        store.wait_for_questions(0, "its end after the reset")
        assert peer.status(peer.request("/livez")) == 200


def test_when_the_edge_is_killed(edge: Edge, client: Client, store: Store) -> None:
    """The last test of each edge."""
    store.wait_for_questions(0, "a store at rest")
    with connect(edge.url, "/v1/query/json", client.keys["query_key"], json.dumps(PERIOD).encode()):
        store.wait_for_questions(1, "the question")
        for pid in edge.pids():
            os.kill(pid, signal.SIGKILL)
        store.wait_for_questions(0, "its end after the edge was killed")
