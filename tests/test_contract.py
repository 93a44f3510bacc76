"""api.md's tables, line by line, over HTTP against the running service: exact status, exact `error` text.

The rules of a body are tested one by one in test_event.py; here each line of the table goes through the
real edge once, and what is accepted comes back from a query as it was sent.
"""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app.event import RESERVED
from tests.client import Client, equals, unique
from tests.packers import PACKERS
from tests.waiting import until

pytestmark = pytest.mark.service

WRITE = "Invalid x-eventbunker-write-key"
BODY = "Body JSON validation failed."


@pytest.fixture(scope="module")
def project(target_client: Client) -> Client:
    """A project of this module's own."""
    return target_client.new_project()


def assert_error(response: httpx.Response, status: int, error: str) -> dict[str, Any]:
    """The one shape of every error, with CORS and the request id."""
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    assert body["error"] == error
    assert set(body) == {"error", "code", "detail", "errors", "request_id"}
    assert re.fullmatch(r"[a-z_]+", body["code"])
    assert body["detail"]
    assert re.fullmatch(r"[0-9a-f]{24}", body["request_id"])
    assert response.headers["x-request-id"] == body["request_id"]
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["content-type"] == "application/json"
    return body


# --- 3.2 the answer -------------------------------------------------------------------------------


def test_a_200_names_the_event_and_its_time(project: Client) -> None:
    before = time.time() * 1000 - 1
    response = project.post({"event_name": "answer"})
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"unique_req_id", "time_recorded"}
    assert re.fullmatch(r"[0-9a-f]{24}00000001", answer["unique_req_id"])
    assert response.headers["x-request-id"] == answer["unique_req_id"][:24]
    assert before <= answer["time_recorded"] <= time.time() * 1000 + 1
    stored = project.one(answer["unique_req_id"])
    assert stored["time_recorded"] == answer["time_recorded"]


# --- 3.1 the fields -------------------------------------------------------------------------------


def test_every_kind_of_field_comes_back_as_it_was_sent(project: Client) -> None:
    sent: dict[str, Any] = {
        "event_name": "every.kind_of-field",
        "timestamp": "2021-06-26T16:48:00.123+02:00",
        "customer_identifier": "customer ü",
        "metric_name": "load",
        "metric_value": 0.25,
        "event_id": unique("id"),
        "page_url": "https://shop.example/a?utm_source=news",
        "referrer": "https://search.example/",
        "utm_medium": "mail",
        "a string": 'quotes " \\ and \u0000 and 😀',
        "integer": 2**64 - 1,
        "negative": -(2**63),
        "float": 1.5,
        "exponent": 1e300,
        "yes": True,
        "nothing": None,
        "strings": ["a", "b"],
        "numbers": [1, 2.5],
        "booleans": [True, False],
        "empty": [],
        "date_like": "2021-01-01",
        "number_like": "12",
        "object": {"s": "x", "n": 1, "b": False, "z": None, "l": ["x"]},
    }
    answer = project.track(**sent)
    stored = project.one(answer["unique_req_id"])
    for name in sent.keys() - {"timestamp"}:
        assert stored[name] == sent[name], name
        assert type(stored[name]) is type(sent[name]), name
    assert stored["event_time"] == "2021-06-26T14:48:00.123Z"
    assert stored["utm_source"] == "news"


def test_event_time_defaults_to_time_recorded(project: Client) -> None:
    answer = project.track()
    stored = project.one(answer["unique_req_id"])
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(answer["time_recorded"] / 1000))
    assert stored["event_time"] == f"{moment}.{answer['time_recorded'] % 1000:03d}Z"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"event_name": "a b"}, "$.event_name"),
        ({"event_name": "x" * 257}, "$.event_name"),
        ({"timestamp": "01/02/03"}, "$.timestamp"),
        ({"timestamp": "2101-01-01"}, "$.timestamp"),
        ({"customer_identifier": ""}, "$.customer_identifier"),
        ({"customer_identifier": "x" * 257}, "$.customer_identifier"),
        ({"metric_name": 1}, "$.metric_name"),
        ({"metric_value": "1"}, "$.metric_value"),
        ({"event_id": "x" * 129}, "$.event_id"),
        ({"a.b": 1}, "$.a.b"),
        ({"f": "x" * 8193}, "$.f"),
        ({"f": [0] * 1001}, "$.f"),
        ({"f": [1, "x"]}, "$.f"),
        ({"f": [None]}, "$.f"),
        ({"f": {"g": {"h": 1}}}, "$.f.g"),
        ({"f": 2**64}, "$.f"),
        ({f"f{i}": 1 for i in range(256)}, "$"),
        *(({name: "x"}, f"$.{name}") for name in sorted(RESERVED)),
    ],
)
def test_each_broken_rule_is_a_400_at_its_path(project: Client, fields: dict[str, object], path: str) -> None:
    body = assert_error(project.post({"event_name": "e", **fields}), 400, BODY)
    assert [problem["path"] for problem in body["errors"]] == [path]
    assert body["detail"] == f"{path.removeprefix('$.')}: {body['errors'][0]['message']}"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"{}", b'{"event_name":"a",}', b'{"event_name":"a","f":NaN}',
        b'{"event_name":"a","f":Infinity}', b'{"event_name":"a","f":1,"f":2}', b'{"event_name":"a","f":"\\ud800"}',
        b'{"event_name":"a","f":"\xff"}', b"[" * 60_000, b'{"event_name":"a","f":1e999}',
        # Both examples printed in the original's documentation are invalid JSON.
        b'{"event_name": "a" "timestamp": "2021-06-26T14:48:00.000"}',
    ],
)  # fmt: skip
def test_malformed_json_is_a_400(project: Client, body: bytes) -> None:
    assert_error(project.post(body), 400, BODY)


