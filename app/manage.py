"""The management API (api.md section 4): handlers over `app.accounts` and `app.names`.

Each is the same straight line: master key, body, the id in the body against the key's own
(`app.master_request`), one call. Dead letters are `app.manage_dead`'s.
"""

from __future__ import annotations

import time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from app.errors import Problem
from app.grant import KeyType
from app.http import json_response
from app.master_request import AccountRequest, MasterRequests, ProjectRequest, answered
from app.names import KINDS
from app.registry import Registry
from app.settings import Settings
from app.timestamp import parse_timestamp

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Description = Annotated[str, Meta(max_length=1000)]
NameList = Annotated[tuple[Annotated[str, Meta(max_length=300)], ...], Meta(max_length=10_000)]


class CreateProject(AccountRequest, frozen=True):
    name: Name
    description: Description = ""


class ProjectOfAccount(AccountRequest, frozen=True):
    project_id: str


class BoundTo(msgspec.Struct, frozen=True):
    customer_identifier: Annotated[str, Meta(min_length=1, max_length=256)]


class CreateKey(ProjectRequest, frozen=True):
    key_type: Literal["WRITE", "QUERY", "DELETE"]
    name: Annotated[str, Meta(max_length=100)] = ""
    description: Description = ""
    key_filter_data: BoundTo | None = None
    expires_at: str | None = None
    rate_limit: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    allow_client_context: bool = False


class ListKeys(ProjectRequest, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: (
        Annotated[
            str,
            Meta(pattern=r"^key_[0-9a-f]{28}\Z", description="expected the `cursor` of the answer before"),
        ]
        | None
    ) = None


class DeleteKey(ProjectRequest, frozen=True):
    api_key_id: str = ""
    api_key: str = ""

    def __repr__(self) -> str:
        return f"DeleteKey({self.project_id}, {self.api_key_id})"  # never the secret


class ListNames(ProjectRequest, frozen=True):
    kind: Literal["event_name", "field_path"] = "event_name"


class DeleteNames(ProjectRequest, frozen=True):
    event_names: NameList = ()
    field_paths: NameList = ()


class ManageHandlers:
    """One method for each call. Errors: ApiError."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._accounts = registry.accounts
        self._requests = MasterRequests(registry, settings, _broken_rules)

    async def create_project(self, request: Request) -> Response:
        asked = await self._requests.of_account(request, CreateProject)
        made = self._accounts.create_project(asked.account_id, asked.name, asked.description)
        return json_response(await answered(made))

    async def list_projects(self, request: Request) -> Response:
        asked = await self._requests.of_account(request, AccountRequest)
        return json_response({"projects": await answered(self._accounts.list_projects(asked.account_id))})

    async def reset_master_key(self, request: Request) -> Response:
        asked = await self._requests.of_account(request, ProjectOfAccount)
        secret = await answered(self._accounts.reset_master_key(asked.account_id, asked.project_id))
        return json_response({"project_id": asked.project_id, "master_api_key": secret, "status": "ACTIVE"})

    async def delete_project(self, request: Request) -> Response:
        asked = await self._requests.of_account(request, ProjectOfAccount)
        erasure_id = await answered(self._accounts.delete_project(asked.account_id, asked.project_id))
        answer = {"project_id": asked.project_id, "status": "DELETED", "erasure_id": erasure_id}
        return json_response(answer)

    async def project_erasure(self, request: Request) -> Response:
        asked = await self._requests.of_account(request, ProjectOfAccount)
        report = await answered(self._accounts.erasure(asked.account_id, asked.project_id))
        return json_response({"project_id": asked.project_id, **report.told()})

    async def create_key(self, request: Request) -> Response:
        asked = await self._requests.of_project(request, CreateKey)
        bound = asked.key_filter_data
        made = self._accounts.create_key(
            asked.project_id,
            KeyType[asked.key_type],
            name=asked.name,
            description=asked.description,
            customer_identifier=None if bound is None else bound.customer_identifier,
            expires_at_ms=None if asked.expires_at is None else parse_timestamp(asked.expires_at),
            rate_limit=asked.rate_limit,
            allow_client_context=asked.allow_client_context,
        )
        return json_response(await answered(made))

    async def list_keys(self, request: Request) -> Response:
        asked = await self._requests.of_project(request, ListKeys)
        keys, cursor = await answered(
            self._accounts.list_keys(asked.project_id, asked.cursor or "", asked.limit)
        )
        return json_response({"api_keys": keys, "cursor": cursor})

    async def delete_key(self, request: Request) -> Response:
        asked = await self._requests.of_project(request, DeleteKey)
        revoked = await answered(
            self._accounts.delete_key(asked.project_id, api_key_id=asked.api_key_id, api_key=asked.api_key)
        )
        return json_response({"project_id": asked.project_id, "api_key_id": revoked, "status": "DELETED"})

    async def list_names(self, request: Request) -> Response:
        asked = await self._requests.of_project(request, ListNames)
        found = await answered(self._registry.names.list(asked.project_id, asked.kind))
        names = [{"name": name, "last_used_at": used * 1000} for name, used in found.items()]
        return json_response({"project_id": asked.project_id, "kind": asked.kind, "names": names})

    async def delete_names(self, request: Request) -> Response:
        asked = await self._requests.of_project(request, DeleteNames)
        freed = self._registry.names.delete(asked.project_id, asked.event_names, asked.field_paths)
        return json_response(
            {"project_id": asked.project_id, "freed": await answered(freed), "status": "DELETED"}
        )


def _broken_rules(body: object, kind: type[msgspec.Struct]) -> list[Problem]:
    """What no type can say, of a body that may break the types' rules too."""
    if not isinstance(body, dict):
        return []
    expires_at = body.get("expires_at")
    if kind is CreateKey and isinstance(expires_at, str):
        try:
            if parse_timestamp(expires_at) <= time.time_ns() // 1_000_000:
                return [Problem("$.expires_at", "is in the past; a key that never works helps nobody")]
        except ValueError as error:
            return [Problem("$.expires_at", str(error))]
    if kind is DeleteKey and bool(body.get("api_key_id")) == bool(body.get("api_key")):
        return [Problem("$", "name the key by either api_key_id or api_key")]
    if kind is DeleteNames and not body.get("event_names") and not body.get("field_paths"):
        return [Problem("$", f"list what to free in {' or '.join(f'{kind}s' for kind in KINDS)}")]
    return []
