"""How nice questions are: by how much their project has asked, with all that the engine starts for them."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.store_fixture import StoreServer, row, start_store
from tests.waiting import until
from workers.embedded_config import QUESTIONS
from workers.embedded_library import EngineError
from workers.embedded_nice import LOAD_SECONDS, MOST, Loads, Niceness
from workers.embedded_store import _keep_nice

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere threads have no niceness of their own"
)

# Root without CAP_SYS_NICE, as anybody else is; prctl(PR_CAPBSET_DROP), which lasts.
AS_ANYBODY = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 23, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
# Some seconds of two threads' work; and one that does nothing and lasts.
HEAVY = "SELECT count() AS heavy FROM numbers_mt(20000000000) WHERE NOT ignore(sipHash64(number))"
LASTING = "SELECT sleep(2) AS {}"
SECONDS = 20.0


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=[True, False], ids=["as root", "as anybody"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StoreServer]:
    before = () if request.param else (sys.executable, "-c", AS_ANYBODY)
    server = start_store(tmp_path / "data", before=before)
    yield server
    server.stop()


def question(server: StoreServer, sql: str, whose: str, **options: str | int) -> httpx.Response:
    return server.post(sql, workload=QUESTIONS, quota_key=whose, max_execution_time=30, **options)


def niceness(server: StoreServer, alias: str) -> list[int]:
    """Of each thread that runs what says `AS alias`; none while nothing does."""
    sql = f"SELECT arrayJoin(thread_ids) FROM system.processes WHERE query LIKE '%AS {alias}%'"
    found = []
    for thread in server.text(f"{sql} AND query NOT LIKE '%system.processes%'").split():
        if Path(f"/proc/{server.pid}/task/{thread}").exists():
            found.append(os.getpriority(os.PRIO_PROCESS, int(thread)))
    return found


def of_all(server: StoreServer) -> set[int]:
    """Of every thread of the store."""
    return {
        os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{server.pid}/task").iterdir()
    }


def test_a_heavy_question_becomes_nice_while_it_runs_and_nobody_else_does(store: StoreServer) -> None:
    store.text("CREATE DATABASE d")
    store.text("CREATE TABLE d.t (number UInt64, content String) ENGINE = MergeTree ORDER BY number")
    with ThreadPoolExecutor(4) as pool:
        heavy = pool.submit(question, store, HEAVY, "heavy", query_id="heavy", os_thread_priority=-5)
        until(lambda: min(niceness(store, "heavy"), default=0) >= MOST - 2, SECONDS, "its niceness")
        assert len(niceness(store, "heavy")) > 1, "it is to have threads of the engine's"
        light = pool.submit(question, store, LASTING.format("light"), "light")
        ours = pool.submit(store.text, LASTING.format("ours"))
        until(lambda: niceness(store, "light") and niceness(store, "ours"), SECONDS, "both")
        assert max(niceness(store, "light")) < MOST // 2
        assert max(niceness(store, "ours")) == 0
        for number in range(3):  # threads that end, and others that come
            store.insert("INSERT INTO d.t FORMAT RowBinary", row(number, b"x")).raise_for_status()
        assert (light.result().text, ours.result()) == ("0\n", "0")
        again = pool.submit(question, store, LASTING.format("again"), "heavy")
        until(lambda: niceness(store, "again"), SECONDS, "one more of theirs")
        assert max(niceness(store, "again")) >= MOST - 2, "it began as nice as its project is"
        until(lambda: _end(store) and heavy.done() and again.done(), SECONDS, "their end")
    assert max(of_all(store)) == 0, "what was nice serves others now"
    assert store.text("SELECT count() FROM d.t") == "3"


def _end(server: StoreServer) -> bool:
    server.text("KILL QUERY WHERE query LIKE '%AS heavy%' AND query NOT LIKE 'KILL%' FORMAT Null")
    return True


def test_where_two_run_a_third_has_one_thread(store: StoreServer) -> None:
    threads = "SELECT getSetting('max_threads')"
    alone = int(question(store, threads, "third").text)
    assert alone > 1
    with ThreadPoolExecutor(2) as pool:
        lasting = [pool.submit(question, store, LASTING.format(whose), whose) for whose in ("one", "other")]
        until(lambda: niceness(store, "one") and niceness(store, "other"), SECONDS, "both")
        assert question(store, threads, "third").text == "1\n"
        assert store.text(threads) == str(alone), "what the service itself asks has as many as ever"
        assert [one.result().text for one in lasting] == ["0\n"] * 2
    assert int(question(store, threads, "third").text) == alone


def test_a_question_has_its_own_error(store: StoreServer) -> None:
    assert question(store, "SELECT x", "somebody").headers["X-ClickHouse-Exception-Code"] == "47"
    assert question(store, "SELECT 2", "somebody").text == "2\n"


def ask_one(loads: Loads, clock: Clock, whose: str, seconds: float) -> None:
    """One question that takes so long."""
    loads.change(whose, 1)
    clock.now += seconds
    loads.change(whose, -1)


def test_who_asks_alone_becomes_nice_in_proportion_to_how_much_runs() -> None:
    clock = Clock()
    loads = Loads(clock)
    assert loads.niceness() == {}
    loads.change("one", 1)
    seen = []
    for _ in range(40):
        seen.append(loads.niceness().get("one", 0))
        clock.now += 0.25
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert 0 < seen[1] < MOST // 2
    assert seen[int(LOAD_SECONDS / 0.25)] == MOST
    loads.change("one", -1)
    assert loads.niceness()["one"] == MOST  # it is no lighter for the pause between two
    clock.now += 3 * LOAD_SECONDS
    assert loads.niceness()["one"] < 3


def test_who_asks_little_is_less_nice_than_who_asks_much() -> None:
    clock = Clock()
    loads = Loads(clock)
    loads.change("much", 3)
    for _ in range(100):
        ask_one(loads, clock, "little", 0.03)
        clock.now += 0.12
    found = loads.niceness()
    assert found["much"] == MOST
    assert found["little"] == 1  # a fifteenth of it


def test_who_asks_as_much_as_the_other_is_as_nice() -> None:
    clock = Clock()
    loads = Loads(clock)
    for whose in ("one", "other"):
        loads.change(whose, 2)
    clock.now += LOAD_SECONDS
    assert loads.niceness() == {"one": MOST, "other": MOST}


def test_little_of_many_is_not_nice() -> None:
    clock = Clock()
    loads = Loads(clock)
    for number in range(10):
        ask_one(loads, clock, str(number), 0.005)
    assert max(loads.niceness().values()) <= 1


def test_projects_are_forgotten() -> None:
    clock = Clock()
    loads = Loads(clock)
    for number in range(1000):
        ask_one(loads, clock, str(number), 1.0)
    assert len(loads.niceness()) < 50


def test_the_shortest_questions_count_when_they_are_many() -> None:
    clock = Clock()
    loads = Loads(clock)
    for _ in range(10_000):
        ask_one(loads, clock, "short", 0.001)
    assert loads.niceness()["short"] == MOST


def test_a_chore_goes_on_after_a_moment_without_threads() -> None:
    class Engine:
        """Of which the chore takes no more than this."""

        def __init__(self) -> None:
            self.niceness = self
            self.kept = 0
            self.twice = threading.Event()

        def ask(self, sql: str) -> str:
            raise NotImplementedError

        def keep(self, ask: object) -> None:
            self.kept += 1
            if self.kept == 1:
                raise RuntimeError("can't start new thread")
            self.twice.set()

    async def keep_nice() -> bool:
        engine = Engine()
        chore = asyncio.create_task(_keep_nice(engine))  # type: ignore[arg-type]
        await asyncio.to_thread(engine.twice.wait, SECONDS)
        chore.cancel()
        return engine.twice.is_set()

    assert asyncio.run(keep_nice())


def test_a_question_without_a_thread_is_refused_and_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of threads, which a test cannot take from everybody."""

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    questions = Niceness()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(EngineError) as refused:
            questions.run("somebody", lambda: 1)
    assert refused.value.code == 439
    assert questions.run("somebody", lambda: 2) == 2
    with pytest.raises(ZeroDivisionError):
        questions.run("somebody", lambda: 1 // 0)
    questions.keep(pytest.fail)  # nothing runs, so nothing is asked
