"""The tail of the running service: what arrives is shown at once, to whom it belongs, and once."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import plain_http
from tests.client import Client, equals, unique
from tests.edge_process import Edge
from tests.engines import Target
from tests.hostile import connect
from tests.service import Service
from tests.waiting import until

SECONDS = 20.0
pytestmark = pytest.mark.service


class Tail:
    """One open tail: its messages as (name, data), as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self.messages: list[tuple[str, Any]] = []
        self.last_id = ""
        self.has_ended = False
        self._response = response
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        name, data = "message", ""
        try:
            for line in self._response.iter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    data = value
                elif key == "id":
                    self.last_id = value
                elif not line and data:
                    self.messages.append((name, json.loads(data)))
                    name, data = "message", ""
        except httpx.HTTPError:
            pass
        self.has_ended = True

    def events(self) -> list[dict[str, Any]]:
        return [data for name, data in self.messages if name == "message"]

    def named(self, wanted: str) -> list[dict[str, Any]]:
        return [data for name, data in self.messages if name == wanted]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        until(lambda: len(self.events()) >= count, SECONDS, f"{count} events")
        return self.events()


@contextmanager
def tailing(client: Client, *, key: str = "", after: str = "", **parameters: str) -> Iterator[Tail]:
    headers = {"x-eventbunker-query-key": key or client.keys["query_key"]}
    if after:
        headers["last-event-id"] = after
    with client.http.stream("GET", "/v1/tail", params=parameters, headers=headers, timeout=60) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        tail = Tail(response)
        until(lambda: tail.named("open"), SECONDS, "the tail to be open")
        yield tail


@pytest.fixture(scope="module")
def project(target_client: Client) -> Client:
    """Under each engine."""
    return target_client.new_project()


def test_an_event_is_shown_at_once_as_a_query_shows_it_later(project: Client, client: Client) -> None:
    with tailing(project) as tail:
        client.track(event_name="others")
        body = b'{"event_name": "seen", "big": 18446744073709551615, "real": 1.50, "o": {"a": null,\n "b": [1, 2]}}'
        answer = project.post(body, user_agent="Mozilla/5.0 (X11; Linux x86_64) Firefox/120.0",
                              referer="https://x.org/?utm_source=news").json()  # fmt: skip
        shown = tail.wait_for(1)
    assert [event["unique_req_id"] for event in shown] == [answer["unique_req_id"]]
    assert shown == [project.one(answer["unique_req_id"])]
    assert (shown[0]["utm_source"], shown[0]["os_name"]) == ("news", "Linux")


def test_filters_and_the_keys_customer_narrow_it(project: Client) -> None:
    bound = project.create_key("QUERY", key_filter_data={"customer_identifier": "c1"})["api_key"]
    asked = json.dumps([{"or": [{"field_name": "n", "op": "greater_than", "value": 1},
                                {"field_name": "tags", "op": "contains", "value": "x"}]}])  # fmt: skip
    name = unique("e")
    with tailing(project, filters=asked, event_name=name) as some, tailing(project, key=bound) as own:
        project.track(event_name=name, n=1, customer_identifier="c1")
        project.track(event_name=name, n=2, customer_identifier="c2")
        project.track(event_name=name, tags=["x"])
        project.track(event_name="another", n=5)
        project.track(event_name=name, n=3, customer_identifier="c1")
        assert [event.get("n") for event in some.wait_for(3)] == [2, None, 3]
        assert [event["n"] for event in own.wait_for(2)] == [1, 3]


def test_a_client_that_was_cut_off_goes_on_where_it_was(project: Client) -> None:
    name = unique("e")
    with tailing(project, event_name=name) as tail:
        project.track(event_name=name, n=0)
        tail.wait_for(1)
        last = until(lambda: tail.last_id, SECONDS, "an id")
    for n in range(
        1, 4
    ):  # thousands: tests/test_tail_reader.py, where no drain may be faster than the reader
        project.track(event_name=name, n=n)
    with tailing(project, event_name=name, after=last) as tail:
        project.track(event_name=name, n=4)
        assert [event["n"] for event in tail.wait_for(4)] == [1, 2, 3, 4]
        assert not tail.named("dropped")
    with tailing(project, after="0:1-1") as tail:
        dropped = until(lambda: tail.named("dropped"), SECONDS, "the news that some are missing")
        assert dropped == [{"count": None, "reason": "away_too_long"}]


