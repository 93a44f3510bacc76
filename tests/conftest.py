"""Fixtures that every test may ask for; each lives in the module that says what it is."""

from __future__ import annotations

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
