"""POST /batch against the running service: a verdict for each event, and what was accepted is in queries, once."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from tests import plain_http
from tests.client import Client, equals, unique
from tests.hostile import assert_documented, resident_bytes
from tests.packers import PACKERS
from tests.service import Service
from tests.waiting import until

pytestmark = pytest.mark.service

SECONDS = 10.0


@pytest.fixture(scope="module")
def project(client: Client) -> Iterator[Client]:
    """A project of this module's own, for as long as it is needed: it gets tens of thousands of events."""
    made = client.new_project()
    yield made
    made.delete()


def send(client: Client, body: object, **headers: str) -> httpx.Response:
    """POST /batch; what is not bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    own = {"x-eventbunker-write-key": client.keys["write_key"], "content-type": "application/json"}
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    response = client.http.post("/batch", content=content, headers={k: v for k, v in own.items() if v})
    assert_documented(response)
    return response


def accepted(response: httpx.Response, number: int, rejected: int = 0) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert set(answer) == {"accepted", "rejected", "time_recorded", "request_id", "errors"}
    assert (answer["accepted"], answer["rejected"]) == (number, rejected)
    assert answer["request_id"] == response.headers["x-request-id"]
    assert len({error["index"] for error in answer["errors"]}) == rejected
    return answer


def stored(client: Client, name: str, number: int) -> list[dict[str, Any]]:
    until(lambda: client.count(name) >= number, SECONDS, f"{number} events")
    return sorted(client.events(equals("event_name", name)), key=lambda one: str(one["unique_req_id"]))


def named(name: str, numbers: Sequence[int], **fields: object) -> list[dict[str, object]]:
    return [{"event_name": name, "n": number, **fields} for number in numbers]


def test_each_event_is_stored_under_its_own_id(project: Client) -> None:
    name = unique("ids")
    answer = accepted(send(project, named(name, range(25), product={"sku": "a:b"}), user_agent="curl/8"), 25)
    rows = stored(project, name, 25)
    assert [row["unique_req_id"] for row in rows] == [
        f"{answer['request_id']}{number + 1:08x}" for number in range(25)
    ]
    assert [row["n"] for row in rows] == list(range(25))
    assert {row["time_recorded"] for row in rows} == {rows[0]["time_recorded"]}
    assert {row["user_agent"] for row in rows} == {"curl/8"}
    receipt = project.http.get(
        f"/v1/receipt/{rows[7]['unique_req_id']}",
        headers={"x-eventbunker-write-key": project.keys["write_key"]},
    ).json()
    assert receipt["state"] == "stored"


def test_one_bad_event_never_rejects_its_neighbours(project: Client) -> None:
    name = unique("mixed")
    events: list[object] = [*named(name, range(10))]
    events[3] = {"n": 3}
    events[5] = {"event_name": "a b", "f": [1, "x"], "user_agent": "x"}
    events[8] = [1]
    answer = accepted(send(project, events), 7, 3)
    assert [(error["index"], error["code"], error["path"]) for error in answer["errors"]] == [
        (3, "invalid_body", "$.event_name"),
        (5, "invalid_body", "$.event_name"),
        (5, "invalid_body", "$.f"),
        (5, "invalid_body", "$.user_agent"),
        (8, "invalid_body", "$"),
    ]
    assert answer["errors"][0]["message"] == "required field is missing"
    assert [row["n"] for row in stored(project, name, 7)] == [0, 1, 2, 4, 6, 7, 9]


@pytest.mark.parametrize("form", ["array", "object", "ndjson", "beacon"])
@pytest.mark.parametrize("packer", [None, *PACKERS])
def test_every_form_packed_or_not(project: Client, form: str, packer: str | None) -> None:
    name = unique("form")
    events = named(name, range(3))
    lines = b"\n\n".join(json.dumps(event).encode() for event in events) + b"\n"
    body = {
        "array": json.dumps(events).encode(),
        "object": json.dumps({"writeKey": "x", "batch": events, "sentAt": "2026-11-25"}).encode(),
    }.get(form, lines)
    kind = {"ndjson": "application/x-ndjson; charset=utf-8", "beacon": "text/plain"}.get(form, "")
    coding, pack = PACKERS[packer] if packer else ("", bytes)
    accepted(send(project, pack(body), content_type=kind, content_encoding=coding), 3)
    if coding == "gzip":
        accepted(send(project, pack(body), content_type="text/plain"), 3)
    assert len(stored(project, name, 3)) in (3, 6)


def test_the_bytes_of_an_event_are_kept(project: Client) -> None:
    name = unique("bytes")
    one = (
        b'{ "event_name" : "%s", "big":18446744073709551615, "e":1E5, "u":"\\u00e9\\/", "z":-0.0 }'
        % name.encode()
    )
    accepted(send(project, b"[ " + one + b" ,{},\n" + one + b"]"), 2, 1)
    for row in stored(project, name, 2):
        assert (row["big"], row["e"], row["u"]) == (2**64 - 1, 1e5, "é/")


def test_a_broken_line_is_rejected_alone(project: Client) -> None:
    name = unique("lines")
    one = f'{{"event_name":"{name}"}}\n'.encode()
    body = one + b'{"event_name":\n\n' + one + b"\xff\n" + b"[" * 60_000 + b"\n" + one.strip()
    answer = accepted(send(project, body, content_type="application/x-ndjson"), 3, 3)
    assert [error["index"] for error in answer["errors"]] == [1, 3, 4]
    assert "malformed" in answer["errors"][0]["message"]
    assert "UTF-8" in answer["errors"][1]["message"]
    assert "deep" in answer["errors"][2]["message"]
    assert len(stored(project, name, 3)) == 3


@pytest.mark.parametrize("form", ["[%s]", '{"batch":[%s],"sentAt":"now"}'])
def test_half_a_surrogate_is_rejected_alone(project: Client, form: str) -> None:
    name = unique("half")
    one = f'{{"event_name":"{name}"}}'
    body = (form % f'{one},{{"event_name":"{name}","cut":"\\ud83d"}},{one}').encode()
    answer = accepted(send(project, body), 2, 1)
    assert [error["index"] for error in answer["errors"]] == [1]
    assert "surrogate" in answer["errors"][0]["message"]
    assert len(stored(project, name, 2)) == 2


def test_nothing_accepted_is_a_400_with_the_problems(project: Client) -> None:
    response = send(project, [{"event_name": "a b"}] * 30)
    assert response.status_code == 400
    problems = response.json()["errors"]
    assert [problem["path"] for problem in problems] == [f"$[{n}].event_name" for n in range(20)]
    for empty in (b"[]", b'{"batch":[]}', b" "):
        assert "empty" in send(project, empty).json()["detail"]
    assert send(project, b'[{"event_name":"e"}').json()["detail"].endswith("(byte 19)")


def test_an_event_that_is_too_large_is_rejected_alone(project: Client) -> None:
    name = unique("large")
    large = {"event_name": name, **{f"f{n}": "x" * 8000 for n in range(9)}}
    answer = accepted(send(project, [large, *named(name, range(2))]), 2, 1)
    [error] = answer["errors"]
    assert (error["index"], error["code"]) == (0, "body_too_large")
    assert "65536" in error["message"]


def test_limits_of_the_whole(project: Client) -> None:
    one = b'{"event_name":"many"}'
    many = b"[" + b",".join([one] * 10_001) + b"]"
    response = send(project, many)
    assert response.status_code == 413
    assert "10000 events" in response.json()["detail"]
    assert send(project, b"[" + b" " * 4 * 1024 * 1024 + one + b"]").status_code == 413


def test_ten_thousand_events_are_kept_and_neighbours_are_served(project: Client, service: Service) -> None:
    """Safeguard: every 50th is bad, every 7th looks different; single posts go on meanwhile."""
    name = unique("many")
    events = named(name, range(10_000))
    for number in range(0, 10_000, 50):
        events[number]["n"] = [1, "x"]
    for number in range(0, 10_000, 7):
        events[number][f"f{number % 3}"] = number
    body = json.dumps(events).encode()
    slowest = 0.0
    done = threading.Event()

    def post() -> None:
        nonlocal slowest
        with httpx.Client(verify=plain_http.NOBODY, base_url=service.url, trust_env=False) as http:
            neighbour = Client(project.keys, http)
            while not done.is_set():
                began = time.monotonic()
                neighbour.track(event_name="neighbour")
                slowest = max(slowest, time.monotonic() - began)

    other = threading.Thread(target=post)
    other.start()
    try:
        for _ in range(3):
            answer = accepted(send(project, body), 9800, 200)
            assert [error["index"] for error in answer["errors"]] == list(range(0, 10_000, 50))
    finally:
        done.set()
        other.join()
    assert slowest < 1.0  # on a machine with others at work; alone some ten milliseconds
    until(lambda: project.count(name) == 3 * 9800, 30, "all of them")
    ids = {row["n"]: row["count"] for row in project.rows(
        group_by=["n"], computations=[{"function": "count"}], filters=[equals("event_name", name)], limit=10_000
    )}  # fmt: skip
    assert ids == {number: 3 for number in range(10_000) if number % 50}


def test_only_the_first_thousand_rejected_are_explained(project: Client) -> None:
    answer = accepted(send(project, [{"event_name": "e"}, *[{"n": 1}] * 1500]), 1, 1500)
    assert [error["index"] for error in answer["errors"]] == list(range(1, 1501))
    assert answer["errors"][999]["message"] == "required field is missing"
    assert "again" in answer["errors"][1000]["message"]


def test_copies_count_as_accepted_and_are_one_event(project: Client) -> None:
    name = unique("copies")
    events = [{**event, "event_id": f"{name}-{event['n']}"} for event in named(name, [1, 2, 2, 3])]
    for _ in range(2):
        accepted(send(project, events), 4)
    accepted(send(project, named(name, [4])), 1)
    until(lambda: project.count(name) >= 4, SECONDS, "the last event")
    assert sorted(row["n"] for row in stored(project, name, 4)) == [1, 2, 3, 4]


def test_an_idempotency_key_names_each_event(project: Client) -> None:
    name = unique("key")
    events = named(name, range(5))
    events[2]["event_id"] = f"{name}-own"
    for _ in range(3):
        accepted(send(project, events, idempotency_key=f'"{name}"'), 5)
    accepted(send(project, [{"event_name": name, "n": 99, "event_id": f"{name}:0"}, events[2]]), 2)
    accepted(send(project, named(unique("end"), [1])), 1)
    assert sorted(row["n"] for row in stored(project, name, 5)) == list(range(5))
    assert send(project, events, idempotency_key="k" * 124).status_code == 400


def test_the_key_decides_as_for_single_events(project: Client) -> None:
    assert send(project, b"{", x_eventbunker_write_key="eb_w_nothing").status_code == 401
    assert send(project, b"{", x_eventbunker_write_key=project.keys["query_key"]).status_code == 401
    bound = project.create_key(key_filter_data={"customer_identifier": "bound"})["api_key"]
    context = project.create_key(allow_client_context=True)["api_key"]
    name = unique("bound")
    events = [{"event_name": name, "customer_identifier": "other"}, {"event_name": name}]
    accepted(send(project, events, x_eventbunker_write_key=bound), 2)
    assert {row["customer_identifier"] for row in stored(project, name, 2)} == {"bound"}
    name = unique("context")
    accepted(
        send(
            project,
            named(name, range(2)),
            x_eventbunker_write_key=context,
            x_eventbunker_client_user_agent="theirs/1",
        ),
        2,
    )
    assert {row["user_agent"] for row in stored(project, name, 2)} == {"theirs/1"}
    in_address = project.http.post(
        f"/batch?write_key={project.keys['write_key']}", json=named(unique("address"), [1])
    )
    accepted(in_address, 1)


def test_there_is_no_waiting_for_a_batch(project: Client) -> None:
    response = project.http.post(
        "/batch?ack=stored",
        json=named("e", [1]),
        headers={"x-eventbunker-write-key": project.keys["write_key"]},
    )
    assert response.status_code == 400
    assert "/v1/receipt" in response.json()["detail"]


def test_a_rate_limit_counts_events(project: Client) -> None:
    """A batch above the rate passes once, and is paid for afterwards."""
    limited = project.create_key(rate_limit=20)["api_key"]
    accepted(send(project, named("limited", range(30)), x_eventbunker_write_key=limited), 30)
    response = send(project, named("limited", range(1)), x_eventbunker_write_key=limited)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert project.post({"event_name": "limited"}, x_eventbunker_write_key=limited).status_code == 429

    def again() -> bool:
        return send(project, named("limited", [1]), x_eventbunker_write_key=limited).status_code == 200

    until(again, 5, "the debt's end")


def test_names_without_a_place_reject_their_events_only(client: Client) -> None:
    """Safeguard: one admission for the whole batch; the others' names find their places."""
    project = client.new_project()
    name = unique("names")
    wide = [{"event_name": name, **{f"f{start + n}": 1 for n in range(250)}} for start in range(0, 4750, 250)]
    accepted(send(project, wide), 19)
    more: list[dict[str, object]] = [
        {"event_name": name, **{f"g{number}": 1}, "f1": number} for number in range(400)
    ]
    answer = accepted(send(project, more), 250, 150)
    assert {error["code"] for error in answer["errors"]} == {"invalid_body"}
    assert all("distinct fields" in error["message"] for error in answer["errors"])
    assert [error["index"] for error in answer["errors"]] == list(range(250, 400))  # the first find places
    good = set(range(400)) - {error["index"] for error in answer["errors"]}
    until(lambda: project.count(name) == 19 + 250, SECONDS, "the others")
    found = project.rows(group_by=["f1"], filters=[equals("event_name", name)], limit=1000)
    assert {row["f1"] for row in found} >= good - {1}
    response = send(project, [{"event_name": name, "h": 1}])
    assert response.status_code == 400
    assert response.json()["errors"][0]["path"] == "$[0].h"