def test_problems_come_all_at_once(project: Client) -> None:
    body = assert_error(project.post({"timestamp": "soon", "f": [None], "ip_city": "x"}), 400, BODY)
    assert [problem["path"] for problem in body["errors"]] == [
        "$.event_name",
        "$.timestamp",
        "$.f",
        "$.ip_city",
    ]


def test_the_request_is_what_the_derived_fields_come_from(project: Client) -> None:
    agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1"
    response = project.post(
        {"event_name": "derived"},
        user_agent=agent,
        referer="https://shop.example/p?utm_campaign=c1&utm_term=t",
    )
    stored = project.one(response.json()["unique_req_id"])
    assert stored["browser_name"] == "Mobile Safari"
    assert stored["os_name"] == "iOS"
    assert stored["device_type"] == "mobile"
    assert stored["is_bot"] is False
    assert stored["user_agent"] == agent
    assert stored["page_url"] == "https://shop.example/p?utm_campaign=c1&utm_term=t"
    assert (stored["utm_campaign"], stored["utm_term"]) == ("c1", "t")


def test_client_context_is_believed_only_from_a_key_that_may_give_it(project: Client) -> None:
    headers = {"x_eventbunker_client_user_agent": "curl/8.5.0", "user_agent": "Proxy/1.0"}
    plain = project.post({"event_name": "context"}, **headers).json()
    key = project.create_key(allow_client_context=True)["api_key"]
    trusted = project.post({"event_name": "context"}, x_eventbunker_write_key=key, **headers).json()
    assert project.one(plain["unique_req_id"])["user_agent"] == "Proxy/1.0"
    assert project.one(trusted["unique_req_id"])["user_agent"] == "curl/8.5.0"


# --- 1 and 2 keys and errors ----------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "eb_w_nonsense", "\u00e9", "x" * 5000, "eb_w_" + "0" * 43])
def test_a_missing_or_unknown_write_key_is_a_401(project: Client, key: str) -> None:
    response = project.http.post(
        "/post", content=b"{", headers={b"x-eventbunker-write-key": key.encode()} if key else {}
    )
    assert_error(response, 401, WRITE)  # and the key is checked before the body


def test_a_revoked_key_is_a_401(project: Client) -> None:
    made = project.create_key()
    assert project.post({"event_name": "e"}, x_eventbunker_write_key=made["api_key"]).status_code == 200
    project.manage(
        "apikey/delete",
        project.keys["project_master_key"],
        project_id=project.keys["project_id"],
        api_key_id=made["api_key_id"],
    ).raise_for_status()
    assert_error(project.post({"event_name": "e"}, x_eventbunker_write_key=made["api_key"]), 401, WRITE)


@pytest.mark.parametrize("wrong", ["query_key", "delete_key", "project_master_key", "account_master_key"])
def test_a_key_of_another_type_is_told_so(project: Client, wrong: str) -> None:
    response = project.post({"event_name": "e"}, x_eventbunker_write_key=project.keys[wrong])
    assert_error(response, 401, f"Please use a write key for write requests. {WRITE}")


def test_the_same_words_for_query_keys(project: Client) -> None:
    def ask(key: str | None) -> httpx.Response:
        return project.http.post(
            "/v1/query/json",
            json={"time_period": "today"},
            headers={"x-eventbunker-query-key": key} if key else {},
        )

    query = "Invalid x-eventbunker-query-key"
    assert_error(ask(None), 401, query)
    assert_error(ask("eb_q_nonsense"), 401, query)
    assert_error(ask(project.keys["write_key"]), 401, f"Please use a query key for query requests. {query}")


