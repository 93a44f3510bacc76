"""Accounts, projects and keys: the write side of the registry, and its lists.

Secrets are returned once, by the call that makes them, and no repr shows them; Redis keeps digests. Every
change is one script, so nothing is half done. `app.manage` offers these over HTTP, `eventbunker account
create` in the terminal; what is told of each is in `app.account_types`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import cast

import msgspec
from msgspec.structs import astuple
from redis.asyncio import Redis

from app import erasure_scripts, tombstone
from app import registry_scripts as scripts
from app.account_types import CreatedAccount, CreatedKey, CreatedProject, ListedKey, Project, describe
from app.erasure_report import Open, Report, decode_report, encode_open, encode_report, new_id
from app.errors import ApiError, Kind, Problem, invalid_body
from app.grant import Grant, KeyType, digest, new_secret
from app.tombstone import of_project

MAX_PROJECTS = 100  # an account
_GRANT = msgspec.json.Encoder()


class Accounts:
    """`changed(what, id)` is called for each change, as every process is told of it through the stream.

    All methods raise redis_client.UNREACHABLE when Redis does not answer; then nothing is half done.
    """

    def __init__(
        self, redis: Redis, changed: Callable[[str, str], None] = lambda what, identity: None
    ) -> None:
        self._redis = redis
        self._changed = changed
        self._create_account = redis.register_script(scripts.CREATE_ACCOUNT)
        self._create_project = redis.register_script(scripts.CREATE_PROJECT)
        self._reset = redis.register_script(scripts.RESET_MASTER_KEY)
        self._delete_project = redis.register_script(scripts.DELETE_PROJECT)
        self._create_key = redis.register_script(scripts.CREATE_KEY)
        self._delete_key = redis.register_script(scripts.DELETE_KEY)

    async def create_account(self, name: str = "") -> CreatedAccount:
        """A new account and its master key."""
        account_id, secret = _identity("acc"), new_secret(KeyType.ACCOUNT)
        grant = Grant(KeyType.ACCOUNT, "", account_id, "")
        await self._create_account(
            keys=[scripts.account(account_id)], args=[digest(secret), _GRANT.encode(grant), name, _now_ms()]
        )
        return CreatedAccount(account_id, secret)

    async def create_project(self, account_id: str, name: str, description: str = "") -> CreatedProject:
        """A new project and its master key. Errors: ApiError 400 for the 101st or a wrong account."""
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
        made = await self._create_project(
            keys=[scripts.account(account_id), scripts.projects(account_id), scripts.project(project_id)],
            args=[project_id, MAX_PROJECTS, digest(secret), _GRANT.encode(grant), *fields],
        )
        if int(made) < 0:
            raise ApiError(Kind.INVALID_ACCOUNT, "There is no account with this account_id.")
        if not int(made):
            raise ApiError(
                Kind.TOO_MANY_PROJECTS, f"An account has at most {MAX_PROJECTS} projects; delete one first."
            )
        return CreatedProject(account_id, project_id, secret)

    async def list_projects(self, account_id: str) -> list[Project]:
        """The account's projects that are not deleted, oldest first."""
        ids = cast("set[bytes]", await self._redis.smembers(scripts.projects(account_id)))
        found = await self._hashes([scripts.project(one.decode()) for one in ids])
        projects = [
            Project(one.decode(), each["name"], each["description"], each["status"], int(each["created_at"]))
            for one, each in zip(ids, found, strict=True)
            if each.get("status") == "ACTIVE"  # or it was deleted while the list was made
        ]
        return sorted(projects, key=lambda project: (project.created_at, project.project_id))

    async def reset_master_key(self, account_id: str, project_id: str) -> str:
        """A new master key; the old one is dead. Errors: ApiError 400."""
        secret = new_secret(KeyType.PROJECT)
        grant = Grant(KeyType.PROJECT, "", account_id, project_id)
        old = await self._reset(
            keys=[scripts.project(project_id), scripts.projects(account_id)],
            args=[project_id, digest(secret), _GRANT.encode(grant)],
        )
        if not old:
            raise ApiError(Kind.INVALID_PROJECT, "The account has no project with this project_id.")
        self._changed("grant", old.decode())
        return secret

    async def delete_project(self, account_id: str, project_id: str) -> str:
        """All its keys are dead; its events are being erased. The id of the erasure. Errors: ApiError 400."""
        now_ms = _now_ms()
        erasure_id = new_id(now_ms)
        report = Report(erasure_id=erasure_id, project_id=project_id, asked_at=now_ms, up_to=now_ms)
        done = await self._delete_project(
            keys=[scripts.projects(account_id), scripts.project(project_id), scripts.keys(project_id)],
            args=[
                *(project_id, now_ms, erasure_id, tombstone.encode(of_project(erasure_id, project_id))),
                *(encode_open(Open(project_id, now_ms, "project")), encode_report(report)),
            ],
        )
        if not done:
            raise ApiError(Kind.INVALID_PROJECT, "The account has no project with this project_id.")
        self._changed("project", project_id)
        return erasure_id

    async def erasure(self, account_id: str, project_id: str) -> Report:
        """How far the erasure of a deleted project is. Errors: ApiError 400."""
        owner, erasure = cast(
            "list[bytes | None]",
            await self._redis.hmget(scripts.project(project_id), ["account_id", "erasure"]),
        )
        payload = None
        if owner == account_id.encode() and erasure is not None:
            payload = await self._redis.get(erasure_scripts.report(erasure.decode()))
        if payload is None:
            raise ApiError(Kind.INVALID_PROJECT, "The account has deleted no project with this project_id.")
        return decode_report(payload)

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
        secret, now = new_secret(key_type), _now_ms()
        api_key_id = f"key_{now:012x}{secrets.token_hex(8)}"  # sorts by time: a list is a range of ids
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
        done = await self._create_key(
            keys=[scripts.project(project_id), scripts.keys(project_id), scripts.key(api_key_id)],
            args=[api_key_id, hashed, _GRANT.encode(grant), *fields],
        )
        if not done:
            raise ApiError(Kind.INVALID_PROJECT, "The project does not exist or was deleted.")
        self._changed("grant", hashed)
        return CreatedKey(*astuple(describe(grant, name, description, now)), api_key=secret)

    async def list_keys(self, project_id: str, after: str, limit: int) -> tuple[list[ListedKey], str | None]:
        """Keys by time of creation, from behind the id `after` ("": the first), and the next `after`.

        `after` may name a key that is revoked by now. None: this was the last page.
        """
        ids = [
            one.decode()
            for one in cast(
                "list[bytes]",
                await self._redis.zrangebylex(
                    scripts.keys(project_id), f"({after}" if after else "-", "+", 0, limit + 1
                ),
            )
        ]
        page = ids[:limit]
        hashes = await self._hashes([scripts.key(one) for one in page])
        grants = await self._redis.mget([scripts.grant(each.get("digest", "")) for each in hashes] or [""])
        used = await self._redis.hmget(scripts.USED, page or [""])
        listed = [
            ListedKey(
                *astuple(
                    describe(_decode(payload), each["name"], each["description"], int(each["created_at"]))
                ),
                last_four=each["last_four"],
                last_used_at=int(last_use) if last_use else None,
            )
            for each, payload, last_use in zip(hashes, grants, used, strict=False)
            if each and payload is not None  # or it was revoked while the list was made
        ]
        return listed, page[-1] if len(ids) > limit else None

    async def delete_key(self, project_id: str, *, api_key_id: str = "", api_key: str = "") -> str:
        """Revoke one key, named by its id or by itself, and return its id. Errors: ApiError 400."""
        path = "$.api_key" if api_key else "$.api_key_id"
        if api_key:
            payload = await self._redis.get(scripts.grant(digest(api_key)))
            grant = None if payload is None else _decode(payload)
            api_key_id = grant.api_key_id if grant is not None and grant.project_id == project_id else ""
        hashed = api_key_id and await self._delete_key(
            keys=[
                scripts.keys(project_id),
                scripts.key(api_key_id),
                scripts.embeds(scripts.project(project_id)),
            ],
            args=[api_key_id],
        )
        if not hashed:
            raise invalid_body([Problem(path, "the project has no such key; it may be revoked already")])
        self._changed("grant", hashed.decode())
        return api_key_id

    async def _hashes(self, keys: list[str]) -> list[dict[str, str]]:
        """Several hashes in one trip; {} where there is none."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hgetall(key)
            found = cast("list[dict[bytes, bytes]]", await pipe.execute())
        return [{name.decode(): value.decode() for name, value in each.items()} for each in found]


def _decode(payload: bytes | str) -> Grant:
    return msgspec.json.decode(payload, type=Grant)


def _identity(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
