"""Answers that nobody takes: bounded, told, and nobody else's trouble. Under each engine."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from starlette.types import Message

from app import unsent
from app.errors import ApiError, Kind
from tests.client import Client
from tests.engines import Target
from tests.waiting import until

SECONDS = 30.0
COUNT = 500  # of 56 KB: 28 MB an answer: four of a project may wait
ALL = {"time_period": {"start": "2026-01-01", "end": "2026-01-02"}, "limit": COUNT}
MIB = 1024 * 1024


class Slow:
    """A client that asks, and takes no more than the head of the answer."""

    def __init__(self, url: str, key: str) -> None:
        body = json.dumps(ALL).encode()
        head = f"POST /v1/query/json HTTP/1.1\r\nhost: x\r\nx-eventbunker-query-key: {key}\r\n"
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(SECONDS)
        address = urlsplit(url)
        self.socket.connect((address.hostname, address.port))
        self.socket.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def status(self) -> int:
        return int(self.socket.recv(64, socket.MSG_PEEK).split()[1])


@pytest.mark.service
def test_whoever_takes_no_answers_gets_no_more(target: Target, target_client: Client) -> None:
    project, other = target_client.new_project(), target_client.new_project()
    event = {"event_name": "large", "timestamp": "2026-01-01T12:00:00Z"}
    event |= {f"text{number}": "x" * 8000 for number in range(7)}
    headers = {"x-eventbunker-write-key": project.keys["write_key"]}
    for _ in range(COUNT // 50):
        answer = project.http.post("/batch", json=[event] * 50, headers=headers)
        assert answer.json().get("accepted") == 50, answer.text[:500]
    count = {**ALL, "limit": 1, "computations": [{"function": "count"}]}
    until(lambda: project.ask(**count).json()["data"] == [{"count": COUNT}], SECONDS, "the events")
    with ExitStack() as stack:
        slow: list[Slow] = []
        while len(slow) < 12:
            slow.append(one := Slow(target.url, project.keys["query_key"]))
            stack.callback(one.socket.close)
            if one.status() != 200:
                break
        assert [one.status() for one in slow] == [200] * 4 + [429]
        said = b""
        while b"\r\n\r\n{" not in said:
            said += slow[-1].socket.recv(4096)
        assert b"bytes of answers wait for this project's clients to take them" in said
        assert project.ask(**count).json()["data"] == [{"count": COUNT}], "a small one needs no room"
        assert other.ask(**count).status_code == 200
    until(lambda: project.ask(**ALL).status_code == 200, SECONDS, "the room to be free again")
    assert project.ask(**ALL).json()["row_count"] == COUNT
    project.delete()


def refusal(project: str, size: int = MIB) -> Kind | None:
    try:
        unsent.Answer(project, bytes(size), {})
        return None
    except ApiError as error:
        return error.kind


def test_room_is_counted_by_project_and_in_all() -> None:
    with ExitStack() as stack:
        stack.enter_context(unsent._waits("a", 500 * MIB))  # its first
        assert refusal("a") is Kind.RATE_LIMITED
        assert refusal("b") is Kind.UNAVAILABLE
    assert not unsent._bytes


def test_two_that_take_as_little_as_they_may_leave_room_for_a_third() -> None:
    with ExitStack() as stack:
        for project, size in (("a", 62), ("a", 62), ("b", 62)):
            stack.enter_context(unsent._waits(project, size * MIB))
        assert refusal("a", 10 * MIB) is Kind.RATE_LIMITED
        assert refusal("b", 10 * MIB) is Kind.UNAVAILABLE
        assert refusal("c", 62 * MIB) is None


def test_whoever_takes_next_to_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unsent, "SLACK_SECONDS", 0.0)
    monkeypatch.setattr(unsent, "SLOWEST", 10 * MIB)
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))
        await asyncio.sleep(0.02)

    async def receive() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    answer = unsent.Answer("a", bytes(MIB), {})
    asyncio.run(asyncio.wait_for(answer({"type": "http"}, receive, send), SECONDS))
    assert 0 < sum(map(len, sent)) < MIB
    assert not unsent._bytes
