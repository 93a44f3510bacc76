"""`eventbunker tail`: the same events as operator and over HTTP; words for people, JSON for programs."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.client import Client, unique
from tests.service import COMMAND, FROM_OUTSIDE, ROOT, Service
from tests.slow_answer import HEEDS
from tests.waiting import until
from workers import output, table
from workers.cli import main
from workers.tail_show import Show, pretty
from workers.tail_watch import Message, at_edge, messages

SECONDS = 30.0


class Watching:
    """The command, running."""

    def __init__(self, directory: Path, service: Service, key: str, words: tuple[str, ...]) -> None:
        config = directory / "deploy.toml"
        config.write_text(f'[dev]\npersist_to = "{service.state}"\n')
        self._errors = directory / f"stderr{unique('')}"
        inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HEEDS + COMMAND, "-c", str(config), "tail", *words],
                cwd=ROOT,
                env={**inherited, "QUERY_KEY": key},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    @property
    def words(self) -> str:
        return self._errors.read_text()

    def events(self) -> list[dict[str, Any]]:
        """All of them, when it has ended by itself."""
        out, _ = self.process.communicate(timeout=SECONDS)
        assert self.process.returncode == 0, self.words
        return [json.loads(line) for line in out.splitlines()]


@contextmanager
def watching(directory: Path, service: Service, client: Client, *words: str) -> Iterator[Watching]:
    command = Watching(directory, service, client.keys["query_key"], words)
    try:
        until(lambda: "watching" in command.words or command.process.poll() is not None, SECONDS, "a word")
        yield command
    finally:
        command.process.kill()
        command.process.communicate()


@pytest.mark.service
def test_operator_and_key_see_the_same(service: Service, client: Client, tmp_path: Path) -> None:
    project = client.new_project()
    words = ("-n", "2", "--event", "e", "--filter", "n>1")
    own = ("--project", project.keys["project_id"])
    with (
        watching(tmp_path, service, project, *words, *own) as one,
        watching(tmp_path, service, project, *words, "--url", service.url) as other,
    ):
        for n in range(4):
            project.track(event_name="e", n=n)
        seen = one.events()
        assert [event["n"] for event in seen] == [2, 3]
        assert other.events() == seen


@pytest.mark.parametrize("url", ["127.0.0.1:1", "http://", "http://[::1", "http://x:99999", "ftp://x"])
def test_what_is_no_address_is_not_tried_for_ever(url: str) -> None:
    for command in ("tail", "export", "query"):
        done = CliRunner().invoke(main, [command, "--url", url], input="{}")
        assert (done.exit_code, "must begin with http://" in done.stderr) == (2, True), done.stderr


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[Callable[[], None]] = [
        lambda: output.write(b"{}"),
        lambda: output.line("{}"),
        lambda: Show("ndjson", None).event(b"{}"),
        lambda: table.show(["a"], [[b"1"]]),
    ]
    for write in writes:
        with io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True) as full:
            monkeypatch.setattr("sys.stdout", full)
            with pytest.raises(click.ClickException, match=r"cannot be written: No space left"):
                write()


@pytest.mark.service
def test_what_cannot_be_watched_is_said(service: Service, client: Client, tmp_path: Path) -> None:
    config = tmp_path / "deploy.toml"
    config.write_text(f'[dev]\npersist_to = "{service.state}"\n')
    clean: dict[str, str | None] = dict.fromkeys((*FROM_OUTSIDE, "EVENTBUNKER_QUERY_KEY"))
    environ = {**clean, "QUERY_KEY": client.keys["query_key"]}
    wrong = '[{"field_name": "n", "op": "equls"}]'
    for words, code, said in (
        (("--url", "http://127.0.0.1:1"), 2, "does not answer"),
        (("--project", "prj_none"), 2, "does not exist"),
        (("--url", service.url, "--filters", wrong), 1, "did you mean"),
        (("--filters", wrong), 1, "did you mean"),
    ):
        done = CliRunner().invoke(main, ["-c", str(config), "tail", *words], env=environ)
        assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    config.write_text(f'[dev]\npersist_to = "{service.state}"\n[vars]\nGEOIP_DB = "{tmp_path}/none"\n')
    done = CliRunner().invoke(main, ["-c", str(config), "tail"], env=environ)
    assert (done.exit_code, "cannot be opened" in done.stderr) == (2, True), done.output


@pytest.mark.service
def test_ctrl_c_ends_it_without_a_word(service: Service, client: Client, tmp_path: Path) -> None:
    with watching(tmp_path, service, client) as command:
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(SECONDS) == 0
        assert command.words == "-- watching\n"


def test_it_connects_again_and_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge hangs up after each message; the third time it refuses the key."""
    asked: list[bytes] = []
    ok = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    event = '{"s":"a\u2028data: {}\u2028\u2028b\x85c"}'.encode()  # JSON may have them inside a string
    message = b"data: %b\nid: 0:4-0\n\n: still here\nid: 0:5-0\n\n" % event
    answers = [ok + b"%x\r\n%b\r\n" % (len(message), message), ok + b"0\r\n\r\n"]
    answers.append(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}")
    shown: list[bytes] = []

    class Shown(Show):
        def event(self, line: bytes) -> None:
            shown.append(line)

    monkeypatch.setattr("workers.tail_watch.time.sleep", lambda seconds: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for content in answers:
                connection, _ = listener.accept()
                with connection:
                    asked.append(connection.recv(65_536))
                    connection.sendall(content)

        thread = threading.Thread(target=answer)
        thread.start()
        code = at_edge(f"http://127.0.0.1:{listener.getsockname()[1]}", "eb_q_x", [], Shown("ndjson", None))
        thread.join()
    assert (code, shown) == (2, [event])
    assert [b"last-event-id: 0:5-0" in one for one in asked] == [False, True, True]


def test_messages_are_read_however_they_are_cut() -> None:
    text = 'retry: 2000\nevent: open\ndata: {}\nid: 0:1-0\n\n: still here\n\ndata: {"a":1}\n\ndata: {}\nid: 0:2-0\n\n'
    text += ": still here\nid: 0:3-0\n\n"
    assert list(messages(text.split("\n"))) == [
        Message("open", b"{}", "0:1-0"),
        Message("message", b'{"a":1}', ""),
        Message("message", b"{}", "0:2-0"),
        Message("", b"", "0:3-0"),
    ]


def test_a_line_for_people_has_nothing_that_a_terminal_obeys() -> None:
    event = {
        "event_name": "buy",
        "event_time": "2026-01-01T12:00:00.250Z",
        "customer_identifier": "c\x1b[31m1",
        "unique_req_id": "0" * 32,
        "user_agent": "x",
        "text": "a b",
        "digits": "12",
        "number": 12,
        "o": {"x": None, "y": [1, "\x07"]},
    }
    line = click.unstyle(pretty(event, 200))
    assert line.split("  ", 1)[1].split() == [
        *("buy", r"c\x1b[31m1", 'text="a', 'b"', 'digits="12"', "number=12", "o.x=null", r'o.y=[1,"\u0007"]'),
    ]  # fmt: skip
    assert ":00:00.250" in line
    assert len(click.unstyle(pretty(event, 80))) <= 80
