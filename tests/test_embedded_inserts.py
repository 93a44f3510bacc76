"""The embedded store's inserts: any bytes, whole or not at all, and the truth about it."""

from __future__ import annotations

import gzip
import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests import plain_http
from tests.store_fixture import StoreServer, row
from tests.waiting import until
from workers.embedded_statement import parse

SLOW = {"function_sleep_max_microseconds_per_block": 100_000_000, "max_block_size": 1}


@pytest.fixture
def slow_table(store_server: StoreServer, store_database: str) -> str:
    """A table into which each row takes 0.3 s to insert, all in one block."""
    name = f"{store_database}.slow"
    store_server.text(
        f"CREATE TABLE {name} (a UInt64, b UInt8 MATERIALIZED sleepEachRow(0.3)) ENGINE = MergeTree ORDER BY a"
    )
    return name


class TestInserts:
    def test_any_bytes_survive(self, store_server: StoreServer, store_table: str) -> None:
        contents = [bytes([i]) * 3 + b"\n\r\0';\\\t\xff" + os.urandom(50) for i in range(256)]
        block = b"".join(row(i, content) for i, content in enumerate(contents))
        response = store_server.insert(f"INSERT INTO {store_table} (a, b) FORMAT RowBinary", block)
        assert response.status_code == 200, response.text
        stored = store_server.text(f"SELECT hex(b) FROM {store_table} ORDER BY a").splitlines()
        assert stored == [content.hex().upper() for content in contents]

    def test_the_data_may_follow_in_the_same_body(self, store_server: StoreServer, store_table: str) -> None:
        for sql in (
            b"INSERT INTO %s VALUES (1, 'a\nb'), (2, ';')",
            b'INSERT INTO %s FORMAT JSONEachRow\n{"a": 3, "b": "x"}\n{"a":\n4}',
            b'INSERT /* VALUES */ INTO %s (b, a) SETTINGS max_threads = 1 FORMAT CSV\n"y",5',
            b"INSERT INTO %s FORMAT RowBinary\n" + row(6, b"\n"),
            b"INSERT INTO %s SELECT 7, 'z'",
        ):
            assert store_server.post(sql.replace(b"%s", store_table.encode())).text == ""
        expected = "1\ta\\nb\n2\t;\n3\tx\n4\t\n5\ty\n6\t\\n\n7\tz"
        assert store_server.text(f"SELECT * FROM {store_table} ORDER BY a") == expected

    def test_a_block_is_one_part(self, store_server: StoreServer, store_table: str) -> None:
        block = b"".join(row(i, b"x" * 100) for i in range(100_000))
        assert store_server.insert(f"INSERT INTO {store_table} FORMAT RowBinary", block).status_code == 200
        parts = f"SELECT max(rows) FROM system.parts WHERE database || '.t' = '{store_table}' AND level = 0"
        assert store_server.text(parts) == "100000"

    def test_a_token_is_inserted_once(self, store_server: StoreServer, store_table: str) -> None:
        for token, content in (("one", b"first"), ("one", b"other"), ("two", b"third")):
            response = store_server.insert(
                f"INSERT INTO {store_table} FORMAT RowBinary",
                row(1, content),
                insert_deduplication_token=token,
                async_insert=0,
            )
            assert response.status_code == 200, response.text
        assert store_server.text(f"SELECT b FROM {store_table} ORDER BY b") == "first\nthird"

    def test_bad_data_is_refused_whole(self, store_server: StoreServer, store_table: str) -> None:
        response = store_server.insert(f"INSERT INTO {store_table} FORMAT RowBinary", row(1, b"x") + b"123")
        assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (500, "33")
        assert store_server.text(f"SELECT count() FROM {store_table}") == "0"

    @pytest.mark.parametrize(
        ("encoding", "module"), [("gzip", "gzip"), ("zstd", "backports.zstd"), ("lz4", "lz4.frame")]
    )
    def test_compressed_bodies(
        self, store_server: StoreServer, store_table: str, encoding: str, module: str
    ) -> None:
        compress = pytest.importorskip(module).compress
        headers = {"X-ClickHouse-Key": store_server.token, "Content-Encoding": encoding}
        body = compress(f"INSERT INTO {store_table} FORMAT RowBinary\n".encode() + row(1, b"\n\0"))
        response = plain_http.post(store_server.url, content=body, headers=headers)
        assert response.status_code == 200, response.text
        assert store_server.text(f"SELECT hex(b) FROM {store_table}") == "0A00"

    @pytest.mark.parametrize("megabytes", [65, 300])
    def test_what_inflates_too_far_is_refused(self, store_server: StoreServer, megabytes: int) -> None:
        bomb = gzip.compress(bytes(megabytes * 1024 * 1024), compresslevel=1)
        headers = {"X-ClickHouse-Key": store_server.token, "Content-Encoding": "gzip"}
        response = plain_http.post(store_server.url, content=bomb, headers=headers, timeout=30.0)
        assert response.headers["X-ClickHouse-Exception-Code"] in ("229", "241", "396")

    def test_an_insert_that_fails_after_parsing_says_so(
        self, store_server: StoreServer, slow_table: str, store_database: str
    ) -> None:
        block = struct.pack("<4Q", *range(4))
        response = store_server.insert(
            f"INSERT INTO {slow_table} FORMAT RowBinary", block, **SLOW, max_execution_time="0.2"
        )
        assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (408, "159")
        store_server.text(
            f"CREATE TABLE {store_database}.c (a UInt64, b UInt8 MATERIALIZED throwIf(a = 3))"
            " ENGINE = MergeTree ORDER BY a"
        )
        response = store_server.insert(f"INSERT INTO {store_database}.c FORMAT RowBinary", block)
        assert response.headers["X-ClickHouse-Exception-Code"] == "395"
        assert store_server.text(f"SELECT count() FROM {store_database}.c") == "0"

    def test_a_running_insert_is_seen_and_ended_by_its_id(
        self, store_server: StoreServer, slow_table: str
    ) -> None:
        condition = "query_id = {id:String} OR Settings['log_comment'] = {id:String}"
        ask = f"SELECT count() FROM system.processes WHERE {condition}"
        insert = f"INSERT INTO {slow_table} FORMAT RowBinary"
        answers: list[httpx.Response] = []

        def run() -> None:
            answers.append(
                store_server.insert(insert, struct.pack("<6Q", *range(6)), query_id="zombie", **SLOW)
            )

        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: store_server.text(ask, param_id="zombie") == "1", 5.0, "the insert in system.processes")
        again = store_server.insert(insert, b"", query_id="zombie")
        assert (again.status_code, again.headers["X-ClickHouse-Exception-Code"]) == (500, "216")
        store_server.text(f"KILL QUERY WHERE {condition} SYNC", param_id="zombie")
        assert store_server.text(ask, param_id="zombie") == "0"
        thread.join(10.0)
        assert answers[0].headers["X-ClickHouse-Exception-Code"] == "394"
        assert store_server.text(f"SELECT count() FROM {slow_table}") == "0"

    def test_an_insert_does_not_wait_behind_queries(
        self, store_server: StoreServer, store_table: str
    ) -> None:
        with ThreadPoolExecutor(8) as pool:
            queries = [pool.submit(store_server.text, "SELECT sleep(3)") for _ in range(8)]
            running = "SELECT count() >= 6 FROM system.processes WHERE query LIKE 'SELECT sleep(3)%'"
            until(lambda: store_server.text(running) == "1", 5.0, "a full lane of queries")
            store_server.insert(f"INSERT INTO {store_table} FORMAT RowBinary", row(1, b"x"))
            assert not any(query.done() for query in queries), "it waited for a query"
            assert [query.result() for query in queries] == ["0"] * 8


