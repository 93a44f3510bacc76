"""Accounts, projects and keys: the write side of the registry, and its lists.

Secrets are returned once, by the call that makes them; Redis keeps digests. Every call is one script, so
nothing is half done. `app.manage` offers these over HTTP, `eventbunker account create` in the terminal.
"""

from __future__ import annotations

import secrets
import time
from typing import cast

import msgspec
from redis.asyncio import Redis

from app import registry_scripts as scripts
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType, digest, new_secret
from app.timestamp import format_timestamp

MAX_PROJECTS = 100  # an account
_GRANT = msgspec.json.Encoder()


class CreatedAccount(msgspec.Struct, frozen=True):
    account_id: str
    account_master_key: str


class CreatedProject(msgspec.Struct, frozen=True):
    account_id: str
    project_id: str
    master_api_key: str
    status: str = "ACTIVE"


class Project(msgspec.Struct, frozen=True):
    """A project in a list. `created_at` is Unix milliseconds."""

    project_id: str
    name: str
    description: str
    status: str
    created_at: int


class KeyFilter(msgspec.Struct, frozen=True):
    """`key_filter_data`: what a key is bound to."""

    customer_identifier: str


class KeyInfo(msgspec.Struct, frozen=True):
    """What is told of a key. `expires_at` is ISO 8601; `created_at` Unix milliseconds."""

    project_id: str
    api_key_id: str
    key_type: str
    name: str
    description: str
    key_filter_data: KeyFilter | None
    expires_at: str | None
    rate_limit: int | None
    allow_client_context: bool
    status: str
    created_at: int


class CreatedKey(KeyInfo, frozen=True, kw_only=True):
    """`api_key` is the secret: shown now and never again."""

    api_key: str


class ListedKey(KeyInfo, frozen=True, kw_only=True):
    """A key in a list. `last_used_at` is Unix milliseconds, some seconds behind; None for never."""

    last_four: str
    last_used_at: int | None


