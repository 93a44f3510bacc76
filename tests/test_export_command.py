"""`eventbunker export`: the same file as operator and over HTTP, whole or not there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from tests.client import Client
from tests.service import COMMAND, COMMAND_SECONDS, FROM_OUTSIDE, ROOT, Service
from tests.waiting import until
from workers.cli import main
from workers.export_count import counter_of

COUNT = 300


class Operator:
    """Runs the command beside the service, with a project that has events."""

    def __init__(self, service: Service, client: Client, directory: Path) -> None:
        self.url = service.url
        self.client = client.new_project()
        self.directory = directory
        self.config = directory / "deploy.toml"
        self.config.write_text(f'[dev]\npersist_to = "{service.state}"\n')
        events = [{"event_name": "e", "n": n, "text": f'a"{n}"\n', "even": n % 2 == 0} for n in range(COUNT)]
        key = {"x-eventbunker-write-key": self.client.keys["write_key"]}
        assert self.client.http.post("/batch", json=events, headers=key).json()["accepted"] == COUNT
        until(lambda: self.client.count("e") == COUNT, 30, "all events in queries")

    def run(self, *words: str) -> Result:
        command = ["-c", str(self.config), "export", *words]
        clean: dict[str, str | None] = dict.fromkeys((*FROM_OUTSIDE, "EVENTBUNKER_QUERY_KEY"))
        environ = {**clean, "QUERY_KEY": self.client.keys["query_key"]}
        return CliRunner().invoke(main, command, env=environ, catch_exceptions=False)

    def start(self, *words: str, output: int) -> subprocess.CompletedProcess[bytes]:
        """The command as a process of its own, to its end."""
        environ = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
        return subprocess.run(
            [sys.executable, "-c", COMMAND, "-c", str(self.config), "export", *words],
            cwd=ROOT,
            env={**environ, "QUERY_KEY": self.client.keys["query_key"]},
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    @property
    def own(self) -> list[str]:
        return ["--project", self.client.keys["project_id"]]

    @property
    def edge(self) -> list[str]:
        return ["--url", self.url]


@pytest.fixture(scope="module")
def operator(service: Service, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(service, client, tmp_path_factory.mktemp("operator"))


@pytest.mark.service
@pytest.mark.parametrize("name", ["a.ndjson", "a.csv", "a.ndjson.gz", "a.csv.zst", "a.parquet"])
def test_operator_and_key_write_the_same_file(operator: Operator, name: str, tmp_path: Path) -> None:
    own, edge = tmp_path / f"own.{name}", tmp_path / f"edge.{name}"
    for file, words in ((own, operator.own), (edge, operator.edge)):
        done = operator.run("-o", str(file), *words)
        assert done.exit_code == 0, done.stderr
        assert f"{COUNT} events in {file}" in done.stderr
    assert own.read_bytes() == edge.read_bytes()
    assert sorted(tmp_path.iterdir()) == sorted((own, edge))
    if name == "a.parquet":
        assert pyarrow.parquet.read_table(own).num_rows == COUNT
    if name == "a.ndjson":
        assert [json.loads(line)["n"] for line in own.read_text().splitlines()] == list(range(COUNT))


@pytest.mark.service
def test_which_events_is_said_in_words(operator: Operator) -> None:
    def numbers(*words: str) -> list[int]:
        done = operator.run(*operator.own, "--quiet", *words)
        assert (done.exit_code, done.stderr) == (0, ""), done.stderr
        return [json.loads(line)["n"] for line in done.stdout.splitlines()]

    assert numbers("--filter", "n>=297", "--filter", "even=true") == [298]
    assert numbers("--event", "e", "--filter", 'text~^a"29[78]') == [297, 298]
    assert numbers("--filters", '[{"or": [{"field_name": "n", "op": "in", "value": [1, 2]}]}]') == [1, 2]
    assert numbers("--filter", 'n="7"') == []
    assert numbers("--period", "1970-01-01/1971-01-01") == []
    assert len(numbers("--period", "today", "--timezone", "Europe/Berlin")) in (0, COUNT)


@pytest.mark.service
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--filter", "n"], 2, "write FIELD=VALUE"),
        (["--filter", "n==1"], 2, "one = is enough"),
        (["--filter", "event_name>5", "--period", "yesterdy"], 1, "did you mean"),
        (["--compression", "gzip", "--format", "parquet"], 1, "$.compression"),
        (["-o", "no/such/directory/x"], 2, "cannot be written"),
        (["-o", "no/such/directory/x.xlsx"], 2, ".xlsx is no format of ours"),
    ],
)
def test_what_is_wrong_is_said(operator: Operator, words: list[str], code: int, said: str) -> None:
    for whose in (operator.own, operator.edge):
        done = operator.run(*whose, *words)
        assert (done.exit_code, done.stdout) == (code, "")
        assert said in done.stderr


@pytest.mark.service
@pytest.mark.parametrize("who", ["own", "edge"])
def test_who_reads_no_further_has_enough(operator: Operator, who: str, tmp_path: Path) -> None:
    """As `| head` does, which is no word about Redis; of a named pipe nobody knows."""
    words = getattr(operator, who)
    reads, writes = os.pipe()
    os.close(reads)
    done = operator.start(*words, output=writes)
    assert (done.returncode, done.stderr) == (0, b"")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: fifo.open("rb").close(), daemon=True)
    reader.start()
    done = operator.start("-o", str(fifo), *words, output=subprocess.DEVNULL)
    assert (done.returncode, done.stderr.decode()) == (3, f"{fifo} cannot be written: who read it has gone\n")


@contextmanager
def edge_that_breaks_off(head: bytes, body: bytes) -> Iterator[str]:
    """Answers one request, and hangs up in the middle of its last chunk."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                while b"\r\n\r\n" not in connection.recv(65_536):
                    pass
                connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n" + head + b"\r\n")
                connection.sendall(b"%x\r\n%b\r\n" % (len(body), body))

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_what_broke_off_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    with edge_that_breaks_off(b"x-eventbunker-event-count: 2\r\n", b'{"n":1}\n') as url:
        done = CliRunner().invoke(
            main, ["export", "--url", url, "-o", str(file)], env={"QUERY_KEY": "eb_q_x"}
        )
    assert (done.exit_code, "broke off" in done.stderr) == (3, True), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("format_", "pieces", "count"),
    [
        ("ndjson", [b'{"a":1}\n{"a"', b":2}\n"], 2),
        ("csv", [b'"a","b"\r\n"x""', b'\n",1\r\n2,""\r\n'], 2),
        ("csv", [b'"a"\r\n'], 0),
        ("parquet", [b"PAR1...", b"PA", b"R1"], None),
    ],
)
def test_events_are_counted_as_they_pass(format_: str, pieces: list[bytes], count: int | None) -> None:
    counter = counter_of(format_, "none")
    for piece in pieces:
        counter.add(piece)
    assert counter.end() == count
    cut = counter_of(format_, "none")
    cut.add(b"".join(pieces)[:-1])
    with pytest.raises(ValueError, match=r"cut off|missing"):
        cut.end()
