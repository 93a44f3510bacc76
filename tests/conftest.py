"""Fixtures that every test may ask for; each lives in the module that says what it is."""

from __future__ import annotations

import os

import pytest

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


# A whole run stays under a quarter of an hour without these. Named alone they run (`make rolling`, `make sabotage`),
# and all of them with EVENTBUNKER_LONG=1.
LONG = (
    "test_rolling.py::test_a_rolling_restart_loses_no_request[nginx]",
    "test_rolling.py::test_a_balancer_passes_what_the_edge_would_answer[nginx]",
    "test_synced.py::test_a_spooled_event_is_synced_before_its_200",
    "test_sabotage.py::test_its_test_fails_without_it[late]",
    "test_idempotency_key.py::test_ten_thousand_repeats_of_a_thousand_events",
    "test_registry_bursts.py::test_it_always_closes",
    "test_shards.py::test_dev_changes_its_own_queue",
    "test_hostile_slow.py::test_an_answer_that_nobody_reads_is_given_up[http2]",
    "test_hostile_slow.py::test_slow_senders_and_many_connections[uvicorn]",
    "test_crash.py::test_kill_9_under_load_loses_and_doubles_nothing[redis]",
    "test_bench.py::test_a_round_against_the_real_edge_is_conserved",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long ones out of a whole run."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or os.environ.get("EVENTBUNKER_LONG"):
        return
    left_out = [item for item in items if item.nodeid.endswith(LONG)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