def test_the_same_words_for_master_keys(project: Client) -> None:
    assert_error(
        project.manage("project/list", "nonsense", account_id="x"), 401, "Invalid x-eventbunker-apikey"
    )


def test_repeated_names_are_refused_everywhere(project: Client) -> None:
    query = project.http.post(
        "/v1/query/json",
        content=b'{"time_period":"today","time_period":"yesterday"}',
        headers={"x-eventbunker-query-key": project.keys["query_key"]},
    )
    assert_error(query, 400, BODY)
    manage = project.http.post(
        "/v1/manage/apikey/list",
        content=b'{"project_id":"x","project_id":"y"}',
        headers={"x-eventbunker-apikey": project.keys["project_master_key"]},
    )
    assert_error(manage, 400, BODY)


@pytest.mark.parametrize("zone", ["localtime", "Factory", "Mars/Olympus", "", "../../etc/passwd"])
def test_only_iana_zones(project: Client, zone: str) -> None:
    assert_error(project.ask(time_period="today", timezone=zone), 400, BODY)


def test_a_wrong_account_or_project_is_a_400(project: Client) -> None:
    keys = project.keys
    assert_error(
        project.manage("project/list", keys["account_master_key"], account_id="acc_x"),
        400,
        "Invalid account_id",
    )
    assert_error(
        project.manage("apikey/list", keys["project_master_key"], project_id="prj_x"),
        400,
        "Invalid project_id",
    )


def test_unknown_paths_and_methods(project: Client) -> None:
    assert_error(project.http.get("/nowhere"), 404, "Not found")
    assert_error(project.http.post("/post/"), 404, "Not found")
    response = project.http.get("/post")
    assert_error(response, 405, "Method not allowed")
    assert "POST" in response.headers["allow"]
    assert_error(project.http.delete("/v1/query/json"), 405, "Method not allowed")


def test_too_large_a_body_is_refused_before_the_excess_is_read(project: Client) -> None:
    at_limit = b'{"event_name":"e","f":"' + b" " * 8000 + b'"}'
    at_limit += b" " * (65_536 - len(at_limit))
    assert project.post(at_limit).status_code == 200
    body = assert_error(project.post(at_limit + b" "), 413, "Body too large")
    assert "65536" in body["detail"]
    assert "65537" in body["detail"]


