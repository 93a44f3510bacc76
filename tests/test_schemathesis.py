"""schemathesis over /openapi.json: every operation, fed with what its description allows and with what it forbids.

Every answer must be described: status, content type, headers and shape; and none may be a 5xx.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from app.openapi import openapi
from tests.client import Client, unique
from tests.hostile import Answer, assert_documented, unharmed
from tests.service import Service

pytestmark = pytest.mark.service

EXAMPLES = 6  # for each operation and mode
# What the service itself may take on a busy machine: /v1/query/fields has 30 s, after a turn that may take 10.
PATIENCE_SECONDS = 60.0
SCHEMA = schemathesis.openapi.from_dict(openapi())
ENDLESS = ("GET /v1/tail",)  # tests/test_tail.py
OPERATIONS: dict[str, Any] = {one.ok().label: one.ok() for one in cast(Any, SCHEMA.get_all_operations())}
# A key or a name that there is; the description cannot make one up.
NEEDS_MORE = (
    "project/erasure",
    "apikey/delete",
    "token/revoke",
    "GET /v1/query/iframe",
    "name/delete",
    "dead/show",
    "dead/replay",
    "dead/purge",
)
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module", autouse=True)
def _unharmed(service: Service, client: Client) -> Iterator[None]:
    # What an edge loads once, with the first Parquet file and the first chart, is no growth: 100 MiB.
    write = {"x-eventbunker-write-key": client.keys["write_key"]}
    assert client.http.post("/post?ack=stored", json={"event_name": "e"}, headers=write).status_code == 200
    chart = {"time_period": "today", "computations": [{"function": "count"}], "group_by_time": "hour"}
    parquet = {"time_period": "today", "format": "parquet"}
    key = {"x-eventbunker-query-key": client.keys["query_key"]}
    for path, body in (("/v1/query/iframe", chart), ("/v1/export", parquet)):
        assert client.http.post(path, json=body, headers=key).status_code == 200
    with unharmed(service):
        yield


@pytest.fixture(scope="module")
def throwaway(client: Client) -> Iterator[Client]:
    """A project that any call may spoil."""
    project = client.new_project()
    project.keys["delete_key"] = project.create_key("DELETE")["api_key"]
    yield project
    project.delete()


def headers(client: Client, path: str) -> dict[str, str]:
    owner = "account_master_key" if "/project/" in path else "project_master_key"
    return {
        "x-eventbunker-write-key": client.keys["write_key"],
        "x-eventbunker-query-key": client.keys["query_key"],
        "x-eventbunker-delete-key": client.keys.get("delete_key", ""),
        "x-eventbunker-apikey": client.keys[owner],
    }


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        (label, mode)
        for label, operation in OPERATIONS.items()
        if label not in ENDLESS
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation.method == "post"  # a GET has nothing to get wrong
    ],
)
def test_every_answer_is_described(
    client: Client, throwaway: Client, label: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[label]
    project = client.new_project() if label.endswith(("reset_master_key", "project/delete")) else throwaway
    statuses: set[int] = set()

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            # The description cannot say which ids there are, which names are free, what chart suits a query.
            for name in {"account_id", "project_id"} & case.body.keys():
                case.body[name] = project.keys[name]
            if label.endswith("/timeline"):  # which a bound key would not need, and which nobody can make up
                case.body = {**case.body, "customer_identifier": "c"}
                case.body.pop("cursor", None)
            if label.endswith("/delete/events"):  # a key that is bound to nobody must say which
                case.body.setdefault("time_period", "today")
            if "time_period" in case.body:
                case.body["time_period"] = "today"
            case.body.pop("chart", None)
            if "name" in case.body and not case.body["name"]:
                case.body["name"] = unique("p")
        case.headers = {**(case.headers or {}), **headers(project, operation.path)}
        response = case.call(base_url=client.keys["url"], session=session, timeout=PATIENCE_SECONDS)
        seen = {name.lower(): values[0] for name, values in response.headers.items()}
        assert_documented(Answer(response.status_code, seen, response.content))
        case.validate_response(response, checks=CHECKS)
        statuses.add(response.status_code)

    with requests.Session() as session:
        session.trust_env = False
        run()
    if mode is GenerationMode.POSITIVE:
        assert 200 in statuses or label.endswith(NEEDS_MORE), "the description leads nobody to an answer"
