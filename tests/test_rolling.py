"""Rolling restarts: two edges behind a real HAProxy and a real nginx lose no request.

The balancers run docs/haproxy.cfg and docs/nginx.conf as they stand there, but for addresses. `make rolling`
runs more rounds under more load and prints what it saw; `ENGINE=uvicorn` chooses that one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests import plain_http
from tests.client import Client
from tests.edge_process import Edge
from tests.load import Load, check
from tests.service import ROOT, Service
from tests.store_fixture import free_port
from tests.waiting import until

CLIENTS = 16
LARGEST_BATCH = 4_194_304  # bytes: limits.max_batch_bytes of an empty deploy.toml
ENGINE = os.environ.get("EVENTBUNKER_ENGINE") or "hypercorn"
LONG = os.environ.get("EVENTBUNKER_ROUNDS", "")  # of `make rolling`
ROUNDS = int(LONG or "1")
RATE = 500.0 if LONG else 150.0  # events a second
pytestmark = [pytest.mark.service, pytest.mark.timeout(60 + 60 * ROUNDS)]
EDGES = ("10.0.0.11:8787", "10.0.0.12:8787")  # in the files of docs/
NGINX = """
daemon off;
{user}
worker_processes 2;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 768; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/eventbunker.conf;
}}
"""


def program(name: str) -> str:
    """Where it is installed; Debian's are not in everybody's PATH."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        assert not os.environ.get("CI"), f"CI must have {name}: apt-get install {name}"
        pytest.skip(f"no {name}; apt-get install {name}")
    return found


def documented(name: str, listen: str, port: int, edges: list[int]) -> str:
    """The file of docs/ with this run's addresses; `edges` are ports."""
    text = (ROOT / "docs" / name).read_text()
    own = [f"127.0.0.1:{edge}" for edge in edges]
    for old, new in [(listen, listen.replace("80", str(port))), *zip(EDGES, own, strict=True)]:
        assert text.count(old) == 1, f"{old} in docs/{name}"
        text = text.replace(old, new)
    return text


def haproxy(directory: Path, port: int, edges: list[int]) -> list[str]:
    path = directory / "haproxy.cfg"
    path.write_text(documented("haproxy.cfg", "    bind :80\n", port, edges))
    return [program("haproxy"), "-db", "-f", str(path)]


def nginx(directory: Path, port: int, edges: list[int]) -> list[str]:
    user = "user root;" if os.getuid() == 0 else ""  # its workers would be nobody, without this directory
    (directory / "eventbunker.conf").write_text(documented("nginx.conf", "    listen 80;\n", port, edges))
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory, user=user))
    return [program("nginx"), "-p", str(directory), "-c", str(directory / "nginx.conf")]


BALANCERS = {"HAProxy": haproxy, "nginx": nginx}


@contextmanager
def balancer(name: str, directory: Path, edges: list[int]) -> Iterator[str]:
    """The url of a running one."""
    port = free_port()
    command = BALANCERS[name](directory, port, edges)
    log = directory / "balancer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return plain_http.get(f"{url}/livez", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, 20, name)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def edges(service: Service, tmp_path: Path) -> Iterator[list[Edge]]:
    """Two, one process each, with the shutdown_delay of an empty deploy.toml."""
    service.wait_ready()
    server = f'engine = "{ENGINE}"\ntrusted_proxies = ["127.0.0.0/8"]\n'
    both = [Edge(tmp_path, service, server, f"edge{number}", workers=1) for number in (1, 2)]
    try:
        for edge in both:
            edge.wait_ready()
        yield both
    finally:
        for edge in both:
            edge.end()


@pytest.mark.parametrize("name", BALANCERS)
def test_a_rolling_restart_loses_no_request(
    name: str, edges: list[Edge], client: Client, tmp_path: Path
) -> None:
    event_name = f"rolling_{uuid.uuid4().hex[:8]}"
    with (
        balancer(name, tmp_path, [edge.port for edge in edges]) as url,
        Load([url], client.keys["write_key"], event_name, RATE, CLIENTS) as load,
    ):
        load.wait_for(100)
        for _ in range(ROUNDS):
            for edge in edges:
                edge.restart()
        load.wait_for(100)
    told = load.told
    failed = told.refused.total() + told.unanswered
    print(
        f"\nRolling restart of two edges ({ENGINE}) behind {name} under {RATE:.0f} events/s: {failed} failed requests"
        f" ({len(told.acknowledged)} events acknowledged, {2 * ROUNDS} restarts,"
        f" slowest {told.slowest_seconds:.2f} s, longest time without a 200 {told.longest_gap_seconds:.2f} s)"
    )
    assert not failed, f"{told.refused}, {told.said}, unanswered: {told.unanswered}"
    assert check(client, event_name, told).total() == len(told.acknowledged)


