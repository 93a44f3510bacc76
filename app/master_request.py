"""What every management call begins with: master key, body, the id in the body against the key's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request

from app.errors import ApiError, Kind, Problem, invalid_body
from app.grant import Grant, KeyType
from app.http import read_json_body
from app.redis_client import UNREACHABLE
from app.registry import Registry
from app.request import decode
from app.settings import Settings
from app.walk import find_problems

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)
Rules = Callable[[object, type[msgspec.Struct]], list[Problem]]


class AccountRequest(msgspec.Struct, frozen=True):
    account_id: str


class ProjectRequest(msgspec.Struct, frozen=True):
    project_id: str


class MasterRequests:
    """Reads requests into structs. `broken_rules` finds what no type can say, in any body of that kind."""

    def __init__(self, registry: Registry, settings: Settings, broken_rules: Rules) -> None:
        self._registry = registry
        self._max_bytes = settings.limits.max_request_bytes
        self._broken_rules = broken_rules

    async def of_account(self, request: Request, kind: type[R]) -> R:
        """The request of an account master key, which must name its own account. Errors: ApiError."""
        grant, asked = await self._read(request, kind, KeyType.ACCOUNT)
        if getattr(asked, "account_id", "") != grant.account_id:
            raise ApiError(Kind.INVALID_ACCOUNT, "The key belongs to another account_id.")
        return asked

    async def of_project(self, request: Request, kind: type[R]) -> R:
        """The request of a project master key, which must name its own project. Errors: ApiError."""
        grant, asked = await self._read(request, kind, KeyType.PROJECT)
        if getattr(asked, "project_id", "") != grant.project_id:
            raise ApiError(Kind.INVALID_PROJECT, "The key belongs to another project_id.")
        return asked

    async def _read(self, request: Request, kind: type[R], key_type: KeyType) -> tuple[Grant, R]:
        """The key first, then the body: every problem of it at once."""
        grant = await self._registry.authorise(request.headers.get("x-eventbunker-apikey"), key_type)
        body = await read_json_body(request, self._max_bytes)
        decoded = decode(body)
        problems = [*find_problems(decoded, kind, "$"), *self._broken_rules(decoded, kind)]
        if problems:
            raise invalid_body(problems)
        return grant, msgspec.convert(decoded, kind, strict=True)


async def answered(call: Awaitable[T]) -> T:
    """The result of a call to Redis, or 503 when it does not answer."""
    try:
        return await call
    except UNREACHABLE:
        raise ApiError(
            Kind.UNAVAILABLE,
            "The registry does not answer, so the change may or may not be made; list, then try again.",
            retry_after_seconds=2,
        ) from None
