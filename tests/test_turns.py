"""Turns: bounds, shares, and who comes next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ApiError, Kind
from app.turns import Turns

DEADLINE = 20.0


class Crowd:
    """Workers that hold their place until they are told to `leave`."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.working: list[str] = []  # in the order in which they got a place
        self.refused: list[str] = []
        self.errors: list[ApiError] = []
        self._leaves: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def send(self, name: str, *groups: str) -> None:
        self._leaves[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._work(name, groups))

    async def come(self, name: str, *groups: str) -> None:
        self.send(name, *groups)
        await settle()

    async def _work(self, name: str, groups: tuple[str, ...]) -> None:
        try:
            async with self.turns.turn(*groups):
                self.working.append(name)
                await self._leaves[name].wait()
                self.working.remove(name)
        except ApiError as error:
            self.errors.append(error)
            self.refused.append(name)

    async def leave(self, name: str) -> None:
        self._leaves[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await settle()

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def crowded(turns: Callable[[], Turns], scenario: Callable[[Crowd], Awaitable[None]]) -> None:
    async def run() -> None:
        crowd = Crowd(turns())
        async with asyncio.timeout(DEADLINE):
            await scenario(crowd)
            await crowd.end()

    asyncio.run(run())


def make(waiting: int = 100, seconds: float = DEADLINE, kept: Sequence[int] = ()) -> Turns:
    """Four places, three for a project, two for a key."""
    return Turns(4, waiting, seconds, "queries are running", (3, 2), kept=kept)


def test_a_key_and_a_project_have_a_share() -> None:
    async def scenario(crowd: Crowd) -> None:
        for name in ("a1", "a2", "a3"):
            await crowd.come(name, "A", "first")
        assert crowd.working == ["a1", "a2"]
        for name in ("a4", "a5"):
            await crowd.come(name, "A", "second")
        assert crowd.working == ["a1", "a2", "a4"]
        await crowd.come("b1", "B", "key")  # the place that A may not have
        assert crowd.working == ["a1", "a2", "a4", "b1"]

    crowded(make, scenario)


def test_a_place_goes_to_whoever_has_the_fewest() -> None:
    async def scenario(crowd: Crowd) -> None:
        for number in range(50):
            await crowd.come(f"a{number}", "A", f"key{number % 5}")
        await crowd.come("b0", "B", "key")
        await crowd.come("b1", "B", "key")
        await crowd.come("c0", "C", "key")
        assert crowd.working == ["a0", "a1", "a2", "b0"]
        await crowd.leave("a0")
        assert crowd.working[-1] == "c0"  # before b1, who came earlier, and 47 of A
        await crowd.leave("a1")
        assert crowd.working[-1] == "a3"  # A and B have one each: the first who came, of a key that has none
        await crowd.leave("b0")
        assert crowd.working[-1] == "b1"

    crowded(make, scenario)


def test_a_kept_place_is_for_who_has_none() -> None:
    """However much two projects ask, a third's question goes at once; theirs go on all the same."""

    async def scenario(crowd: Crowd) -> None:
        for number in range(6):
            await crowd.come(f"a{number}", "A", f"key{number}")
            await crowd.come(f"b{number}", "B", f"key{number}")
        assert crowd.working == ["a0", "b0", "a1"]
        for number in range(3):
            await crowd.come(f"c{number}", "C", "key")
            assert crowd.working[-1] == f"c{number}"
            await crowd.come(f"d{number}", "D", "key")
            assert crowd.working[-1] == f"c{number}", "there is one such place, not one for everybody"
            await crowd.leave(f"c{number}")
            assert crowd.working[-1] == f"d{number}"
            await crowd.leave(f"d{number}")
        assert crowd.working == ["a0", "b0", "a1"], "the place is kept again"
        order = []
        while crowd.working:
            order.append(crowd.working[0])
            await crowd.leave(crowd.working[0])
        assert order == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3", "a4", "b4", "a5", "b5"]

    crowded(lambda: make(kept=(1,)), scenario)


def test_a_place_of_a_project_is_kept_for_those_of_its_keys_that_have_none() -> None:
    async def scenario(crowd: Crowd) -> None:
        for number in range(9):
            await crowd.come(f"a{number}", "A", "greedy")
        assert crowd.working == ["a0", "a1"]
        await crowd.come("modest", "A", "modest")
        assert crowd.working[-1] == "modest"
        await crowd.leave("a0")
        await crowd.leave("modest")
        assert crowd.working == ["a1", "a2"]

    crowded(lambda: Turns(8, 100, DEADLINE, "queries are running", (3, 3), kept=(2, 1)), scenario)


def test_who_has_none_may_take_any_place() -> None:
    """Also the last one, and the only one: nothing is kept from everybody."""

    async def scenario(crowd: Crowd) -> None:
        for name in "abcde":
            await crowd.come(name, name, "key")
        assert crowd.working == list("abcd")
        await crowd.come("a2", "a", "key")
        await crowd.leave("a")
        await crowd.leave("b")
        assert crowd.working == ["c", "d", "e", "a2"]

    crowded(lambda: make(kept=(1, 1)), scenario)


def test_the_one_who_fills_the_queue_is_sent_away() -> None:
    async def scenario(crowd: Crowd) -> None:
        for number in range(3 + 5):
            await crowd.come(f"a{number}", "A", f"key{number}")
        await crowd.come("b0", "B", "key")
        assert not crowd.refused
        await crowd.come("b1", "B", "key")
        await crowd.come("b2", "B", "key")
        assert crowd.refused == ["a7", "a6"]
        await crowd.come("a8", "A", "key8")
        assert crowd.refused == ["a7", "a6", "a8"]

    crowded(lambda: make(waiting=5), scenario)


def test_one_who_leaves_at_this_moment_is_sent_away_without_harm_to_who_comes() -> None:
    async def scenario(crowd: Crowd) -> None:
        for name in ("a0", "a1", "b0", "b1", "a2", "a3"):
            await crowd.come(name, name[0], "key")
        assert crowd.working == ["a0", "a1", "b0", "b1"]
        crowd.send("b2", "b", "key")
        await crowd.cancel("a3")  # its place is cancelled, and it stands in the queue still, when b2 comes
        await crowd.leave("b0")
        assert crowd.working == ["a0", "a1", "b1", "b2"]
        assert not crowd.refused

    crowded(lambda: make(waiting=2), scenario)


def test_waiting_has_an_end() -> None:
    async def scenario(crowd: Crowd) -> None:
        await crowd.come("a", "A", "k")
        await crowd.come("b", "A", "k")
        await crowd.come("c", "A", "k")
        await asyncio.gather(crowd.tasks["c"])
        assert crowd.refused == ["c"]
        [error] = crowd.errors
        assert (error.kind, error.retry_after_seconds) == (Kind.UNAVAILABLE, 1)
        await crowd.leave("a")
        await crowd.come("d", "A", "k")
        assert crowd.working == ["b", "d"]

    crowded(lambda: make(seconds=0.05), scenario)


def test_without_groups_there_is_one_bound() -> None:
    async def scenario(crowd: Crowd) -> None:
        for name in "abcdef":
            await crowd.come(name)
        assert crowd.working == list("abcd")
        await crowd.leave("b")
        assert crowd.working == list("acde")

    crowded(make, scenario)


steps = st.lists(
    st.tuples(st.sampled_from(["come", "leave", "cancel"]), st.integers(0, 30), st.sampled_from("ABC")),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps, st.sampled_from([(), (1,), (1, 1)]))
def test_no_place_is_lost_and_no_share_exceeded(
    steps: list[tuple[str, int, str]], kept: tuple[int, ...]
) -> None:
    """Whoever comes, leaves or is cancelled, in any order."""

    async def scenario(crowd: Crowd) -> None:
        ended: set[str] = set()
        for number, (step, which, project) in enumerate(steps):
            before = list(crowd.working)
            if step == "come":
                await crowd.come(f"{project}{which % 3}-{number}", project, str(which % 3))
            elif step == "leave" and crowd.working:
                ended.add(crowd.working[which % len(crowd.working)])
                await crowd.leave(crowd.working[which % len(crowd.working)])
            elif step == "cancel" and crowd.tasks:
                ended.add(list(crowd.tasks)[which % len(crowd.tasks)])
                await crowd.cancel(list(crowd.tasks)[which % len(crowd.tasks)])
                with contextlib.suppress(ValueError):
                    crowd.working.remove(list(crowd.tasks)[which % len(crowd.tasks)])
            assert len(crowd.working) <= 4
            for group, bound in (*((p, 3) for p in "ABC"), *((f"{p}{k}", 2) for p in "ABC" for k in "012")):
                assert sum(name.startswith(group) for name in crowd.working) <= bound
            waiting = crowd.tasks.keys() - ended - set(crowd.working)
            have = {name[0] for name in crowd.working}
            if any(name[0] not in have for name in waiting):
                assert len(crowd.working) == 4, "who has none waits only where there is no place at all"
            for name in set(crowd.working) - set(before):
                if kept and sum(other[0] == name[0] for other in crowd.working) > 1:
                    assert len(crowd.working) < 4, "a kept place was taken by who has one"
        for _ in range(len(steps)):  # nobody waits for ever: whoever was not cancelled has its turn
            if crowd.working:
                ended.add(crowd.working[0])
                await crowd.leave(crowd.working[0])
        assert ended == crowd.tasks.keys()
        await crowd.end()
        crowd.working.clear()
        assert not crowd.turns._working
        assert not crowd.turns._waiting
        for name, project in (("w", "A"), ("x", "A"), ("y", "B"), ("z", "C")):
            await crowd.come(name, project, name)
        assert crowd.working == list("wxyz")

    crowded(lambda: make(kept=kept), scenario)


def test_a_failure_gives_the_place_back() -> None:
    async def scenario(crowd: Crowd) -> None:
        for _ in range(10):
            with pytest.raises(ValueError, match="broken"):
                async with crowd.turns.turn("A", "k"):
                    raise ValueError("broken")

    crowded(make, scenario)
