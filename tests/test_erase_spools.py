"""An erasure is done when every edge has told, late enough, that its spool is empty: also one that died."""

from __future__ import annotations

import asyncio

import pytest

from app import presence, presence_scripts
from app.layout import Expected
from app.presence import Presence
from tests.eraser_kit import PROJECT, Scene, event, nobody_waits, scene
from tests.pipeline_kit import Bench
from tests.pipeline_steps import Open, opened
from tests.waiting import async_until

__all__ = ["nobody_waits", "opened"]

QUEUE = "events"


def edge(
    made: Bench,
    name: str,
    place: str,
    *,
    spooled: int = 0,
    life: float = 30,
    keeps: bool = True,
    disk: str = "",
) -> Presence:
    return Presence(
        *(made.redis, Expected(QUEUE, 1), "edge"),
        id=name,
        place=place,
        life_seconds=life,
        redis_version=made.version,
        spooled=(lambda: spooled) if keeps else None,
        disk=disk,
    )


async def spools(here: Scene, erasure_id: str) -> int | None:
    """Groups that may wait in spools, as the status says after some looks."""
    await here.step(4)
    report = await here.erasures.report(PROJECT, erasure_id)
    assert report is not None
    assert report.rows_gone_at is not None
    return report.remaining.spools if report.state == "pending" else None


async def is_dead(here: Scene, name: str) -> bool:
    return any(
        one.id == name and one.dead_ms for one in await presence.listed(here.made.redis, QUEUE, "edge")
    )


def test_an_edge_that_died_without_a_word_is_waited_for_until_its_disk_is_looked_at(opened: Open) -> None:
    """Its last beat said that nothing was spooled, and it may have spooled an event after that."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            await edge(made, "killed", "host-1:/spool", life=0.2).beat()
            living = edge(made, "living", "host-2:/spool")
            await living.beat()
            await made.put([event("anna")])
            await async_until(made.is_empty, 15)
            erasure = (await here.ask("anna")).erasure_id
            await async_until(lambda: is_dead(here, "killed"), 5)
            await living.beat()
            assert await spools(here, erasure) == 1, "the disk of host 1"
            await edge(made, "next", "host-1:/spool", spooled=1).beat()
            assert await spools(here, erasure) == 2, "which nobody has looked through"
            await edge(made, "next", "host-1:/spool").beat()
            assert (await here.done(erasure)).remaining.spools == 0

    asyncio.run(run())


def test_a_disk_is_looked_at_from_another_host_or_container(opened: Open) -> None:
    """Its name tells whose spool it is; the same place on another disk tells nothing."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            made = here.made
            await edge(made, "killed", "container-1:/spool", life=0.1, disk="disk-1").beat()
            await async_until(lambda: is_dead(here, "killed"), 5)
            erasure = (await here.ask("anna")).erasure_id
            await edge(made, "other", "container-1:/spool", disk="disk-2").beat()
            assert await spools(here, erasure) == 1
            await edge(made, "next", "container-2:/spool", disk="disk-1").beat()
            assert (await here.done(erasure)).remaining.spools == 0

    asyncio.run(run())


def test_a_living_edge_is_waited_for_until_it_has_told(opened: Open) -> None:
    """What it said before the erasure says nothing of what it spooled then."""

    async def run() -> None:
        async with scene(opened) as here, here.made.draining():
            one = edge(here.made, "one", "here")
            await one.beat()
            erasure = (await here.ask("anna")).erasure_id
            assert await spools(here, erasure) == 1
            await one.beat()
            await here.done(erasure)
            await one.leave()
            imports = edge(here.made, "import", "import:host:1", life=0.1, keeps=False)
            await imports.beat()
            await async_until(lambda: is_dead(here, "import"), 5)
            await edge(here.made, "two", "here").beat()
            names = [one.id for one in await presence.listed(here.made.redis, QUEUE, "edge")]
            assert names == ["two"], "who has no spool left nothing"

    asyncio.run(run())


def test_they_are_forgotten_by_hand_and_bounded_in_number(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_scripts, "BEAT", presence_scripts.BEAT.replace("200", "3"))

    async def run() -> None:
        async with scene(opened) as here:
            made = here.made
            for number in range(6):
                await edge(made, f"killed-{number}", f"host-{number}:/spool", life=0.01).beat()
                await async_until(lambda number=number: is_dead(here, f"killed-{number}"), 5)  # type: ignore[misc]
            await edge(made, "spooled", "host-9:/spool", spooled=2, life=0.01).beat()
            await async_until(lambda: is_dead(here, "spooled"), 5)
            await edge(made, "living", "host-0:/spool", spooled=1).beat()
            names = {one.id for one in await presence.listed(made.redis, QUEUE, "edge")}
            assert names == {"killed-4", "killed-5", "spooled", "living"}
            await presence.forget_dead(made.redis, QUEUE, "edge")
            assert [one.id for one in await presence.listed(made.redis, QUEUE, "edge")] == ["living"]

    asyncio.run(run())
