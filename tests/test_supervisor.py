"""`eventbunker dev` as its user meets it: what is started, what survives which death, what is left afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests import plain_http
from tests.redis_fixture import RedisServer, start_redis
from tests.service import ROOT, Service, StartService
from tests.store_fixture import StoreServer
from tests.waiting import until

pytestmark = pytest.mark.service

ROLES = ("redis", "store", "drain", "edge")
MEMBERS = [
    "url", "account_id", "account_master_key", "project_id", "project_master_key",
    "write_key", "query_key", "delete_key",
]  # fmt: skip
COUNT_BY_NAME = {
    "time_period": "minus_5_minutes",
    "group_by": ["event_name"],
    "computations": [{"function": "count"}],
}


def track(service: Service, name: str) -> None:
    answer = plain_http.post(
        f"{service.url}/post",
        headers={"x-eventbunker-write-key": service.keys["write_key"]},
        json={"event_name": name},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text


def counted(service: Service, name: str) -> int:
    """How often the event is in query results; 0 while the store does not answer."""
    answer = plain_http.post(
        f"{service.url}/v1/query/json",
        headers={"x-eventbunker-query-key": service.keys["query_key"]},
        json=COUNT_BY_NAME,
        timeout=30,
    )
    if answer.status_code != 200:
        return 0
    return sum(row["count"] for row in answer.json()["data"] if row["event_name"] == name)


@dataclass(frozen=True)
class Former:
    """A service that kept one event and was stopped, with what was seen of it before."""

    service: Service
    url: str
    socket: Path
    had_socket: bool
    exit_code: int


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Former]:
    """One that nobody starts again: `copied` is for that. Its path is too long for a socket and has a space."""
    directory = tmp_path_factory.mktemp("former") / f"{'x' * 100} with space"
    directory.mkdir()
    service = Service(directory, "", {}, ("--port", "0"))
    try:
        service.wait_ready()
        track(service, "kept")
        url, socket = service.url, service.redis_socket
        had_socket = socket.exists()
        yield Former(service, url, socket, had_socket, service.stop(signal.SIGINT))
    finally:
        service.end()


@pytest.fixture
def copied(former: Former, tmp_path: Path) -> Path:
    """The directory of a service that was stopped, with all that it left: its next start is the test's."""
    return shutil.copytree(former.service.directory, tmp_path / "copied", symlinks=True)


def run_line(line: str) -> str:
    return subprocess.run(shlex.split(line), check=True, capture_output=True, text=True, timeout=30).stdout


def test_first_start_keeps_the_keys_private_and_complete(service: Service) -> None:
    path = service.state / "dev.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(service.keys) == MEMBERS
    assert all(service.keys.values())


