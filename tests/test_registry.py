"""Keys over several edges: how soon a revocation is felt, whatever breaks meanwhile, and what an outage changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from app import registry_scripts as scripts
from app.accounts import MAX_PROJECTS
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType, digest
from app.registry import STALE_SECONDS, Registry
from app.settings import Settings
from tests.redis_fixture import RedisServer, start_redis
from tests.registries import (
    calls,
    new_project,
    registries,
    registry,
    remembered,
    seconds_until,
    settings_for,
    verdict,
)
from tests.waiting import async_until

FELT_SECONDS = 1.0  # the promise: a revoked key is dead everywhere within this
REFUSED = Kind.INVALID_WRITE_KEY


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    return settings_for(redis_url, tmp_path)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    directory = tmp_path / "r"
    directory.mkdir()
    server = start_redis(directory)
    yield server
    if server.process.poll() is None:
        server.kill()


async def new_key(one: Registry, project_id: str = "", **more: object) -> tuple[str, str, str]:
    """project id, key id, secret"""
    project_id = project_id or await new_project(one)
    made = await one.accounts.create_key(project_id, KeyType.WRITE, **more)  # type: ignore[arg-type]
    return project_id, made.api_key_id, made.api_key


# --- revocation -----------------------------------------------------------------------------------


def test_a_revocation_is_felt_on_the_other_edge_within_a_second(
    settings: Settings, record_property: Callable[[str, object], None]
) -> None:
    async def run() -> list[float]:
        took = []
        async with registries(settings) as (one, other):
            project_id = await new_project(one)
            for _ in range(30):
                _, key_id, secret = await new_key(one, project_id)
                await remembered(other, secret)
                await one.accounts.delete_key(project_id, api_key_id=key_id)
                took.append(await seconds_until(other, secret, REFUSED, FELT_SECONDS))
        return took

    took = asyncio.run(run())
    record_property("revocation_seconds_max", max(took))
    record_property("revocation_seconds_mean", sum(took) / len(took))
    print(f"revocation felt after {1000 * sum(took) / len(took):.1f} ms, at most {1000 * max(took):.1f} ms")
    assert max(took) < FELT_SECONDS


def test_where_it_is_revoked_it_is_dead_at_once(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id, key_id, secret = await new_key(one)
            await remembered(one, secret)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            assert await seconds_until(one, secret, REFUSED, FELT_SECONDS) < 0.1

    asyncio.run(run())


def test_a_revocation_is_felt_while_connections_are_killed_all_the_time(
    settings: Settings, redis_url: str
) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            await remembered(other, secret)
            with redis.Redis.from_url(redis_url) as admin:
                for name in range(20):
                    _, key_id, secret = await _persistently(lambda: new_key(one, project_id))
                    await _persistently(lambda secret=secret: other.authorise(secret, KeyType.WRITE))  # type: ignore[misc]
                    await _persistently(lambda: one.accounts.delete_key(project_id, api_key_id=key_id))  # noqa: B023
                    began = time.monotonic()
                    while await verdict(other, secret) is not REFUSED:
                        assert time.monotonic() - began < FELT_SECONDS, name
                        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                        await asyncio.sleep(0.01)
                    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    asyncio.run(run())


async def _persistently(call: Callable[[], Awaitable[object]]) -> tuple[str, str, str]:
    """Again after a connection that was killed; a key that is gone already is what was wanted."""
    while True:
        try:
            return await call()  # type: ignore[return-value]
        except redis.exceptions.ConnectionError:
            continue
        except ApiError as error:
            if error.kind is Kind.INVALID_BODY:
                return "", "", ""
            if error.kind is not Kind.UNAVAILABLE:
                raise


def test_a_hung_follower_is_not_trusted_for_longer_than_stale_seconds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            await remembered(other, secret)

            async def hang(*_: object, **__: object) -> None:
                await asyncio.Event().wait()

            monkeypatch.setattr(Redis, "xread", hang)
            began = time.monotonic()
            await one.accounts.delete_key(project_id, api_key_id=key_id)

            async def is_untrusted() -> bool:
                return other.cached(secret, KeyType.WRITE) is None

            await async_until(is_untrusted, FELT_SECONDS, "memory distrusted")
            assert time.monotonic() - began < STALE_SECONDS + 0.2
            assert await verdict(other, secret) is REFUSED
            # A living key goes on working, by asking Redis.
            _, _, living = await new_key(one, project_id)
            assert await verdict(other, living) is None

    asyncio.run(run())


def test_an_answer_that_was_long_on_its_way_is_no_fresh_news(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process finds old answers in its socket: they say nothing of what happened since."""

    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            await remembered(other, secret)
            honest: Any = Redis.xread

            async def late(self: Redis, *arguments: object, **more: object) -> object:
                answer = await honest(self, *arguments, **more)
                await asyncio.sleep(0.45)  # on the way
                return answer

            monkeypatch.setattr(Redis, "xread", late)
            for _ in range(3):
                _, key_id, secret = await new_key(one, project_id)
                await other.authorise(secret, KeyType.WRITE)
                await one.accounts.delete_key(project_id, api_key_id=key_id)
                assert await seconds_until(other, secret, REFUSED, 2) < FELT_SECONDS

    asyncio.run(run())


