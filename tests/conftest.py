"""Fixtures that every test may ask for; each lives in the module that says what it is."""

from __future__ import annotations

import gc

import hypothesis
import pytest
import structlog

from tests.certificate import certificate
from tests.client import client
from tests.engines import engine, target, target_client
from tests.other_origin import site
from tests.redis_fixture import redis_server, redis_url
from tests.service import service, start_service
from tests.store_fixture import store_database, store_server, store_table

__all__ = [
    "certificate",
    "client",
    "engine",
    "redis_server",
    "redis_url",
    "service",
    "site",
    "start_service",
    "store_database",
    "store_server",
    "store_table",
    "target",
    "target_client",
]

# No test is timed: what takes 20 ms here takes 300 where other work runs beside it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# As structlog comes, but for errors: where Rich is installed it would colour the source of every frame that one came
# through, which takes a processor a second and more. Nobody sees that but under a test that failed.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

# The longest: where two work at once, one that is begun last has the end to itself.
FIRST = (
    "test_supervisor.py",
    "test_eraser.py",
    "test_schemathesis.py",
    "test_sharing.py",
    "test_takeover.py",
    "test_verify.py",
    "test_rolling.py",
    "test_tail.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files are begun in the order of their first tests."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(FIRST)))


def pytest_collection_finish() -> None:
    """What was imported and collected stays: each look of the garbage collector through it took a tenth of the time."""
    gc.collect()
    gc.freeze()
