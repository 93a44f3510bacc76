"""Versioned DDL against the real engine: applied once, never behind anybody's back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.store import Store
from tests.pipeline_kit import make_settings
from tests.store_fixture import StoreServer
from tests.store_tables import make_tables
from workers import migrate as migrations
from workers.migrate import MigrationError, migrate, read_migrations

Act = Callable[[Store], Awaitable[None]]


def with_database(server: StoreServer, database: str, act: Act) -> None:
    async def run() -> None:
        store = Store(server.url, database=database, username="default", password=server.token)
        try:
            await act(store)
        finally:
            await store.close()

    asyncio.run(run())


def test_twice_is_a_no_op(store_server: StoreServer, store_database: str) -> None:
    """Safeguard: what was applied is recorded; a second run changes neither table nor data."""

    async def act(store: Store) -> None:
        assert await migrate(store, store_database) == [m.name for m in read_migrations()]
        await store.command("INSERT INTO events (project_id, body) VALUES ('p', '{}')")
        assert await migrate(store, store_database) == []
        assert (await store.ask("SELECT count() FROM events")).rows == [[1]]
        assert (await store.ask("SELECT count() FROM migrations")).rows == [[len(read_migrations())]]

    with_database(store_server, store_database, act)


def test_a_crash_before_the_record_is_harmless(store_server: StoreServer, store_database: str) -> None:
    """Safeguard: each statement may run twice, because a kill may come before the line that records it."""

    async def act(store: Store) -> None:
        await migrate(store, store_database)
        await store.command("INSERT INTO events (project_id, body) VALUES ('p', '{}')")
        await store.command("TRUNCATE TABLE migrations")
        assert len(await migrate(store, store_database)) == len(read_migrations())
        assert (await store.ask("SELECT count() FROM events")).rows == [[1]]

    with_database(store_server, store_database, act)


def test_the_tables_of_an_earlier_version_keep_their_rows(
    store_server: StoreServer, store_database: str
) -> None:
    """Safeguard: other codecs and a new index for old parts too, beside new ones and merged with them."""
    first, last = read_migrations()[0], read_migrations()[4]
    assert last.name == "0005_codecs"
    insert = (
        "INSERT INTO events (project_id, event_name, customer_identifier, event_time, time_recorded, body)"
        " SELECT 'p', 'e', toString(number % 7), fromUnixTimestamp64Milli(1700000000000 + number * 37),"
        " fromUnixTimestamp64Milli(1700000000000 + number * 41), concat('{\"n\":', toString(number), '}')"
        " FROM numbers(20000)"
    )
    every = (
        "SELECT count(), sum(toUnixTimestamp64Milli(event_time)), sum(toUnixTimestamp64Milli(time_recorded)),"
        " sum(fields.n.:Int64), sum(cityHash64(body)), countIf(customer_identifier = '3') FROM events"
    )

    async def act(store: Store) -> None:
        await store.command(first.sql)
        await store.command(insert)
        before = (await store.ask(every)).rows
        await migrate(store, store_database)
        assert (await store.ask(every)).rows == before
        await store.command(last.sql)  # again, as after a crash
        await store.command(
            "ALTER TABLE events ATTACH PARTITION 202311 FROM events"
        )  # the same rows once more
        await store.command("OPTIMIZE TABLE events FINAL")
        doubled = [[2 * number for number in map(int, map(str, before[0][:4]))]]
        assert [row[:4] for row in (await store.ask(every)).rows] == doubled

    with_database(store_server, store_database, act)


def test_what_tests_have_instead_is_the_same(store_server: StoreServer, store_database: str) -> None:
    """Safeguard of other tests: their tables are those that migrations make, to the letter."""
    definitions = (
        "SELECT name, replaceAll(create_table_query, concat(database, '.'), '') FROM system.tables"
        " WHERE database = {database:String} ORDER BY name"
    )
    applied = "SELECT number, name, digest FROM migrations ORDER BY number"

    async def act(store: Store) -> None:
        name = f"{store_database}_copied"
        copied = Store(store_server.url, database=name, username="default", password=store_server.token)
        try:
            await migrate(store, store_database)
            await make_tables(store_server.url, store_server.token, name)
            made = (await store.ask(definitions, {"database": name})).rows
            wanted = (await store.ask(definitions, {"database": store_database})).rows
            assert made == wanted
            assert len(made) > 1
            assert (await copied.ask(applied)).rows == (await store.ask(applied)).rows
            assert await migrate(copied, name) == []
        finally:
            await copied.command(f"DROP DATABASE {name}", without_database=True)
            await copied.close()

    with_database(store_server, store_database, act)


def test_a_database_that_is_not_there_is_made(store_server: StoreServer, store_database: str) -> None:
    name = f"{store_database}_new"

    async def act(store: Store) -> None:
        await migrate(store, name)
        assert (await store.ask("SELECT count() FROM events")).rows == [[0]]

    with_database(store_server, name, act)
    store_server.text(f"DROP DATABASE {name}")


def test_a_changed_file_is_refused(store_server: StoreServer, store_database: str) -> None:
    """Safeguard: the digest. A file that was edited after the fact would never reach this database."""

    async def act(store: Store) -> None:
        await migrate(store, store_database)
        await store.command("TRUNCATE TABLE migrations")
        await store.command(
            "INSERT INTO migrations (number, name, digest) VALUES (1, '0001_events', 'other')"
        )
        with pytest.raises(MigrationError, match="0001_events was changed"):
            await migrate(store, store_database)

    with_database(store_server, store_database, act)


def test_a_newer_database_is_refused(store_server: StoreServer, store_database: str) -> None:
    """Safeguard: an old program must not write into tables it does not know."""

    async def act(store: Store) -> None:
        await migrate(store, store_database)
        await store.command("INSERT INTO migrations (number, name, digest) VALUES (9000, '9000_later', 'x')")
        with pytest.raises(MigrationError, match="9000"):
            await migrate(store, store_database)

    with_database(store_server, store_database, act)


def test_two_at_the_same_time(store_server: StoreServer, store_database: str) -> None:
    """Safeguard: IF NOT EXISTS, and records that may stand twice."""

    async def act(store: Store) -> None:
        await asyncio.gather(*(migrate(store, store_database) for _ in range(4)))
        assert await migrate(store, store_database) == []

    with_database(store_server, store_database, act)


@pytest.mark.parametrize(
    "name", ["", "1a", "a-b", "a b", "a;DROP TABLE x", "a.b", "é", "a" * 64, "a`", "a\n"]
)
def test_a_bad_database_name_is_refused(store_server: StoreServer, name: str) -> None:
    """Safeguard: the one place where a name becomes SQL checks it first."""

    async def act(store: Store) -> None:
        with pytest.raises(MigrationError, match="letters, digits and underscores"):
            await migrate(store, name)

    with_database(store_server, "default", act)


@pytest.mark.parametrize(
    "names", [("1_a.sql",), ("0001_A.sql",), ("0002_a.sql",), ("0001_a.sql", "0001_b.sql")]
)
def test_misnamed_files_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(MigrationError):
        read_migrations(tmp_path)


def test_the_command(
    store_server: StoreServer, store_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit codes: 0 when up to date, 1 when it cannot be, within a bounded wait."""
    settings = make_settings(tmp_path, "unix:///none", store_server, store_database)
    assert migrations.main(settings) == 0
    assert migrations.main(settings) == 0
    assert migrations.main(make_settings(tmp_path, "unix:///none", store_server, "a-b")) == 1
    monkeypatch.setattr(migrations, "WAIT_SECONDS", 0.3)
    environ = {"REDIS_URL": "unix:///none", "CLICKHOUSE_URL": "http://127.0.0.1:9"}
    from app.settings import load

    assert migrations.main(load(tmp_path / "deploy.toml", environ=environ)) == 1