def test_the_sum_is_counted(project: Client) -> None:
    def counted(name: str) -> float:
        text = project.http.get("/metrics").text
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if re.match(rf"eventbunker_{name}\b", line)
        )

    before = [counted("events_accepted_total"), counted("events_rejected_total")]
    accepted(send(project, [*named("counted", range(5)), {}, {}]), 5, 2)
    assert counted("events_accepted_total") >= before[0] + 5  # a canary may come between
    assert counted("events_rejected_total") == before[1] + 2
    assert 'eventbunker_http_requests_total{route="/batch",status="200"}' in project.http.get("/metrics").text


def test_half_a_body(project: Client, service: Service) -> None:
    """The client leaves in the middle: nothing is kept, and nothing of it stays in the edge."""
    name = unique("half")
    body = json.dumps(named(name, range(5000))).encode()
    [pid] = service.pids("edge")
    before = resident_bytes(pid)

    def pieces() -> Any:
        yield body[: len(body) // 2]
        raise RuntimeError("left")

    for _ in range(20):
        with (
            httpx.Client(verify=plain_http.NOBODY, base_url=service.url, trust_env=False) as http,
            pytest.raises(RuntimeError),
        ):
            http.post(
                "/batch",
                content=pieces(),
                headers={"x-eventbunker-write-key": project.keys["write_key"]},
            )
    accepted(send(project, named(unique("after"), [1])), 1)
    assert resident_bytes(pid) - before < 48 * 1024 * 1024
    assert project.count(name) == 0
