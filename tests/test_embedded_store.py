"""The embedded store's queries, through its HTTP interface: a real process, a real engine."""

from __future__ import annotations

import socket
import sys
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import plain_http
from tests.store_fixture import StoreServer
from tests.waiting import until

HOSTILE = "x'; DROP TABLE t; -- \\ \" ` \N{SNOWMAN} \N{PILE OF POO} {a:String} \r"


class TestAuthentication:
    def test_ping_needs_none(self, store_server: StoreServer) -> None:
        for path in ("/ping", "/replicas_status"):
            response = plain_http.get(store_server.url + path)
            assert (response.status_code, response.text) == (200, "Ok.\n")

    def test_three_ways_in(self, store_server: StoreServer) -> None:
        token, query = store_server.token, {"query": "SELECT 7"}
        headers = {"X-ClickHouse-User": "default", "X-ClickHouse-Key": token}
        assert plain_http.get(store_server.url, params=query, headers=headers).text == "7\n"
        assert plain_http.get(store_server.url, params=query, auth=("default", token)).text == "7\n"
        params = {**query, "user": "default", "password": token}
        assert plain_http.get(store_server.url, params=params).text == "7\n"

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X-ClickHouse-Key": "wrong"},
            {"X-ClickHouse-Key": "test-token", "X-ClickHouse-User": "someone"},
            {"Authorization": "Basic !!!"},
            {"Authorization": "Basic ZGVmYXVsdDo="},
        ],
    )
    def test_wrong_is_403_with_code_516(self, store_server: StoreServer, headers: dict[str, str]) -> None:
        response = plain_http.post(store_server.url, content="SELECT 1", headers=headers)
        assert response.status_code == 403
        assert response.headers["X-ClickHouse-Exception-Code"] == "516"
        assert response.text.startswith("Code: 516. DB::Exception: ")
        assert store_server.token not in response.text