@pytest.mark.parametrize(
    ("sql", "text", "format_name", "data"),
    [
        (b"INSERT INTO t FORMAT X\nab", b"INSERT INTO t ", "X", b"ab"),
        (b"INSERT INTO t FORMAT X \r\n\nab", b"INSERT INTO t ", "X", b"\nab"),
        (b"INSERT INTO t FORMAT X ab\n", b"INSERT INTO t ", "X", b"ab\n"),
        (b"insert into t (format, b) values (1)", b"insert into t (format, b) ", "Values", b" (1)"),
        (b"INSERT INTO `VALUES` -- FORMAT A\n FORMAT B", b"INSERT INTO `VALUES` -- FORMAT A\n ", "B", b""),
        (b"INSERT INTO t (a);", b"INSERT INTO t (a)", "Values", b""),
        (b"INSERT INTO t SELECT 1 FORMAT Null", b"INSERT INTO t SELECT 1 FORMAT Null", "Null", None),
        (b"SELECT '\\' FORMAT A' FORMAT B", b"SELECT '\\' FORMAT A' FORMAT B", "B", None),
        (b"SELECT format FROM t", b"SELECT format FROM t", None, None),
        (b"SELECT $x$ FORMAT A $x$", b"SELECT $x$ FORMAT A $x$", None, None),
    ],
)
def test_where_the_data_of_an_insert_begins(
    sql: bytes, text: bytes, format_name: str | None, data: bytes | None
) -> None:
    statement = parse(sql)
    assert (statement.text + statement.settings, statement.format, statement.data) == (
        text,
        format_name,
        data,
    )
