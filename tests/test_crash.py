"""kill -9 of each part in turn under load, and two of everything: every 200 is in query results once.

The short form. The whole minute at 300 events/s: `make crash`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.client import Client, unique
from tests.load import Load, assert_verified, check
from tests.service import ROOT, Service, StartService
from tests.waiting import until

pytestmark = [pytest.mark.service, pytest.mark.timeout(240)]

ROLES = ("edge", "drain", "store", "redis")


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this module's own: others must not meet its crashes."""
    one = Service(tmp_path_factory.mktemp("crash"), "", {}, ("--port", "0"))
    try:
        one.wait_ready()
        yield one
        assert one.stop() == 0
    finally:
        one.end()


@pytest.mark.parametrize("role", ROLES)
def test_kill_9_under_load_loses_and_doubles_nothing(crashing: Service, role: str) -> None:
    name = unique(f"kill_{role}")
    client = Client(crashing.keys)
    with client.http, Load([crashing.url], crashing.keys["write_key"], name, rate=150) as load:
        load.wait_for(150)
        for _ in range(2):
            old = crashing.kill(role)
            crashing.wait_restarted(role, old)
            load.wait_for(200)
        crashing.wait_ready()  # which a proof of before the store's end may have been
        until(client.is_answered, 30, "an answer of the store")
        assert_verified(crashing)  # while events arrive
    with Client(crashing.keys).http as http:
        check(Client(crashing.keys, http), name, load.told, service=crashing)
    crashing.wait_ready()


def test_all_of_them_at_once(crashing: Service) -> None:
    name = unique("kill_all")
    with Load([crashing.url], crashing.keys["write_key"], name, rate=150) as load:
        load.wait_for(150)
        old = {role: crashing.kill(role) for role in ROLES}
        for role, pid in old.items():
            crashing.wait_restarted(role, pid)
        load.wait_for(200)
    with Client(crashing.keys).http as http:
        check(Client(crashing.keys, http), name, load.told, service=crashing)


def test_the_machine_goes_down_and_comes_back(start_service: StartService) -> None:
    """SIGKILL to every process at once, then a start on what is on disk."""
    one = start_service()
    name = unique("machine")
    with Load([one.url], one.keys["write_key"], name, rate=150) as load:
        load.wait_for(300)
        one.end()
    assert load.told.acknowledged
    again = start_service(directory=one.directory)
    with Client(again.keys).http as http:
        client = Client(again.keys, http)
        assert client.is_answered(), "it said that it was ready"
        check(client, name, load.told, service=again)


def test_two_edges_and_two_drains_on_one_redis(start_service: StartService) -> None:
    """Keys are valid and revoked on both edges; one drain dies and the other takes over."""
    first = start_service(deploy="[server]\nworkers = 2\n")
    environ = drain_environment(first)
    second = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from workers.cli import main; main()",
            "-c",
            str(first.directory / "deploy.toml"),
            "drain",
        ],
        cwd=ROOT,
        env=environ,
        stderr=subprocess.DEVNULL,
    )
    edge = start_service(
        "--port",
        "0",
        environ={name: environ[name] for name in ("REDIS_URL", "CLICKHOUSE_URL", "CLICKHOUSE_PASSWORD")},
    )
    name = unique("two")
    try:
        with Load([first.url, edge.url], first.keys["write_key"], name, rate=150) as load:
            load.wait_for(200)
            for _ in range(2):  # of the three drains, whoever owns the partition
                first.wait_restarted("drain", first.kill("drain"))
                load.wait_for(150)
        with Client(first.keys).http as http, Client(edge.keys).http as other:
            client = Client(first.keys, http)
            check(client, name, load.told, service=first)
            made = client.create_key()
            through_edge = Client(first.keys, other)
            for one in (client, through_edge):
                assert (
                    one.post({"event_name": "e"}, x_eventbunker_write_key=made["api_key"]).status_code == 200
                )
            client.manage(
                "apikey/delete",
                first.keys["project_master_key"],
                project_id=first.keys["project_id"],
                api_key_id=made["api_key_id"],
            ).raise_for_status()
            for one in (client, through_edge):
                until(partial(is_revoked, one, made["api_key"]), 1.0, "the end of a revoked key")
    finally:
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0


def is_revoked(client: Client, key: str) -> bool:
    return client.post({"event_name": "e"}, x_eventbunker_write_key=key).status_code == 401


def drain_environment(service: Service) -> dict[str, str]:
    """The environment in which a process finds this service's Redis and store."""
    pid = service.pids("drain")[0]
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    found = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    wanted = ("REDIS_URL", "CLICKHOUSE_URL", "CLICKHOUSE_PASSWORD")
    return {**os.environ, **{name: found[name] for name in wanted}}
