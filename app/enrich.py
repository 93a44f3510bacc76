"""Record -> what is derived from its request: browser, system, device, campaign, geography. Pure.

The same record always gives the same values: no clock, no randomness. The geography database is opened
once by the process. Next reader: `workers.rows`, which packs the values into a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import msgspec
from ua_parser import parse as parse_user_agent

from app.event import PREDEFINED_STRINGS

if TYPE_CHECKING:
    from maxminddb import Reader

CACHED_USER_AGENTS = 4096  # of up to 2048 characters; real traffic repeats few, and parsing one costs a lot
MAX_URL_CHARACTERS = 8192
UTM_NAMES = tuple(name for name in PREDEFINED_STRINGS if name.startswith("utm_"))


class Client(msgspec.Struct, frozen=True):
    """What a User-Agent header tells. None where it does not."""

    browser_name: str | None = None
    browser_version: str | None = None
    os_name: str | None = None
    os_version: str | None = None
    device_type: str | None = None
    is_bot: bool | None = None


class Place(msgspec.Struct, frozen=True):
    """Where an address is, as far as the database knows: ISO country code, region and city in English."""

    ip_country: str | None = None
    ip_region: str | None = None
    ip_city: str | None = None


NOWHERE = Place()


def prepare() -> None:
    """Compile what User-Agents are parsed with, else done at the first: 0.1 s at best, and 26 MB."""
    parse_user_agent("-")


@lru_cache(maxsize=CACHED_USER_AGENTS)
def read_client(user_agent: str) -> Client:
    """Browser, operating system and kind of device of a User-Agent header."""
    if not user_agent:
        return Client()
    parsed = parse_user_agent(user_agent)
    browser, system, device = parsed.user_agent, parsed.os, parsed.device
    is_bot = device is not None and device.family == "Spider"
    return Client(
        browser_name=browser.family if browser else None,
        browser_version=_version(browser.major, browser.minor) if browser else None,
        os_name=system.family if system else None,
        os_version=_version(system.major, system.minor) if system else None,
        device_type=_device_type(user_agent, is_bot=is_bot, has_system=system is not None),
        is_bot=is_bot,
    )


def _version(*parts: str | None) -> str | None:
    return ".".join(part for part in parts if part) or None


def _device_type(user_agent: str, *, is_bot: bool, has_system: bool) -> str:
    """bot, tablet, mobile, desktop or other. Tablets leave the word "Mobile" out, except iPads."""
    if is_bot:
        return "bot"
    if "iPad" in user_agent or "Tablet" in user_agent:
        return "tablet"
    if "Android" in user_agent:
        return "mobile" if "Mobile" in user_agent else "tablet"
    if "Mobi" in user_agent or "iPhone" in user_agent:
        return "mobile"
    return "desktop" if has_system else "other"


def read_campaign(page_url: str | None) -> Mapping[str, str]:
    """The utm_ parameters of a page's address; the first of each wins."""
    if not page_url or "utm_" not in page_url or len(page_url) > MAX_URL_CHARACTERS:
        return {}
    try:
        query = parse_qs(urlsplit(page_url).query, max_num_fields=200)
    except ValueError:  # not an address, or one built to be slow
        return {}
    return {name: query[name][0] for name in UTM_NAMES if name in query}


class GeographyError(Exception):
    """The database cannot be used; the message says why."""


class Geography:
    """Looks addresses up in an .mmdb file, if one is configured."""

    def __init__(self, path: str) -> None:
        self._reader: Reader | None = None
        if not path:
            return
        try:
            import maxminddb  # noqa: PLC0415  (the extra `geo`)

            self._reader = maxminddb.open_database(Path(path))
        except ImportError:
            raise GeographyError("GEOIP_DB needs the package maxminddb: the extra `geo`") from None
        except (OSError, ValueError, RuntimeError) as error:
            raise GeographyError(f"GEOIP_DB {path!r} cannot be opened: {error}") from None

    def place(self, address: str) -> Place:
        """The place of an IP address; unknown and malformed ones are nowhere."""
        if self._reader is None or not address:
            return NOWHERE
        try:
            found = self._reader.get(address)
        except ValueError:
            return NOWHERE
        if not isinstance(found, dict):
            return NOWHERE
        regions = found.get("subdivisions")
        region = regions[0] if isinstance(regions, list) and regions else None
        country = found.get("country")
        code = country.get("iso_code") if isinstance(country, dict) else found.get("country_code")
        return Place(code if isinstance(code, str) else None, _english(region), _english(found.get("city")))


def _english(place: object) -> str | None:
    names = place.get("names") if isinstance(place, dict) else None
    name = names.get("en") if isinstance(names, dict) else None
    return name if isinstance(name, str) else None
