"""No request with a key of one project or customer, however shaped, sees a byte of another.

Each request is sent to the service that holds everybody's events, and to one that holds only those that its
key may see. The answers must be the same: then what others have has left no trace, not even in a count or in
an error. And no marker of another owner stands in body or headers, unless the request itself named it.

`EVENTBUNKER_EXAMPLES=20000` tries more of them.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from app.grant import Grant
from app.scope import Scope, scope_of
from tests.isolation_requests import ENDPOINTS, NOT_READING, PERIODS, WITHOUT_END, Request, Vocabulary
from tests.isolation_worlds import MARKERS, OWNERS, SHARED, VIEWERS, Viewer, Worlds, ids, queued, worlds
from tests.store_fixture import StoreServer

EXAMPLES = int(os.environ.get("EVENTBUNKER_EXAMPLES", "150"))
# What tells when something was asked or done, not what is there.
TIMINGS = ("elapsed_ms", "fresh_as_of", "request_id", "time_period", "cursor", "last_used_at", "created_at")
PLACES = ("place", "set_aside_at", "token", "path", "token_id", "expires_at")
ANY_OF_THEM = ("examples",)  # of its own, whichever the engine meets first
TIMING_HEADERS = ("x-request-id", "x-eventbunker-fresh-as-of", "x-eventbunker-recorded-up-to")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, store_server: StoreServer) -> Iterator[Worlds]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.export_pages.FRESH_SECONDS", 0)  # no drain runs that an export could wait for
        with worlds(tmp_path_factory.mktemp("worlds"), store_server) as opened:
            yield opened


def send(made: Worlds, viewer: Viewer, request: Request, *, alone: bool = False) -> httpx.Response:
    world = made.alone[viewer.name] if alone else made.whole
    headers = request.headers(made.keys[viewer.name])
    return made.run(world.ask(request.method, request.path, headers, request.content()))


def shown(answer: httpx.Response) -> bytes:
    """Everything that the answer tells, in a form that can be searched."""
    body = answer.content
    if "parquet" in answer.headers.get("content-type", "") and answer.status_code == 200:
        body = repr(pyarrow.parquet.read_table(io.BytesIO(body)).to_pylist()).encode()
    headers = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
    return headers.encode() + b"\n" + body


def comparable(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """Status, headers and content without what only tells the time."""
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name not in TIMING_HEADERS and name not in ("content-length", "x-eventbunker-time-period")
    }
    content: Any = answer.content
    if "parquet" in headers.get("content-type", "") and answer.status_code == 200:
        content = pyarrow.parquet.read_table(io.BytesIO(answer.content)).to_pylist()
    elif "application/json" in headers.get("content-type", ""):
        content = without_times(answer.json())
    elif "text/html" in headers.get("content-type", ""):
        content = re.sub(rb"complete up to [0-9: -]+", b"", answer.content)
    return answer.status_code, headers, content


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in (*TIMINGS, *PLACES, *ANY_OF_THEM)}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def assert_isolated(made: Worlds, viewer: Viewer, request: Request) -> httpx.Response:
    answer = send(made, viewer, request)
    said = json.dumps(request.body) + request.path
    own = {owner.marker for owner in viewer.owners}
    visible = shown(answer)
    for marker in MARKERS:
        if marker not in own and marker not in said:
            assert marker.encode() not in visible, f"{viewer.name} sees {marker} by {request}"
    assert answer.status_code < 500, f"{answer.text} by {request}"
    alone = send(made, viewer, request, alone=True)
    assert comparable(answer) == comparable(alone), (
        f"others' events change {viewer.name}'s answer to {request}"
    )
    if request.path.endswith("/token") and answer.status_code == 200:
        pages = [
            made.run(world.ask("GET", one.json()["path"], {}, b""))
            for world, one in ((made.whole, answer), (made.alone[viewer.name], alone))
        ]
        assert comparable(pages[0]) == comparable(pages[1]), f"others' events change the page of {request}"
        for marker in MARKERS:
            assert marker in own or marker in said or marker.encode() not in shown(pages[0]), request
    return answer


def vocabulary(made: Worlds, viewer: Viewer) -> Vocabulary:
    return Vocabulary(
        projects=tuple(sorted({keys.project_id for keys in made.keys.values()})),
        cursors=cursors(made),
        own_project=made.keys[viewer.name].project_id,
    )


_cursors: dict[int, tuple[str, ...]] = {}


def cursors(made: Worlds) -> tuple[str, ...]:
    """Where the second page of each viewer's events begins."""
    if id(made) not in _cursors:
        request = Request("POST", "/v1/query/json", {"time_period": PERIODS[0], "limit": 2})
        answers = [send(made, viewer, request).json() for viewer in VIEWERS]
        _cursors[id(made)] = tuple(answer["next"] for answer in answers if answer.get("next"))
    return _cursors[id(made)]


