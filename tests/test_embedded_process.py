"""The embedded store's process: clients, kill -9, signals, bounds."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests import plain_http
from tests.store_fixture import DURABLE, ROOT, StoreServer, free_port, row, start_store
from tests.waiting import until

SLOW = {"function_sleep_max_microseconds_per_block": 100_000_000, "max_block_size": 1}


class TestClients:
    def test_clickhouse_connect(self, store_server: StoreServer, store_database: str) -> None:
        import clickhouse_connect

        client = clickhouse_connect.get_client(
            host="127.0.0.1", port=store_server.port, password=store_server.token, database=store_database
        )
        try:
            client.command(
                "CREATE TABLE c (a UInt64, b Nullable(String), t DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY a"
            )
            import datetime

            moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678000)
            data = [[i, None if i % 2 else f"\N{SNOWMAN}'{i}\n", moment] for i in range(1000)]
            summary = client.insert("c", data, column_names=["a", "b", "t"])
            assert summary.written_rows == 1000
            result = client.query(
                "SELECT a, b, t FROM c WHERE a >= {low:UInt64} AND b = {b:String}",
                parameters={"low": 2, "b": "\N{SNOWMAN}'4\n"},
            )
            assert result.result_rows == [(4, "\N{SNOWMAN}'4\n", moment)]
            assert client.command("SELECT count() FROM c") == 1000
            with client.query_rows_stream("SELECT number FROM numbers(200000)") as stream:
                assert sum(number for (number,) in stream) == sum(range(200000))
            with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError, match="UNKNOWN_TABLE"):
                client.query("SELECT * FROM missing")
        finally:
            client.close()

    def test_curl(self, store_server: StoreServer, store_table: str) -> None:
        def curl(*arguments: str) -> str:
            return subprocess.run(
                ["curl", "-sS", "--user", f"default:{store_server.token}", *arguments],
                check=True,
                capture_output=True,
                text=True,
                timeout=20,
            ).stdout

        assert curl(f"{store_server.url}/?query=SELECT%201%2B1") == "2\n"
        assert curl(f"{store_server.url}/?param_x=it%27s", "--data-binary", "SELECT {x:String}") == "it\\'s\n"
        insert = f"INSERT%20INTO%20{store_table}%20FORMAT%20CSV"
        assert curl(f"{store_server.url}/?query={insert}", "--data-binary", "1,one\n2,two\n") == ""
        assert (
            curl(
                store_server.url,
                "--data-binary",
                f"SELECT sum(a) FROM {store_table} FORMAT JSONCompactEachRow",
            )
            == "[3]\n"
        )


class TestProcess:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "data"

    @pytest.fixture
    def own(self, path: Path) -> Iterator[Callable[..., StoreServer]]:
        servers: list[StoreServer] = []

        def start(*arguments: str) -> StoreServer:
            servers.append(start_store(path, *arguments))
            return servers[-1]

        yield start
        for server in servers:
            server.process.kill()
            server.process.wait(10)

    def refused(self, path: Path, token: str | None) -> tuple[int, str]:
        environment = {key: value for key, value in os.environ.items() if key != "CLICKHOUSE_PASSWORD"}
        ended = subprocess.run(
            [sys.executable, "-m", "workers.embedded_store", "--port", str(free_port()), "--path", str(path)],
            cwd=ROOT,
            env=environment | ({"CLICKHOUSE_PASSWORD": token} if token else {}),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    def test_no_token_no_store(self, path: Path) -> None:
        code, text = self.refused(path, None)
        assert code == 2
        assert "CLICKHOUSE_PASSWORD" in text

    def test_a_directory_has_one_process(self, own: Callable[..., StoreServer]) -> None:
        server = own()
        code, text = self.refused(server.path, "another-token")
        assert code == 75
        assert "Another server instance in same directory is already running" in text
        assert "another-token" not in text
        assert server.text("SELECT 1") == "1"

    def test_what_was_acknowledged_survives_kill_9(self, own: Callable[..., StoreServer]) -> None:
        server = own()
        server.text("CREATE DATABASE d")
        server.text(f"CREATE TABLE d.t (a UInt64, b String) ENGINE = MergeTree ORDER BY a SETTINGS {DURABLE}")
        acknowledged: list[int] = []

        def insert(worker: int) -> None:
            for number in range(worker, 10_000, 3):
                block = b"".join(row(number, bytes([i])) for i in range(100))
                try:
                    response = server.insert("INSERT INTO d.t FORMAT RowBinary", block, async_insert=0)
                except httpx.TransportError:
                    return
                assert response.status_code == 200, response.text
                acknowledged.append(number)

        threads = [threading.Thread(target=insert, args=(worker,)) for worker in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(acknowledged) > 60, 20.0, "60 inserts")
        server.kill()
        for thread in threads:
            thread.join(20.0)
        restarted = own()
        counts = dict(
            line.split("\t") for line in restarted.text("SELECT a, count() FROM d.t GROUP BY a").splitlines()
        )
        assert set(map(str, acknowledged)) <= set(counts)
        assert set(counts.values()) == {"100"}, "an insert is all or nothing"
        assert len(counts) - len(acknowledged) <= 3, "only what was in flight may be there unacknowledged"

    def test_sigterm_finishes_inserts_and_ends_queries(self, own: Callable[..., StoreServer]) -> None:
        server = own()
        server.text("CREATE DATABASE d")
        server.text(
            "CREATE TABLE d.t (a UInt64, b UInt8 MATERIALIZED sleepEachRow(0.3)) ENGINE = MergeTree ORDER BY a"
        )
        with ThreadPoolExecutor(2) as pool:
            insert = pool.submit(
                server.insert, "INSERT INTO d.t FORMAT RowBinary", struct.pack("<5Q", *range(5)), **SLOW
            )
            query = pool.submit(
                server.post, "SELECT sleepEachRow(0.1) FROM numbers(400) SETTINGS max_block_size = 1"
            )
            running = "SELECT count() FROM system.processes WHERE query NOT LIKE '%system.processes%'"
            until(lambda: server.text(running) == "2", 5.0, "both statements")
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 8.0
            assert insert.result().status_code == 200
            assert query.result().headers["X-ClickHouse-Exception-Code"] == "394"
        assert own().text("SELECT count() FROM d.t") == "5"

    def test_bounds(self, own: Callable[..., StoreServer]) -> None:
        server = own("--limits", '{"queries": 1, "waiting": 1, "max_body_bytes": 100000}')
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: server.post("SELECT sleep(1)"), range(4)))
        codes = sorted(answer.headers.get("X-ClickHouse-Exception-Code", "0") for answer in answers)
        assert codes == ["0", "0", "202", "202"]
        assert {answer.status_code for answer in answers} == {200, 500}
        assert server.post(b" " * 100_001).status_code == 413
        assert server.text(b"SELECT 1" + b" " * 90_000) == "1"

    def test_rows_are_bounded_and_whole(self, own: Callable[..., StoreServer]) -> None:
        """They go into a file as they come: announced or in chunks, too many of them or none."""
        server = own("--limits", '{"max_body_bytes": 100000}')
        server.text("CREATE DATABASE d")
        server.text("CREATE TABLE d.t (x UInt64) ENGINE = MergeTree ORDER BY ()")
        insert = "INSERT INTO d.t FORMAT RowBinary"

        def chunked(size: int) -> httpx.Response:
            pieces = (b"\0" * (size // 4) for _ in range(4))
            headers = {"X-ClickHouse-Key": server.token}
            return plain_http.post(server.url, params={"query": insert}, content=pieces, headers=headers)

        assert server.insert(insert, b"\0" * 100_008).status_code == 413
        assert chunked(100_064).status_code == 413
        assert server.text("SELECT count() FROM d.t") == "0"
        assert server.insert(insert, b"\0" * 80_000).status_code == 200
        assert chunked(64_000).status_code == 200
        assert server.insert(insert, b"").status_code == 200
        assert server.text("SELECT count(), sum(x) FROM d.t") == "18000\t0"

    def test_memory_stays_bounded(self, own: Callable[..., StoreServer]) -> None:
        server = own("--limits", '{"max_memory_bytes": 500000000}')
        heavy = "SELECT count() FROM (SELECT number, toString(number) s FROM numbers(1e8) GROUP BY number, s)"
        with ThreadPoolExecutor(4) as pool:
            codes = {
                a.headers.get("X-ClickHouse-Exception-Code")
                for a in pool.map(lambda _: server.post(heavy), range(4))
            }
        assert codes == {"241"}
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        assert int(peak.split()[1]) * 1024 < 1_300_000_000  # without a limit it takes many gigabytes
        assert server.text("SELECT 1") == "1"