class Accounts:
    """All methods raise redis.RedisError when Redis does not answer; then nothing is half done."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = {
            name: redis.register_script(script)
            for name, script in (
                ("create_account", scripts.CREATE_ACCOUNT),
                ("create_project", scripts.CREATE_PROJECT),
                ("reset", scripts.RESET_MASTER_KEY),
                ("delete_project", scripts.DELETE_PROJECT),
                ("create_key", scripts.CREATE_KEY),
                ("delete_key", scripts.DELETE_KEY),
            )
        }

    async def create_account(self, name: str = "") -> CreatedAccount:
        """A new account and its master key."""
        account_id, secret = _identity("acc"), new_secret(KeyType.ACCOUNT)
        grant = Grant(KeyType.ACCOUNT, "", account_id, "")
        await self._scripts["create_account"](
            keys=[scripts.account(account_id)], args=[digest(secret), _GRANT.encode(grant), name, _now_ms()]
        )
        return CreatedAccount(account_id, secret)

    async def create_project(self, account_id: str, name: str, description: str = "") -> CreatedProject:
        """A new project and its master key. Errors: ApiError 400 for the 101st."""
        project_id, secret = _identity("prj"), new_secret(KeyType.PROJECT)
        grant = Grant(KeyType.PROJECT, "", account_id, project_id)
        fields: list[str | int] = [
            "account_id",
            account_id,
            "name",
            name,
            "description",
            description,
            "created_at",
            _now_ms(),
        ]
        made = await self._scripts["create_project"](
            keys=[scripts.projects(account_id), scripts.project(project_id)],
            args=[project_id, MAX_PROJECTS, digest(secret), _GRANT.encode(grant), *fields],
        )
        if not int(made):
            raise ApiError(
                Kind.TOO_MANY_PROJECTS, f"An account has at most {MAX_PROJECTS} projects; delete one first."
            )
        return CreatedProject(account_id, project_id, secret)

    async def list_projects(self, account_id: str) -> list[Project]:
        """The account's projects, oldest first."""
        ids = cast("set[bytes]", await self._redis.smembers(scripts.projects(account_id)))
        found = [await self._hash(scripts.project(one.decode())) for one in ids]
        projects = [
            Project(one.decode(), each["name"], each["description"], each["status"], int(each["created_at"]))
            for one, each in zip(ids, found, strict=True)
            if each
        ]
        return sorted(projects, key=lambda project: (project.created_at, project.project_id))

    async def require_project(self, account_id: str, project_id: str) -> None:
        """Errors: ApiError 400 unless the account has this project."""
        if not await self._redis.sismember(scripts.projects(account_id), project_id):
            raise ApiError(Kind.INVALID_PROJECT, "The account has no project with this project_id.")

    async def reset_master_key(self, account_id: str, project_id: str) -> str:
        """A new master key; the old one is dead. Errors: ApiError 400."""
        await self.require_project(account_id, project_id)
        secret = new_secret(KeyType.PROJECT)
        grant = Grant(KeyType.PROJECT, "", account_id, project_id)
        done = await self._scripts["reset"](
            keys=[scripts.project(project_id)], args=[digest(secret), _GRANT.encode(grant)]
        )
        _require(done)
        return secret

    async def delete_project(self, account_id: str, project_id: str) -> None:
        """All its keys are dead; its events are marked for erasure. Errors: ApiError 400."""
        await self.require_project(account_id, project_id)
        done = await self._scripts["delete_project"](
            keys=[scripts.projects(account_id), scripts.project(project_id), scripts.keys(project_id)],
            args=[project_id],
        )
        _require(done)

    async def create_key(
        self,
        project_id: str,
        key_type: KeyType,
        *,
        name: str = "",
        description: str = "",
        customer_identifier: str | None = None,
        expires_at_ms: int | None = None,
        rate_limit: int | None = None,
        allow_client_context: bool = False,
    ) -> CreatedKey:
        """A new key of an active project. Errors: ApiError 400."""
        owner = cast("bytes | None", await self._redis.hget(scripts.project(project_id), "account_id"))
        account_id = owner.decode() if owner else ""
        api_key_id, secret, now = _identity("key"), new_secret(key_type), _now_ms()
        grant = Grant(
            key_type,
            api_key_id,
            account_id,
            project_id,
            customer_identifier,
            expires_at_ms,
            rate_limit,
            allow_client_context,
        )
        hashed = digest(secret)
        fields: list[str | int] = [
            "name",
            name,
            "description",
            description,
            "last_four",
            secret[-4:],
            "created_at",
            now,
        ]
        done = await self._scripts["create_key"](
            keys=[scripts.project(project_id), scripts.keys(project_id), scripts.key(api_key_id)],
            args=[api_key_id, now, hashed, _GRANT.encode(grant), *fields],
        )
        _require(done)
        return CreatedKey(*_info(grant, name, description, now), api_key=secret)

    async def list_keys(self, project_id: str, offset: int, limit: int) -> list[ListedKey]:
        """Keys by time of creation, from `offset`."""
        ids = cast(
            "list[bytes]", await self._redis.zrange(scripts.keys(project_id), offset, offset + limit - 1)
        )
        listed = []
        for one in ids:
            each = await self._hash(scripts.key(one.decode()))
            payload = await self._redis.get(scripts.grant(each["digest"])) if each else None
            if not each or payload is None:  # revoked while the list was made
                continue
            used = cast("bytes | None", await self._redis.hget(scripts.USED, one.decode()))
            info = _info(
                msgspec.json.decode(payload, type=Grant),
                each["name"],
                each["description"],
                int(each["created_at"]),
            )
            listed.append(
                ListedKey(*info, last_four=each["last_four"], last_used_at=int(used) if used else None)
            )
        return listed

    async def delete_key(self, project_id: str, *, api_key_id: str = "", api_key: str = "") -> str:
        """Revoke one key, named by its id or by itself, and return its id. Errors: ApiError 400."""
        if api_key:
            payload = await self._redis.get(scripts.grant(digest(api_key)))
            grant = msgspec.json.decode(payload, type=Grant) if payload is not None else None
            api_key_id = grant.api_key_id if grant is not None and grant.project_id == project_id else ""
        done = api_key_id and await self._scripts["delete_key"](
            keys=[scripts.keys(project_id), scripts.key(api_key_id)], args=[api_key_id]
        )
        if not done:
            raise ApiError(Kind.INVALID_BODY, "The project has no such key.")
        return api_key_id

    async def _hash(self, key: str) -> dict[str, str]:
        found = cast("dict[bytes, bytes]", await self._redis.hgetall(key))
        return {name.decode(): value.decode() for name, value in found.items()}


def _info(
    grant: Grant, name: str, description: str, created_at: int
) -> tuple[str, str, str, str, str, KeyFilter | None, str | None, int | None, bool, str, int]:
    """The members of KeyInfo, in order."""
    bound = grant.customer_identifier
    return (
        grant.project_id,
        grant.api_key_id,
        grant.key_type.value,
        name,
        description,
        None if bound is None else KeyFilter(bound),
        None if grant.expires_at_ms is None else format_timestamp(grant.expires_at_ms),
        grant.rate_limit,
        grant.allow_client_context,
        "ACTIVE",
        created_at,
    )


def _require(done: object) -> None:
    if not done:
        raise ApiError(Kind.INVALID_PROJECT, "The project does not exist or was deleted.")


def _identity(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
