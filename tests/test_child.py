"""The supervisor with roles that are nothing but a shell: backoff, giving up, one-shot roles, stubborn ones."""

from __future__ import annotations

import asyncio
import itertools
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from tests.waiting import until
from workers import child as children
from workers.child import Role
from workers.supervisor import StartFailed, Supervisor

FAST = ("sh", "-c", "exit 3")


async def eventually(condition: Callable[[], bool]) -> None:
    """`until`, for a test inside a loop."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (the child has no event to wait for)
            await asyncio.sleep(0.01)


async def never() -> bool:
    return False


def test_role_that_keeps_dying_is_given_up_with_its_exit_code() -> None:
    async def start() -> None:
        async with Supervisor() as supervisor:
            await supervisor.wait_ready(*supervisor.launch(0, Role("broken", FAST, ready=never)))

    with pytest.raises(StartFailed, match=r"broken does not start \(code 3\)"):
        asyncio.run(start())


def test_missing_program_is_named() -> None:
    async def start() -> None:
        async with Supervisor() as supervisor:
            supervisor.launch(0, Role("absent", ("/nonexistent/program",)))

    with pytest.raises(StartFailed, match="absent cannot be started"):
        asyncio.run(start())


def test_backoff_doubles_to_its_bound_and_never_spins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(children, "FIRST_DELAY_SECONDS", 0.02)
    monkeypatch.setattr(children, "LONGEST_DELAY_SECONDS", 0.08)
    births = tmp_path / "births"
    role = Role("dying", ("sh", "-c", f"date +%s.%N >> '{births}'; exit 1"))

    async def start() -> None:
        async with Supervisor() as supervisor:
            (child,) = supervisor.launch(0, role)
            await eventually(lambda: child.deaths >= 7)

    asyncio.run(start())
    times = [float(line) for line in births.read_text().split()]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    for gap, least in zip(gaps, (0.02, 0.04, 0.08, 0.08, 0.08), strict=False):
        assert gap >= least * 0.9


def test_last_words_of_a_role_with_a_log_file(tmp_path: Path) -> None:
    role = Role("speaker", ("sh", "-c", "echo out of luck; exit 1"), ready=never, log_path=tmp_path / "log")

    async def start() -> None:
        async with Supervisor() as supervisor:
            await supervisor.wait_ready(*supervisor.launch(0, role))

    with structlog.testing.capture_logs() as logs, pytest.raises(StartFailed):
        asyncio.run(start())
    assert {line["last_words"] for line in logs} == {"out of luck"}


@pytest.mark.parametrize("code", [0, 4])
def test_one_shot_role_runs_once(code: int, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    async def start() -> None:
        async with Supervisor() as supervisor:
            await supervisor.run_once(0, Role("once", ("sh", "-c", f"echo x >> '{ran}'; exit {code}")))

    if code:
        with pytest.raises(StartFailed, match=r"once failed \(code 4\)"):
            asyncio.run(start())
    else:
        asyncio.run(start())
    assert ran.read_text() == "x\n"


def test_stubborn_role_and_what_it_started_are_killed_in_time(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"trap '' TERM; sleep 1000 & echo $! > '{pid_file}'; while :; do wait; done"

    async def written() -> bool:
        return pid_file.exists() and pid_file.read_text().endswith("\n")

    async def start() -> float:
        async with Supervisor() as supervisor:
            role = Role("stubborn", ("sh", "-c", script), ready=written, stop_seconds=0.2)
            await supervisor.wait_ready(*supervisor.launch(0, role))
            began = time.monotonic()
        return time.monotonic() - began

    assert 0.2 <= asyncio.run(start()) < 5
    grandchild = Path(f"/proc/{pid_file.read_text().strip()}/cmdline")

    def is_dead() -> bool:
        return not grandchild.exists() or grandchild.read_bytes() == b""  # gone, or not reaped by init yet

    until(is_dead, 10, "the end of what it started, which is killed too")


def test_two_lives_have_two_pids() -> None:
    async def start() -> tuple[int | None, int | None]:
        async with Supervisor() as supervisor:
            (child,) = supervisor.launch(0, Role("sleeper", ("sleep", "1000")))
            first = child.pid
            os.kill(first or 0, 9)
            await eventually(lambda: child.pid not in (None, first))
            return first, child.pid

    first, second = asyncio.run(start())
    assert first != second


# A session of its own with the terminal argv[1], where who is in the background is halted when it writes.
IN_A_TERMINAL = """
import asyncio, os, sys, termios
from workers.child import Role
from workers.supervisor import Supervisor

terminal = os.open(sys.argv[1], os.O_RDWR)
for number in range(3):
    os.dup2(terminal, number)
modes = termios.tcgetattr(terminal)
modes[3] |= termios.TOSTOP
termios.tcsetattr(terminal, termios.TCSANOW, modes)

async def main():
    async with Supervisor() as supervisor:
        supervisor.launch(0, Role("child", ("sh", "-c", sys.argv[2])))
        await asyncio.wait_for(supervisor.stop_requested.wait(), 20)
        print("the supervisor was asked to stop", flush=True)

print("session", os.getpid(), flush=True)
asyncio.run(main())
"""
IN_THE_BACKGROUND = """trap 'echo the child was reached' INT
echo child of $(cut -d ' ' -f 6 /proc/$$/stat)
while :; do sleep 0.02; done"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for its session")
def test_ctrl_c_reaches_the_supervisor_only_although_all_share_its_session() -> None:
    """In sessions of their own the niceness of questions would count for nothing outside of the store."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, os.ttyname(theirs), IN_THE_BACKGROUND],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    said, asked = b"", False
    try:
        end = time.monotonic() + 30
        while b"stop\r\n" not in said and time.monotonic() < end:
            if select.select([ours], [], [], 0.1)[0]:
                said += os.read(ours, 4096)
            if not asked and said.count(f"{process.pid}\r\n".encode()) == 2:
                asked = os.write(ours, b"\x03") == 1
        assert process.wait(20) == 0, said
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    assert f"session {process.pid}\r\nchild of {process.pid}\r\n" in said.decode()
    assert b"the supervisor was asked to stop" in said
    assert b"the child was reached" not in said