def test_printed_lines_work_when_pasted(service: Service) -> None:
    lines = [line.strip() for line in service.stdout.splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 2
    assert "unique_req_id" in json.loads(run_line(lines[0]))
    until(
        lambda: {"event_name": "my_first_event", "count": 1} in json.loads(run_line(lines[1]))["data"],
        10,
        "the printed query's answer",
    )


def test_logs_are_json_lines_without_secrets(service: Service) -> None:
    for line in service.log.splitlines():
        assert {"time", "level", "process", "message"} <= set(json.loads(line))
    assert service.logged("serving")
    for name, value in service.keys.items():
        if name.endswith("_key"):
            assert value not in service.log


def test_secrets_are_in_no_argv(service: Service) -> None:
    token = json.loads((service.state / "store.json").read_text())["password"]
    for command in service.alive().values():
        assert token not in command


@pytest.mark.parametrize("role", ROLES)
def test_killed_role_is_restarted_and_nothing_is_lost(service: Service, role: str) -> None:
    before, after = f"before_{role}_died", f"after_{role}_died"
    service.wait_ready()
    track(service, before)
    old = service.kill(role)
    service.wait_restarted(role, old)
    service.wait_ready()
    track(service, after)
    until(lambda: counted(service, before) == 1, 30, "the event before")
    until(lambda: counted(service, after) == 1, 30, "the event after")
    assert any(
        line["role"] == role and line["exit"] == "SIGKILL"
        for line in service.logged("died, starting it again")
    )


def test_killed_edge_refuses_no_connection(service: Service) -> None:
    old = service.kill("edge")
    answer = plain_http.get(f"{service.url}/livez", timeout=30)
    assert answer.status_code == 200
    assert service.pids("edge") != [old]


def test_stop_in_order_leaves_nothing(former: Former) -> None:
    assert former.had_socket
    assert former.exit_code == 0
    assert not former.socket.exists()
    assert [line["role"] for line in former.service.logged("stopped")] == ["edge", "drain", "store", "redis"]
    with pytest.raises(httpx.ConnectError):
        plain_http.get(f"{former.url}/livez", timeout=5)


def test_restart_keeps_keys_and_events_and_says_them_no_more(
    former: Former, copied: Path, start_service: StartService
) -> None:
    keys, said = former.service.keys, former.service.stdout
    assert keys["write_key"] in said
    second = start_service("--port", "0", directory=copied)
    assert {**second.keys, "url": ""} == {**keys, "url": ""}
    until(lambda: counted(second, "kept") == 1, 10, "the event of the former start")
    assert keys["write_key"] not in second.stdout.removeprefix(said)
    assert second.stop() == 0


def test_second_start_on_the_same_state_is_refused(service: Service, start_service: StartService) -> None:
    other = start_service("--port", "0", "--state", str(service.state), wait=False)
    assert other.process.wait(30) == 1
    assert f"another eventbunker (pid {service.process.pid})" in other.log
    assert "STATE=" in other.log
    service.wait_ready()


def test_port_in_use_names_the_switch(service: Service, start_service: StartService) -> None:
    port = service.url.rpartition(":")[2]
    other = start_service("--port", port, wait=False)
    assert other.process.wait(30) == 1
    assert "PORT=" in other.log


def test_second_signal_ends_at_once(start_service: StartService) -> None:
    service = start_service("--port", "0")
    os.kill(service.pids("drain")[0], signal.SIGSTOP)  # the ordered stop now waits for it
    service.process.send_signal(signal.SIGTERM)

    def ended() -> bool:
        service.process.send_signal(signal.SIGTERM)
        return service.process.poll() is not None

    until(ended, 5, "the end at once")
    assert service.process.returncode == 128 + signal.SIGTERM
    assert not service.alive()


def test_killed_supervisor_leaves_no_orphan_and_the_next_start_works(start_service: StartService) -> None:
    first = start_service("--port", "0")
    track(first, "before_the_kill")
    orphans = set(first.alive()) - {first.process.pid}
    assert len(orphans) == len(ROLES)
    first.process.kill()
    first.process.wait(10)
    # At once: the directory stays locked until the last of the old processes is gone.
    second = start_service("--port", "0", directory=first.directory)
    assert not orphans & set(first.alive())
    until(lambda: counted(second, "before_the_kill") == 1, 30, "the event of the killed service")
    assert second.stop() == 0


def test_stop_while_starting_leaves_nothing(start_service: StartService) -> None:
    service = start_service("--port", "0", wait=False)
    until(lambda: service.pids("store"), 20, "the store's process")
    assert service.stop() == 0


def test_given_redis_and_store_are_used_and_not_started(
    start_service: StartService, store_server: StoreServer, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    redis = start_redis(given)
    environ = {
        "REDIS_URL": redis.url,
        "CLICKHOUSE_URL": store_server.url,
        "CLICKHOUSE_PASSWORD": store_server.token,
    }
    deploy = '[[stores]]\nengine = "clickhouse"\ndatabase = "given_test"\n'
    try:
        service = start_service("--port", "0", deploy=deploy, environ=environ)
        assert not service.pids("redis")
        assert not service.pids("store")
        track(service, "elsewhere")
        until(lambda: counted(service, "elsewhere") == 1, 30, "the event in the given store")
        assert service.stop() == 0
        with redis.client() as client:
            assert client.ping()
    finally:
        redis.stop()
    assert store_server.text("SELECT count() FROM given_test.events WHERE event_name = 'elsewhere'") == "1"


def test_unreachable_redis_is_named_without_its_password(start_service: StartService) -> None:
    service = start_service(
        "--port", "0", environ={"REDIS_URL": "redis://user:s3cret@127.0.0.1:1/0"}, wait=False
    )
    assert service.process.wait(60) == 1
    assert "REDIS_URL" in service.log
    assert "127.0.0.1:1" in service.log
    assert "s3cret" not in service.log


def test_redis_that_forgets_keys_gets_new_ones(
    former: Former, copied: Path, start_service: StartService, tmp_path: Path
) -> None:
    old = former.service.keys
    given = tmp_path / "other"
    given.mkdir()
    redis: RedisServer = start_redis(given)
    try:
        second = start_service("--port", "0", directory=copied, environ={"REDIS_URL": redis.url})
        assert second.keys["write_key"] != old["write_key"]
        assert json.loads((second.state / "dev.json.old").read_text()) == old
        assert second.stop() == 0
    finally:
        redis.stop()


def test_long_state_path_still_has_a_socket(former: Former) -> None:
    assert len(str(former.service.state)) > 107  # bytes that the kernel takes
    assert " " in str(former.service.state)
    assert former.service.logged("serving")
    assert former.had_socket
    assert former.exit_code == 0


def test_nobody_else_can_read_or_write_anything_in_the_state(service: Service) -> None:
    """Started with umask 0: the directory's own mode must not be the only lock."""
    track(service, "private")
    open_to_others = []
    for directory, _, names in os.walk(service.state):  # which forgives what a merge removes meanwhile
        for path in (Path(directory), *(Path(directory) / name for name in names)):
            with contextlib.suppress(FileNotFoundError):
                if not path.is_symlink() and path.stat().st_mode & 0o077:
                    open_to_others.append(str(path))
    assert open_to_others == []


def test_state_path_that_the_engine_refuses_is_named_before_anything_starts(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service("--port", "0", "--state", str(tmp_path / "100%"), wait=False)
    assert service.process.wait(20) == 1
    assert "holds %" in service.log
    assert not (tmp_path / "100%").exists()


def test_make_passes_any_state_path_on(tmp_path: Path) -> None:
    state = tmp_path / "a\"b'c d$e"
    done = subprocess.run(
        ["make", "-n", "run-edge", f"STATE={state}".replace("$", "$$")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert '--state "$STATE"' in done.stdout


def test_redis_whose_socket_was_removed_is_restarted(service: Service) -> None:
    """It lives, but nobody can reach it: the next process to start would wait for ever."""
    service.wait_ready()
    old = service.pids("redis")[0]
    service.redis_socket.unlink()
    service.wait_restarted("redis", old)
    edge = service.kill("edge")
    service.wait_restarted("edge", edge)
    service.wait_ready()
    track(service, "socket_was_removed")
    assert service.logged("its socket was removed; restarting it")


def test_lost_keys_are_said_to_be_lost(former: Former, copied: Path, start_service: StartService) -> None:
    """What else may stand in the file: tests/test_dev_keys.py."""
    (copied / "state" / "dev.json").unlink()
    said = len(former.service.log)
    again = start_service(directory=copied)
    assert again.keys["project_id"] != former.service.keys["project_id"]
    warnings = [line for line in again.log[said:].splitlines() if '"warning"' in line]
    assert any("projects of an earlier start" in line for line in warnings)
