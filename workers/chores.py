"""What a drain does beside draining, again and again until it stops. Nothing that happens here ends that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from app.redis_client import UNREACHABLE
from app.store import StoreError
from workers.plan import Halted

log = structlog.get_logger()


async def repeat(
    stop: asyncio.Event,
    name: str,
    work: Callable[[], Awaitable[object]],
    seconds: float,
    *,
    postponed_seconds: float | None = None,
) -> None:
    """Do `work` every so many seconds until `stop`. An outage, a halt and a bug of it only postpone it."""
    while not stop.is_set():
        pause = seconds
        try:
            await work()
        except (*UNREACHABLE, StoreError, Halted) as error:
            pause = seconds if postponed_seconds is None else postponed_seconds
            log.warning("chore postponed", chore=name, error=type(error).__name__, reason=_brief(error))
        except Exception:  # the draining beside it goes on
            pause = seconds if postponed_seconds is None else postponed_seconds
            log.exception("chore failed", chore=name)
        try:
            async with asyncio.timeout(pause):
                await stop.wait()
        except TimeoutError:
            continue


def _brief(error: Exception) -> str:
    return error.brief if isinstance(error, StoreError) else str(error)[:200]
