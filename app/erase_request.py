"""The request to erase (api.md section 6): bytes -> which events, narrowed to the key's grant. Pure.

`filters`, `time_period` and `timezone` are those of a query. Nothing is erased by leaving things out: without
filters and time_period only a key that is bound to a customer may ask, and means all of that customer.
"""

from __future__ import annotations

import re
from itertools import islice

import msgspec

from app.errors import MAX_PROBLEMS, Problem, invalid_body
from app.fields import unknown
from app.filters import Condition, read_filters
from app.grant import Grant
from app.request import decode
from app.time_period import Period, read_period, read_zone
from app.tombstone import Tombstone

_MEMBERS = ("filters", "time_period", "timezone", "dry_run")
_STATUS_MEMBERS = ("erasure_id", "limit", "cursor")
MAX_LISTED = 1000
CURSOR = "era_[0-9a-f]{28}"


class Wanted(msgspec.Struct, frozen=True):
    """What is to be erased; `up_to_ms` and the id of its tombstone are still to be given.

    `filters`: all of the request's, of which the tombstone may have made customers.
    """

    tombstone: Tombstone
    filters: tuple[Condition, ...]
    is_dry_run: bool


class Status(msgspec.Struct, frozen=True):
    """One erasure, or a page of the project's where `erasure_id` is ""."""

    erasure_id: str = ""
    limit: int = 100
    cursor: str = ""


def read_erasure(body: bytes, grant: Grant, now_ms: int) -> Wanted:
    """Errors: ApiError 400 that names every problem found."""
    problems: list[Problem] = []
    request = _decode(body, _MEMBERS, problems)
    period = _period(request, now_ms, problems)
    asked = request.get("filters", [])
    filters = read_filters(asked, problems)
    is_dry_run = request.get("dry_run", False)
    if not isinstance(is_dry_run, bool):
        problems.append(Problem("$.dry_run", "expected true or false"))
    if not problems and not filters and period is None and grant.customer_identifier is None:
        problems.append(
            Problem(
                "$",
                "say which events to erase, by filters or time_period; whoever wants none of the project's "
                "to remain deletes the project",
            )
        )
    if problems or not isinstance(asked, list):
        raise invalid_body(problems)
    customers: tuple[str, ...] | None = None
    if grant.customer_identifier is not None:
        customers = (grant.customer_identifier,)
    rest = []
    for condition in asked:
        named = _customers(condition) if customers is None else None
        if named is None:
            rest.append(condition)
        else:
            customers = named
    tombstone = Tombstone("", grant.project_id, 0, customers, None, period, tuple(rest))
    return Wanted(tombstone, filters, bool(is_dry_run))


def read_status(body: bytes) -> Status:
    """Errors: ApiError 400."""
    problems: list[Problem] = []
    request = _decode(body, _STATUS_MEMBERS, problems)
    if request.get("cursor") is None:  # as on an answer's last page: begin with the first
        request.pop("cursor", None)
    for name in ("erasure_id", "cursor"):
        if not isinstance(request.get(name, ""), str):
            problems.append(Problem(f"$.{name}", "expected a string: the one of an answer"))
    if isinstance(cursor := request.get("cursor"), str) and not re.fullmatch(CURSOR, cursor):
        problems.append(Problem("$.cursor", "expected the `cursor` of the answer before"))
    limit = request.get("limit", 100)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LISTED:
        problems.append(Problem("$.limit", f"expected an integer from 1 to {MAX_LISTED}"))
    if problems:
        raise invalid_body(problems)
    return msgspec.convert(request, Status)


def _customers(condition: object) -> tuple[str, ...] | None:
    """Whom a checked condition names, if that is all it does: such tombstones are merged."""
    match condition:
        case {"field_name": "customer_identifier", "op": "equals", "value": str(one)} if one:
            return (one,)
        case {"field_name": "customer_identifier", "op": "in", "value": list(several)} if all(several):
            return tuple(dict.fromkeys(map(str, several)))
    return None


def _decode(body: bytes, members: tuple[str, ...], problems: list[Problem]) -> dict[str, object]:
    if not body.strip():
        return {}
    request = decode(body)
    if not isinstance(request, dict):
        raise invalid_body([Problem("$", "the body must be one JSON object")])
    problems += [
        Problem(f"$.{name}"[:200], unknown("member", name, members))
        for name in islice((name for name in request if name not in members), MAX_PROBLEMS)
    ]
    return request


def _period(request: dict[str, object], now_ms: int, problems: list[Problem]) -> Period | None:
    name = request.get("timezone", "UTC")
    try:
        if not isinstance(name, str):
            raise ValueError("expected an IANA name such as Europe/Berlin")
        zone = read_zone(name)
    except ValueError as error:
        problems.append(Problem("$.timezone", str(error)))
        zone = read_zone("UTC")
    if "time_period" not in request:
        return None
    found = read_period(request["time_period"], zone, now_ms)
    if isinstance(found, Period):
        return found
    problems.append(found)
    return None
