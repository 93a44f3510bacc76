"""Which Redis and store an operator's command means: those of the settings, else of `eventbunker dev` here.

So that `eventbunker dead list` works beside `make run-edge` without a variable to set.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import msgspec

from app.settings import Settings
from workers.state import State, StateError


class NotRunning(Exception):
    """There is nothing to connect to; the message says what to set."""


def find_running(settings: Settings, *, needs_store: bool) -> Settings:
    """`settings` with both urls (the store's may be missing unless it is needed). Errors: NotRunning."""
    own = settings
    directory = Path(settings.dev.persist_to)
    if directory.is_dir() and not (settings.redis_url and settings.clickhouse_url):
        try:
            own = _with_embedded(settings, State(directory))
        except StateError as error:
            raise NotRunning(str(error)) from error
    if not own.redis_url:
        raise NotRunning(
            "no Redis: set REDIS_URL, or queues.producers[0].url in deploy.toml,"
            f" or start `eventbunker dev` ({directory} holds none)"
        )
    if needs_store and not own.clickhouse_url:
        raise NotRunning("no store: set CLICKHOUSE_URL, or stores[0].url in deploy.toml")
    return own


def _with_embedded(settings: Settings, state: State) -> Settings:
    secrets = dict(settings.secrets)
    redis_url, clickhouse_url = settings.redis_url, settings.clickhouse_url
    socket = state.redis_socket()
    if not redis_url and socket.exists():
        redis_url = f"unix://{quote(str(socket))}"
        secrets["REDIS_PASSWORD"] = ""
    store = state.read_json(state.path / "store.json")
    if not clickhouse_url and store.get("url"):
        clickhouse_url = store["url"]
        secrets["CLICKHOUSE_PASSWORD"] = store.get("password", "")
    return msgspec.structs.replace(
        settings, redis_url=redis_url, clickhouse_url=clickhouse_url, secrets=secrets
    )