class TestQueries:
    def test_parameters_are_values_whatever_they_say(
        self, store_server: StoreServer, store_table: str
    ) -> None:
        escaped = HOSTILE.replace("\\", "\\\\").replace("\r", "\\r")
        response = store_server.post(
            "SELECT {a:String}, {n:Nullable(String)}, {u:UInt64}, {l:Array(String)}, count()"
            " FROM {t:Identifier}",
            param_a=escaped,
            param_n="\\N",
            param_u=2**64 - 1,
            param_l="['\N{SNOWMAN}','it\\'s']",
            param_t="t",
            database=store_table.removesuffix(".t"),
            default_format="JSONCompact",
            output_format_json_quote_64bit_integers=0,
        )
        assert response.status_code == 200, response.text
        assert response.json()["data"] == [[HOSTILE, None, 2**64 - 1, ["\N{SNOWMAN}", "it's"], 0]]
        assert store_server.text(f"EXISTS TABLE {store_table}") == "1"

    def test_a_setting_cannot_carry_a_statement(self, store_server: StoreServer, store_table: str) -> None:
        response = store_server.post("SELECT getSetting('log_comment')", query_id="x'; DROP TABLE t; --")
        assert response.text == "x\\'; DROP TABLE t; --\n"
        response = store_server.post("SELECT 1", **{"max_threads = 1; DROP TABLE t; --": "1"})
        assert (response.status_code, response.headers["X-ClickHouse-Exception-Code"]) == (404, "115")
        assert (
            store_server.post(f"SELECT 1; DROP TABLE {store_table}").headers["X-ClickHouse-Exception-Code"]
            == "62"
        )
        assert store_server.text(f"EXISTS TABLE {store_table}") == "1"

    def test_a_format_clause_wins_over_the_default(self, store_server: StoreServer) -> None:
        def answer(sql: str, **options: str) -> tuple[str, str]:
            response = store_server.post(sql, **options)
            assert response.status_code == 200, response.text
            return response.headers["X-ClickHouse-Format"], response.text

        assert answer("SELECT 1 AS x") == ("TabSeparated", "1\n")
        assert answer("SELECT 1 AS x", default_format="JSONEachRow") == ("JSONEachRow", '{"x":1}\n')
        assert answer("SELECT 1 AS x FORMAT CSVWithNames -- end", default_format="JSON") == (
            "CSVWithNames",
            '"x"\n1\n',
        )
        assert answer("SELECT 'FORMAT JSON' AS format FORMAT TSV SETTINGS max_threads=1;") == (
            "TSV",
            "FORMAT JSON\n",
        )

    def test_headers_say_what_was_answered(self, store_server: StoreServer) -> None:
        headers = store_server.post("SELECT 1 FORMAT JSON", query_id="an-id").headers
        assert headers["X-ClickHouse-Query-Id"] == "an-id"
        assert headers["X-ClickHouse-Timezone"] == "UTC"
        assert headers["X-ClickHouse-Server-Display-Name"] == "eventbunker"
        assert headers["Content-Type"] == "application/json; charset=UTF-8"
        assert '"read_rows":"1"' in headers["X-ClickHouse-Summary"]

    @pytest.mark.parametrize(
        ("sql", "code", "status"),
        [
            ("SELEKT 1", 62, 400),
            ("", 62, 400),
            ("SELECT toDate('x')", 38, 400),
            ("SELECT 'a' + 1", 43, 500),
            ("SELECT * FROM system.nowhere", 60, 404),
            ("SELECT * FROM no_db.t", 81, 404),
            ("SELECT nope", 47, 404),
            ("SELECT nope()", 46, 404),
            ("SELECT 1 FORMAT Nope", 73, 404),
            ("SELECT 1 SETTINGS nope = 1", 115, 404),
            ("SELECT throwIf(1)", 395, 500),
            ("SELECT sleep(0.5) SETTINGS max_execution_time = 0.1", 159, 408),
            ("SELECT groupArray(number) FROM numbers(1e8) SETTINGS max_memory_usage = 10000000", 241, 500),
            ("SELECT 1 SETTINGS max_execution_time = 0", 452, 500),
            ("SELECT number FROM numbers(1e6) SETTINGS max_result_bytes = 1000", 396, 500),
        ],
    )
    def test_errors_have_the_servers_code_and_status(
        self, store_server: StoreServer, sql: str, code: int, status: int
    ) -> None:
        response = store_server.post(sql)
        assert response.headers["X-ClickHouse-Exception-Code"] == str(code), response.text
        assert response.status_code == status
        assert response.text.startswith(f"Code: {code}. DB::Exception: ")

    def test_an_error_may_quote_bytes_that_are_no_text(self, store_server: StoreServer) -> None:
        response = store_server.post(b"SELECT nope('\xff')")
        code = response.headers["X-ClickHouse-Exception-Code"]
        assert response.text.startswith(f"Code: {code}. DB::Exception: ")
        if code == "1001" and sys.version_info < (3, 11, 7):
            return  # an older Python loses such a message, and the code with it
        assert (code, response.status_code) == ("46", 404)
        assert "nope('\ufffd')" in response.text

    def test_a_get_reads_only(self, store_server: StoreServer, store_database: str) -> None:
        key = {"X-ClickHouse-Key": store_server.token}
        query = {"query": f"CREATE TABLE {store_database}.x (a Int8) ENGINE = Memory", "readonly": "0"}
        response = plain_http.get(store_server.url, params=query, headers=key)
        assert response.headers["X-ClickHouse-Exception-Code"] == "164"

    def test_nothing_leaks_into_the_next_request(self, store_server: StoreServer, store_table: str) -> None:
        database = store_table.split(".", maxsplit=1)[0]
        probe = "SELECT currentDatabase(), getSetting('max_threads')"
        before = store_server.text(probe)
        store_server.text("SELECT {p:String}", param_p="1", max_threads=1, database=database)
        store_server.text(f"USE {database}")
        store_server.text("SET max_threads = 1")
        store_server.text("CREATE TEMPORARY TABLE leak (a Int8)")
        assert [store_server.text(probe) for _ in range(8)] == [before] * 8
        assert store_server.post("SELECT {p:String}").headers["X-ClickHouse-Exception-Code"] == "456"
        assert (
            store_server.post("SELECT * FROM leak", database=database).headers["X-ClickHouse-Exception-Code"]
            == "60"
        )

    def test_queries_run_in_parallel(self, store_server: StoreServer) -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: store_server.text("SELECT sleep(1)"), range(4))) == ["0"] * 4
        assert time.monotonic() - began < 3.0

    def test_a_query_may_fill_most_of_the_url(self, store_server: StoreServer) -> None:
        query = urllib.parse.urlencode(
            {"query": f"SELECT length('{'x' * 900_000}')", "max_query_size": 2_000_000}
        )
        request = urllib.request.Request(
            f"{store_server.url}/?{query}", headers={"X-ClickHouse-Key": store_server.token}
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.read() == b"900000\n"

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM file('/etc/passwd', 'LineAsString')",
            "SELECT file('/etc/passwd')",
            "SELECT * FROM python(os)",
            "SELECT * FROM `Python`(__builtins__)",
            "SELECT `file`('/etc/passwd')",
            "SELECT `fil\\x65`('/etc/passwd')",
            "SELECT * APPLY(file) FROM values('a String', '/etc/passwd')",
            "SELECT arrayMap(file, ['/etc/passwd'])",
            "SELECT arrayMap((file), ['/etc/passwd'])",
            "SELECT arrayMap(file AS f, ['/etc/passwd'])",
            "SELECT arrayMap({f:Identifier}, ['/etc/passwd'])",
            "SELECT \u201cfile\u201d('/etc/passwd')",
            "SELECT 1 AS a$x$, file('/etc/passwd') AS b$x$",
            "SELECT 1 $ '$, ' , file('/etc/passwd') AS `'`",
            "SELECT 1 /* /* */ ' */, file('/etc/passwd') --'",
            "SELECT 1 /* /* */ ' */; SELECT 2 --'",
            "SELECT 1 /* /* */ ' */ INTO OUTFILE '/tmp/eventbunker-test' --'",
            "SELECT 1 INTO OUTFILE '/tmp/eventbunker-test'",
            "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT LineAsString",
            "SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
            "SELECT * FROM remote('127.0.0.1', 'system.one')",
            "CREATE TABLE default.f (a String) ENGINE = File(CSV)",
            "CREATE USER somebody",
            "SYSTEM SHUTDOWN",
        ],
    )
    def test_nothing_reaches_beyond_the_directory(self, store_server: StoreServer, sql: str) -> None:
        response = store_server.post(sql, param_f="file")
        assert response.status_code == 403, response.text
        assert response.headers["X-ClickHouse-Exception-Code"] == "497"

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT '$a$ \u201cfile\u201d(', `/* /* `, 1 -- /* /* $" + "\n FROM (SELECT 1 AS `/* /* `)",
            "SELECT $x$ it's; file('y') $x$ /* once */, 1 /* and again */, 2",
            "SELECT file FROM (SELECT 1 AS file)",
        ],
    )
    def test_what_only_looks_like_it_is_served(self, store_server: StoreServer, sql: str) -> None:
        response = store_server.post(sql)
        assert response.status_code == 200, response.text


def test_a_query_ends_when_its_client_goes_away(store_server: StoreServer) -> None:
    request = (
        "POST /?query_id=gone HTTP/1.1\r\nHost: x\r\nX-ClickHouse-Key: {}\r\nContent-Length: {}\r\n\r\n{}"
    )
    sql = "SELECT sleepEachRow(0.1) FROM numbers(400) SETTINGS max_block_size = 1"
    running = "SELECT count() FROM system.processes WHERE Settings['log_comment'] = 'gone'"
    with socket.create_connection(("127.0.0.1", store_server.port)) as client:
        client.sendall(request.format(store_server.token, len(sql), sql).encode())
        until(lambda: store_server.text(running) == "1", 5.0, "the query in system.processes")
    until(lambda: store_server.text(running) == "0", 3.0, "the end of the query")
