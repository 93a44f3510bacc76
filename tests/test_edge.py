"""The production edge: several processes on one socket, HTTP/1.1 and HTTP/2, TLS, and a stop that answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.main import Draining
from app.settings import load
from tests import plain_http
from tests.certificate import tls
from tests.edge_process import Edge
from tests.engines import ENGINES
from tests.service import COMMAND, FROM_OUTSIDE, ROOT, Service, StartService
from tests.waiting import until
from workers.edge_app import EdgeError, load_app
from workers.edge_hypercorn import server_config
from workers.edges import listen, turn_away

pytestmark = pytest.mark.service


@pytest.fixture
def edge(service: Service, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Edge]:
    """Two processes under the default engine, or under the one that the test is given."""
    service.wait_ready()
    one = Edge(tmp_path, service, getattr(request, "param", ""))
    try:
        until(lambda: '"serving"' in one.log.read_text(), 30, "the edge")
        yield one
    finally:
        one.end()


def test_edges_share_the_port_and_the_keys_of_the_service(edge: Edge, service: Service) -> None:
    assert len(edge.pids()) == 2
    answer = plain_http.post(
        f"{edge.url}/post",
        headers={"x-eventbunker-write-key": service.keys["write_key"]},
        json={"event_name": "through_the_edge"},
        timeout=30,
    )
    assert answer.status_code == 200
    assert "server" not in answer.headers


def test_killed_edge_is_replaced_while_the_other_serves(edge: Edge) -> None:
    before = set(edge.pids())
    os.kill(min(before), signal.SIGKILL)
    for _ in range(20):
        assert plain_http.get(f"{edge.url}/livez", timeout=30).status_code == 200
    until(lambda: len(edge.pids()) == 2 and set(edge.pids()) != before, 20, "a new edge")


@pytest.mark.parametrize(
    "edge",
    ["", 'engine = "uvicorn"\nworker_class = "asyncio"\nshutdown_delay = 1\n'],
    ids=ENGINES,
    indirect=True,
)
def test_a_stopping_edge_serves_on_and_ends_its_connections(edge: Edge) -> None:
    """What a load balancer sees: first readiness falls, then every connection ends with its answer."""
    pids = edge.pids()

    def is_proved() -> bool:
        """For each of its workers, which have begun one after the other; a connection goes to either."""
        return all(plain_http.get(f"{edge.url}/readyz?strict").status_code == 200 for _ in range(20))

    with httpx.Client(verify=plain_http.NOBODY, base_url=edge.url, timeout=10) as http:
        assert "connection" not in http.get("/livez").headers
        until(is_proved, 20, "a proof of the drain for this edge")
        edge.process.terminate()
        until(lambda: http.get("/readyz").status_code == 503, 4, "/readyz of a stopping edge")
        assert http.get("/readyz").json() == {"ready": False, "degraded": ["serving"]}
        answer = http.get("/livez")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert edge.process.wait(30) == 0
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(httpx.ConnectError):
        plain_http.get(f"{edge.url}/livez", timeout=5)


def test_a_second_signal_ends_the_waiting_and_nothing_else(service: Service, tmp_path: Path) -> None:
    service.wait_ready()
    edge = Edge(tmp_path, service, "shutdown_delay = 600\n")
    try:
        edge.wait_ready()
        edge.process.terminate()
        until(lambda: "stopping" in edge.log.read_text(), 10, "the first signal")
        with httpx.Client(verify=plain_http.NOBODY, base_url=edge.url, timeout=10) as http:
            until(lambda: http.get("/readyz").status_code == 503, 10, "/readyz of a stopping edge")

        def is_heard() -> bool:
            if "not waiting" not in edge.log.read_text():
                edge.process.terminate()  # within half a second it would be the same wish
                return False
            return True

        until(is_heard, 10, "the second signal")
        assert edge.process.wait(30) == 0
    finally:
        edge.end()


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_in_flight_is_answered(service: Service, tmp_path: Path, engine: str) -> None:
    """A sender that is slow at the worst moment: half of its body before the signal, the rest after it."""
    service.wait_ready()
    edge = Edge(tmp_path, service, f'engine = "{engine}"\nshutdown_delay = 0\n', workers=1)
    body = json.dumps({"event_name": "slow"}).encode()
    head = (
        f"POST /post?write_key={service.keys['write_key']} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}"
    )
    try:
        edge.wait_ready()
        with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + body[:5])
            plain_http.get(f"{edge.url}/livez", timeout=5)  # by then the head has been read
            edge.process.terminate()
            until(lambda: not accepts(edge.port), 10, "a closed port")
            connection.sendall(body[5:])
            answer = connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert edge.process.wait(30) == 0
    finally:
        edge.end()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_who_is_turned_away_finds_a_closed_port_and_nobody_is_reset() -> None:
    with listen("127.0.0.1", 0, 16, how="") as listener:
        address = listener.getsockname()
        with socket.create_connection(address, timeout=5) as early, ThreadPoolExecutor() as threads:
            turn_away(listener)
            late = threads.submit(socket.create_connection, address, timeout=10)
            with listener.accept()[0] as served:
                listener.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    listener.accept()
                listener.close()
                early.sendall(b"still served")
                assert served.recv(100) == b"still served"
            with pytest.raises(ConnectionRefusedError):
                late.result(10)


def test_edge_without_redis_says_what_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "deploy.toml"
    config.write_text("")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "-c", str(config), "edge"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "REDIS_URL is not set" in done.stderr


def test_tls_speaks_http2_and_http1(start_service: StartService, certificate: Path) -> None:
    service = start_service("--port", "0", deploy=f"[server]\n{tls(certificate)}", wait=False)
    until(lambda: service.logged("serving"), 60, "the service")
    assert service.url.startswith("https://")
    context = ssl.create_default_context(cafile=str(certificate))
    assert httpx.get(f"{service.url}/livez", verify=context, timeout=10).http_version == "HTTP/1.1"
    assert http_version(f"{service.url}/livez", "--cacert", str(certificate)) == "2"
    assert service.stop() == 0


def test_tls_of_uvicorn_speaks_http1(service: Service, certificate: Path, tmp_path: Path) -> None:
    service.wait_ready()
    edge = Edge(tmp_path, service, f'engine = "uvicorn"\nshutdown_delay = 0\n{tls(certificate)}', workers=1)
    url = edge.url.replace("http://", "https://")
    context = ssl.create_default_context(cafile=str(certificate))
    try:
        until(lambda: '"serving"' in edge.log.read_text(), 30, "the edge")
        assert http_version(f"{url}/livez", "--cacert", str(certificate)) == "1.1"
        with httpx.Client(base_url=url, verify=context, timeout=10) as http:
            key = {"x-eventbunker-write-key": service.keys["write_key"]}
            for _ in range(3):
                assert http.post("/post", headers=key, json={"event_name": "tls"}).status_code == 200
            too_large = http.post("/post", headers=key, content=b"x" * 3_000_000)
            assert (too_large.status_code, too_large.headers["connection"]) == (413, "close")
        with socket.create_connection(("127.0.0.1", edge.port), timeout=10) as plain:
            plain.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")
        edge.process.terminate()
        assert edge.process.wait(30) == 0
        assert '"level":"error"' not in edge.log.read_text()
    finally:
        edge.end()


def test_http2_without_tls_by_prior_knowledge(service: Service) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    assert http_version(f"{service.url}/livez", "--http2-prior-knowledge") == "2"


def http_version(url: str, *options: str) -> str:
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_version}", *options, url]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def test_main_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    from app.main import Draining

    config = tmp_path / "deploy.toml"
    config.write_text('main = "app.nowhere:create_app"\n')
    with pytest.raises(EdgeError, match=r'main = "app\.nowhere:create_app"'):
        load_app(load(config, environ={}), Draining())


def test_idle_connections_outlive_a_load_balancer(tmp_path: Path) -> None:
    """Hypercorn's read timeout also cuts idle connections: it must not be the shorter one."""
    config = tmp_path / "deploy.toml"
    config.write_text("")
    made = server_config(load(config, environ={}), 3, Draining())
    assert made.keep_alive_timeout > 60
    assert (made.read_timeout or 0) >= made.keep_alive_timeout
