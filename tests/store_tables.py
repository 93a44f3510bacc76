"""The product's tables in a database of a test's own, for a third of what the migrations cost the processor.

Most tests want the tables and not the way to them, which tests/test_migrate.py goes. So the migrations are carried
out once in each store, and the other databases get the definitions that this has led to.
"""

from __future__ import annotations

from app.settings import Settings
from app.store import Store
from workers.migrate import migrate

TEMPLATE = "migrated"
_TABLES = "SELECT database, name FROM system.tables WHERE database IN ({template:String}, {database:String})"


async def make_tables(url: str, password: str, database: str) -> None:
    """What `migrate` does to `database`. One that has tables already is left to `migrate` itself."""
    store = Store(url, database=database, username="default", password=password)
    try:
        values = {"template": TEMPLATE, "database": database}
        await store.command(f"CREATE DATABASE IF NOT EXISTS {database}", without_database=True)
        found = (await store.ask(_TABLES, values)).rows
        tables = [str(name) for place, name in found if place == TEMPLATE]
        if len(tables) < len(found):
            await migrate(store, database)
            return
        for name in tables or await _make_template(url, password):
            await store.command(f"CREATE TABLE {name} AS {TEMPLATE}.{name}")
        await store.command(f"INSERT INTO migrations SELECT * FROM {TEMPLATE}.migrations")
    finally:
        await store.close()


async def make_tables_for(settings: Settings) -> None:
    """`make_tables` in the database of `settings`."""
    password = settings.secret("CLICKHOUSE_PASSWORD")
    await make_tables(settings.clickhouse_url, password, settings.store.database)


async def _make_template(url: str, password: str) -> list[str]:
    store = Store(url, database=TEMPLATE, username="default", password=password)
    try:
        await store.command(f"CREATE DATABASE {TEMPLATE}", without_database=True)
        await migrate(store, TEMPLATE)
        return [str(name) for (name,) in (await store.ask("SHOW TABLES")).rows]
    finally:
        await store.close()
