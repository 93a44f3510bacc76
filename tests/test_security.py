"""What SECURITY.md claims of secrets, files, sockets and the store, against a running service started with umask 0."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import plain_http
from tests.client import Client
from tests.service import Service

pytestmark = pytest.mark.service

# The only places of a secret in the clear; each is 0600 in a directory that is 0700.
KEPT_FOR_THE_DEVELOPER = {"dev.json", "store.json", "store.token"}
LISTENING = "0A"


@pytest.fixture(scope="module")
def secrets(service: Service, client: Client) -> set[str]:
    """Every secret of the service, each of them used in every way there is."""
    service.wait_ready()
    project = client.new_project()
    made = [project.create_key(kind)["api_key"] for kind in ("WRITE", "QUERY", "DELETE")]
    bound = project.create_key(key_filter_data={"customer_identifier": "c"}, allow_client_context=True)[
        "api_key"
    ]
    for key in (*made, bound, "eb_w_nonsense"):
        project.post({"event_name": "secret"}, x_eventbunker_write_key=key)
        project.post(b"{", x_eventbunker_write_key=key)
        project.http.post(f"/post?write_key={key}", content=b'{"event_name":"secret"}')
        project.http.post(
            "/v1/query/json", json={"time_period": "today"}, headers={"x-eventbunker-query-key": key}
        )
        project.http.post("/v1/query/json", content=b"{", headers={"x-eventbunker-query-key": key})
        project.manage("apikey/list", key, project_id=project.keys["project_id"])
    project.manage(
        "apikey/delete",
        project.keys["project_master_key"],
        project_id=project.keys["project_id"],
        api_key=bound,
    )
    answer = project.manage(
        "project/reset_master_key", project.keys["account_master_key"],
        account_id=project.keys["account_id"], project_id=project.keys["project_id"],
    )  # fmt: skip
    project.track(event_name="after")
    made += [_chart_token(project, key) for key in made[1:2]]
    own = {value for name, value in (*project.keys.items(), *service.keys.items()) if name.endswith("_key")}
    token = (service.state / "store.token").read_text().strip()
    return {*made, bound, *own, answer.json()["master_api_key"], token}


def _chart_token(project: Client, key: str) -> str:
    """One that was looked at, spoilt and revoked."""
    headers = {"x-eventbunker-query-key": key, "accept": "text/html"}
    answer = project.http.post("/v1/query/iframe/token", json={"time_period": "today"}, headers=headers)
    token: str = answer.json()["token"]
    for shown in (token, f"{token[:-4]}AAAA"):
        project.http.get("/v1/query/iframe", params={"token": shown}, headers=headers)
    for body in ({"token": token}, {"token": token}, {"token": token, "all": True}):
        project.http.post("/v1/query/iframe/token/revoke", json=body, headers=headers)
    return token


def files(service: Service) -> Iterator[Path]:
    return (path for path in everything(service) if path.is_file() and not path.is_symlink())


def everything(service: Service) -> Iterator[Path]:
    """In the state, whatever the engine merges away meanwhile: `rglob` stumbles over it."""
    for directory, inner, names in os.walk(service.state):
        yield from (Path(directory, name) for name in [*inner, *names])


def test_no_secret_is_kept_but_as_a_digest(service: Service, secrets: set[str]) -> None:
    """Redis' append-only file, the engine's data and logs, counters, spool, locks: every byte of the state."""
    scanned = 0
    for path in files(service):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # merged away
            continue
        scanned += len(content)
        if path.name not in KEPT_FOR_THE_DEVELOPER:
            assert not [secret[:8] for secret in secrets if secret.encode() in content], path
    assert scanned > 100_000
    appended = b"".join(path.read_bytes() for path in files(service) if "append" in path.name)
    assert b"secret" in appended, "the events are there, so the file that was searched is the right one"


def test_no_secret_is_told(service: Service, client: Client, secrets: set[str]) -> None:
    """Not in logs, not in metrics, not in a process list, not in what the service says of itself."""
    told = service.log + "".join(service.alive().values())
    told += "".join(
        client.http.get(path).text for path in ("/metrics", "/readyz?verbose", "/version", "/openapi.json")
    )
    assert not [secret[:8] for secret in secrets if secret in told]
    shown = {
        value for name, value in service.keys.items() if name.endswith("_key")
    }  # once, by the first start
    assert not [secret[:8] for secret in secrets - shown if secret in service.stdout]


def test_the_state_is_this_users_alone(service: Service) -> None:
    for path in [service.state, *everything(service)]:
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        assert stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o077, (
            f"{path} has mode {stat.filemode(status.st_mode)}"
        )
    assert {stat.S_IMODE((service.state / name).stat().st_mode) for name in KEPT_FOR_THE_DEVELOPER} == {0o600}


def test_nothing_but_loopback_listens_and_redis_has_no_port(service: Service) -> None:
    listening: dict[str, set[str]] = {}
    for role in ("redis", "store", "drain", "edge"):
        inodes = {
            link[8:-1]
            for pid in service.pids(role)
            for entry in Path(f"/proc/{pid}/fd").iterdir()
            if (link := str(entry.readlink())).startswith("socket:[")
        }
        listening[role] = {address for address, inode in listeners() if inode in inodes}
    assert listening["redis"] == set() == listening["drain"]
    assert len(listening["store"]) == len(listening["edge"]) == 1
    for address in listening["store"] | listening["edge"]:
        assert ipaddress.ip_address(address).is_loopback


def listeners() -> Iterator[tuple[str, str]]:
    """Address and inode of every listening TCP socket of this machine."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == LISTENING:
                packed = bytes.fromhex(parts[1].partition(":")[0])
                words = [packed[n : n + 4][::-1] for n in range(0, len(packed), 4)]
                yield str(ipaddress.ip_address(b"".join(words))), parts[9]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_the_store_tells_nothing_without_its_token(service: Service, method: str) -> None:
    url = json.loads((service.state / "store.json").read_text())["url"]
    token = (service.state / "store.token").read_text().strip()
    wrong: list[dict[str, str]] = [
        {}, {"x-clickhouse-user": "default"}, {"x-clickhouse-key": ""}, {"x-clickhouse-key": token[:-1]},
        {"x-clickhouse-key": f"{token}x"}, {"x-clickhouse-user": "x", "x-clickhouse-key": token},
        {"authorization": "Basic ZGVmYXVsdDo="}, {"authorization": f"Bearer {token}"}, {"authorization": "Basic !!!"},
    ]  # fmt: skip
    paths = [
        "/",
        "/?query=SELECT+1",
        "/?query=SELECT+1&user=default&password=",
        "/play",
        "/dashboard",
        "/ping",
        "/replicas_status",
    ]
    # A connection for each: one whose body was refused unread is closed by the server.
    alone = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(verify=plain_http.NOBODY, base_url=url, trust_env=False, limits=alone) as http:
        for path in paths:
            for headers in wrong:
                response = http.request(
                    method, path, headers=headers, content=b"SELECT 1" if method == "POST" else None
                )
                if path in ("/ping", "/replicas_status") and method in ("GET", "HEAD"):
                    assert response.text in ("Ok.\n", "")
                else:
                    assert response.status_code in (403, 404, 405), (path, headers)
                    assert token not in response.text
                    assert response.text != "1\n"


