"""Dead letters over the management API: a project works with its own, and learns of no other's."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.client import Client, equals
from tests.management import done, invalid, manage, now_ms, refused
from tests.pipeline_kit import POISON
from tests.poison import poison, set_aside
from tests.service import Service
from tests.waiting import until

pytestmark = pytest.mark.service

NOBODY = "0" * 32


def call(project: Client, name: str, **request: object) -> httpx.Response:
    return manage(project, f"dead/{name}", "project", **request)


def listed(project: Client, **request: object) -> list[dict[str, Any]]:
    letters: list[dict[str, Any]] = done(call(project, "list", **request))["dead_letters"]
    return letters


def test_list_and_show(service: Service, client: Client) -> None:
    project, other = client.new_project(), client.new_project()
    body = b'{"event_name":"test","text":"\xc3\xbc \\u0000","value":1,"value":2}'
    before = now_ms()
    ours = [poison(project, body), poison(project)]
    set_aside(service, project, [*ours, poison(other)][:2])
    set_aside(service, other, [poison(other)])
    letters = listed(project)
    assert [one["unique_req_id"] for one in letters] == [one.unique_req_id.hex() for one in ours]
    first = letters[0]
    assert first["project_id"] == project.keys["project_id"]
    assert first["reason"] == "refused by the store"
    assert "value" in first["message"]
    assert before <= first["set_aside_at"] <= now_ms()
    assert (first["time_recorded"], first["events"], first["bytes"]) == (ours[0].time_recorded, 1, len(body))
    shown = done(call(project, "show", unique_req_id=first["unique_req_id"]))
    assert shown == {**first, "user_agent": "", "referer": "", "body": body.decode()}
    assert len(listed(other)) == 1


def test_pages_and_filters(service: Service, client: Client) -> None:
    project = client.new_project()
    records = [poison(project) for _ in range(7)]
    set_aside(service, project, records)
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(8):
        page = done(call(project, "list", limit=3, **({"cursor": cursor} if cursor else {})))
        seen += [one["unique_req_id"] for one in page["dead_letters"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert seen == [one.unique_req_id.hex() for one in records]
    assert len(listed(project, reason="VALUE")) == 7
    assert listed(project, reason="no such reason") == []
    future = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 100))
    assert listed(project, since=future) == []
    assert len(listed(project, since="2020-01-01")) == 7


def test_replay_and_purge(service: Service, client: Client) -> None:
    """A replay of what is still poison dies again; a purge ends it. Neighbours are stored meanwhile."""
    project = client.new_project()
    records = [poison(project) for _ in range(3)]
    set_aside(service, project, records)
    names = [one.unique_req_id.hex() for one in records]
    first_time = {one["unique_req_id"]: one["place"] for one in listed(project)}
    answer = done(call(project, "replay", unique_req_ids=[names[0], NOBODY]))
    assert answer == {
        "project_id": project.keys["project_id"],
        "replayed": 1,
        "refused": [],
        "not_found": [NOBODY],
        "cursor": None,
    }
    project.track(event_name="neighbour")
    until(
        lambda: [one for one in listed(project) if one["place"] not in first_time.values()], 10, "its death"
    )
    assert {one["unique_req_id"] for one in listed(project)} == set(names)
    assert done(call(project, "purge", unique_req_ids=[names[1]]))["purged"] == 1
    assert done(call(project, "purge", unique_req_ids=[names[1]]))["not_found"] == [names[1]]
    page = done(call(project, "purge", all=True, limit=1))
    assert page["purged"] == 1
    assert done(call(project, "purge", all=True, cursor=page["cursor"]))["purged"] == 1
    assert listed(project) == []
    until(lambda: project.count("neighbour") == 1, 10)
    assert project.events(equals("event_name", "test")) == []


def test_other_projects_letters_do_not_exist(service: Service, client: Client) -> None:
    project, other = client.new_project(), client.new_project()
    theirs = poison(other)
    set_aside(service, other, [theirs])
    name = theirs.unique_req_id.hex()
    response = call(project, "show", unique_req_id=name)
    detail = f"The project has no dead letter {name}; list shows them."
    refused(response, 404, "Not found", "not_found", detail)
    absent = call(project, "show", unique_req_id=NOBODY)
    assert absent.json()["detail"] == detail.replace(name, NOBODY)
    for action in ("replay", "purge"):
        answer = done(call(project, action, unique_req_ids=[name]))
        assert answer["not_found"] == [name]
        assert done(call(project, action, all=True))["not_found"] == []
    assert [one["unique_req_id"] for one in listed(other)] == [name]
    detail = "The key belongs to another project_id."
    wrong = call(project, "list", project_id=other.keys["project_id"])
    refused(wrong, 400, "Invalid project_id", "invalid_project_id", detail)
    for key in ("write_key", "account_master_key"):
        assert client.manage("dead/list", client.keys[key], project_id="x").status_code == 401


def test_what_is_wrong_with_a_request_is_said_at_once(client: Client) -> None:
    project = client.new_project()
    either = "name letters in unique_req_ids, or mean all of them with all: true"
    narrows = "narrows all: true; letters that are named need no filter"
    for action in ("replay", "purge"):
        invalid(call(project, action), ("$", either))
        invalid(call(project, action, unique_req_ids=[NOBODY], all=True), ("$", either))
        invalid(call(project, action, unique_req_ids=[], all=True), ("$", either))
        invalid(call(project, action, unique_req_ids=[]), ("$", either))
        both = call(project, action, unique_req_ids=[NOBODY], reason="x", since="2020-01-01")
        invalid(both, ("$.reason", narrows), ("$.since", narrows))
        names = call(project, action, unique_req_ids=["x"])
        invalid(names, ("$.unique_req_ids[0]", "expected 32 digits of 0-9 and a-f"))
        assert call(project, action, unique_req_ids=[NOBODY] * 1001).status_code == 400
    assert call(project, "list", since="yesterday").json()["errors"][0]["path"] == "$.since"
    for cursor in ("1", "0..1\n", "0..x"):
        invalid(
            call(project, "list", cursor=cursor), ("$.cursor", "expected the `cursor` of the answer before")
        )
    keys = project.manage(
        "apikey/list", project.keys["project_master_key"], cursor="1", project_id=project.keys["project_id"]
    )
    invalid(keys, ("$.cursor", "expected the `cursor` of the answer before"))
    assert call(project, "list", limit=0).json()["errors"][0]["path"] == "$.limit"
    assert call(project, "show", unique_req_id=POISON.decode()).status_code == 400
