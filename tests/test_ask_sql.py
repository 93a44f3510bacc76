"""`eventbunker sql` as an operator types it, against the real engine."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.service import COMMAND, FROM_OUTSIDE, ROOT
from tests.store_fixture import StoreServer
from workers.cli import main

# A hostile client's text: a terminal would obey both.
ROWS = "(1, 'a,\"b\"\\n', NULL), (18446744073709551615, '\\x1b[31mred\\xc2\\x9b', 0.5)"


class Operator:
    """A deploy.toml for the test's own database, and the environment that names the store."""

    def __init__(self, directory: Path, server: StoreServer, database: str) -> None:
        self.config = directory / "deploy.toml"
        self.config.write_text(
            f'[dev]\npersist_to = "{directory}/state"\n[[stores]]\nbinding = "W"\ndatabase = "{database}"\n'
        )
        self.environ = {
            "REDIS_URL": "redis://127.0.0.1:1",  # never asked
            "CLICKHOUSE_URL": server.url,
            "CLICKHOUSE_PASSWORD": server.token,
            "DEPLOY_ENV": "",
        }

    def run(self, *words: str, stdin: str | None = None) -> Result:
        command = ["-c", str(self.config), "sql", *words]
        return CliRunner().invoke(main, command, env=self.environ, input=stdin, catch_exceptions=False)

    def on_terminal(self, *words: str, columns: int = 80) -> str:
        """What stands on a terminal of so many columns."""
        ours, theirs = pty.openpty()
        inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
        command = [sys.executable, "-c", COMMAND, "-c", str(self.config), "sql", *words]
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**inherited, **self.environ, "COLUMNS": str(columns), "TERM": "dumb"},
                stdout=theirs,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return os.read(ours, 65_536).decode()
        finally:
            os.close(ours)
            os.close(theirs)


@pytest.fixture
def operator(tmp_path: Path, store_server: StoreServer, store_database: str) -> Operator:
    store_server.text(
        f"CREATE TABLE {store_database}.t (n UInt64, text String, half Nullable(Float64))"
        " ENGINE = MergeTree ORDER BY n"
    )
    store_server.text(f"INSERT INTO {store_database}.t VALUES {ROWS}")
    return Operator(tmp_path, store_server, store_database)


def test_every_format_has_the_same_rows(operator: Operator) -> None:
    statement = "SELECT * FROM t ORDER BY n"
    expected = [
        {"n": 1, "text": 'a,"b"\n', "half": None},
        {"n": 2**64 - 1, "text": "\x1b[31mred\x9b", "half": 0.5},
    ]
    assert json.loads(operator.run(statement).stdout)["data"] == expected
    lines = operator.run(statement, "--format", "ndjson").stdout.split("\n")[:-1]
    assert [json.loads(line) for line in lines] == expected
    table = list(csv.reader(io.StringIO(operator.run(statement, "--format", "csv").stdout, newline="")))
    assert table == [
        ["n", "text", "half"],
        ["1", 'a,"b"\n', "\\N"],
        [str(2**64 - 1), "\x1b[31mred\x9b", "0.5"],
    ]


