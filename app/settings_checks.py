"""Checks that look at more than one key, or at the machine: each says what is wrong and what to change.

Paths are those of the top level; `app.deploy_file` knows in which environment a key was written.
"""

from __future__ import annotations

import ipaddress
from datetime import date
from pathlib import Path

from app import settings_places
from app.certificate import Unreadable, find_problem
from app.errors import Problem
from app.settings import Settings
from app.stream import own_names

NEWEST_COMPATIBILITY_DATE = date(2026, 11, 23)


def check(settings: Settings) -> list[Problem]:
    """Every problem across keys."""
    return [
        *_compatibility_date(settings),
        *settings_places.check(settings),
        *_tls(settings),
        *_engine(settings),
        *_proxies(settings),
        *_origins(settings),
        *_queues(settings),
        *_store(settings),
    ]


def warn(settings: Settings) -> list[str]:
    """What is allowed, but probably not meant."""
    warnings = []
    if settings.environment and not settings.redis_url:
        warnings.append(_embedded_only(settings.environment, "Redis", "queues.producers[0].url or REDIS_URL"))
    if settings.environment and not settings.clickhouse_url:
        warnings.append(_embedded_only(settings.environment, "store", "stores[0].url or CLICKHOUSE_URL"))
    geography = settings.vars.get("GEOIP_DB")
    if geography and not Path(str(geography)).is_file():
        warnings.append(f"vars.GEOIP_DB: there is no file {str(geography)!r}; the drain needs it")
    certificate = find_problem(settings.server)
    if isinstance(certificate, Unreadable):
        warnings.append(f"{certificate.path}: {certificate.message}")
    if settings.limits.append_timeout > settings.server.graceful_timeout:
        warnings.append(
            "server.graceful_timeout is shorter than limits.append_timeout: "
            "a stop can cut off requests that wait for Redis"
        )
    return warnings


def _embedded_only(environment: str, part: str, keys: str) -> str:
    return (
        f"`env.{environment}` names no {part} ({keys}): "
        "only `eventbunker dev` can run it, with an embedded one"
    )


def _compatibility_date(settings: Settings) -> list[Problem]:
    try:
        chosen = date.fromisoformat(settings.compatibility_date)
    except ValueError:
        return [Problem("compatibility_date", "is not a day of the calendar")]
    if chosen > NEWEST_COMPATIBILITY_DATE:
        message = f"this version knows dates up to {NEWEST_COMPATIBILITY_DATE}; use that one or update"
        return [Problem("compatibility_date", message)]
    return []


def _tls(settings: Settings) -> list[Problem]:
    server = settings.server
    files = {"certfile": server.certfile, "keyfile": server.keyfile}
    problems = [
        Problem(f"server.{key}", f"there is no file {path!r}")
        for key, path in files.items()
        if path and not settings_places.refusal(path) and not Path(path).is_file()
    ]
    if bool(server.certfile) != bool(server.keyfile):
        absent = "keyfile" if server.certfile else "certfile"
        problems.append(
            Problem(f"server.{absent}", "certfile and keyfile belong together; set both or neither")
        )
    if problems or any(map(settings_places.refusal, files.values())):
        return problems
    found = find_problem(server)
    return [] if found is None or isinstance(found, Unreadable) else [found]


def _engine(settings: Settings) -> list[Problem]:
    """What an engine or HTTP/3 cannot do is an error, not a silence."""
    server = settings.server
    if not server.quic_port:
        return []
    path = "server.quic_port"
    if server.engine != "hypercorn":
        return [
            Problem(path, f'is HTTP/3, which engine "{server.engine}" does not speak; use "hypercorn", or 0')
        ]
    if not server.certfile:
        return [Problem(path, "is HTTP/3, which is always encrypted: set certfile and keyfile, or 0")]
    if server.workers > 1:
        message = "needs workers = 1: packets of one client would come to several processes; or set 0"
        return [Problem(path, message)]
    return []


def _proxies(settings: Settings) -> list[Problem]:
    problems = []
    for index, network in enumerate(settings.server.trusted_proxies):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            message = f"not a network such as 10.0.0.0/8: {error}"
            problems.append(Problem(f"server.trusted_proxies[{index}]", message))
    return problems


def _origins(settings: Settings) -> list[Problem]:
    """A browser sends an origin in one form only; any other would silently never match."""
    problems = []
    for index, origin in enumerate(settings.cors.allowed_origins):
        parts = settings_places.split(origin)
        exact = parts and parts.hostname and f"{parts.scheme}://{parts.netloc}" == origin == origin.lower()
        if origin != "*" and not exact:
            message = 'must be "*" or exactly scheme://host[:port], in lower case, without a final slash'
            problems.append(Problem(f"cors.allowed_origins[{index}]", message))
    return problems


def _queues(settings: Settings) -> list[Problem]:
    queue, consumer = settings.producer.queue, settings.consumer
    problems = []
    if consumer.queue != queue:
        message = f"nobody would drain {queue!r}: producer and consumer name different queues"
        problems.append(Problem("queues.consumers[0].queue", message))
    if consumer.dead_letter_queue in (queue, consumer.queue):
        message = "must not be the queue itself: a dead letter would come back for ever"
        problems.append(Problem("queues.consumers[0].dead_letter_queue", message))
    if consumer.dead_letter_queue in own_names():
        key = f"eb:{{{queue}:N}}:{consumer.dead_letter_queue}"
        message = (
            f'is taken: the queue itself keeps something else in Redis under {key}; "events-dead" is free'
        )
        problems.append(Problem("queues.consumers[0].dead_letter_queue", message))
    return problems


def _store(settings: Settings) -> list[Problem]:
    store = settings.store
    if store.engine == "clickhouse" and not settings.clickhouse_url:
        message = 'engine "clickhouse" needs a url here or CLICKHOUSE_URL in the environment'
        return [Problem("stores[0].url", message)]
    if store.engine == "embedded" and store.url:
        return [Problem("stores[0].url", 'is of no use to engine "embedded"; set engine = "clickhouse"')]
    if store.engine == "clickhouse" and store.path:
        return [Problem("stores[0].path", 'is where engine "embedded" keeps its data; remove it')]
    return []
