"""Charts over HTTP: pages for a key and for a token, what tokens are bound to, and how they end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.client import Client
from tests.service import Service
from tests.waiting import until

pytestmark = pytest.mark.service

PATH = "/v1/query/iframe"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
COUNT: dict[str, Any] = {"time_period": "today", "computations": [{"function": "count"}]}
BY_PLAN = COUNT | {"group_by": ["plan"]}
AVERAGE = {"function": "avg", "field_name": "n"}
DISTINCT = {"function": "count_distinct", "field_name": "plan"}
HOSTILE = '</text></svg></script><script>alert(1)</script><img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def project(client: Client) -> Client:
    """A project with a few events of two customers."""
    own = client.new_project()
    for plan in ("free", "free", "pro", HOSTILE):
        own.track(event_name="view", plan=plan, customer_identifier="c1" if plan == "pro" else "c2")
    until(lambda: own.rows(**COUNT)[0]["count"] == 4, 10, "the events in a query")
    return own


def post(client: Client, path: str = PATH, *, key: str = "", **body: object) -> httpx.Response:
    headers = {"x-eventbunker-query-key": key or client.keys["query_key"]}
    return client.http.post(path, json=body, headers=headers)


def made(client: Client, *, key: str = "", **body: object) -> dict[str, Any]:
    answer = post(client, f"{PATH}/token", key=key, **body)
    assert answer.status_code == 200, answer.text
    token: dict[str, Any] = answer.json()
    return token


def get(client: Client, token: str, **headers: str) -> httpx.Response:
    return client.http.get(PATH, params={"token": token}, headers=BROWSER | headers)


def test_a_query_is_answered_by_one_page_that_allows_no_script(project: Client) -> None:
    answer = post(project, **BY_PLAN, chart={"title": "Views <b>by</b> plan"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "script" not in policy
    assert "frame-ancestors" not in policy
    page = answer.text
    assert "Views &lt;b&gt;by&lt;/b&gt; plan" in page
    assert "<svg" in page
    assert ">free</" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "onerror=&#34;" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        ({"chart": {"type": "lines"}}, "$.chart.type", "did you mean `line`?"),
        ({"chart": {"titel": "x"}}, "$.chart.titel", "did you mean `title`?"),
        ({"chart": "line"}, "$.chart", "expected an object"),
        ({"chart": {"title": "x" * 201}}, "$.chart.title", "200"),
        ({"chart": {"type": "line"}}, "$.chart.type", "add group_by_time"),
        ({"chart": {"type": "pie"}}, "$.chart.type", "needs group_by"),
        (BY_PLAN | {"chart": {"type": "pie"}, "computations": [AVERAGE]}, "$.chart.type", 'choose "bar"'),
        (BY_PLAN | {"chart": {"type": "pie"}, "computations": [DISTINCT]}, "$.chart.type", "added up"),
        ({"chart": {"type": "number"}, "group_by": ["plan"]}, "$.chart.type", "shows one row"),
        ({"chart": {"type": "number"}, "computations": []}, "$.chart.type", "add computations"),
        ({"group_bye": ["plan"]}, "$.group_bye", "did you mean `group_by`?"),
        (
            {"computations": [{"function": "max", "field_name": "event_time"}]},
            "$.computations[0]",
            'choose "table"',
        ),
        (
            {"group_by_time": "minute", "time_period": {"start": "2020-01-01", "end": "2100-01-01"}},
            None,
            "",
        ),
    ],
)
def test_what_cannot_be_drawn_is_told_with_what_to_change(
    project: Client, body: dict[str, Any], path: str | None, words: str
) -> None:
    answer = post(project, **COUNT | body)
    if path is None:  # few events, one after the other: only their stretch is drawn
        assert answer.status_code == 200, answer.text
        return
    assert answer.status_code == 400, answer.text
    assert path in {problem["path"] for problem in answer.json()["errors"]}
    assert words in " ".join(problem["message"] for problem in answer.json()["errors"])


def test_all_problems_of_query_chart_and_token_are_told_at_once(project: Client) -> None:
    answer = post(
        project,
        f"{PATH}/token",
        time_period="never",
        chart={"type": "cake"},
        expires_in=0,
        allowed_origins=["https://example.com/page", "x; script-src *"],
    )
    assert answer.status_code == 400
    assert {problem["path"] for problem in answer.json()["errors"]} == {
        *("$.time_period", "$.chart.type", "$.expires_in", "$.allowed_origins[0]", "$.allowed_origins[1]")
    }


def test_a_token_for_the_pages_of_nobody_is_not_one_for_everybody_s(project: Client) -> None:
    answer = post(project, f"{PATH}/token", **COUNT, allowed_origins=[])
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "$.allowed_origins")


def test_a_chart_needs_a_query_key(project: Client) -> None:
    assert post(project, key=project.keys["write_key"], **COUNT).json()["code"] == "not_a_query_key"
    for path in (f"{PATH}/token", f"{PATH}/token/list", f"{PATH}/token/revoke"):
        assert post(project, path, key="eb_q_made_up").status_code == 401


def test_a_token_shows_its_chart_without_a_key(project: Client) -> None:
    token = made(
        project,
        **BY_PLAN,
        chart={"title": "Plans"},
        allowed_origins=["https://a.example", "https://*.b.example:8443"],
    )
    assert token["path"] == f"{PATH}?token={token['token']}"
    answer = project.http.get(token["path"], headers=BROWSER)
    assert answer.status_code == 200, answer.text
    assert "Plans" in answer.text
    assert ">free</" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    policy = answer.headers["content-security-policy"]
    assert policy.endswith("; frame-ancestors https://a.example https://*.b.example:8443")
    assert token["token"] not in answer.text


def test_a_token_sees_what_its_makers_key_sees(project: Client, client: Client) -> None:
    bound = project.create_key("QUERY", key_filter_data={"customer_identifier": "c1"})["api_key"]
    page = get(project, made(project, key=bound, **BY_PLAN)["token"]).text
    assert ">pro</" in page
    assert ">free</" not in page
    elsewhere = client.new_project()
    assert "No events in this period" in get(project, made(elsewhere, **BY_PLAN)["token"]).text


def test_nothing_in_the_address_widens_a_token(project: Client) -> None:
    bound = project.create_key("QUERY", key_filter_data={"customer_identifier": "c1"})["api_key"]
    token = made(project, key=bound, **BY_PLAN)["token"]
    query = json.dumps(BY_PLAN)
    answer = project.http.get(
        PATH, params={"token": token, "query": query, "customer_identifier": "c2"}, headers=BROWSER
    )
    assert ">free</" not in answer.text
    twice = project.http.get(f"{PATH}?token={token}&token={token}", headers=BROWSER)
    assert twice.status_code == 401


@pytest.mark.parametrize("change", [0, 8, 30, 50, 68])
def test_a_changed_token_is_made_up(project: Client, change: int) -> None:
    token = made(project, **COUNT)["token"]
    changed = token[:change] + ("A" if token[change] != "A" else "B") + token[change + 1 :]
    answer = get(project, changed)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Invalid chart token" in answer.text
    assert "<script" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    told = project.http.get(PATH, params={"token": changed}, headers={"accept": "application/json"})
    assert told.json()["code"] == "invalid_chart_token"


@pytest.mark.parametrize("token", ["", "eb_c_", "eb_c_" + "A" * 64, "x" * 69, "é" * 69, "%00", "A" * 10_000])
def test_a_made_up_token_is_refused(project: Client, token: str) -> None:
    assert get(project, token).status_code in (401, 431)
    assert project.http.get(PATH).json()["code"] == "invalid_chart_token"


def test_an_expired_token_says_so(project: Client) -> None:
    said = (datetime.now(UTC) + timedelta(seconds=2)).isoformat(timespec="milliseconds")
    token, soon = made(project, **COUNT, expires_at=said), datetime.fromisoformat(said)
    assert get(project, token["token"]).status_code == 200
    until(lambda: get(project, token["token"]).status_code == 410, 30, "the expiry")
    assert datetime.now(UTC) >= soon
    assert "Chart token expired" in get(project, token["token"]).text
    listed = post(project, f"{PATH}/token/list", limit=1000).json()["tokens"]
    assert token["token_id"] not in {one["token_id"] for one in listed}


def test_a_token_does_not_outlive_its_key(project: Client) -> None:
    expires_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    key = project.create_key("QUERY", expires_at=expires_at)
    token = made(project, key=key["api_key"], **COUNT, expires_in=86_400)
    assert token["expires_at"] == key["expires_at"]
    gone = project.manage(
        "apikey/delete",
        project.keys["project_master_key"],
        project_id=project.keys["project_id"],
        api_key_id=key["api_key_id"],
    )
    assert gone.status_code == 200
    answer = get(project, token["token"])
    assert answer.status_code == 410
    assert "Chart token revoked" in answer.text


def test_a_token_dies_with_its_project(client: Client) -> None:
    own = client.new_project()
    token = made(own, **COUNT)
    assert get(own, token["token"]).status_code == 200
    deleted = own.manage(
        "project/delete",
        own.keys["account_master_key"],
        account_id=own.keys["account_id"],
        project_id=own.keys["project_id"],
    )
    assert deleted.status_code == 200
    assert get(own, token["token"]).status_code == 410


def test_a_token_is_revoked_by_its_id_by_itself_or_with_all(project: Client) -> None:
    key = project.create_key("QUERY")["api_key"]
    first, second, third, fourth = (made(project, key=key, **COUNT) for _ in range(4))

    def revoke(**body: object) -> httpx.Response:
        return post(project, f"{PATH}/token/revoke", key=key, **body)

    def live() -> set[str]:
        listed = post(project, f"{PATH}/token/list", key=key).json()
        assert "token" not in listed["tokens"][0]
        return {one["token_id"] for one in listed["tokens"]}

    assert live() == {one["token_id"] for one in (first, second, third, fourth)}
    assert revoke(token_id=first["token_id"]).json() == {"revoked": 1}
    assert revoke(token=second["token"]).json() == {"revoked": 1}
    for gone in (first, second):
        assert get(project, gone["token"]).status_code == 410
    assert live() == {third["token_id"], fourth["token_id"]}
    again = revoke(token_id=first["token_id"])
    assert again.status_code == 400
    assert "revoked already" in again.json()["detail"]
    assert revoke().status_code == 400
    assert revoke(all=True, token_id=third["token_id"]).status_code == 400
    others = post(project, f"{PATH}/token/revoke", token_id=third["token_id"])
    assert others.status_code == 400, "a key revokes its own tokens only"
    assert revoke(all=True).json() == {"revoked": 2}
    assert get(project, third["token"]).status_code == get(project, fourth["token"]).status_code == 410


def test_tokens_are_listed_in_pages(project: Client) -> None:
    key = project.create_key("QUERY")["api_key"]
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="seconds")
    ids = {made(project, key=key, **COUNT, expires_at=at)["token_id"] for _ in range(5)}
    seen: list[str] = []
    cursor: str | None = None
    while not seen or cursor is not None:
        page = post(project, f"{PATH}/token/list", key=key, limit=2, cursor=cursor).json()
        seen += [one["token_id"] for one in page["tokens"]]
        cursor = page["cursor"]
    assert len(seen) == 5
    assert set(seen) == ids


def test_a_table_of_events_and_the_number_of_them(project: Client) -> None:
    page = post(project, time_period="today").text
    assert "<table>" in page
    assert "event_name" in page
    assert "unique_req_id" not in page
    assert "&lt;img src=x onerror=" in page
    assert "<img" not in page
    number = post(project, **COUNT, chart={"unit": "views"}).text
    assert "<dd>4<small> views</small></dd>" in number


def test_no_token_and_no_signing_key_is_told(service: Service, project: Client) -> None:
    token = made(project, **COUNT)
    get(project, token["token"])
    get(project, token["token"][:-1])
    post(project, f"{PATH}/token/revoke", token=token["token"])
    told = service.log + project.http.get("/metrics").text + project.http.get("/readyz?verbose").text
    assert token["token"][:40] not in told


def test_a_rotated_signing_key_breaks_nothing_and_rotated_twice_all(service: Service, client: Client) -> None:
    own = client.new_project()
    before = made(own, **COUNT)["token"]
    assert get(own, before).status_code == 200

    def rotate() -> None:
        done = service.eventbunker("charts", "rotate-key", "--state", str(service.state))
        assert done.returncode == 0, done.stderr

    rotate()
    after = made(own, **COUNT)["token"]
    assert get(own, before).status_code == get(own, after).status_code == 200
    rotate()
    assert get(own, before).status_code == 401
    assert get(own, after).status_code == 200
