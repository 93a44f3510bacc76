"""Checks that look at more than one key, or at the machine: each says what is wrong and what to change."""

from __future__ import annotations

import ipaddress
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from app.errors import Problem
from app.settings import Settings

NEWEST_COMPATIBILITY_DATE = date(2026, 11, 23)
REDIS_SCHEMES = ("redis", "rediss", "unix")
HTTP_SCHEMES = ("http", "https")


def check(settings: Settings, required: tuple[str, ...], prefix: str) -> list[Problem]:
    """Every problem across keys; `prefix` is `env.NAME.` or empty."""
    problems = [
        *_compatibility_date(settings),
        *_tls(settings),
        *_proxies(settings),
        *_queues(settings, prefix),
        *_urls(settings, prefix),
    ]
    missing = [name for name in required if not settings.secret(name)]
    if missing:
        names = ", ".join(missing)
        problems.append(
            Problem(
                f"{prefix}secrets.required",
                f"missing required secrets: {names}. Set them in the environment or in .dev.vars",
            )
        )
    if settings.store.engine == "clickhouse" and not settings.clickhouse_url:
        message = 'engine "clickhouse" needs a url here or CLICKHOUSE_URL in the environment'
        problems.append(Problem(f"{prefix}stores[0].url", message))
    return problems


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
    if bool(server.certfile) != bool(server.keyfile):
        return [Problem("server.certfile", "certfile and keyfile belong together; set both or neither")]
    return [
        Problem(f"server.{key}", f"there is no file {path!r}")
        for key, path in (("certfile", server.certfile), ("keyfile", server.keyfile))
        if path and not Path(path).is_file()
    ]


def _proxies(settings: Settings) -> list[Problem]:
    problems = []
    for index, network in enumerate(settings.server.trusted_proxies):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            problems.append(
                Problem(f"server.trusted_proxies[{index}]", f"not a network such as 10.0.0.0/8: {error}")
            )
    return problems


def _queues(settings: Settings, prefix: str) -> list[Problem]:
    if settings.consumer.queue != settings.producer.queue:
        message = (
            f"nobody would drain {settings.producer.queue!r}: producer and consumer name different queues"
        )
        return [Problem(f"{prefix}queues.consumers[0].queue", message)]
    return []


def _urls(settings: Settings, prefix: str) -> list[Problem]:
    problems: list[Problem] = []
    for path, url, secret in (
        (f"{prefix}queues.producers[0].url", settings.producer.url, "REDIS_PASSWORD"),
        (f"{prefix}stores[0].url", settings.store.url, "CLICKHOUSE_PASSWORD"),
    ):
        if url and urlsplit(url).password:
            problems.append(Problem(path, f"holds a password; put it in {secret} in the environment"))
    for name, url, schemes in (
        ("REDIS_URL or queues.producers[0].url", settings.redis_url, REDIS_SCHEMES),
        ("CLICKHOUSE_URL or stores[0].url", settings.clickhouse_url, HTTP_SCHEMES),
    ):
        if url and urlsplit(url).scheme not in schemes:
            problems.append(Problem(name, f"must begin with {', '.join(schemes)} and ://"))
    return problems