def test_a_chunked_body_is_bounded_too(project: Client) -> None:
    parts = urlsplit(project.keys["url"])
    head = (
        f"POST /post HTTP/1.1\r\nHost: x\r\nx-eventbunker-write-key: {project.keys['write_key']}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(head.encode() + chunk * 5)  # never finished: the answer must not wait for the end
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("encoding", ["br", "nonsense", "gzip, zstd", "gzip,gzip"])
def test_an_unknown_coding_is_a_415_that_names_the_known_ones(project: Client, encoding: str) -> None:
    answer = project.post({"event_name": "e"}, content_encoding=encoding)
    assert_error(answer, 415, "Unsupported content encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"


@pytest.mark.parametrize("packer", PACKERS)
def test_a_compressed_event(project: Client, packer: str) -> None:
    coding, pack = PACKERS[packer]
    name = unique("packed")
    for spelt in (coding, coding.upper(), f"identity, {coding}"):
        answer = project.post(pack(f'{{"event_name":"{name}"}}'.encode()), content_encoding=spelt)
        assert answer.status_code == 200, answer.text
    until(lambda: project.count(name) == 3, 10, "three events")
    assert_error(project.post(b'{"event_name":"e"}', content_encoding=coding), 400, BODY)


def test_gzip_tells_itself(project: Client) -> None:
    """Some clients compress and do not say so."""
    packed = PACKERS["gzip"][1](b'{"event_name":"packed"}')
    assert project.post(packed).status_code == 200
    assert project.post(packed, content_encoding="x-gzip").status_code == 200


def test_identity_is_no_compression(project: Client) -> None:
    assert project.post({"event_name": "e"}, content_encoding="identity").status_code == 200


def test_a_key_beyond_its_rate_is_a_429(project: Client) -> None:
    key = project.create_key(rate_limit=2)["api_key"]
    answers = [project.post({"event_name": "limited"}, x_eventbunker_write_key=key) for _ in range(10)]
    accepted = [answer for answer in answers if answer.status_code == 200]
    assert 2 <= len(accepted) < 10
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert_error(refused, 429, "Rate limit exceeded")
    assert int(refused.headers["retry-after"]) >= 1

    def again() -> bool:
        return project.post({"event_name": "limited"}, x_eventbunker_write_key=key).status_code == 200

    until(again, 5, "the key's next second")


def test_a_query_key_beyond_its_rate_is_a_429(project: Client) -> None:
    """Each kind of question counts, also those that are refused for what they say; the other keys do not."""
    key = project.create_key("QUERY", rate_limit=2)["api_key"]
    paths = ("json", "funnel", "retention", "timeline", "fields", "iframe")

    def ask(path: str) -> httpx.Response:
        return project.http.post(f"/v1/query/{path}", json={}, headers={"x-eventbunker-query-key": key})

    def is_free() -> bool:
        return ask("json").status_code == 400

    for path in paths:
        until(is_free, 5, "the key's next second")
        answers = [ask(path) for _ in range(10)]
        assert {answer.status_code for answer in answers} <= {400, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        body = assert_error(refused, 429, "Rate limit exceeded")
        assert body["detail"] == "This key may send 2 requests a second; send it again later."
        assert int(refused.headers["retry-after"]) >= 1
    assert project.ask(time_period="today").status_code == 200


# --- 3.4 browsers ---------------------------------------------------------------------------------


def test_preflight(project: Client) -> None:
    response = project.http.options(
        "/post",
        headers={
            "origin": "https://shop.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,x-eventbunker-write-key",
        },
    )
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] == "*"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "x-eventbunker-write-key" in response.headers["access-control-allow-headers"]
    assert response.headers["access-control-max-age"] == "86400"
    assert "access-control-allow-credentials" not in response.headers


def test_a_beacon_needs_neither_header_nor_json_type(project: Client) -> None:
    name = unique("beacon")
    response = project.http.post(
        f"/post?write_key={project.keys['write_key']}",
        content=json.dumps({"event_name": name}).encode(),
        headers={"content-type": "text/plain;charset=UTF-8", "origin": "https://shop.example"},
    )
    assert response.status_code == 200
    exposed = response.headers["access-control-expose-headers"].lower()
    assert "retry-after" in exposed
    assert "x-request-id" in exposed
    assert project.one(response.json()["unique_req_id"])["event_name"] == name


def test_the_header_wins_over_the_parameter(project: Client) -> None:
    response = project.http.post(
        f"/post?write_key={project.keys['write_key']}",
        content=b'{"event_name":"e"}',
        headers={"x-eventbunker-write-key": "eb_w_nonsense"},
    )
    assert_error(response, 401, WRITE)


# --- 1 customer-bound keys ------------------------------------------------------------------------


def test_a_bound_key_writes_and_reads_one_customer_only(project: Client) -> None:
    name = unique("bound")
    write = project.create_key(key_filter_data={"customer_identifier": "alice"})["api_key"]
    read = project.create_key("QUERY", key_filter_data={"customer_identifier": "alice"})["api_key"]
    forged = project.post(
        {"event_name": name, "customer_identifier": "bob"}, x_eventbunker_write_key=write
    ).json()
    other = project.track(event_name=name, customer_identifier="bob")
    assert project.one(forged["unique_req_id"])["customer_identifier"] == "alice"
    project.one(other["unique_req_id"])
    alice = Client({**project.keys, "query_key": read}, project.http)
    assert [event["unique_req_id"] for event in alice.events(equals("event_name", name))] == [
        forged["unique_req_id"]
    ]
    assert alice.events(equals("customer_identifier", "bob")) == []


def test_an_expired_key_is_a_401(project: Client) -> None:
    soon = time.time() + 2
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(soon)) + f".{int(soon * 1000) % 1000:03d}Z"
    key = project.create_key(expires_at=stamp)["api_key"]
    assert project.post({"event_name": "e"}, x_eventbunker_write_key=key).status_code == 200

    def status() -> bool:
        return project.post({"event_name": "e"}, x_eventbunker_write_key=key).status_code == 401

    until(status, 5, "the key's end")
    assert time.time() >= soon


# --- 7 description and health ---------------------------------------------------------------------


def test_health_and_description(project: Client) -> None:
    get = project.http.get
    assert get("/livez").status_code == 200
    ready = get("/readyz?strict&verbose").json()
    assert ready["ready"] is True, ready
    assert {"redis", "drain 0", "backlog 0"} <= {check["name"] for check in ready["checks"]}
    assert get("/version").json()["name"] == "eventbunker"
    assert get("/openapi.json").json()["openapi"].startswith("3.1")
    assert get("/example_event_body.json").json()["required"] == ["event_name"]
    assert "Disallow: /" in get("/robots.txt").text
    metrics = get("/metrics").text
    assert "eventbunker_events_accepted_total" in metrics
    assert 'eventbunker_ledger_events{fate="appended",partition="0"}' in metrics


def test_the_published_example_is_accepted(project: Client) -> None:
    [example] = project.http.get("/example_event_body.json").json()["examples"]
    assert project.post(example).status_code == 200
