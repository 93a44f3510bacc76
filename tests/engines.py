"""An edge under each `[server] engine`, on the Redis and the store of the session's service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pytest

from tests.client import Client
from tests.edge_process import Edge
from tests.service import Service

ENGINES = ("hypercorn", "uvicorn")


class Target(Protocol):
    """What a test of an edge needs of whoever runs it: the whole service, or `EdgeOf` one."""

    @property
    def url(self) -> str: ...

    @property
    def keys(self) -> dict[str, str]: ...

    @property
    def log(self) -> str: ...

    def pids(self, role: str) -> list[int]: ...

    def wait_ready(self) -> None: ...


class EdgeOf:
    """One more edge of a running service, seen as the service is."""

    def __init__(self, service: Service, edge: Edge) -> None:
        self._service, self._edge = service, edge
        self.url = edge.url

    @property
    def keys(self) -> dict[str, str]:
        return {**self._service.keys, "url": self.url}

    @property
    def log(self) -> str:
        return self._edge.log.read_text()

    def pids(self, role: str) -> list[int]:
        return self._edge.pids() if role == "edge" else self._service.pids(role)

    def wait_ready(self) -> None:
        self._service.wait_ready()
        self._edge.wait_ready()


@pytest.fixture(scope="session", params=ENGINES)
def target(
    request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """The session's edge under each engine."""
    service.wait_ready()
    if request.param == "hypercorn":
        yield service
        return
    directory = tmp_path_factory.mktemp(request.param)
    edge = Edge(directory, service, f'engine = "{request.param}"\nshutdown_delay = 0\n', workers=1)
    try:
        edge.wait_ready()
        yield EdgeOf(service, edge)
    finally:
        edge.end()


@pytest.fixture(scope="session")
def engine(target: Target) -> str:
    """The name of `target`'s engine."""
    return "uvicorn" if isinstance(target, EdgeOf) else "hypercorn"


@pytest.fixture(scope="session")
def target_client(target: Target) -> Iterator[Client]:
    """A client of `target` with the keys of dev.json."""
    opened = Client(target.keys)
    yield opened
    opened.http.close()
