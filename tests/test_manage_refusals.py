"""What the management API refuses, word for word: keys, ids and bodies of every call."""

from __future__ import annotations

import pytest

from tests.client import Client
from tests.management import invalid, manage, refused

pytestmark = pytest.mark.service


@pytest.fixture
def project(client: Client) -> Client:
    return client.new_project()


ACCOUNT_CALLS = ("project/create", "project/list", "project/reset_master_key", "project/delete")
PROJECT_CALLS = ("apikey/create", "apikey/list", "apikey/delete", "name/list", "name/delete")
COMPLETE: dict[str, dict[str, object]] = {
    "project/create": {"name": "p"},
    "project/reset_master_key": {"project_id": "p"},
    "project/delete": {"project_id": "p"},
    "apikey/create": {"key_type": "WRITE"},
    "apikey/delete": {"api_key_id": "k"},
    "name/delete": {"event_names": ["e"]},
}


@pytest.mark.parametrize("call", ACCOUNT_CALLS + PROJECT_CALLS)
def test_each_call_wants_its_own_kind_of_key_and_its_own_id(project: Client, call: str) -> None:
    level = "account" if call in ACCOUNT_CALLS else "project"
    other = "project" if level == "account" else "account"
    request = {**COMPLETE.get(call, {}), f"{level}_id": project.keys[f"{level}_id"]}
    no_key = "Invalid x-eventbunker-apikey"
    refused(
        project.http.post(f"/v1/manage/{call}", json=request),
        401,
        no_key,
        "invalid_apikey",
        "Send the key in this header.",
    )
    unknown = "The key is unknown or was revoked."
    refused(project.manage(call, "eb_am_unknown", **request), 401, no_key, "invalid_apikey", unknown)
    wanted = f"{'an account' if level == 'account' else 'a project'} master key for {level} requests"
    refused(
        project.manage(call, project.keys[f"{other}_master_key"], **request),
        401,
        f"Please use {wanted}. {no_key}",
        f"not_{'an' if level == 'account' else 'a'}_{level}_key",
        f"The key is of type {other.upper()}; {level.upper()} is needed here.",
    )
    refused(
        manage(project, call, level, **{**COMPLETE.get(call, {}), f"{level}_id": "of-somebody-else"}),
        400,
        f"Invalid {level}_id",
        f"invalid_{level}_id",
        f"The key belongs to another {level}_id.",
    )


@pytest.mark.parametrize("call", ["project/reset_master_key", "project/delete"])
def test_an_unknown_project_is_an_invalid_project_id(project: Client, call: str) -> None:
    response = manage(project, call, "account", project_id="prj_000000000000000000000000")
    assert (response.status_code, response.json()["error"], response.json()["code"]) == (
        400,
        "Invalid project_id",
        "invalid_project_id",
    )


def test_every_problem_at_once_and_a_hint_for_the_misspelt(project: Client) -> None:
    known = "project_id, key_type, name, description, key_filter_data, expires_at, rate_limit, allow_client_context"
    response = project.manage(
        "apikey/create",
        project.keys["project_master_key"],
        key_type="READ",
        name="n" * 101,
        key_filter_data={"customer_identifer": "c"},
        expires_at="2001-01-01",
        rate_limit=0,
        allow_client_context="yes",
        expire_at="2099-01-01",
        colour="red",
    )
    invalid(
        response,
        ("$.project_id", "required field is missing"),
        ("$.key_type", "expected one of `WRITE`, `QUERY`, `DELETE`"),
        ("$.name", "expected string of length <= 100"),
        ("$.key_filter_data.customer_identifier", "required field is missing"),
        (
            "$.key_filter_data.customer_identifer",
            "unknown member `customer_identifer`, did you mean `customer_identifier`?",
        ),
        ("$.rate_limit", "expected integer >= 1"),
        ("$.allow_client_context", "expected boolean, got string"),
        ("$.expire_at", "unknown member `expire_at`, did you mean `expires_at`?"),
        ("$.colour", f"unknown member `colour`; known are {known}"),
        ("$.expires_at", "is in the past; a key that never works helps nobody"),
    )


@pytest.mark.parametrize(
    ("call", "level", "request_", "problem"),
    [
        ("project/create", "account", {}, ("$.name", "required field is missing")),
        ("project/create", "account", {"name": ""}, ("$.name", "expected string of length >= 1")),
        (
            "project/create",
            "account",
            {"name": "p", "description": "d" * 1001},
            ("$.description", "expected string of length <= 1000"),
        ),
        (
            "apikey/create",
            "project",
            {"key_type": "WRITE", "expires_at": "soon"},
            (
                "$.expires_at",
                "expected an ISO 8601 date or date-time such as 2021-06-26T14:48:00.000Z, or an RFC 2822 date",
            ),
        ),
        ("apikey/list", "project", {"limit": 1001}, ("$.limit", "expected integer <= 1000")),
        ("apikey/delete", "project", {}, ("$", "name the key by either api_key_id or api_key")),
        (
            "apikey/delete",
            "project",
            {"api_key_id": "a", "api_key": "b"},
            ("$", "name the key by either api_key_id or api_key"),
        ),
        ("name/list", "project", {"kind": "x"}, ("$.kind", "expected one of `event_name`, `field_path`")),
        ("name/delete", "project", {}, ("$", "list what to free in event_names or field_paths")),
        (
            "name/delete",
            "project",
            {"event_names": [1]},
            ("$.event_names[0]", "expected string, got integer"),
        ),
    ],
)
def test_each_broken_rule(
    project: Client, call: str, level: str, request_: dict[str, object], problem: tuple[str, str]
) -> None:
    invalid(manage(project, call, level, **request_), problem)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b'{"name":"\xff"}', b'{"name":"\\ud800"}']
)
def test_a_body_that_is_no_object_is_a_400(client: Client, body: bytes) -> None:
    response = client.http.post(
        "/v1/manage/project/create",
        content=body,
        headers={"x-eventbunker-apikey": client.keys["account_master_key"]},
    )
    assert response.status_code == 400, response.text
    assert response.json()["error"] == "Body JSON validation failed."


def test_the_key_is_checked_before_the_body(client: Client) -> None:
    response = client.http.post("/v1/manage/project/create", content=b"{")
    assert response.status_code == 401
