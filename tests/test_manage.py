"""The management API over HTTP, against the running service: every call, its answers and its refusals word for word."""

from __future__ import annotations

import re

import pytest

from tests.client import Client, unique
from tests.management import done, invalid, manage, now_ms, refused
from tests.waiting import until

pytestmark = pytest.mark.service


@pytest.fixture
def project(client: Client) -> Client:
    return client.new_project()


# --- projects ---------------------------------------------------------------------------------------


def test_a_project_from_its_creation_to_its_end(client: Client) -> None:
    name, began = unique("shop"), now_ms()
    made = done(manage(client, "project/create", "account", name=name, description="all of it"))
    assert made == {
        "account_id": client.keys["account_id"],
        "project_id": made["project_id"],
        "master_api_key": made["master_api_key"],
        "status": "ACTIVE",
    }
    assert re.fullmatch(r"prj_[0-9a-f]{24}", made["project_id"])
    assert re.fullmatch(r"eb_pm_[A-Za-z0-9_-]{32}", made["master_api_key"])

    projects = done(manage(client, "project/list", "account"))["projects"]
    listed = next(each for each in projects if each["project_id"] == made["project_id"])
    created_at = listed.pop("created_at")
    assert listed == {
        "project_id": made["project_id"],
        "name": name,
        "description": "all of it",
        "status": "ACTIVE",
    }
    assert began <= created_at <= now_ms()

    own = {"project_id": made["project_id"]}
    key = done(client.manage("apikey/create", made["master_api_key"], key_type="WRITE", **own))["api_key"]
    reset = done(manage(client, "project/reset_master_key", "account", **own))
    assert reset == {**own, "master_api_key": reset["master_api_key"], "status": "ACTIVE"}
    assert reset["master_api_key"] != made["master_api_key"]
    refused(
        client.manage("apikey/list", made["master_api_key"], **own),
        401,
        "Invalid x-eventbunker-apikey",
        "invalid_apikey",
        "The key is unknown or was revoked.",
    )
    assert done(client.manage("apikey/list", reset["master_api_key"], **own))["cursor"] is None
    assert client.post({"event_name": "e"}, x_eventbunker_write_key=key).status_code == 200

    deleted = done(manage(client, "project/delete", "account", **own))
    assert deleted == {**own, "status": "DELETED", "erasure_id": deleted["erasure_id"]}
    assert client.post({"event_name": "e"}, x_eventbunker_write_key=key).status_code == 401
    assert client.manage("apikey/list", reset["master_api_key"], **own).status_code == 401
    projects = done(manage(client, "project/list", "account"))["projects"]
    assert made["project_id"] not in {each["project_id"] for each in projects}
    for call in ("project/delete", "project/reset_master_key"):
        response = manage(client, call, "account", **own)
        assert (response.status_code, response.json()["error"]) == (400, "Invalid project_id")


def test_the_hundred_and_first_project_is_refused(client: Client) -> None:
    made: list[str] = []
    try:
        while True:
            response = manage(client, "project/create", "account", name="one of many")
            if response.status_code != 200:
                break
            made.append(response.json()["project_id"])
        refused(
            response,
            400,
            "Maximum number of projects reached",
            "too_many_projects",
            "An account has at most 100 projects; delete one first.",
        )
        assert len(done(manage(client, "project/list", "account"))["projects"]) == 100
    finally:
        for project_id in made:
            done(manage(client, "project/delete", "account", project_id=project_id))


# --- keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key_type", "prefix"), [("WRITE", "eb_w_"), ("QUERY", "eb_q_"), ("DELETE", "eb_d_")]
)
def test_a_key_and_what_is_told_of_it(project: Client, key_type: str, prefix: str) -> None:
    began = now_ms()
    expected: dict[str, object] = {
        "project_id": project.keys["project_id"],
        "key_type": key_type,
        "name": "web",
        "description": "for the page",
        "key_filter_data": {"customer_identifier": "customer ü"},
        "expires_at": "2099-01-01T00:00:00.000Z",
        "rate_limit": 50,
        "allow_client_context": True,
    }
    made = done(manage(project, "apikey/create", "project", **{**expected, "expires_at": "2099-01-01"}))
    expected["status"] = "ACTIVE"
    secret, key_id, created_at = made.pop("api_key"), made.pop("api_key_id"), made.pop("created_at")
    assert made == expected
    assert secret.startswith(prefix)
    assert len(secret) == len(prefix) + 32
    assert began <= created_at <= now_ms()
    response = manage(project, "apikey/list", "project")
    assert secret not in response.text
    [listed] = [each for each in done(response)["api_keys"] if each["api_key_id"] == key_id]
    assert listed == {
        **expected,
        "api_key_id": key_id,
        "created_at": created_at,
        "last_four": secret[-4:],
        "last_used_at": None,
    }


