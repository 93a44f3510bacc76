"""`eventbunker import` as an operator types it: rules, keys, summaries, and what queries then see."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from app import redis_client
from app.stream import Keys
from tests.client import Client, equals, unique
from tests.import_kit import Desk, kill, lines
from tests.pipeline_kit import entries
from tests.registries import registry
from tests.service import COMMAND, FROM_OUTSIDE, ROOT, Service
from tests.waiting import until
from workers.cli import main


@pytest.fixture
def desk(tmp_path: Path, redis_url: str) -> Desk:
    return Desk(tmp_path, redis_url)


def write(desk: Desk, *rows: str, name: str = "a.ndjson") -> str:
    path = desk.directory / name
    path.write_text("".join(f"{row}\n" for row in rows))
    return str(path)


def start_beside(service: Service, write_key: str, *words: str) -> subprocess.Popen[bytes]:
    """The command beside a running `dev`, which it finds by itself."""
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    config = ["-c", str(service.directory / "deploy.toml")]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *config, "import", "--state", str(service.state), *words],
        cwd=ROOT,
        env={**inherited, "EVENTBUNKER_WRITE_KEY": write_key},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_beside(service: Service, write_key: str, *words: str, content: bytes = b"") -> tuple[int, str, str]:
    """The same to its end: exit code, output, errors."""
    process = start_beside(service, write_key, *words)
    out, errors = process.communicate(content, 60)
    return process.returncode, out.decode(), errors.decode()


@pytest.mark.service
def test_with_event_ids_what_was_sent_before_is_one_event(
    service: Service, client: Client, tmp_path: Path
) -> None:
    project = client.new_project()
    rows = [
        {"event_name": "order", "event_id": f"o{n}", "amount": n, "timestamp": "2020-01-02T03:04:05.000Z"}
        for n in range(3000)
    ]
    for row in rows[:5]:
        project.track(**row)
    path = tmp_path / "orders.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, compression="zstd")
    key = project.keys["write_key"]
    code, out, errors = run_beside(service, key, str(path))
    assert (code, "3,000 of 3,000 rows" in out) == (0, True), (out, errors)
    assert "everything is in queries now; 5 were copies" in out
    assert project.count("order") == 3000, "at once: it waited for that"
    code, out, errors = run_beside(
        service, key, "-", "--json", "--format", "parquet", content=path.read_bytes()
    )
    assert (code, json.loads(out)["already_in"]) == (0, 3000), "a pipe holds the same content"
    lines_of_same = "".join(json.dumps(row) + "\n" for row in rows).encode()
    code, out, errors = run_beside(service, key, "-", content=lines_of_same)
    assert (code, "3,000 were copies" in out) == (0, True), "in another format only the ids tell"
    assert project.count("order") == 3000
    assert (
        project.rows(computations=[{"function": "sum", "field_name": "amount"}])[0]["sum_amount"] == 4498500
    )
    assert service.eventbunker("verify", "--state", str(service.state)).returncode == 0


@pytest.mark.service
def test_killed_again_and_again_queries_see_each_row_once(service: Service, client: Client) -> None:
    """Rows without an event_id, through a pipe, drained meanwhile; then the ledger agrees with the store."""
    project = client.new_project()
    key, content = project.keys["write_key"], lines(range(12_000), 400)
    for share in (1, 2, 3):
        before = project.count("e")
        process = start_beside(service, key, "-", "--quiet")
        assert process.stdin is not None
        process.stdin.write(content[: share * len(content) // 4])
        process.stdin.flush()
        until(lambda before=before: project.count("e") > before, 30, "rows in queries")  # type: ignore[misc]
        kill(process)
    code, out, errors = run_beside(service, key, "-", "--json", content=content)
    assert (code, json.loads(out)["accepted"]) == (0, 12_000), errors
    total = project.rows(
        computations=[{"function": "count"}, {"function": "count_distinct", "field_name": "n"}]
    )
    assert (total[0]["count"], total[0]["count_distinct_n"]) == (12_000, 12_000)
    assert service.eventbunker("verify", "--state", str(service.state)).returncode == 0


@pytest.mark.service
def test_a_key_that_is_bound_to_a_customer_binds_what_it_imports(service: Service, client: Client) -> None:
    project = client.new_project()
    bound = project.create_key(key_filter_data={"customer_identifier": "acme"})["api_key"]
    name = unique("e")
    content = f"event_name,customer_identifier,zip\n{name},other,01234\n{name},,8\n".encode()
    code, _, errors = run_beside(service, bound, "-", "--format", "csv", "--text", "zip", content=content)
    assert code == 0, errors
    found = project.events(equals("event_name", name))
    assert {(one["customer_identifier"], one["zip"]) for one in found} == {("acme", "01234"), ("acme", "8")}


def test_bad_rows_are_listed_with_line_and_reason_and_the_others_are_in(desk: Desk) -> None:
    good = '{"event_name":"ok"}'
    path = write(
        desk, good, "{", '{"event_name":"ok","is_bot":true,"x":[1,"a"]}', good, '{"a":"%s"}' % ("x" * 70_000)
    )
    done = desk.run(path)
    assert (done.code, done.said["accepted"], done.said["rejected"], done.said["undated"]) == (1, 2, 3, 2)
    rejects = Path(path + ".rejected.ndjson")
    assert done.said["rejects"] == str(rejects)
    listed = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [one["line"] for one in listed] == [2, 3, 5]
    assert [[problem["path"] for problem in one["errors"]] for one in listed] == [
        ["$"],
        ["$.is_bot", "$.x"],
        ["$"],
    ]
    assert listed[1]["event"] == '{"event_name":"ok","is_bot":true,"x":[1,"a"]}'
    assert "70,008 bytes; at most 65,536" in listed[2]["errors"][0]["message"]
    assert desk.bodies() == {good.encode(): 2}
    again = desk.run(path)
    assert (again.code, again.said["rejected"], again.said["already_in"]) == (1, 3, 5), "it stays said"
    elsewhere = desk.run(path, "--again", "x", "--rejects", str(desk.directory / "r"))
    assert (elsewhere.code, (desk.directory / "r").read_text()) == (1, rejects.read_text())


def test_a_list_of_bad_rows_that_cannot_be_written_ends_it(desk: Desk) -> None:
    """What was refused must not be lost; what was in stays in, and the next run goes on."""
    path = desk.directory / "a.ndjson"
    path.write_bytes(lines(range(5000)) + b"{}\n")
    in_the_way = desk.directory / "a.ndjson.rejected.ndjson"
    in_the_way.mkdir()
    done = desk.run(str(path))
    assert (done.code, "name another file with --rejects" in done.said["reason"]) == (3, True)
    assert done.said["accepted"] == 5000
    in_the_way.rmdir()
    done = desk.run(str(path))
    assert (done.code, done.said["rejected"], sum(desk.bodies().values())) == (1, 1, 5000)


def test_no_entry_of_the_stream_is_larger_than_a_piece_and_an_event(desk: Desk) -> None:
    """The drain takes an entry whole, and Redis keeps it."""
    names = [f"c{at:03}{'x' * 100}" for at in range(100)]
    path = desk.directory / "a.csv"
    path.write_text(f"event_name,{','.join(names)}\n" + f"e{',1' * len(names)}\n" * 300)
    assert desk.run(str(path)).said["accepted"] == 300

    async def sizes() -> list[int]:
        redis = redis_client.connect(desk.settings)
        try:
            return [len(fields[b"r"]) for _, fields in await entries(redis, Keys("events", 0).entries)]
        finally:
            await redis.aclose()

    found = asyncio.run(sizes())
    assert len(found) == 4
    assert max(found) < 1024 * 1024 + desk.settings.limits.max_event_bytes


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    "content", ['{"event_name":"a"}\n{"event_name":"b"}\n', '{"line":5,"event_name":"x"}', "id,name\n", "x"]
)
def test_a_file_with_something_else_in_it_is_not_overwritten(
    desk: Desk, content: str, words: tuple[str, ...]
) -> None:
    path, other = write(desk, '{"event_name":"a"}', "{"), desk.directory / "other"
    other.write_text(content)
    done = desk.run(path, "--rejects", str(other), *words)
    assert (done.code, "is no list of rejected rows" in done.said["reason"]) == (2, True)
    assert (other.read_text(), desk.bodies()) == (content, {})


@pytest.mark.parametrize("end", ["", '{"line":9,"err', "{"])
def test_a_list_of_another_import_is_replaced_also_one_that_broke_off(desk: Desk, end: str) -> None:
    path, other = write(desk, '{"event_name":"a"}', "{"), desk.directory / "other"
    whole = write(desk, "{", "{", '{"event_name":"b"}', name="b.ndjson")
    assert desk.run(whole, "--rejects", str(other)).said["rejected"] == 2
    other.write_text(other.read_text() + end)
    assert desk.run(path, "--rejects", str(other)).said["rejected"] == 1
    assert [json.loads(line)["line"] for line in other.read_text().splitlines()] == [2]


def test_strict_stops_at_the_first_bad_row_and_goes_on_when_it_is_mended(desk: Desk) -> None:
    good = lines(range(6000))
    path = desk.directory / "a.ndjson"
    path.write_bytes(good + b"{}\n")
    done = desk.run(str(path), "--strict")
    assert (done.code, done.said["reason"]) == (3, "line 6001: $.event_name: required field is missing")
    assert sum(desk.bodies().values()) == 5000, "what lies before its piece"
    path.write_bytes(good + b'{"event_name":"mended"}\n')
    assert desk.run(str(path), "--strict").code == 0
    assert sum(desk.bodies().values()) == 6001


def test_a_dry_run_needs_no_redis_and_keeps_nothing(desk: Desk) -> None:
    path = write(desk, '{"event_name":"a","x":{"y":1}}', '{"event_name":"b","z":1}', "{}")
    done = desk.run(path, "--dry-run", environ={"REDIS_URL": "", "WRITE_KEY": ""})
    assert (done.code, done.said["state"]) == (1, "rejected")
    assert (done.said["accepted"], done.said["event_names"], done.said["fields"]) == (2, 2, 2)
    assert not desk.bodies()


def test_the_wrong_format_or_mapping_ends_it_at_once(desk: Desk) -> None:
    done = desk.run(write(desk, *['{"name":"x"}'] * 200))
    assert (done.code, "not one of the first 200 rows is an event" in done.said["reason"]) == (2, True)
    assert "$.event_name: required field is missing" in done.said["reason"]
    assert not desk.bodies()


def test_what_a_file_says_to_the_terminal_is_shown_and_not_obeyed(desk: Desk) -> None:
    path = desk.directory / "a.csv"
    path.write_text("event_name,\x1b[31mred\x9b0m\n")
    process = desk.start(str(path))
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, b"\\x1b[31mred\\x9b0m" in errors) == (2, True)
    assert not {"\x1b", "\x9b"} & set((out + errors).decode())


def test_names_count_against_the_projects_caps(tmp_path: Path, redis_url: str) -> None:
    desk = Desk(tmp_path, redis_url, "[limits]\nmax_event_names = 2\nmax_field_paths = 2\n")
    path = write(
        desk,
        '{"event_name":"a","x":1}',
        '{"event_name":"b","y":1}',
        '{"event_name":"c","x":1}',
        '{"event_name":"a","z":1}',
        '{"event_name":"b","x":1}',
    )
    first = desk.run(write(desk, '{"event_name":"b","y":1}', '{"event_name":"a","x":1}', name="b.ndjson"))
    assert first.code == 0
    done = desk.run(path)
    assert (done.code, done.said["accepted"], done.said["rejected"]) == (1, 3, 2)
    listed = [json.loads(line) for line in Path(path + ".rejected.ndjson").read_text().splitlines()]
    assert [(one["line"], one["errors"][0]["path"]) for one in listed] == [(3, "$.event_name"), (4, "$.z")]
    assert "the project has its maximum of distinct event names" in listed[0]["errors"][0]["message"]


def test_keys(desk: Desk) -> None:
    path = write(desk, '{"event_name":"a"}')
    unknown = desk.run(path, environ={"WRITE_KEY": "eb_w_unknown"})
    assert (unknown.code, "The key is unknown or was revoked" in unknown.said["reason"]) == (2, True)
    assert "eb_w_unknown" not in unknown.out + unknown.errors
    none = desk.run(path, environ={"WRITE_KEY": ""})
    assert (none.code, "set EVENTBUNKER_WRITE_KEY" in none.errors) == (2, True)
    file = desk.directory / "key"
    file.write_text(desk.environ["WRITE_KEY"] + "\n")
    assert desk.run(path, "--write-key-file", str(file), environ={"WRITE_KEY": ""}).code == 0


def test_a_key_that_is_revoked_ends_the_import(desk: Desk) -> None:
    process = desk.start("-", "--no-wait")
    assert process.stdin is not None
    process.stdin.write(lines(range(4000), 1000))
    process.stdin.flush()
    until(lambda: sum(desk.bodies().values()), 20, "rows in the stream")

    async def revoke() -> None:
        async with registry(desk.settings) as opened:
            await opened.accounts.delete_key(desk.project_id, api_key=desk.environ["WRITE_KEY"])

    asyncio.run(revoke())
    _, errors = process.communicate(lines(range(4000, 12_000), 1000), 30)
    assert (process.returncode, b"Invalid x-eventbunker-write-key" in errors) == (2, True), errors


def test_a_terminal_sees_a_bar(desk: Desk) -> None:
    path = desk.directory / "a.ndjson"
    path.write_bytes(lines(range(20_000)))
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    try:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "-c", str(desk.config), "import", str(path), "--no-wait"],
            cwd=ROOT,
            env={**inherited, **desk.environ, "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=60,
            check=False,
        )
        seen = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, seen
    assert "\r[" in seen
    assert "20,000 rows" in seen
    assert "imported  20,000 of 20,000 rows" in done.stdout.decode()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--event-name", "a", "--event-name-from", "b"), "not both"),
        (("--timestamp-unit", "s"), "name the column"),
        (("--rename", "a"), "write OLD=NEW"),
        (("--delimiter", "ab"), "is one character"),
        (("--encoding", "klingon"), "none that Python knows"),
    ],
)
def test_usage(desk: Desk, words: tuple[str, ...], said: str) -> None:
    done = desk.run("absent.csv", *words)
    assert (done.code, said in done.errors) == (2, True)


@pytest.mark.parametrize(
    "words", [("import", "a", "--patience"), ("verify", "--wait"), ("sql", "SELECT 1", "--timeout")]
)
def test_nan_is_no_number_of_seconds(words: tuple[str, ...]) -> None:
    """It is within any bounds, as far as comparisons tell."""
    done = CliRunner().invoke(main, [*words, "nan"])
    assert (done.exit_code, "nan is no number of seconds" in done.stderr) == (2, True)


def test_nothing_to_connect_to_is_said(desk: Desk) -> None:
    path = write(desk, '{"event_name":"a"}')
    none = desk.run(path, environ={"REDIS_URL": ""})
    assert (none.code, "no Redis: set REDIS_URL" in none.said["reason"]) == (2, True)
    away = desk.run(path, environ={"REDIS_URL": f"unix://{desk.directory}/none.sock"})
    assert (away.code, "Redis does not answer; check REDIS_URL" in away.said["reason"]) == (3, True), away
    absent = desk.run("absent.csv")
    assert (absent.code, "cannot be read: No such file" in absent.said["reason"]) == (2, True)


def run_in_shell(desk: Desk, command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`command`, of which `"$@"` is the import of a.ndjson: for streams that only a shell leaves so."""
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    imports = f"import --no-wait {desk.directory}/a.ndjson".split()
    return subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-c", COMMAND, "-c", str(desk.config), *imports],
        cwd=ROOT,
        env={**inherited, **desk.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", ["-", "- --dry-run"])
def test_a_closed_standard_input_is_said(desk: Desk, words: str) -> None:
    command = f'"$1" "$2" "$3" "$4" "$5" import {words} <&-'
    done = run_in_shell(desk, command)
    assert (done.returncode, "standard input is closed" in done.stderr) == (2, True), done
    no_key = run_in_shell(desk, '"$@" <&-', WRITE_KEY="")
    assert (no_key.returncode, "no WRITE key" in no_key.stderr) == (2, True), no_key


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_what_cannot_be_said_changes_no_exit_code(desk: Desk) -> None:
    """Where the disk is full, or who read it has gone, the rows are in all the same."""
    good, bad = lines(range(10)), b'{"event_name":"e","is_bot":true}\n'
    path = desk.directory / "a.ndjson"
    for content, code in ((good, 0), (bad + good, 1)):
        path.write_bytes(content)
        for command in ('"$@" >/dev/full', '"$@" --dry-run >/dev/full', '"$@" --json >/dev/full'):
            done = run_in_shell(desk, command)
            assert done.returncode == code, done
            assert done.stderr.endswith("the summary cannot be written: No space left on device\n"), done
        for streams in (">/dev/full 2>&1", "2>/dev/full"):  # where it is known, which it says
            assert run_in_shell(desk, f'"$@" {streams}').returncode == code
        gone = run_in_shell(desk, '{ "$@"; echo $? >&2; } | true')
        assert gone.stderr.endswith(f"\n{code}\n"), gone
        assert "cannot be written" not in gone.stderr
    assert sum(desk.bodies().values()) == 20
