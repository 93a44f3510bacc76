"""Versioned DDL: applies the files of `workers/migrations` that this database has not seen, in order.

`eventbunker migrate` runs it, and so does `dev` before the drain starts. Each file is one statement, so
that a failure leaves nothing half done; each is written to run twice without harm, because a crash may
come between a statement and the line that records it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

import msgspec
import structlog

from app import store as store_client
from app.logs import configure_logging
from app.settings import Settings
from app.store import Store, StoreError, StoreUnavailable

DIRECTORY = Path(__file__).parent / "migrations"
WAIT_SECONDS = 30.0
RETRY_SECONDS = 0.1
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_DATABASE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")

log = structlog.get_logger()


class MigrationError(Exception):
    """The database does not fit this version of the program; the message says how."""


class Migration(msgspec.Struct, frozen=True):
    """One file: its number, name, statement, and a digest that shows later changes."""

    number: int
    name: str
    sql: str
    digest: str


def read_migrations(directory: Path = DIRECTORY) -> list[Migration]:
    """All migrations in order. Errors: MigrationError for a misnamed file or a number used twice."""
    migrations = []
    for path in sorted(directory.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: name a migration like 0002_what_it_does.sql")
        sql = path.read_text()
        digest = hashlib.sha256(sql.encode()).hexdigest()
        migrations.append(Migration(int(match.group(1)), path.stem, sql, digest))
    numbers = [migration.number for migration in migrations]
    if numbers != list(range(1, len(numbers) + 1)):
        raise MigrationError(f"migrations must be numbered 1, 2, 3, …; found {numbers}")
    return migrations


async def migrate(store: Store, database: str) -> list[str]:
    """Bring `database` up to date and return the names of what was applied.

    Errors: MigrationError, StoreError.
    """
    if not _DATABASE.fullmatch(database):
        raise MigrationError(f"database {database!r}: use letters, digits and underscores")
    await store.command(f"CREATE DATABASE IF NOT EXISTS {database}", without_database=True)
    await store.command(
        "CREATE TABLE IF NOT EXISTS migrations"
        " (number UInt32, name String, digest String, applied_at DateTime DEFAULT now())"
        " ENGINE = MergeTree ORDER BY number SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
    )
    result = await store.ask("SELECT number, any(digest) FROM migrations GROUP BY number")
    applied = {int(str(number)): str(digest) for number, digest in result.rows}
    known = read_migrations()
    if applied and max(applied) > len(known):
        raise MigrationError(
            f"the database has migration {max(applied)}, this program only {len(known)}: update it"
        )
    done = []
    for migration in known:
        if migration.number not in applied:
            await store.command(migration.sql)
            await store.command(
                "INSERT INTO migrations (number, name, digest)"
                " SELECT {number:UInt32}, {name:String}, {digest:String}",
                {"number": migration.number, "name": migration.name, "digest": migration.digest},
            )
            done.append(migration.name)
        elif applied[migration.number] != migration.digest:
            raise MigrationError(
                f"{migration.name} was changed after it had been applied; write a new one instead"
            )
    return done


async def _run(settings: Settings) -> list[str]:
    store = store_client.connect(settings)
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    return await migrate(store, settings.store.database)
                except StoreUnavailable:
                    await asyncio.sleep(RETRY_SECONDS)
    finally:
        await store.close()


def main(settings: Settings) -> int:
    """Apply and say what was done. Returns the exit code."""
    configure_logging("migrate")
    if not settings.clickhouse_url:
        log.error("CLICKHOUSE_URL is not set: there is no store to migrate; `eventbunker dev` brings its own")
        return 2
    try:
        done = asyncio.run(_run(settings))
    except TimeoutError:
        log.error(
            "the store did not answer", seconds=WAIT_SECONDS, fix="check CLICKHOUSE_URL and that it runs"
        )
        return 1
    except (MigrationError, StoreError) as error:
        log.error("migration failed", reason=str(error)[:500])
        return 1
    log.info("schema is up to date", applied=done)
    return 0
