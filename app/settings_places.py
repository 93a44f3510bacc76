"""Checks of paths, addresses and urls: could there be such a file, such a machine? Each names its key.

What no system call takes would otherwise end in a traceback at the start, in whichever process comes to it
first. Nothing is looked up or opened: a file may be made, and a name may be known, where the service runs.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from app.errors import Problem
from app.settings import Settings

REDIS_SCHEMES = ("redis", "rediss", "unix")
HTTP_SCHEMES = ("http", "https")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_ALL_DIGITS = re.compile(r"[0-9.]+")


def check(settings: Settings) -> list[Problem]:
    """Every problem of the kind."""
    redis, store = settings.producer.url, settings.store.url
    return [
        *_paths(settings),
        *_address("dev.ip", settings.dev.ip),
        *_address("server.host", settings.server.host),
        *_geography(settings),
        *_url("queues.producers[0].url", redis, REDIS_SCHEMES),
        *_url("stores[0].url", store, HTTP_SCHEMES),
        *(_url("REDIS_URL", settings.redis_url, REDIS_SCHEMES) if settings.redis_url != redis else ()),
        *(
            _url("CLICKHOUSE_URL", settings.clickhouse_url, HTTP_SCHEMES)
            if settings.clickhouse_url != store
            else ()
        ),
    ]


def find_zero_bytes(value: object, path: str = "") -> Iterator[Problem]:
    """Every text of the file with a NUL in it, whatever it is for."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from find_zero_bytes(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from find_zero_bytes(item, f"{path}[{index}]")
    elif isinstance(value, str) and "\0" in value:
        yield Problem(path, r"holds a zero byte (\u0000), which ends every path and address: remove it")


def refusal(path: str) -> str:
    """Why no file can have this path, "" when one can. That there is none, or one that may not be looked at,
    is no reason."""
    try:
        os.stat(path)
    except OSError as error:
        return str(error.strerror) if error.errno in (errno.ENAMETOOLONG, errno.ELOOP) else ""
    except ValueError as error:
        return str(error)
    return ""


def split(url: str) -> SplitResult | None:
    """The parts of a url, None when it is malformed."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is not a number between 0 and 65535
    except ValueError:
        return None
    return parts


def _paths(settings: Settings) -> list[Problem]:
    server, geography = settings.server, settings.vars.get("GEOIP_DB")
    # As it was said: where SPOOL_PATH wins, the file's own is of no use and does no harm.
    chosen = settings.spool.path and str(settings.spool_path).endswith(settings.spool.path)
    paths = {
        "dev.persist_to": settings.dev.persist_to,
        "server.certfile": server.certfile,
        "server.keyfile": server.keyfile,
        "spool.path" if chosen else "SPOOL_PATH": str(settings.spool_path),
        "stores[0].path": settings.store.path,
        "vars.GEOIP_DB": geography if isinstance(geography, str) else "",
    }
    return [
        Problem(key, f"is no path that a file can have: {why}")
        for key, path in paths.items()
        if path and (why := refusal(path))
    ]


def _address(key: str, address: str) -> list[Problem]:
    """An IP address or the name of a machine. What is made of digits and dots is meant as an address, and
    would be looked up as a name."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        if _HOST_NAME.fullmatch(address) and not _ALL_DIGITS.fullmatch(address):
            return []
        message = f'{address!r} is no address to listen on: such as "127.0.0.1", "::1" or "localhost"'
        return [Problem(key, message)]
    return []


def _geography(settings: Settings) -> list[Problem]:
    """[vars] takes numbers too, and a drain would look for a file of that name and end, again and again."""
    geography = settings.vars.get("GEOIP_DB", "")
    if isinstance(geography, str):
        return []
    return [Problem("vars.GEOIP_DB", "is the path of an .mmdb file: write it in quotes")]


def _url(key: str, url: str, schemes: tuple[str, ...]) -> list[Problem]:
    """Never shows the url: one from the environment may carry a password."""
    if not url:
        return []
    try:
        parts = urlsplit(url)
    except ValueError:
        return [Problem(key, "is no url; check its brackets")]
    if parts.scheme not in schemes:
        return [Problem(key, f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")]
    if not (parts.path if parts.scheme == "unix" else parts.hostname):
        return [Problem(key, "names no socket" if parts.scheme == "unix" else "names no host")]
    if (known := split(url)) is None or known.port == 0:
        return [Problem(key, "its port must be a number from 1 to 65535")]
    return []
