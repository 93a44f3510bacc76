"""POST /v1/delete/events of a running service: invisible from the answer on, to whom it may concern."""

from __future__ import annotations

import signal
import time
from typing import Any

import httpx
import pytest

from tests.client import Client, equals
from tests.service import Service
from tests.waiting import until

pytestmark = pytest.mark.service

DELETE_KEY = "x-eventbunker-delete-key"


def delete_key(project: Client, **request: object) -> str:
    return str(project.create_key("DELETE", **request)["api_key"])


def erase(project: Client, key: str, **request: object) -> httpx.Response:
    return project.http.post("/v1/delete/events", json=request, headers={DELETE_KEY: key})


def status(project: Client, key: str, **request: object) -> dict[str, Any]:
    answer = project.http.post("/v1/delete/status", json=request, headers={DELETE_KEY: key})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def of(customer: str) -> list[dict[str, object]]:
    return [equals("customer_identifier", customer)]


def test_no_query_sees_it_from_the_answer_on(client: Client) -> None:
    """Also what is recorded while the erasure runs: stored, in the stream, being inserted."""
    project = client.new_project()
    key = delete_key(project)
    for _ in range(30):
        for customer in ("anna", "bert"):
            project.track(customer_identifier=customer)
    answer = erase(project, key, filters=of("anna"))
    assert answer.status_code == 200, answer.text
    erasure = answer.json()
    assert erasure["erasure_id"].startswith("era_")
    assert erasure["state"] == "pending"
    assert erasure["matched"] <= 30
    end = time.monotonic() + 1.5  # longer than it takes to store what is in the stream
    while time.monotonic() < end:
        assert project.events(*of("anna")) == []
    later = project.track(customer_identifier="anna", event_name="later")
    assert later["time_recorded"] > erasure["up_to"]
    assert [one["event_name"] for one in until(lambda: project.events(*of("anna")), 10)] == ["later"]
    assert len(project.events(*of("bert"))) == 30
    assert status(project, key, erasure_id=erasure["erasure_id"])["matched"] == erasure["matched"]


def test_any_filter_and_any_time(client: Client) -> None:
    project = client.new_project()
    key = delete_key(project)
    for number in range(10):
        project.track(event_name="e", n=number, timestamp=f"2024-01-{number + 1:02}")
    until(lambda: project.count("e") == 10, 10, "all events in a query")
    some = {"field_name": "n", "op": "greater_than", "value": 6}
    counted = erase(project, key, filters=[some], dry_run=True).json()
    assert counted == {"erasure_id": None, "matched": 3, "state": "dry_run"}
    assert project.count("e") == 10
    assert erase(project, key, filters=[some]).json()["matched"] == 3
    assert erase(project, key, filters=[some]).json()["matched"] == 0, "nothing is erased twice"
    period = {"start": "2024-01-01", "end": "2024-01-03"}
    assert erase(project, key, time_period=period).json()["matched"] == 2
    assert sorted(one["n"] for one in project.events()) == [2, 3, 4, 5, 6]


def test_only_a_delete_key_erases_and_a_bound_one_its_own_customer(client: Client) -> None:
    project = client.new_project()
    for customer in ("anna", "bert"):
        project.track(customer_identifier=customer)
    until(lambda: project.count("e") == 2, 10, "both events in a query")
    wrong = erase(project, project.keys["query_key"], filters=of("anna"))
    assert wrong.status_code == 401
    assert wrong.json()["error"].startswith("Please use a delete key")
    assert erase(project, "eb_d_none").json()["error"] == "Invalid x-eventbunker-delete-key"
    free = delete_key(project)
    assert erase(project, free).status_code == 400

    bound = delete_key(project, key_filter_data={"customer_identifier": "anna"})
    other = delete_key(project, key_filter_data={"customer_identifier": "bert"})
    foreign = erase(project, bound, filters=of("bert")).json()
    assert foreign["matched"] == 0
    erasure = project.http.post("/v1/delete/events", headers={DELETE_KEY: bound}).json()
    assert erasure["matched"] == 1
    assert [one["customer_identifier"] for one in project.events()] == ["bert"]

    ids = [erasure["erasure_id"], foreign["erasure_id"]]
    assert [one["erasure_id"] for one in status(project, bound)["erasures"]] == ids
    assert [one["erasure_id"] for one in status(project, free)["erasures"]] == ids
    assert status(project, other)["erasures"] == []
    answer = project.http.post("/v1/delete/status", json={"erasure_id": ids[0]}, headers={DELETE_KEY: other})
    assert answer.status_code == 400
    first = status(project, free, limit=1)
    assert [
        one["erasure_id"] for one in status(project, free, limit=1, cursor=first["cursor"])["erasures"]
    ] == [ids[1]]


def test_a_delete_key_asks_no_more_often_than_it_may(client: Client) -> None:
    project = client.new_project()
    key = delete_key(project, key_filter_data={"customer_identifier": "anna"}, rate_limit=1)
    answers = [erase(project, key, dry_run=True) for _ in range(20)]
    assert {one.status_code for one in answers} == {200, 429}
    refused = next(one for one in answers if one.status_code == 429)
    assert refused.json()["detail"] == "This key may send 1 requests a second; send it again later."
    assert "retry-after" in refused.headers
    limited = project.http.post("/v1/delete/status", json={}, headers={DELETE_KEY: key})
    assert limited.status_code == 429


def test_while_redis_is_away_the_store_tells_what_is_erased(service: Service, client: Client) -> None:
    project = client.new_project()
    for customer in ("anna", "bert"):
        project.track(customer_identifier=customer)
    until(lambda: project.count("e") == 2, 10, "both events in a query")
    assert erase(project, delete_key(project), filters=of("anna")).json()["matched"] == 1
    pid = service.kill("redis", signal.SIGSTOP)
    try:
        seen = project.ask(time_period="today")
        assert seen.status_code == 200, seen.text
        assert [one["customer_identifier"] for one in seen.json()["data"]] == ["bert"]
    finally:
        service.kill("redis", signal.SIGCONT)
    assert pid
    service.wait_ready()
