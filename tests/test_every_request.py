"""What holds for the requests of every endpoint: the rules are looked for at each that /openapi.json names."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from app.openapi import openapi
from tests.client import Client
from tests.management import done, invalid

pytestmark = pytest.mark.service

OF_EVENTS = ("/post", "/batch")  # whose further members are fields
# The least that makes a request right.
LEAST: dict[str, dict[str, object]] = {
    "/v1/query/json": {"time_period": "today"},
    "/v1/query/iframe": {"time_period": "today"},
    "/v1/query/iframe/token": {"time_period": "today"},
    "/v1/query/iframe/token/list": {},
    "/v1/query/timeline": {"time_period": "today", "customer_identifier": "c"},
    "/v1/delete/status": {},
    "/v1/manage/apikey/list": {},
    "/v1/manage/dead/list": {},
    "/v1/manage/dead/replay": {"all": True},
    "/v1/manage/dead/purge": {"all": True},
}
MOVING = ("elapsed_ms", "fresh_as_of", "time_period", "token", "token_id", "path", "created_at", "expires_at")


def described() -> dict[str, dict[str, Any]]:
    """The members of each endpoint's JSON body."""
    description: Any = openapi()
    found = {}
    for path, operations in description["paths"].items():
        if "post" in operations and path not in OF_EVENTS:
            schema = operations["post"]["requestBody"]["content"]["application/json"]["schema"]
            if "$ref" in schema:
                schema = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            found[path] = schema["properties"]
    return found


BODIES = described()


@pytest.fixture(scope="module")
def project(client: Client) -> Client:
    project = client.new_project()
    project.keys["delete_key"] = project.create_key("DELETE")["api_key"]
    return project


def ask(project: Client, path: str, **members: object) -> httpx.Response:
    """The request with whatever key it wants, and the ids that it wants."""
    owner = "account_master_key" if "/project/" in path else "project_master_key"
    headers = {
        "x-eventbunker-query-key": project.keys["query_key"],
        "x-eventbunker-delete-key": project.keys["delete_key"],
        "x-eventbunker-apikey": project.keys[owner],
    }
    ids = {name: project.keys[name] for name in ("account_id", "project_id") if name in BODIES[path]}
    return project.http.post(path, json={**ids, **members}, headers=headers)


@pytest.mark.parametrize("path", BODIES)
def test_what_is_no_member_is_called_so(project: Client, path: str) -> None:
    response = ask(project, path, nonsense=1)
    assert response.status_code == 400
    told = {one["path"]: one["message"] for one in response.json()["errors"]}
    assert told["$.nonsense"].startswith("unknown member `nonsense`; known are "), told
    known = told["$.nonsense"].rpartition("known are ")[2].split(", ")
    assert sorted(known) == sorted(BODIES[path]), "and those that there are are the described ones"


def test_what_is_no_parameter_is_called_so(project: Client) -> None:
    key = {"x-eventbunker-query-key": project.keys["query_key"]}
    response = project.http.get("/v1/tail", params={"nonsense": "1"}, headers=key)
    known = "filters, event_name, customer_identifier"
    invalid(response, ("$.nonsense", f"unknown parameter `nonsense`; known are {known}"))


def test_every_list_in_pages_is_looked_at() -> None:
    assert set(LEAST) == {path for path, members in BODIES.items() if "cursor" in members}


@pytest.mark.parametrize("path", LEAST)
def test_a_cursor_of_null_begins_with_the_first_page_and_an_empty_one_is_none(
    project: Client, path: str
) -> None:
    first, again = (
        standing(ask(project, path, **LEAST[path], **cursor)) for cursor in ({}, {"cursor": None})
    )
    assert first == again
    response = ask(project, path, **LEAST[path], cursor="")
    assert response.status_code == 400
    assert [one["path"] for one in response.json()["errors"]] == ["$.cursor"], response.text


def standing(response: httpx.Response) -> object:
    """What an answer says each time, of a page of HTML that it is one."""
    if response.headers["content-type"].startswith("text/html"):
        return response.status_code
    return {name: value for name, value in done(response).items() if name not in MOVING}