@pytest.mark.timeout(180 + EXAMPLES)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_request_sees_anything_of_another(made: Worlds, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(ENDPOINTS)))
    whole_projects = [viewer for viewer in VIEWERS if not viewer.customer]
    viewer = data.draw(st.sampled_from(whole_projects if "/manage/" in path else VIEWERS))
    request = data.draw(ENDPOINTS[path](vocabulary(made, viewer)))
    assert_isolated(made, viewer, request)


def plain(made: Worlds, viewer: Viewer) -> dict[str, Request]:
    """A request to each endpoint whose answer has something of the viewer's own."""
    period = {"time_period": PERIODS[0]}
    own = {"project_id": made.keys[viewer.name].project_id}
    return {
        "/v1/query/json": Request("POST", "/v1/query/json", {**period, "group_by": ["secret"]}),
        "/v1/export": Request("POST", "/v1/export", period),
        "/v1/manage/dead/show": Request(
            "POST", "/v1/manage/dead/show", {**own, "unique_req_id": dead_of(viewer)}, key="master"
        ),
        "/v1/manage/name/list": Request("POST", "/v1/manage/name/list", own, key="master"),
    }


def dead_of(viewer: Viewer) -> str:
    return ids(viewer.owners[0])[4]


@pytest.mark.parametrize("viewer", VIEWERS, ids=lambda viewer: viewer.name)
def test_what_is_ones_own_is_seen(made: Worlds, viewer: Viewer) -> None:
    """Otherwise answers without anything would pass for isolated ones."""
    for path, request in plain(made, viewer).items():
        if "/manage/" in path and viewer.customer:
            continue
        answer = assert_isolated(made, viewer, request)
        assert answer.status_code == 200, answer.text
        seen = set(re.findall(rb"marker[AB](?:nobody|shared|own)", shown(answer)))
        assert seen <= {owner.marker.encode() for owner in viewer.owners}
        assert seen, f"{path} shows nothing of {viewer.name}'s own"


TAILED: tuple[dict[str, Any], ...] = (
    *({}, {"customer_identifier": SHARED}, {"event_name": "view"}),
    {"filters": [{"field_name": "secret", "op": "is_not_null"}]},
    {"filters": [{"or": [{"field_name": "secret", "op": "in", "value": list(MARKERS)}]}]},
    {"filters": [{"field_name": "missing", "op": "not_equals", "value": "markerBown"}]},
)


@pytest.mark.parametrize("viewer", VIEWERS, ids=lambda viewer: viewer.name)
def test_neither_does_a_tail(made: Worlds, viewer: Viewer) -> None:
    """All owners' events, and at the end one of the viewer's own: when it is there, all have been looked at."""
    projects = {owner: made.keys[owner.project].project_id for owner in OWNERS}
    mine = next((owner for owner in viewer.owners if owner.customer == SHARED), viewer.owners[0])
    records = [queued(owner, project_id) for owner, project_id in projects.items()]
    for parameters in TAILED:
        query = urlencode({k: v if isinstance(v, str) else json.dumps(v) for k, v in parameters.items()})
        if parameters.get("customer_identifier", mine.customer) != mine.customer:
            continue  # it would see nothing at all
        last = queued(mine, projects[mine], "view")
        last = msgspec.structs.replace(last, body=last.body.replace(b'"secret"', b'"last": 1, "secret"'))
        key = made.keys[viewer.name].query
        seen = made.run(made.whole.tail(query, key, [*records, last], b'"last"'))
        markers = set(re.findall(rb"marker[AB](?:nobody|shared|own)", seen))
        assert markers <= {owner.marker.encode() for owner in viewer.owners}, parameters
        assert mine.marker.encode() in markers


COUNT = {"time_period": PERIODS[0], "computations": [{"function": "count"}]}


@pytest.mark.parametrize("body", [COUNT, {"time_period": PERIODS[0]}], ids=["a count", "events"])
@pytest.mark.parametrize("leak", ["customer", "project"])
def test_a_leak_is_noticed(
    made: Worlds, monkeypatch: pytest.MonkeyPatch, leak: str, body: dict[str, Any]
) -> None:
    """With a scope that forgets the key's customer, or is another project's."""
    viewer = VIEWERS[2] if leak == "customer" else VIEWERS[0]
    other = made.keys["B"].project_id

    def leaking(grant: Grant, *more: Any, **others: Any) -> Scope:
        scope = scope_of(grant, *more, **others)
        project_id = scope.project_id if leak == "customer" else other
        return msgspec.structs.replace(scope, project_id=project_id, customer_identifier=None)

    request = Request("POST", "/v1/query/json", body)
    assert_isolated(made, viewer, request)
    monkeypatch.setattr("app.ask.scope_of", leaking)
    with pytest.raises(AssertionError, match=r"sees marker|others' events change"):
        assert_isolated(made, viewer, request)


def test_every_endpoint_is_in_the_table(made: Worlds) -> None:
    inner = made.whole.app._inner
    assert isinstance(inner, Starlette)
    paths = {str(getattr(route, "path", "")) for route in inner.routes}
    unknown = paths - set(ENDPOINTS) - NOT_READING - WITHOUT_END
    assert not unknown, f"{unknown}: add a generator to tests/isolation_requests.py"