@pytest.mark.parametrize("loss", ["trimmed", "deleted", "deleted and begun anew", "begun anew in the past"])
def test_changes_that_were_lost_while_disconnected_are_noticed(
    settings: Settings, redis_url: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            _, _, living = await new_key(one, project_id)
            await remembered(other, secret)
            honest = Redis.xread

            async def cut(*_: object, **__: object) -> None:
                raise redis.exceptions.ConnectionError

            monkeypatch.setattr(Redis, "xread", cut)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            with redis.Redis.from_url(redis_url) as admin:
                if loss == "trimmed":
                    admin.xtrim(scripts.CHANGES, 0, approximate=False)
                else:
                    admin.delete(scripts.CHANGES)
                if loss == "deleted and begun anew":
                    await new_key(one, project_id)
                elif loss == "begun anew in the past":  # a server whose clock was set back, or a backup
                    admin.xadd(scripts.CHANGES, {"what": "grant", "id": "x", "n": "1"}, id="1-1")
            monkeypatch.setattr(Redis, "xread", honest)
            await seconds_until(other, secret, REFUSED, FELT_SECONDS)
            await remembered(other, living)  # memory is trusted again, so it is not just that all is asked
            assert other.cached(secret, KeyType.WRITE) is None
            # ... and the next change is heard.
            _, key_id, secret = await new_key(one, project_id)
            await remembered(other, secret)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            await seconds_until(other, secret, REFUSED, FELT_SECONDS)

    asyncio.run(run())


def test_a_stream_deleted_while_connected_is_noticed(settings: Settings, redis_url: str) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, _, _ = await new_key(one)
            for _ in range(5):
                _, key_id, secret = await new_key(one, project_id)
                await remembered(other, secret)
                with redis.Redis.from_url(redis_url) as admin:
                    admin.delete(scripts.CHANGES)
                await one.accounts.delete_key(project_id, api_key_id=key_id)
                await seconds_until(other, secret, REFUSED, FELT_SECONDS)

    asyncio.run(run())


def test_an_answer_from_before_the_revocation_is_not_remembered_after_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GET is answered, the key is revoked, the change is applied, and only then the answer is looked at."""

    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            await remembered(other, secret)  # the follower runs
            _, key_id, secret = await new_key(one, project_id)
            honest = Redis.get
            answered, go_on = asyncio.Event(), asyncio.Event()

            async def slow(self: Redis, name: str) -> object:
                answer = await honest(self, name)
                answered.set()
                await go_on.wait()
                return answer

            monkeypatch.setattr(Redis, "get", slow)
            request = asyncio.create_task(other.authorise(secret, KeyType.WRITE))
            await answered.wait()
            monkeypatch.setattr(Redis, "get", honest)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            _, _, later = await new_key(one, project_id)
            await remembered(other, later)  # so the follower has read beyond the revocation
            await asyncio.sleep(0.25)
            go_on.set()
            await request  # it was valid when it was asked
            assert other.cached(secret, KeyType.WRITE) is None
            assert await verdict(other, secret) is REFUSED

    asyncio.run(run())


def test_a_key_made_while_it_was_looked_up_is_not_taken_for_unknown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, _, secret = await new_key(one)
            await remembered(other, secret)
            monkeypatch.setattr("app.grant.secrets.token_urlsafe", lambda _: "foreseen" * 4)
            foreseen = "eb_w_" + "foreseen" * 4
            honest = Redis.get
            answered, go_on = asyncio.Event(), asyncio.Event()

            async def slow(self: Redis, name: str) -> object:
                answer = await honest(self, name)
                answered.set()
                await go_on.wait()
                return answer

            monkeypatch.setattr(Redis, "get", slow)
            request = asyncio.create_task(verdict(other, foreseen))
            await answered.wait()
            monkeypatch.setattr(Redis, "get", honest)
            generation = other._generation
            await new_key(one, project_id)

            async def is_heard() -> bool:
                return other._generation > generation

            await async_until(is_heard, 2, "the change heard")
            go_on.set()
            assert await request is REFUSED
            assert await verdict(other, foreseen) is None

    asyncio.run(run())


def test_a_key_remembered_before_the_follower_began_is_revocable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        honest = Redis.xrevrange

        async def cut(*_: object, **__: object) -> None:
            raise redis.exceptions.ConnectionError

        async with registry(settings) as one:
            project_id, key_id, secret = await new_key(one)
            monkeypatch.setattr(Redis, "xrevrange", cut)
            monkeypatch.setattr(Redis, "xinfo_stream", cut)
            async with registry(settings) as other:
                await other.authorise(secret, KeyType.WRITE)
                await one.accounts.delete_key(project_id, api_key_id=key_id)
                monkeypatch.undo()
                assert Redis.xrevrange is honest
                assert await seconds_until(other, secret, REFUSED, FELT_SECONDS) < FELT_SECONDS

    asyncio.run(run())


def test_a_deleted_project_takes_all_its_keys_with_it_everywhere(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            account = await one.accounts.create_account()
            doomed = await one.accounts.create_project(account.account_id, "doomed")
            secrets = [(await new_key(one, doomed.project_id))[2] for _ in range(50)]
            _, _, bystander = await new_key(one)
            for secret in secrets:
                await other.authorise(secret, KeyType.WRITE)
            await remembered(other, doomed.master_api_key, KeyType.PROJECT)
            began = time.monotonic()
            await one.accounts.delete_project(account.account_id, doomed.project_id)

            async def are_dead() -> bool:
                verdicts = {await verdict(edge, secret) for secret in secrets for edge in (one, other)}
                master = await verdict(other, doomed.master_api_key, KeyType.PROJECT)
                return verdicts == {REFUSED} and master is Kind.INVALID_MASTER_KEY

            await async_until(are_dead, FELT_SECONDS, "all keys dead")
            assert time.monotonic() - began < FELT_SECONDS
            assert await verdict(other, bystander) is None

    asyncio.run(run())


def test_a_new_master_key_replaces_the_old_one_and_nothing_else(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            account = await one.accounts.create_account()
            project = await one.accounts.create_project(account.account_id, "p")
            _, _, secret = await new_key(one, project.project_id)
            await remembered(other, project.master_api_key, KeyType.PROJECT)
            new = await one.accounts.reset_master_key(account.account_id, project.project_id)

            async def is_dead() -> bool:
                found = await verdict(other, project.master_api_key, KeyType.PROJECT)
                return found is Kind.INVALID_MASTER_KEY

            await async_until(is_dead, FELT_SECONDS, "the old master key dead")
            assert await verdict(one, project.master_api_key, KeyType.PROJECT) is Kind.INVALID_MASTER_KEY
            for edge in (one, other):
                assert await verdict(edge, new, KeyType.PROJECT) is None
                assert await verdict(edge, secret) is None

    asyncio.run(run())


# --- while Redis is away ----------------------------------------------------------------------------


def test_a_known_key_outlives_redis_for_the_grace_and_an_unknown_one_is_a_503(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    settings = settings_for(own_redis.url, tmp_path, "[limits]\ngrant_grace = 2\n")

    async def run() -> None:
        async with registry(settings) as one:
            _, _, secret = await new_key(one)
            _, _, never_seen = await new_key(one)
            await remembered(one, secret)
            own_redis.stop()
            began = time.monotonic()
            while time.monotonic() - began < 1.2:
                assert await verdict(one, secret) is None
                await asyncio.sleep(0.02)
            assert await verdict(one, never_seen) is Kind.UNAVAILABLE
            assert await verdict(one, "eb_w_no_such_key") is Kind.UNAVAILABLE
            await seconds_until(one, secret, Kind.UNAVAILABLE, 3)
            assert 1.5 < time.monotonic() - began < 3
            own_redis.start()
            await seconds_until(one, secret, None, 3)
            await remembered(one, secret)
            assert await verdict(one, never_seen) is None
            assert await verdict(one, "eb_w_no_such_key") is REFUSED

    asyncio.run(run())


def test_a_503_says_when_to_come_back(tmp_path: Path) -> None:
    settings = settings_for(f"unix://{tmp_path}/nobody.sock", tmp_path)

    async def run() -> None:
        async with registry(settings) as one:
            with pytest.raises(ApiError) as refused:
                await one.authorise("eb_w_whatever", KeyType.WRITE)
            assert refused.value.kind is Kind.UNAVAILABLE
            assert refused.value.retry_after_seconds == 2

    asyncio.run(run())


def test_a_registry_started_without_redis_recovers_by_itself(own_redis: RedisServer, tmp_path: Path) -> None:
    settings = settings_for(own_redis.url, tmp_path)

    async def run() -> None:
        async with registry(settings) as one:
            project_id, key_id, secret = await new_key(one)
        own_redis.stop()
        async with registry(settings) as one:
            assert await verdict(one, secret) is Kind.UNAVAILABLE
            own_redis.start()
            await seconds_until(one, secret, None, 3)
            await remembered(one, secret)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            await seconds_until(one, secret, REFUSED, FELT_SECONDS)

    asyncio.run(run())


def test_an_expired_key_has_no_grace(own_redis: RedisServer, tmp_path: Path) -> None:
    settings = settings_for(own_redis.url, tmp_path)

    async def run() -> None:
        async with registry(settings) as one:
            expiry = time.time_ns() // 1_000_000 + 700
            _, _, secret = await new_key(one, expires_at_ms=expiry)
            await remembered(one, secret)
            own_redis.stop()
            assert await verdict(one, secret) is None
            await seconds_until(one, secret, REFUSED, 2)
            assert time.time_ns() // 1_000_000 >= expiry

    asyncio.run(run())


# --- what a key permits ------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", list(KeyType))
def test_a_key_of_another_type_is_told_so_from_redis_and_from_memory(
    settings: Settings, wanted: KeyType
) -> None:
    words = {
        KeyType.WRITE: "Please use a write key for write requests. Invalid x-eventbunker-write-key",
        KeyType.QUERY: "Please use a query key for query requests. Invalid x-eventbunker-query-key",
        KeyType.DELETE: "Please use a delete key for delete requests. Invalid x-eventbunker-delete-key",
        KeyType.PROJECT: "Please use a project master key for project requests. Invalid x-eventbunker-apikey",
        KeyType.ACCOUNT: "Please use an account master key for account requests. Invalid x-eventbunker-apikey",
    }

    async def run() -> None:
        async with registry(settings) as one:
            account = await one.accounts.create_account()
            project = await one.accounts.create_project(account.account_id, "p")
            secrets = {
                KeyType.ACCOUNT: account.account_master_key,
                KeyType.PROJECT: project.master_api_key,
                **{
                    kind: (await one.accounts.create_key(project.project_id, kind)).api_key
                    for kind in (KeyType.WRITE, KeyType.QUERY, KeyType.DELETE)
                },
            }
            for own_type, secret in secrets.items():
                if own_type is wanted:
                    assert (await one.authorise(secret, wanted)).key_type is wanted
                    continue
                for _ in range(2):  # asked, then remembered
                    assert one.cached(secret, wanted) is None
                    with pytest.raises(ApiError) as refused:
                        await one.authorise(secret, wanted)
                    assert (refused.value.row.status, refused.value.row.error) == (401, words[wanted])
                await remembered(one, secret, own_type)
                assert one.cached(secret, wanted) is None

    asyncio.run(run())


@pytest.mark.parametrize("secret", [None, "", "eb_w_unknown", "x" * 10_000, "é\x00\n"])
def test_missing_and_unknown_keys_are_a_401(settings: Settings, secret: str | None) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            with pytest.raises(ApiError) as refused:
                await one.authorise(secret, KeyType.QUERY)
            assert refused.value.row.status == 401
            assert refused.value.row.error == "Invalid x-eventbunker-query-key"

    asyncio.run(run())


def test_a_grant_says_all_that_the_key_was_made_with(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            account = await one.accounts.create_account()
            project = await one.accounts.create_project(account.account_id, "p")
            expiry = time.time_ns() // 1_000_000 + 60_000
            project_id, key_id, secret = await new_key(
                one,
                project.project_id,
                customer_identifier="customer ü",
                expires_at_ms=expiry,
                rate_limit=7,
                allow_client_context=True,
            )
            expected = Grant(
                KeyType.WRITE, key_id, account.account_id, project_id, "customer ü", expiry, 7, True
            )
            assert await other.authorise(secret, KeyType.WRITE) == expected
            assert await remembered(other, secret) == expected

    asyncio.run(run())


def test_a_key_expires_in_memory_too(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            expiry = time.time_ns() // 1_000_000 + 500
            _, _, secret = await new_key(one, expires_at_ms=expiry)
            await remembered(one, secret)
            await seconds_until(one, secret, REFUSED, 2)
            assert time.time_ns() // 1_000_000 >= expiry

    asyncio.run(run())


def test_known_keys_cost_no_redis_call_and_unknown_ones_not_one_each(
    settings: Settings, redis_url: str
) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            _, _, secret = await new_key(one)
            await remembered(one, secret)
            before = calls(redis_url, "get")
            for _ in range(1000):
                assert one.cached(secret, KeyType.WRITE) is not None
            for _ in range(200):
                assert await verdict(one, "eb_w_unknown") is REFUSED
            assert calls(redis_url, "get") - before <= 2

    asyncio.run(run())


# --- concurrency --------------------------------------------------------------------------------------


def test_exactly_a_hundred_projects_whoever_asks_at_the_same_time(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            account = await one.accounts.create_account()
            made = [
                await one.accounts.create_project(account.account_id, f"p{number}") for number in range(90)
            ]
            results = await asyncio.gather(
                *(
                    edge.accounts.create_project(account.account_id, "more")
                    for _ in range(15)
                    for edge in (one, other)
                ),
                return_exceptions=True,
            )
            refused = [result for result in results if isinstance(result, ApiError)]
            assert len(results) - len(refused) == MAX_PROJECTS - 90
            assert {error.row.error for error in refused} == {"Maximum number of projects reached"}
            assert len(await other.accounts.list_projects(account.account_id)) == MAX_PROJECTS
            await other.accounts.delete_project(account.account_id, made[0].project_id)
            await one.accounts.create_project(account.account_id, "in the freed place")
            with pytest.raises(ApiError):
                await one.accounts.create_project(account.account_id, "one more")

    asyncio.run(run())


def test_a_key_is_deleted_once_whoever_asks_at_the_same_time(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            project_id, key_id, secret = await new_key(one)
            _, _, bystander = await new_key(one, project_id)
            results = await asyncio.gather(
                *(edge.accounts.delete_key(project_id, api_key_id=key_id) for edge in (one, other) * 5),
                *(edge.accounts.delete_key(project_id, api_key=secret) for edge in (one, other) * 5),
                return_exceptions=True,
            )
            assert [result for result in results if not isinstance(result, ApiError)] == [key_id]
            assert await verdict(one, bystander) is None

    asyncio.run(run())


def test_no_key_outlives_a_project_deleted_while_keys_are_made(settings: Settings) -> None:
    async def run() -> None:
        async with registries(settings) as (one, other):
            account = await one.accounts.create_account()
            project = await one.accounts.create_project(account.account_id, "p")
            making = [
                asyncio.create_task(edge.accounts.create_key(project.project_id, KeyType.WRITE))
                for _ in range(50)
                for edge in (one, other)
            ]
            await making[10]
            await one.accounts.delete_project(account.account_id, project.project_id)
            made = await asyncio.gather(*making, return_exceptions=True)
            secrets = [key.api_key for key in made if not isinstance(key, BaseException)]
            assert secrets
            assert {error.kind for error in made if isinstance(error, ApiError)} <= {Kind.INVALID_PROJECT}
            for secret in secrets:
                await seconds_until(other, secret, REFUSED, FELT_SECONDS)
            assert await one.accounts.list_keys(project.project_id, "", 1000) == ([], None)

    asyncio.run(run())


# --- secrets and last uses ----------------------------------------------------------------------------


def test_redis_holds_no_secret_and_neither_does_a_repr(settings: Settings, redis_url: str) -> None:
    async def run() -> list[tuple[str, object]]:
        async with registry(settings) as one:
            account = await one.accounts.create_account("acme")
            project = await one.accounts.create_project(account.account_id, "p")
            key = await one.accounts.create_key(project.project_id, KeyType.WRITE, name="n")
            new = await one.accounts.reset_master_key(account.account_id, project.project_id)
            grants = [
                await one.authorise(account.account_master_key, KeyType.ACCOUNT),
                await one.authorise(new, KeyType.PROJECT),
                await one.authorise(key.api_key, KeyType.WRITE),
            ]
            await one._write_uses()
            return [
                (account.account_master_key, account),
                (project.master_api_key, project),
                (key.api_key, key),
                (new, [*grants, one._remembered]),
            ]

    shown = asyncio.run(run())
    secrets = [secret for secret, _ in shown]
    for secret in secrets:
        assert secret not in repr([thing for _, thing in shown])
    dump = _everything(redis_url)
    assert digest(secrets[2]).encode() in dump  # so the dump does hold what there is
    for secret in secrets:
        assert secret.encode() not in dump
        assert secret.split("_", 2)[2].encode() not in dump


def _everything(url: str) -> bytes:
    """Every key and value, as one text."""
    pieces: list[bytes] = []
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            kind = client.type(key)
            read: dict[bytes, Callable[[], object]] = {
                b"string": lambda key=key: client.get(key),  # type: ignore[misc]
                b"hash": lambda key=key: client.hgetall(key),  # type: ignore[misc]
                b"set": lambda key=key: client.smembers(key),  # type: ignore[misc]
                b"zset": lambda key=key: client.zrange(key, 0, -1, withscores=True),  # type: ignore[misc]
                b"stream": lambda key=key: client.xrange(key),  # type: ignore[misc]
            }
            pieces += [key, repr(read[kind]()).encode()]
    return b"\n".join(pieces)


def test_last_uses_are_written_at_the_latest_when_it_closes(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id, key_id, secret = await new_key(one)
            _, unused_id, _ = await new_key(one, project_id)
            before = time.time_ns() // 1_000_000
            async with registry(settings) as other:
                await other.authorise(secret, KeyType.WRITE)
            with redis.Redis.from_url(settings.redis_url) as client:
                used = client.hgetall(scripts.USED)
            assert before <= int(used[key_id.encode()]) <= time.time_ns() // 1_000_000
            assert unused_id.encode() not in used

    asyncio.run(run())


def test_a_last_use_does_not_bring_a_revoked_key_back(settings: Settings) -> None:
    async def run() -> None:
        async with registry(settings) as one:
            project_id, key_id, secret = await new_key(one)
            await one.authorise(secret, KeyType.WRITE)
            await one.accounts.delete_key(project_id, api_key_id=key_id)
            await one._write_uses()
            with redis.Redis.from_url(settings.redis_url) as client:
                assert client.hgetall(scripts.USED) == {}

    asyncio.run(run())
