"""`POST /post?ack=stored` and `GET /v1/receipt/…` as clients see them, against the whole service."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import redis

from app.stream import Keys
from tests import plain_http
from tests.client import Client, equals, unique
from tests.management import done, manage, refused
from tests.poison import settings_of
from tests.service import Service
from tests.waiting import until

pytestmark = pytest.mark.service

INVALID = "Invalid request"
ACK = "The only value of ack is `stored`; leave ack out to be answered when the event is on disk."
MALFORMED = "A receipt is asked for by the unique_req_id of an answer: 32 lower-case hex digits."


@pytest.fixture(scope="module")
def project(client: Client) -> Client:
    return client.new_project()


def post(project: Client, query: str, **fields: object) -> httpx.Response:
    headers = {"x-eventbunker-write-key": project.keys["write_key"]}
    return project.http.post(f"/post?{query}", json={"event_name": "ack", **fields}, headers=headers)


def receipt(project: Client, name: str, key: str = "") -> httpx.Response:
    headers = {"x-eventbunker-write-key": key or project.keys["write_key"]}
    return project.http.get(f"/v1/receipt/{name}", headers=headers)


def state(project: Client, name: str, key: str = "") -> str:
    return str(done(receipt(project, name, key))["state"])


def test_a_stored_event_is_in_the_next_query(project: Client) -> None:
    """Safeguard: no query that begins after the answer may miss the event. No waiting here, on purpose."""

    def one(_: int) -> bool:
        answer = post(project, "ack=stored")
        assert answer.status_code == 200, answer.text
        assert set(answer.json()) == {"unique_req_id", "time_recorded"}
        name = answer.json()["unique_req_id"]
        assert state(project, name) == "stored"
        return len(project.events(equals("unique_req_id", name))) == 1

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(32)))


def test_other_values_of_ack_say_what_is_allowed(project: Client) -> None:
    for query in ("ack=", "ack=written", "ack=stored&ack=stored", "ack=STORED"):
        refused(post(project, query), 400, INVALID, "invalid_request", ACK)
    assert post(project, "track=1&feedback=ack").status_code == 200
    wrong = project.http.post("/post?ack=x", json={}, headers={"x-eventbunker-write-key": "eb_w_x"})
    assert wrong.status_code == 401, "the key is checked first"


def test_a_copy_is_a_200_and_its_receipt_names_the_first(project: Client) -> None:
    name = unique("id")
    first, copy = (post(project, "ack=stored", event_id=name) for _ in range(2))
    assert (first.status_code, copy.status_code) == (200, 200)
    assert done(receipt(project, copy.json()["unique_req_id"])) == {
        **copy.json(),
        "state": "duplicate",
        "duplicate_of": first.json()["unique_req_id"],
    }
    assert state(project, first.json()["unique_req_id"]) == "stored"


def test_an_event_that_waits_is_a_202_and_its_receipt_follows_it(service: Service, project: Client) -> None:
    drain = service.kill("drain", signal.SIGSTOP)
    try:
        answer = post(project, "ack=stored")
        assert answer.status_code == 202
        assert set(answer.json()) == {"unique_req_id", "time_recorded", "state"}
        assert answer.json()["state"] == "queued"
        name = answer.json()["unique_req_id"]
        queued = {"unique_req_id": name, "state": "queued", "time_recorded": answer.json()["time_recorded"]}
        assert done(receipt(project, name)) == queued
    finally:
        os.kill(drain, signal.SIGCONT)
    until(lambda: state(project, name) == "stored", 15, "the stored event")
    assert done(receipt(project, name)) == {**queued, "state": "stored"}
    service.wait_ready()


def test_a_refused_event_is_a_422_a_dead_receipt_and_stored_once_the_cause_is_gone(
    service: Service, project: Client
) -> None:
    """The store is given a column that it cannot compute for this event, as a faulty migration would."""
    settings, bad = settings_of(service), unique("bad")

    def alter(change: str) -> None:
        sql = f"ALTER TABLE {settings.store.database}.events {change}"
        headers = {"X-ClickHouse-Key": settings.secret("CLICKHOUSE_PASSWORD")}
        plain_http.post(settings.clickhouse_url, content=sql, headers=headers, timeout=30).raise_for_status()

    alter(f"ADD COLUMN faulty UInt8 MATERIALIZED toUInt8(if(event_name = '{bad}', 'x', '0'))")
    try:
        answer = post(project, "ack=stored", event_name=bad)
        body = answer.json()
        assert (answer.status_code, body["error"], body["code"]) == (422, "Event set aside", "dead_letter")
        assert "Cannot parse" in body["detail"]
        name = f"{body['request_id']}00000001"
        dead = done(receipt(project, name))
        assert (dead["state"], dead["reason"].partition(":")[0]) == ("dead", "refused by the store")
    finally:
        alter("DROP COLUMN faulty")
    [letter] = done(manage(project, "dead/list", "project"))["dead_letters"]
    assert letter["unique_req_id"] == name
    assert done(manage(project, "dead/replay", "project", unique_req_ids=[name]))["replayed"] == 1
    until(lambda: state(project, name) == "stored", 15, "the replayed event")
    assert project.count(bad) == 1
    assert done(manage(project, "dead/list", "project"))["dead_letters"] == []


def test_receipts_are_for_those_who_may_write_there(client: Client, project: Client) -> None:
    other = client.new_project()
    alice, bob = (
        project.create_key(key_filter_data={"customer_identifier": name})["api_key"]
        for name in ("alice", "bob")
    )
    name = post(project, "ack=stored", customer_identifier="alice").json()["unique_req_id"]
    for key, expected in ((alice, "stored"), (bob, "unknown"), (other.keys["write_key"], "unknown")):
        assert done(receipt(project, name, key))["state"] == expected
    assert done(receipt(project, name, bob)) == {"unique_req_id": name, "state": "unknown"}
    by_address = project.http.get(f"/v1/receipt/{name}?write_key={alice}")
    assert done(by_address)["state"] == "stored"
    assert by_address.headers["access-control-allow-origin"] == "*"
    assert state(project, "0" * 32) == state(project, "f" * 32) == "unknown"


def test_what_is_wrong_with_a_question_is_said(project: Client) -> None:
    for name in ("x", "0" * 31, "0" * 33, "A" * 32, "%00", "0" * 31 + "٣"):
        refused(receipt(project, name), 400, INVALID, "invalid_request", MALFORMED)
    assert receipt(project, "0" * 32, "eb_w_nonsense").status_code == 401
    read = receipt(project, "0" * 32, project.keys["query_key"])
    assert read.json()["code"] == "not_a_write_key"
    assert project.http.post(f"/v1/receipt/{'0' * 32}").status_code == 405


def test_an_event_that_is_erased_while_its_client_waits_is_a_202_that_says_so(
    service: Service, project: Client
) -> None:
    """Its drain stands still until the erasure has been answered."""
    customer = unique("anna")
    headers = {"x-eventbunker-delete-key": str(project.create_key("DELETE")["api_key"])}
    post(project, "ack=stored", customer_identifier=customer)  # the names are known
    drain = service.kill("drain", signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(post, project, "ack=stored", customer_identifier=customer)
            until(lambda: entries(service), 4, "the event in the stream")
            erased = project.http.post(
                "/v1/delete/events",
                json={"filters": [equals("customer_identifier", customer)]},
                headers=headers,
            )
            assert erased.status_code == 200, erased.text
            os.kill(drain, signal.SIGCONT)
            answer = waiting.result(10)
    finally:
        os.kill(drain, signal.SIGCONT)
    assert answer.status_code == 202
    assert answer.json()["state"] == "erased"
    assert answer.json()["time_recorded"] <= erased.json()["up_to"]
    name = answer.json()["unique_req_id"]
    assert state(project, name) == "erased"
    assert project.events(equals("unique_req_id", name)) == []
    service.wait_ready()


def entries(service: Service) -> int:
    """Groups in the stream."""
    with redis.Redis.from_url(f"unix://{service.state}/redis/redis.sock") as client:
        return int(client.xlen(Keys("events", 0).entries))
