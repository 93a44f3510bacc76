"""A client of the running service, as a user's own code would be: httpx, keys, JSON."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import plain_http
from tests.service import Service
from tests.waiting import until

FRESH_SECONDS = 10.0  # how long a test waits for an event; far beyond what is promised, so never flaky


class Client:
    """One project of one service. `keys` has the members of dev.json."""

    def __init__(self, keys: dict[str, str], http: httpx.Client | None = None) -> None:
        self.keys = keys
        self.http = http or httpx.Client(
            verify=plain_http.NOBODY, base_url=keys["url"], timeout=30, trust_env=False
        )

    def post(self, body: bytes | dict[str, object], **headers: str) -> httpx.Response:
        """POST /post with the project's write key; `headers` may replace it (underscores for hyphens)."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        own = {"x-eventbunker-write-key": self.keys["write_key"], "content-type": "application/json"}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post("/post", content=content, headers={k: v for k, v in own.items() if v})

    def track(self, **fields: object) -> dict[str, Any]:
        """Track one event and return the answer of a 200."""
        response = self.post({"event_name": "e", **fields})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def ask(self, **query: object) -> httpx.Response:
        """POST /v1/query/json with the project's query key."""
        return self.http.post(
            "/v1/query/json", json=query, headers={"x-eventbunker-query-key": self.keys["query_key"]}
        )

    def rows(self, **query: object) -> list[dict[str, Any]]:
        """The data of a query that must succeed, over all time unless it says otherwise."""
        response = self.ask(**{"time_period": {"start": "1970-01-01", "end": "2101-01-01"}, **query})
        assert response.status_code == 200, response.text
        data: list[dict[str, Any]] = response.json()["data"]
        return data

    def is_answered(self) -> bool:
        """Is a query answered now? Not while the store starts."""
        answer = self.ask(time_period={"start": "1970-01-01", "end": "2101-01-01"}, limit=1)
        assert answer.status_code in {200, 503}, answer.text
        return answer.status_code == 200

    def events(self, *filters: dict[str, object]) -> list[dict[str, Any]]:
        """Raw events that pass `filters`."""
        return self.rows(filters=list(filters), limit=10_000)

    def count(self, event_name: str) -> int:
        """How many events of that name a query sees."""
        found = self.rows(computations=[{"function": "count"}], filters=[equals("event_name", event_name)])
        return int(found[0]["count"]) if found else 0

    def one(self, unique_req_id: str) -> dict[str, Any]:
        """The stored event of a 200, waited for."""
        by_id = equals("unique_req_id", unique_req_id)
        return until(lambda: self.events(by_id), FRESH_SECONDS, f"event {unique_req_id} in a query")[0]

    def manage(self, call: str, key: str, **request: object) -> httpx.Response:
        """POST /v1/manage/<call> with a master key."""
        return self.http.post(f"/v1/manage/{call}", json=request, headers={"x-eventbunker-apikey": key})

    def create_key(self, key_type: str = "WRITE", **request: object) -> dict[str, Any]:
        """A new key of this project; the answer holds it as `api_key`."""
        response = self.manage(
            "apikey/create",
            self.keys["project_master_key"],
            project_id=self.keys["project_id"],
            key_type=key_type,
            **request,
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def _create(self, master_key: str, account_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.manage(
            "project/create", master_key, account_id=account_id, name=unique("p")
        ).json()
        return answer

    def new_project(self) -> Client:
        """A fresh project with a key of each type, so that a test sees only its own events."""
        account = self.keys["account_master_key"], self.keys["account_id"]
        made = self._create(*account)
        if made.get("code") == "too_many_projects":  # a whole run makes more than an account may have
            listed = self.manage("project/list", account[0], account_id=account[1]).json()["projects"]
            former = sorted(
                (one["created_at"], one["project_id"]) for one in listed if one["name"][:2] == "p_"
            )
            for _, project_id in former[:20]:
                self.manage("project/delete", account[0], account_id=account[1], project_id=project_id)
            made = self._create(*account)
        keys = {**self.keys, "project_id": made["project_id"], "project_master_key": made["master_api_key"]}
        client = Client(keys, self.http)
        for key_type in ("WRITE", "QUERY", "DELETE"):
            keys[f"{key_type.lower()}_key"] = client.create_key(key_type)["api_key"]
        return client

    def delete(self) -> None:
        """Delete the project, for what many large events leave: each merge of the store would write them again."""
        account = self.keys["account_id"], self.keys["project_id"]
        deleted = self.manage(
            "project/delete", self.keys["account_master_key"], account_id=account[0], project_id=account[1]
        )
        assert deleted.status_code == 200, deleted.text


def equals(field_name: str, value: object) -> dict[str, object]:
    """An `equals` filter."""
    return {"field_name": field_name, "op": "equals", "value": value}


def unique(prefix: str) -> str:
    """A name that no other test uses."""
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[Client]:
    """A client of the session's service with the keys of dev.json."""
    opened = Client(service.keys)
    yield opened
    opened.http.close()