def test_a_key_needs_no_more_than_its_type(project: Client) -> None:
    made = done(manage(project, "apikey/create", "project", key_type="WRITE"))
    optional = {name: made[name] for name in ("name", "description", "key_filter_data", "expires_at")}
    assert optional == {"name": "", "description": "", "key_filter_data": None, "expires_at": None}
    assert (made["rate_limit"], made["allow_client_context"]) == (None, False)


def test_keys_are_listed_page_by_page_each_once(project: Client) -> None:
    made = [project.create_key(name=f"k{number}")["api_key_id"] for number in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(10):
        more = {} if cursor is None else {"cursor": cursor}
        page = done(manage(project, "apikey/list", "project", limit=3, **more))
        seen += [key["api_key_id"] for key in page["api_keys"]]
        cursor = page["cursor"]
        if cursor is None:
            break
        # What was shown and what the cursor names may vanish meanwhile; nothing else may be skipped.
        done(manage(project, "apikey/delete", "project", api_key_id=page["api_keys"][-1]["api_key_id"]))
    assert len(seen) == len(set(seen)) == 3 + 7  # new_project made three
    assert set(made) <= set(seen)


def test_last_use_of_a_key_is_listed_soon(project: Client) -> None:
    made, began = project.create_key(), now_ms()
    project.post({"event_name": "e"}, x_eventbunker_write_key=made["api_key"])
    later = now_ms()

    def last_use() -> int:
        listed = done(manage(project, "apikey/list", "project"))["api_keys"]
        return next(key["last_used_at"] for key in listed if key["api_key_id"] == made["api_key_id"]) or 0

    assert began <= until(last_use, 10, "the last use") <= later


@pytest.mark.parametrize("by", ["api_key_id", "api_key"])
def test_exactly_the_named_key_is_revoked(project: Client, by: str) -> None:
    doomed, bystander = project.create_key(), project.create_key()
    for made in (doomed, bystander):
        assert project.post({"event_name": "e"}, x_eventbunker_write_key=made["api_key"]).status_code == 200
    assert done(manage(project, "apikey/delete", "project", **{by: doomed[by]})) == {
        "project_id": project.keys["project_id"],
        "api_key_id": doomed["api_key_id"],
        "status": "DELETED",
    }
    assert project.post({"event_name": "e"}, x_eventbunker_write_key=doomed["api_key"]).status_code == 401
    assert project.post({"event_name": "e"}, x_eventbunker_write_key=bystander["api_key"]).status_code == 200
    gone = "the project has no such key; it may be revoked already"
    invalid(manage(project, "apikey/delete", "project", **{by: doomed[by]}), (f"$.{by}", gone))
    listed = done(manage(project, "apikey/list", "project"))["api_keys"]
    ids = {key["api_key_id"] for key in listed}
    assert bystander["api_key_id"] in ids
    assert doomed["api_key_id"] not in ids


def test_a_key_of_another_project_or_a_master_key_is_not_deleted_here(
    client: Client, project: Client
) -> None:
    other = client.new_project()
    foreign = other.create_key()
    gone = "the project has no such key; it may be revoked already"
    for by, value in (
        ("api_key_id", foreign["api_key_id"]),
        ("api_key", foreign["api_key"]),
        ("api_key", project.keys["project_master_key"]),
        ("api_key", project.keys["account_master_key"]),
    ):
        invalid(manage(project, "apikey/delete", "project", **{by: value}), (f"$.{by}", gone))
    assert other.post({"event_name": "e"}, x_eventbunker_write_key=foreign["api_key"]).status_code == 200
    done(manage(project, "apikey/list", "project"))


# --- names ------------------------------------------------------------------------------------------


def test_names_are_listed_and_freed_and_stored_events_stay(project: Client) -> None:
    began = now_ms() - 1000  # kept in whole seconds
    event = project.track(event_name="seen", plan="pro", address={"city": "Berlin"})
    listed = done(manage(project, "name/list", "project"))
    own = {"project_id": project.keys["project_id"]}
    [name] = listed.pop("names")
    assert listed == {**own, "kind": "event_name"}
    assert name["name"] == "seen"
    assert began <= name["last_used_at"] <= now_ms()
    paths = done(manage(project, "name/list", "project", kind="field_path"))["names"]
    assert {each["name"] for each in paths} == {"plan", "address.city"}
    freed = manage(project, "name/delete", "project", event_names=["seen", "never"], field_paths=["plan"])
    assert done(freed) == {**own, "freed": 2, "status": "DELETED"}
    assert done(manage(project, "name/list", "project"))["names"] == []
    assert project.one(event["unique_req_id"])["event_name"] == "seen"
    project.track(event_name="seen")
    assert [each["name"] for each in done(manage(project, "name/list", "project"))["names"]] == ["seen"]