def test_a_quiet_one_that_was_cut_off_is_not_sent_far_back(client: Client) -> None:
    """Its place moves with what others see."""
    with tailing(client, event_name=unique("never")) as tail:
        first = until(lambda: tail.last_id, SECONDS, "an id")
        client.track(event_name="others")
        until(lambda: tail.last_id != first, SECONDS, "another id")
        assert not tail.events()
    with tailing(client, after=tail.last_id) as tail:
        client.track(event_name="more")
        assert [event["event_name"] for event in tail.wait_for(1)] == ["more"]
        assert not tail.named("dropped")


def test_what_was_erased_is_not_shown_again_when_its_rows_are_gone(project: Client) -> None:
    """The tail remembers entries for clients that were cut off, longer than queries must look away."""
    name, key = unique("e"), {"x-eventbunker-delete-key": project.keys["delete_key"]}
    with tailing(project, event_name=name) as watching:  # so that it goes on remembering
        for n, customer in enumerate(("anna", "bert") * 2):
            project.track(event_name=name, n=n, customer_identifier=customer)
        watching.wait_for(4)
        asked = {"filters": [equals("customer_identifier", "anna"), equals("event_name", name)]}
        erasure = project.http.post("/v1/delete/events", json=asked, headers=key).json()["erasure_id"]

        def are_gone() -> bool:
            status = project.http.post("/v1/delete/status", json={"erasure_id": erasure}, headers=key).json()
            return status["rows_gone_at"] is not None

        until(are_gone, 60, "the rows to be gone")
        with tailing(project, event_name=name, after="0:1-1") as tail:
            assert [event["n"] for event in tail.wait_for(2)] == [1, 3]
            project.track(event_name=name, n=4, customer_identifier="anna")
            assert [event["n"] for event in tail.wait_for(3)] == [1, 3, 4]


def test_it_ends_with_its_key(project: Client) -> None:
    made = project.create_key("QUERY")
    with tailing(project, key=made["api_key"]) as tail:
        project.manage(
            "apikey/delete",
            project.keys["project_master_key"],
            project_id=project.keys["project_id"],
            api_key_id=made["api_key_id"],
        )
        until(lambda: tail.has_ended, SECONDS, "the end of the tail")
        assert tail.named("end") == [{"reason": "key_ended"}]


def test_what_is_wrong_with_a_request_is_named(project: Client) -> None:
    headers = {"x-eventbunker-query-key": project.keys["query_key"], "last-event-id": "x"}
    parameters = {"filters": "[", "evnt_name": "x", "customer_identifier": ""}
    response = project.http.get("/v1/tail", params=parameters, headers=headers)
    assert response.status_code == 400
    named = {one["path"]: one["message"] for one in response.json()["errors"]}
    assert set(named) == {"$.filters", "$.evnt_name", "$.customer_identifier", "Last-Event-ID"}
    assert "did you mean `event_name`?" in named["$.evnt_name"]
    assert project.http.get("/v1/tail").status_code == 401


def test_a_client_that_hangs_up_is_no_error(target: Target, project: Client) -> None:
    began = len(target.log)
    with connect(target.url) as connection, connection.makefile("rb") as answer:
        head = f"GET /v1/tail HTTP/1.1\r\nhost: x\r\nx-eventbunker-query-key: {project.keys['query_key']}"
        connection.sendall(f"{head}\r\n\r\n".encode())
        until(lambda: answer.readline() == b"event: open\n", SECONDS, "the tail to be open")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while answer.read(65_536):
                pass
    assert '"level":"error"' not in target.log[began:]


def test_it_ends_before_its_edge_does(client: Client, service: Service, tmp_path: Path) -> None:
    edge = Edge(tmp_path, service, "shutdown_delay = 1\n", workers=1)
    try:
        edge.wait_ready()
        http = httpx.Client(verify=plain_http.NOBODY, base_url=edge.url, trust_env=False)
        with http, tailing(Client(client.keys, http)) as tail:
            began = time.monotonic()
            edge.process.terminate()
            until(lambda: tail.has_ended, SECONDS, "the end of the tail")
            assert tail.named("end") == [{"reason": "edge_leaves"}]
            assert time.monotonic() - began < 5  # far below graceful_timeout
        assert edge.process.wait(60) == 0
    finally:
        edge.end()


def test_the_drain_is_not_disturbed(project: Client) -> None:
    name = unique("e")
    with tailing(project, event_name=name) as tail:
        for n in range(50):
            project.track(event_name=name, n=n)
        shown = [event["n"] for event in tail.wait_for(50)]
    assert shown == list(range(50))
    until(lambda: project.count(name) == 50, SECONDS, "all events in queries")
