"""The analyses over HTTP, through the whole service: keys, scope, the shape of the answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.client import FRESH_SECONDS, Client
from tests.management import invalid, refused
from tests.waiting import until

pytestmark = pytest.mark.service

STEPS = {"steps": [{"event_name": "view"}, {"event_name": "buy"}]}
REQUESTS: dict[str, dict[str, Any]] = {
    "funnel": STEPS,
    "retention": {"first": {}},
    "timeline": {"customer_identifier": "ann"},
    "fields": {},
}


def post(client: Client, name: str, key: str, **request: Any) -> httpx.Response:
    return client.http.post(
        f"/v1/query/{name}",
        json={"time_period": "today", **REQUESTS[name], **request},
        headers={"x-eventbunker-query-key": key},
    )


@pytest.fixture(scope="module")
def project(client: Client) -> Client:
    """Ann buys, Bob looks."""
    project = client.new_project()
    for customer, name in (("ann", "view"), ("bob", "view"), ("ann", "buy")):
        project.track(event_name=name, customer_identifier=customer, price=1, **{customer: True})
    until(lambda: len(project.events()) == 3, FRESH_SECONDS, "three events")
    return project


def test_a_key_of_the_project_sees_everybody(project: Client) -> None:
    key = project.keys["query_key"]
    answers = {name: post(project, name, key) for name in REQUESTS}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(REQUESTS, 200)
    for answer in answers.values():
        assert answer.headers["cache-control"] == "no-store"
        about = answer.json()
        assert set(about["time_period"]) == {"start", "end"}
        assert about["fresh_as_of"] > 0
        assert about["elapsed_ms"] > 0
    assert [step["count"] for step in answers["funnel"].json()["steps"]] == [2, 1]
    assert answers["retention"].json()["cohorts"][0]["size"] == 2
    assert [event["event_name"] for event in answers["timeline"].json()["data"]] == ["buy", "view"]
    fields = {field["field_name"]: field for field in answers["fields"].json()["fields"]}
    assert fields["price"]["count"] == 3
    assert {"ann", "bob"} <= fields.keys()


def test_a_bound_key_sees_its_customer_alone(project: Client) -> None:
    bound = project.create_key("QUERY", key_filter_data={"customer_identifier": "bob"})["api_key"]
    assert [step["count"] for step in post(project, "funnel", bound).json()["steps"]] == [1, 0]
    assert post(project, "retention", bound).json()["cohorts"][0]["size"] == 1
    for whose in ({}, {"customer_identifier": "ann"}):
        events = post(project, "timeline", bound, **whose).json()["data"]
        assert [event["customer_identifier"] for event in events] == ["bob"]
    answer = post(project, "fields", bound).json()
    assert [one["event_name"] for one in answer["event_names"]] == ["view"]
    fields = {field["field_name"]: field for field in answer["fields"]}
    assert "ann" not in fields
    assert fields["customer_identifier"]["examples"] == ["bob"]


def test_as_many_conditions_as_may_be_of_fields_with_the_longest_names(project: Client) -> None:
    """The statement is longer than the engine takes by itself."""

    def one(number: int) -> dict[str, Any]:
        name = f"{number:0128}.{'x' * 128}"
        return {"field_name": name, "op": "in", "value": [1, 0.5, "a", True]}

    steps = [{"filters": [one(number), one(number + 50)]} for number in range(0, 12)]
    filters = [one(number) for number in range(100, 170)]
    answer = post(project, "funnel", project.keys["query_key"], steps=steps, filters=filters)
    assert answer.status_code == 200, answer.text
    assert answer.json()["steps"][0]["count"] == 0


@pytest.mark.parametrize("name", REQUESTS)
def test_no_key_no_answer_and_bad_requests_say_what_to_change(project: Client, name: str) -> None:
    refused(
        post(project, name, project.keys["write_key"]),
        401,
        "Please use a query key for query requests. Invalid x-eventbunker-query-key",
        "not_a_query_key",
        post(project, name, project.keys["write_key"]).json()["detail"],
    )
    assert post(project, name, "eb_q_nobody").json()["code"] == "invalid_query_key"
    invalid(
        post(project, name, project.keys["query_key"], time_perio="today"),
        ("$.time_perio", "unknown member `time_perio`, did you mean `time_period`?"),
    )
