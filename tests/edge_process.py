"""`eventbunker edge` as tests run it: a process on a port of its own, on a running service's Redis and store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests import plain_http
from tests.service import COMMAND, ROOT, Service
from tests.store_fixture import free_port
from tests.waiting import until

START_SECONDS = 30.0
STOP_SECONDS = 60.0


class Edge:
    """A started edge. `server` is added to its [server] table; it can be started again on its port."""

    def __init__(
        self,
        directory: Path,
        service: Service,
        server: str = "",
        name: str = "edge",
        *,
        workers: int = 2,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = directory / f"{name}.toml"
        self.config = f'[server]\nhost = "127.0.0.1"\nport = {self.port}\nworkers = {workers}\n{server}'
        self._config.write_text(self.config)
        store = json.loads((service.state / "store.json").read_text())
        self._environ = {
            "REDIS_URL": f"unix://{service.redis_socket}",
            "CLICKHOUSE_URL": store["url"],
            "CLICKHOUSE_PASSWORD": store["password"],
            **(environ or {}),
        }
        self.log = directory / f"{name}.log"
        self.process = self._start()

    def pids(self) -> list[int]:
        """Its edge processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def wait_ready(self) -> None:
        """Until /readyz is 200, as an operator would wait before restarting the next one."""
        until(self._is_ready, START_SECONDS, "the edge's /readyz")

    def restart(self) -> None:
        """SIGTERM, wait for its end, start it again, wait until it is ready."""
        self.process.terminate()
        assert self.process.wait(STOP_SECONDS) == 0, self.log.read_text()
        self.process = self._start()
        self.wait_ready()

    def end(self) -> None:
        """SIGKILL, if it still runs: an orderly stop waits for load balancers. Nothing is left."""
        if self.process.poll() is None:
            pids = self.pids()
            self.process.kill()  # the kernel ends its processes
            self.process.wait(STOP_SECONDS)
            until(
                lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10, "the end of its processes"
            )

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-c", COMMAND, "-c", str(self._config), "edge"],
                cwd=ROOT,
                env={**os.environ, **self._environ},
                stdout=output,
                stderr=output,
            )

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return plain_http.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
