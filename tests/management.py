"""Calls of the management API, and what tests say of their answers."""

from __future__ import annotations

import time
from typing import Any

import httpx

from tests.client import Client


def manage(client: Client, call: str, level: str, **request: object) -> httpx.Response:
    """A call with the account's or project's key and, unless `request` says otherwise, its own id."""
    own = {f"{level}_id": client.keys[f"{level}_id"]}
    return client.manage(call, client.keys[f"{level}_master_key"], **{**own, **request})


def done(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    answer: dict[str, Any] = response.json()
    return answer


def refused(
    response: httpx.Response, status: int, error: str, code: str, detail: str, *problems: tuple[str, str]
) -> None:
    body = response.json()
    assert (response.status_code, body["error"], body["code"], body["detail"]) == (
        status,
        error,
        code,
        detail,
    )
    assert body["errors"] == [{"path": path, "message": message} for path, message in problems]
    assert body["request_id"] == response.headers["x-request-id"]


def invalid(response: httpx.Response, *problems: tuple[str, str]) -> None:
    """A 400 that lists exactly these."""
    path, message = problems[0]
    detail = f"{path.removeprefix('$.')}: {message}"
    refused(response, 400, "Body JSON validation failed.", "invalid_body", detail, *problems)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
