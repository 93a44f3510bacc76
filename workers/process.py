"""What the supervisor's children execute: `python -m workers.process ROLE …`.

Everything they need is in the environment (DEPLOY_CONFIG, DEPLOY_ENV, REDIS_URL, CLICKHOUSE_URL and the
secrets), because an argv can be read by everybody on the machine. Each role imports only what it runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from app.settings import Settings, SettingsError, load
from workers.lean import import_lean
from workers.metric_files import take_room


def main(arguments: list[str]) -> int:
    """Run one role. Returns its exit code; 2 when the settings cannot be read."""
    role, *rest = arguments
    try:
        environment = os.environ.get("DEPLOY_ENV") or None
        settings = load(Path(os.environ.get("DEPLOY_CONFIG", "deploy.toml")), environment=environment)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    return _run(role, rest, settings)


def import_what_all_need(role: str) -> None:
    """The two packages that would bring more than we use; the store is no client of itself."""
    import_lean("structlog", *(() if role == "store" else ("httpx",)))


def _run(role: str, rest: list[str], settings: Settings) -> int:
    import_what_all_need(role)
    if role in ("edge", "drain") and not take_room():
        _warn(role)
    if role == "edge":
        from workers import edge  # noqa: PLC0415

        leave_seconds, *descriptors = rest
        return edge.main(
            settings, descriptors=tuple(map(int, descriptors)), leave_seconds=float(leave_seconds)
        )
    if role == "drain":
        from workers import drain_process  # noqa: PLC0415

        return drain_process.main(settings)
    if role == "store":
        from app.logs import configure_logging  # noqa: PLC0415
        from workers import embedded_store  # noqa: PLC0415

        configure_logging("store")
        return embedded_store.main(settings, port=int(rest[0]), path=Path(rest[1]))
    if role == "migrate":
        from workers import migrate  # noqa: PLC0415

        return migrate.main(settings)
    print(f"unknown role {role!r}", file=sys.stderr)
    return 2


def _warn(role: str) -> None:
    import structlog  # noqa: PLC0415

    from app.logs import configure_logging  # noqa: PLC0415

    configure_logging(role)
    structlog.get_logger().warning("the disk has no room for metrics: this process counts for itself")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
