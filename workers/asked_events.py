"""Which events a command means: its options -> `filters` of a request; and whose they are, by which key.

--event purchase --filter price>100 --filter plan=pro --filter page_url~^https://shop
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TextIO, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from app.fields import COLUMNS, Kind
from workers.command_context import state_option

F = TypeVar("F", bound=Callable[..., Any])
KEY_VARIABLES = ("EVENTBUNKER_QUERY_KEY", "QUERY_KEY")
OPERATORS = {
    "!=": "not_equals", ">=": "greater_than_or_equals", "<=": "less_than_or_equals",
    "=": "equals", ">": "greater_than", "<": "less_than", "~": "matches",
}  # fmt: skip
_SUGAR = re.compile(r"([^=!<>~]+)(!=|>=|<=|=|>|<|~)(.*)", re.DOTALL)


def whose(command: F) -> F:
    """Options for whose events are meant: `project`, `customer`, `url`, `key_file`, `state`."""
    for option in (
        state_option,
        click.option(
            "--key-file",
            type=click.File("r"),
            help=f"With --url. Holds the QUERY key, which else comes from {' or '.join(KEY_VARIABLES)}.",
        ),
        click.option(
            "--url", default="", help="Ask this edge over HTTP, with a QUERY key, and nothing else."
        ),
        click.option("--customer", metavar="CUSTOMER_IDENTIFIER", help="This customer's events alone."),
        click.option("--project", metavar="PROJECT_ID", default="", help="Default: that which `dev` made."),
    ):
        command = option(command)
    return command


def which(command: F) -> F:
    """Options for which events are meant: `event`, `filter_`, `filters`."""
    for option in (
        click.option("--filters", default="", metavar="JSON", help="Filters as a query has them."),
        click.option(
            "--filter",
            "filter_",
            multiple=True,
            metavar="FIELD=VALUE",
            help="Also != > >= < <= and ~ for a regular expression. Numbers, true and false are what they"
            ' look like; "in quotes" they are text. Repeatable: all must hold.',
        ),
        click.option("--event", default="", metavar="NAME", help="Events of this name."),
    ):
        command = option(command)
    return command


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets, or a port, that are none
        return False


def check(project: str, customer: str | None, url: str, key_file: TextIO | None) -> None:
    """Errors: click.UsageError where options contradict each other, or cannot mean anything."""
    if url and not _is_address(url):  # a tail would try for ever
        raise click.UsageError("--url must begin with http:// or https:// and name an edge")
    if url and (project or customer is not None):
        raise click.UsageError("--project and --customer are the key's to say, with --url")
    if key_file is not None and not url:
        raise click.UsageError("--key-file goes with --url; the operator needs no key")
    if customer == "":
        raise click.UsageError("--customer is not empty")


def read_key(file: TextIO | None) -> str:
    """The QUERY key; never an argument, which others on the machine could read."""
    given = [file.read()] if file is not None else [os.environ.get(name, "") for name in KEY_VARIABLES]
    found = next(filter(None, map(str.strip, given)), "")
    if not found:
        raise click.UsageError(f"no QUERY key: set {' or '.join(KEY_VARIABLES)}, or give --key-file")
    if not found.isascii() or not found.isprintable():
        raise click.UsageError("the QUERY key holds characters that no key has")
    return found


def read_filters(event: str, sugar: tuple[str, ...], filters: str) -> list[object]:
    """`filters` of a request. What a filter means is checked where it is asked. Errors: click.UsageError."""
    found: list[object] = []
    if event:
        found.append({"field_name": "event_name", "op": "equals", "value": event})
    found += map(_filter, sugar)
    if filters:
        try:
            found += msgspec.json.decode(filters, type=list[Any])
        except msgspec.DecodeError as error:
            raise click.UsageError(f"--filters is not a JSON array: {error}") from None
    return found


def _filter(text: str) -> dict[str, object]:
    match = _SUGAR.fullmatch(text)
    if match is None:
        raise click.UsageError(f"--filter {text}: write FIELD=VALUE, or != > >= < <= ~ between the two")
    name, sign, value = match[1].strip(), match[2], match[3]
    if sign == "=" and value.startswith("="):
        raise click.UsageError(
            f"--filter {text}: one = is enough; a value that begins with one is for --filters to say"
        )
    return {"field_name": name, "op": OPERATORS[sign], "value": _value(name, sign, value)}


def _value(name: str, sign: str, text: str) -> object:
    """Where a field holds text alone, or is matched by a pattern, the value is what stands there."""
    column = COLUMNS.get(name)
    if sign == "~" or (column is not None and column.kind is not Kind.FLAG):
        return text
    try:
        value: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return value if isinstance(value, str | int | float) else text