def test_fields_of_any_type_are_grouped_and_sorted_by(operator: Operator) -> None:
    done = operator.run(
        "SELECT fields.v AS v, count() AS n FROM (SELECT arrayJoin("
        """['{"v": 1}'::JSON, '{"v": "a"}'::JSON, '{"v": 1}'::JSON]) AS fields) GROUP BY v ORDER BY n, v"""
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["data"] == [{"v": "a", "n": 1}, {"v": 1, "n": 2}]


def test_a_terminal_gets_a_table_and_no_orders(operator: Operator) -> None:
    shown = operator.on_terminal("SELECT * FROM t ORDER BY n")
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["n", "text", "half"] in lines
    assert ["1", 'a,"b"\\n', "null"] in lines
    assert [str(2**64 - 1), "\\x1b[31mred\\x9b", "0.5"] in lines
    # The statement's own FORMAT is obeyed, and its text is as harmless.
    assert "\x1b" not in operator.on_terminal("SELECT text FROM t FORMAT TSVRaw")


def test_what_fits_no_terminal_is_shown_as_records(operator: Operator) -> None:
    columns = ", ".join(f"repeat('{number}', 30) AS column_{number}" for number in range(9))
    lines = operator.on_terminal(f"SELECT {columns}", columns=80).splitlines()
    assert lines[0].startswith("-- 1 ")
    assert [line.split() for line in lines[1:]] == [[f"column_{n}", str(n) * 30] for n in range(9)]


@pytest.mark.parametrize("given", ["argument", "-", "nothing", "@file"])
def test_the_statement_comes_from_anywhere(operator: Operator, tmp_path: Path, given: str) -> None:
    statement = "/* how many */\nSELECT count() AS rows FROM t;\n"
    (tmp_path / "statement.sql").write_text(statement)
    words = {"argument": [statement], "-": ["-"], "nothing": [], "@file": [f"@{tmp_path}/statement.sql"]}
    done = operator.run(*words[given], "--format", "ndjson", stdin=statement)
    assert (done.exit_code, done.stdout) == (0, '{"rows":2}\n')


WRITES = [
    "INSERT INTO t VALUES (3, '', 0)",
    "INSERT INTO t SELECT number, '', 0 FROM numbers(3)",
    "WITH 3 AS x INSERT INTO t SELECT x, '', 0",
    "ALTER TABLE t DELETE WHERE 1",
    "DELETE FROM t WHERE 1",
    "TRUNCATE TABLE t",
    "DROP TABLE t",
    "CREATE TABLE u (n Int8) ENGINE = Memory",
    "OPTIMIZE TABLE t FINAL",
    "KILL QUERY WHERE 1",
    "SYSTEM STOP MERGES",
    "/* SELECT */ (DROP TABLE t)",
    "/* /* */ SELECT */ KILL QUERY WHERE 1",
    "SELECT 1 /* /* */ ' */; KILL QUERY WHERE 1 --'",
    "SELECT 1; DROP TABLE t",
    "SET readonly = 0",
    "SELECT * FROM t SETTINGS readonly = 0",
    "",
]


def test_it_only_reads(operator: Operator) -> None:
    for statement in WRITES:
        done = operator.run(statement, stdin="")
        assert (done.exit_code, done.stdout) == (1, ""), statement
        assert any(
            word in done.stderr for word in ("only reads", "more than one", "no statement", "could hide")
        ), done.stderr
    assert operator.run("SELECT count() AS c FROM t", "--format", "ndjson").stdout == '{"c":2}\n'


@pytest.mark.parametrize("numbers", ["SELECT range(9000000)", "SELECT number * 1e9 FROM numbers(9000000)"])
def test_an_answer_has_a_bound_whatever_it_is_made_of(operator: Operator, numbers: str) -> None:
    done = operator.run(numbers, "--format", "ndjson")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "more than 67,108,864 bytes: add a LIMIT" in done.stderr


def test_what_reads_in_other_words_is_let_through(operator: Operator) -> None:
    for statement in (
        "EXPLAIN SELECT 1",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "SHOW TABLES",
        "FROM t SELECT n",
    ):
        assert operator.run(statement).exit_code == 0, statement


def test_values_are_parameters(operator: Operator) -> None:
    statement = "SELECT n FROM t WHERE text = {text:String} AND n IN {ns:Array(UInt64)}"
    values = ["-p", 'text=a,"b"\n', "-p", "ns=[1,2]"]
    assert operator.run(statement, "--format", "ndjson", *values).stdout == '{"n":1}\n'
    missing = operator.run(statement, "-p", "text=a")
    assert (missing.exit_code, "ns" in missing.stderr) == (1, True)
    assert "NAME=VALUE" in operator.run(statement, "-p", "text").stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("SELECT nothing FROM t",), 1, "nothing"),
        (("SELECT sleep(3)", "--timeout", "0.5"), 1, "TIMEOUT_EXCEEDED"),
        (("SELECT repeat(toString(number), 500000) FROM numbers(100)",), 1, "LIMIT"),
        (("@/nowhere/at/all",), 2, "cannot be read"),
    ],
)
def test_errors_say_what_to_change(operator: Operator, words: tuple[str, ...], code: int, said: str) -> None:
    done = operator.run(*words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr


def test_a_store_that_is_away_is_another_exit_code(operator: Operator) -> None:
    operator.environ["CLICKHOUSE_URL"] = "http://127.0.0.1:1"
    done = operator.run("SELECT 1")
    assert (done.exit_code, "cannot be asked" in done.stderr) == (2, True)
