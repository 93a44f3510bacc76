"""Hostile JSON against the running service: a 200 that a query gives back, or a documented 400. Nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client import Client, equals
from tests.hostile import assert_documented, unharmed
from tests.json_corpus import DISPUTED, RIGHT, WRONG, event
from tests.service import Service
from tests.test_properties import bodies
from tests.waiting import until

pytestmark = pytest.mark.service

QUERY = "/v1/query/json"
CALLS = [
    *("project/create", "apikey/create", "name/delete"),
]  # one of each kind; schemathesis has them all
TEN_MEGABYTES = 10_000_000


@pytest.fixture(scope="module", autouse=True)
def _unharmed(service: Service) -> Iterator[None]:
    with unharmed(service):
        yield


@pytest.fixture(scope="module")
def project(client: Client) -> Iterator[Client]:
    made = client.new_project()
    yield made
    made.delete()


def paths(project: Client) -> dict[str, dict[str, str]]:
    """Every endpoint that takes a body, with the headers that let it in."""
    keys = project.keys
    account = {"x-eventbunker-apikey": keys["account_master_key"]}
    owner = {"x-eventbunker-apikey": keys["project_master_key"]}
    manage = {f"/v1/manage/{call}": account if call.startswith("project/") else owner for call in CALLS}
    return {QUERY: {"x-eventbunker-query-key": keys["query_key"]}, **manage}


def assert_kept(project: Client, event_name: str, sent: dict[str, bytes]) -> None:
    """Every accepted body (by its unique_req_id) comes back from a query, member by member."""

    stored: dict[str, dict[str, object]] = {}

    def missing() -> list[bytes]:
        found = project.events(equals("event_name", event_name))
        stored.update({str(one["unique_req_id"]): one for one in found})
        return [body for identity, body in sent.items() if identity not in stored]

    try:
        until(lambda: not missing(), 15, "all accepted bodies in a query")
    except AssertionError:
        raise AssertionError(f"accepted, and in no query: {missing()}") from None
    for identity, body in sent.items():
        for name, value in json.loads(body).items():
            if name not in ("timestamp", "event_name"):
                assert stored[identity][name] == value, (name, body)
                assert json.dumps(stored[identity][name]) == json.dumps(value), (name, body)


def test_right_json_is_kept_and_comes_back(project: Client) -> None:
    kept = {}
    for name, body in RIGHT.items():
        response = project.post(body)
        assert response.status_code == 200, (name, response.text)
        kept[response.json()["unique_req_id"]] = body
    assert_kept(project, "json", kept)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_json_is_a_documented_400(project: Client, name: str) -> None:
    assert_refused(project.post(WRONG[name]))


@pytest.mark.parametrize("name", DISPUTED)
def test_what_parsers_disagree_on_is_refused_with_a_reason(project: Client, name: str) -> None:
    """Nothing is repaired, cut or taken in one of two meanings."""
    assert_refused(project.post(DISPUTED[name]))


def assert_refused(response: httpx.Response) -> None:
    assert_documented(response)
    assert response.status_code == 400
    assert response.json()["code"] == "invalid_body"
    assert response.json()["errors"]


def test_no_endpoint_fails_on_any_of_it(project: Client) -> None:
    """None of these bodies is a query or a call: each is a 400, also where only the parser could fail."""
    wrong = {**WRONG, **DISPUTED, **{name: RIGHT[name] for name in list(RIGHT)[:20]}}
    deep = {
        "deep 100k": b"[" * 100_000 + b"]" * 100_000,
        "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    }
    for path, headers in paths(project).items():
        for name, body in {**wrong, **deep}.items():
            response = project.http.post(path, content=body, headers=headers)
            assert_documented(response)
            assert response.status_code == 400, (path, name, response.text)


@pytest.mark.parametrize(
    "body",
    [
        event(b'"' + b"x" * TEN_MEGABYTES + b'"'),
        event(b"[" * TEN_MEGABYTES),
        event(b"9" * TEN_MEGABYTES),
        event(b'"' + rb"\u0000" * (TEN_MEGABYTES // 6) + b'"'),
        event(b'"' + "😀".encode() * (TEN_MEGABYTES // 4) + b'"'),
    ],
    ids=["string", "arrays", "digits", "escapes", "emoji"],
)
def test_ten_megabytes_are_a_413_everywhere(project: Client, body: bytes) -> None:
    write = {"x-eventbunker-write-key": project.keys["write_key"]}
    for path, headers in {"/post": write, **dict(list(paths(project).items())[:2])}.items():
        response = project.http.post(path, content=body, headers=headers)
        assert_documented(response)
        assert response.status_code == 413


HOSTILE_QUERIES: dict[str, object] = {
    "deep or": None,  # made below
    "many filters": {"filters": [{"field_name": f"f{n}", "op": "equals", "value": n} for n in range(5000)]},
    "many in": {"filters": [{"field_name": "f", "op": "in", "value": list(range(50_000))}]},
    "long name": {"group_by": ["x" * 100_000]},
    "many groups": {"group_by": [f"f{n}" for n in range(1000)]},
    "huge limit": {"limit": 10**30},
    "negative offset": {"offset": -1},
    "huge value": {"filters": [{"field_name": "f", "op": "equals", "value": 10**400}]},
    "nul": {"filters": [{"field_name": "f", "op": "equals", "value": "\0"}]},
    "far years": {"time_period": {"start": "0001-01-01", "end": "9999-12-31"}},
    "endless period": {"time_period": "minus_999999999999999999999_years"},
    "zone": {"timezone": "../../../etc/passwd\0"},
    "object value": {"filters": [{"field_name": "f", "op": "equals", "value": {"a": [1]}}]},
}


@pytest.mark.parametrize("name", HOSTILE_QUERIES)
def test_hostile_queries(project: Client, name: str) -> None:
    extra = HOSTILE_QUERIES[name]
    body = json.dumps({"time_period": "today", **(extra if isinstance(extra, dict) else {})}).encode()
    if name == "deep or":
        body = b'{"time_period":"today","filters":[' + b'{"or":[' * 20_000 + b"]}" * 20_000 + b"]}"
    headers = {"x-eventbunker-query-key": project.keys["query_key"]}
    assert_documented(project.http.post(QUERY, content=body, headers=headers))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=bodies() | st.binary(max_size=60))
def test_any_body_is_kept_or_explained(project: Client, body: bytes) -> None:
    response = project.post(body)
    assert_documented(response)
    if response.status_code == 200 and b"event_id" not in body:  # the same id again is a duplicate
        ACCEPTED[response.json()["unique_req_id"]] = body


ACCEPTED: dict[str, bytes] = {}


def test_what_was_accepted_of_them_comes_back(project: Client) -> None:
    assert ACCEPTED, "runs after the test above"
    assert_kept(project, "test", ACCEPTED)
