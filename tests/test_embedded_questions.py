"""What clients ask of the embedded store: beside the service's own statements, in fair turns, within bounds."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from app import ask
from tests import plain_http
from tests.store_fixture import StoreServer, row
from tests.waiting import until
from workers import embedded_config
from workers.embedded_config import QUESTIONS

SLEEPS = "SELECT sleep(2) AS asked"
RUNNING = "SELECT Settings['log_comment'] FROM system.processes WHERE query LIKE '%AS asked%'"
SECONDS = 15.0


def question(server: StoreServer, sql: str, whose: str = "", **options: str | int) -> httpx.Response:
    return server.post(sql, workload=QUESTIONS, quota_key=whose, **options)


def running(server: StoreServer) -> set[str]:
    return set(server.text(RUNNING + " AND query NOT LIKE '%system.processes%'").splitlines())


def test_the_edge_and_the_store_mean_the_same_workload() -> None:
    assert ask.WORKLOAD == QUESTIONS


def test_questions_hold_up_neither_the_service_nor_each_other(
    store_server: StoreServer, store_table: str
) -> None:
    """Five of one project run three at a time; another project's, an insert and a look-up go at once."""
    with ThreadPoolExecutor(5) as pool:
        asked = [
            pool.submit(question, store_server, SLEEPS, "greedy", query_id=f"greedy-{number}")
            for number in range(5)
        ]
        until(lambda: len(running(store_server)) == 3, SECONDS, "three questions")
        began = time.monotonic()
        assert question(store_server, "SELECT 1", "modest").text == "1\n"
        for number in range(4):
            assert store_server.text("SELECT 2") == "2"
            store_server.insert(f"INSERT INTO {store_table} FORMAT RowBinary", row(number, b"x"))
        assert len(running(store_server)) <= 3
        assert not all(one.done() for one in asked), "it waited for the questions"
        assert time.monotonic() - began < SECONDS
        # Who waits longer than may be waited is told so; whoever had a turn has its answer.
        codes = [one.result().headers.get("X-ClickHouse-Exception-Code", "0") for one in asked]
        assert set(codes) <= {"0", "202"}
        assert codes.count("0") >= 3


def test_a_third_asks_at_once_while_two_ask_as_much_as_they_may(store_server: StoreServer) -> None:
    """One place is kept for who has none: it waits for no end of theirs."""
    lasting = "SELECT sleepEachRow(2) AS asked FROM numbers(15) SETTINGS max_block_size = 1, max_threads = 1"
    ask_ = partial(question, store_server, lasting, max_execution_time=60)
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(ask_, "first", query_id="first-0")]
        until(lambda: running(store_server) == {"first-0"}, SECONDS, "the first project's")
        asked.append(pool.submit(ask_, "second", query_id="second-0"))
        until(lambda: running(store_server) == {"first-0", "second-0"}, SECONDS, "both projects'")
        for number in range(1, 5):
            asked += [pool.submit(ask_, who, query_id=f"{who}-{number}") for who in ("first", "second")]
        until(lambda: len(running(store_server)) == 3, SECONDS, "as many as they may have")
        before = running(store_server)
        try:
            for _ in range(3):
                assert question(store_server, "SELECT 1", "third").text == "1\n"
            assert running(store_server) == before
        finally:  # until none is left: whoever waits comes in turn
            until(lambda: _end(store_server) and all(one.done() for one in asked), 30.0, "their end")


def _end(server: StoreServer) -> bool:
    """End the questions that run."""
    server.text("KILL QUERY WHERE query LIKE '%AS asked%' AND query NOT LIKE 'KILL%' FORMAT Null")
    return True


def test_a_question_of_any_bytes_ends_when_its_client_leaves(store_server: StoreServer) -> None:
    """Killing it tells its text, and keys of values in ours begin with a byte that UTF-8 has not."""
    log = store_server.path.with_suffix(".log")
    began = len(log.read_bytes())
    settings = b"SETTINGS max_block_size = 1"
    sql = rb"SELECT sum(sleepEachRow(0.1)), '\xFF', {p:String} AS asked FROM numbers(80) " + settings
    headers = {"X-ClickHouse-Key": store_server.token}
    options = {"workload": QUESTIONS, "param_p": "x"}
    with httpx.Client(verify=plain_http.NOBODY, timeout=1.5) as client, pytest.raises(httpx.ReadTimeout):
        client.post(store_server.url, params=options, content=sql, headers=headers)
    until(lambda: not running(store_server), 4.0, "its end")
    assert b"Traceback" not in log.read_bytes()[began:]


def test_a_question_that_waits_is_forgotten_when_its_client_leaves(store_server: StoreServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(question, store_server, SLEEPS, "patient", query_id=f"patient-{number}")
            for number in range(3)
        ]
        until(lambda: len(running(store_server)) == 3, SECONDS, "three questions")
        with httpx.Client(verify=plain_http.NOBODY, timeout=0.3) as client:
            headers = {"X-ClickHouse-Key": store_server.token}
            options = {"workload": QUESTIONS, "quota_key": "patient", "query_id": "left"}
            try:
                client.post(store_server.url, params=options, content=SLEEPS, headers=headers)
            except httpx.ReadTimeout:
                pass
            else:
                raise AssertionError("it did not wait")
        # Its id is free again: it is neither running nor waiting.
        until(
            lambda: question(store_server, "SELECT 1", "other", query_id="left").text == "1\n",
            2.0,
            "the id of the one who left",
        )
        assert [one.result().status_code for one in asked] == [200] * 3


def test_all_questions_together_leave_memory_for_the_rest(
    store_server: StoreServer, store_table: str
) -> None:
    """The largest is ended; what inserts need is not theirs to take."""
    most = embedded_config.Limits().question_memory_bytes
    hungry = "SELECT uniqExact(number) AS asked FROM numbers(12000000)"
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(question, store_server, hungry, f"hungry-{number}", max_memory_usage=2**40)
            for number in range(4)
        ]
        while not all(one.done() for one in asked):
            store_server.insert(
                f"INSERT INTO {store_table} FORMAT RowBinary", row(1, b"x")
            ).raise_for_status()
        codes = [one.result().headers.get("X-ClickHouse-Exception-Code", "0") for one in asked]
    assert set(codes) <= {"0", "241", "776", "777"}, [one.result().text for one in asked]
    assert codes != ["0"] * 4
    too_much = question(store_server, f"SELECT length(repeat('x', {most}))", max_memory_usage=2**40)
    assert too_much.headers["X-ClickHouse-Exception-Code"] == "241"
