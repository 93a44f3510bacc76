"""Where a command finds Redis and the store of the running service.

The environment and deploy.toml name them in a production set-up; `eventbunker dev` writes those that it
starts into its state directory.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import msgspec

from app.settings import Settings
from workers.state import State, StateError


class Unknown(Exception):
    """A part is not named anywhere; the message says what to set."""


def reach(settings: Settings, state: Path | None = None) -> Settings:
    """`settings` with the urls of what runs. `state` replaces `dev.persist_to`. Errors: Unknown."""
    redis_url, clickhouse_url, secrets = settings.redis_url, settings.clickhouse_url, dict(settings.secrets)
    directory = state or Path(settings.dev.persist_to)
    if not (redis_url and clickhouse_url) and directory.is_dir():
        try:
            place = State(directory)
            socket = place.redis_socket()
        except StateError as error:
            raise Unknown(str(error)) from None
        if not redis_url and socket.exists():
            redis_url = f"unix://{quote(str(socket))}"
            secrets["REDIS_PASSWORD"] = ""
        told = place.read_json(place.path / "store.json")
        if not clickhouse_url and told.get("url"):
            clickhouse_url = told["url"]
            secrets["CLICKHOUSE_PASSWORD"] = told.get("password", "")
    for name, url, key in (
        ("REDIS_URL", redis_url, "queues.producers[0].url"),
        ("CLICKHOUSE_URL", clickhouse_url, "stores[0].url"),
    ):
        if not url:
            raise Unknown(
                f"{name} is not set: set it, or {key} in deploy.toml, or start `eventbunker dev`"
                f" (nothing runs in {directory})"
            )
    return msgspec.structs.replace(
        settings, redis_url=redis_url, clickhouse_url=clickhouse_url, secrets=secrets
    )
