"""`eventbunker erasures`: which erasures are not done, in every project, and what each waits for."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import msgspec

from app import erasure_scripts as scripts
from app import redis_client
from app.erasure_report import Open, Report, decode_open, decode_report
from app.redis_client import UNREACHABLE
from app.settings import Settings
from workers import output
from workers.running import NotRunning, find_running

STAGES = {
    "project": "rows of a deleted project",
    "hidden": "rows in the store",
    "clean": "the proof",
    "closing": "Redis's file",
}


def list_erasures(settings: Settings, *, as_json: bool) -> int:
    """Print them. Returns the exit code: 0 also when there are some."""
    try:
        found = asyncio.run(_find(find_running(settings, needs_store=False)))
    except NotRunning as error:
        output.say(str(error))
        return 1
    except UNREACHABLE as error:
        output.say(f"Redis does not answer ({type(error).__name__}); check REDIS_URL")
        return 1
    if as_json:
        told = [{"stage": one.stage, **msgspec.to_builtins(report)} for one, report in found]
        output.line(msgspec.json.encode(told).decode())
        return 0
    for one, report in found:
        age = max(0, int(time.time() - report.asked_at / 1000))
        output.line(
            f"{report.erasure_id}  {one.project_id}  {age:,} s old, waits for {_waits_for(one, report)}"
        )
    output.line(f"{len(found):,} not done" if found else "none is under way")
    return 0


async def _find(settings: Settings) -> list[tuple[Open, Report]]:
    redis = redis_client.connect(settings)
    try:
        erasures = cast("dict[bytes, bytes]", await redis.hgetall(scripts.OPEN))
        found = []
        for erasure_id, payload in sorted(erasures.items()):
            report = await redis.get(scripts.report(erasure_id.decode()))
            if report is not None:
                found.append((decode_open(payload), decode_report(report)))
        return found
    finally:
        await redis.aclose()


def _waits_for(one: Open, report: Report) -> str:
    left = {name: number for name, number in msgspec.to_builtins(report.remaining).items() if number}
    named = ", ".join(f"{number:,} {name}" for name, number in left.items())
    return f"{STAGES[one.stage]}: {named}" if named else STAGES[one.stage]