def test_an_error_holds_nothing_of_others(client: Client) -> None:
    """Neither what another project owns, nor the secret, nor where in our code it happened."""
    mine, other = client.new_project(), client.new_project()
    other.track(event_name="others.event", customer_identifier="others-customer", others_field="others-value")
    owner = mine.keys["project_master_key"]
    answers = [
        mine.manage("name/list", owner, project_id=other.keys["project_id"], kind="event_name"),
        mine.manage("apikey/list", owner, project_id=other.keys["project_id"]),
        mine.manage(
            "apikey/delete", owner, project_id=mine.keys["project_id"], api_key=other.keys["write_key"]
        ),
        mine.manage("apikey/delete", owner, project_id=mine.keys["project_id"], api_key_id="key_x"),
        mine.ask(time_period="today", group_by=["others_field"], order_by=[{"field_name": "nothing"}]),
        mine.ask(time_period="today", computations=[{"function": "sum", "field_name": "event_name"}]),
        mine.post({"event_name": "e", "f": [None]}, x_eventbunker_write_key=other.keys["query_key"]),
    ]
    for response in answers:
        assert 400 <= response.status_code < 500
        assert "others" not in response.text.replace("others_field", "")
        assert not [key for name, key in other.keys.items() if name.endswith("_key") and key in response.text]
        assert not re.search(
            r'Traceback|File \\?"|\.py\b|/work|site-packages|DB::Exception|SELECT ', response.text
        )