def answer_to_a_head(url: str, length: int) -> bytes:
    """To a request whose body never comes: an answer that overtakes a body may be lost with the connection."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"POST /post HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode())
        return connection.recv(4096)


@pytest.mark.parametrize("name", BALANCERS)
def test_a_balancer_passes_what_the_edge_would_answer(
    name: str, edges: list[Edge], client: Client, tmp_path: Path
) -> None:
    with (
        balancer(name, tmp_path, [edge.port for edge in edges]) as url,
        httpx.Client(verify=plain_http.NOBODY, base_url=url, timeout=30) as http,
    ):
        key = {"x-eventbunker-write-key": client.keys["write_key"]}
        too_large = http.post("/post", headers=key, content=b"x" * 1_500_000)
        assert (too_large.status_code, too_large.json()["code"]) == (413, "body_too_large")
        assert answer_to_a_head(url, 6_000_000).startswith(b"HTTP/1.1 413")
        assert http.post("/post", headers=key, json={"event_name": "e"}).status_code == 200
        assert http.get("/metrics").status_code == 404
        assert http.get("/readyz").json()["ready"] is True


def batch_of(size: int) -> bytes:
    """A body of exactly `size` bytes: events of some 8 KB, and blanks up to it."""
    lines = [json.dumps({"event_name": "e", "text": "x" * 8_000}).encode()] * (size // 8_500)
    return b"\n".join(lines).ljust(size)


@pytest.mark.parametrize("name", BALANCERS)
def test_a_balancer_passes_every_batch_that_an_edge_takes(
    name: str, edges: list[Edge], client: Client, tmp_path: Path
) -> None:
    """And one that is a little larger, which is refused in the edge's words and not in the balancer's."""
    with (
        balancer(name, tmp_path, [edge.port for edge in edges]) as url,
        httpx.Client(verify=plain_http.NOBODY, base_url=url, timeout=30) as http,
    ):
        key = {"x-eventbunker-write-key": client.keys["write_key"]}
        for size in (2_193_010, 2_996_310, LARGEST_BATCH):
            taken = http.post("/batch", headers=key, content=batch_of(size))
            assert taken.status_code == 200, (size, taken.text[:300])
            assert taken.json()["accepted"] == size // 8_500
        refused = http.post("/batch", headers=key, content=batch_of(LARGEST_BATCH + 500_000))
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


class Echo(BaseHTTPRequestHandler):
    """Stands where an edge would, and tells every X-Forwarded-For that it was sent."""

    def do_GET(self) -> None:
        content = json.dumps(self.headers.get_all("x-forwarded-for") or []).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        with suppress(ConnectionError):  # a health check reads no body
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("name", BALANCERS)
def test_a_balancer_adds_the_client_behind_what_the_client_wrote(name: str, tmp_path: Path) -> None:
    """The edge believes the right-most address, also when it stands on a line of its own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as echo, ThreadPoolExecutor() as threads:
        threads.submit(echo.serve_forever)
        try:
            with balancer(name, tmp_path, [echo.server_port] * 2) as url:
                lines = plain_http.get(
                    f"{url}/x", headers={"x-forwarded-for": "203.0.113.9"}, timeout=10
                ).json()
        finally:
            echo.shutdown()
    assert ", ".join(lines) == "203.0.113.9, 127.0.0.1"


def test_pages_name_the_delay_that_the_balancers_need() -> None:
    """Figures that belong together stand in three files."""
    deploy = (ROOT / "deploy.toml").read_text()
    delay = float(re.findall(r"^shutdown_delay = (\S+)", deploy, re.M)[0])
    keep_alive = float(re.findall(r"^keep_alive_timeout = (\S+)", deploy, re.M)[0])
    haproxy, nginx = ((ROOT / "docs" / name).read_text() for name in ("haproxy.cfg", "nginx.conf"))
    interval, down, fall = map(
        float, re.findall(r"inter (\d+)s downinter (\d+)ms fall (\d+) rise 1", haproxy)[0]
    )
    assert interval * fall + 1 < delay  # the time of a check is added
    assert down / 1000 + 1 < interval * (fall - 1)  # the one that is back is in before the next one is out
    assert f"max_batch_bytes = {LARGEST_BATCH:_} " in deploy
    # The same of both, or who moves from one to the other is refused what went through.
    [passed] = re.findall(r"content-length\) gt (\d+)", haproxy)
    [mebibytes] = re.findall(r"client_max_body_size (\d+)m;", nginx)
    assert LARGEST_BATCH < int(passed) == int(mebibytes) * 1024 * 1024
    [idle] = re.findall(r"keepalive_timeout (\d+)s;\n    keepalive_requests 10000;\n}", nginx)
    assert float(idle) + 1 < delay < keep_alive
    [fail] = set(re.findall(r"fail_timeout=(\d+)s", nginx))
    assert float(fail) < delay  # the edge that came back is asked again before the other leaves
