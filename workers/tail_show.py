"""An event that arrives -> a line for people, or as it is for programs. Standard output; words about it go to
standard error."""

from __future__ import annotations

import shutil
import sys
import zlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click
import msgspec

from app.fields import COLUMNS
from workers import output
from workers.printable import printable

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
_NAME_WIDTH = 20
# Columns that a line shows like custom fields; the rest of them would hide what the event is about.
_SHOWN = ("page_url", "utm_source", "ip_country", "browser_name", "device_type")


class Enough(Exception):
    """As many events were shown as were wanted, or nobody reads them any more."""


class Show:
    """`format_`: pretty or ndjson. `count`: how many events are wanted; None: all."""

    def __init__(self, format_: str, count: int | None) -> None:
        self._is_pretty = format_ == "pretty"
        self._left = count

    def event(self, line: bytes) -> None:
        """`line`: JSON. Errors: Enough."""
        try:
            with output.told():
                if self._is_pretty:
                    click.echo(pretty(msgspec.json.decode(line), shutil.get_terminal_size().columns))
                else:
                    sys.stdout.buffer.write(line + b"\n")
                    sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise Enough from None
        if self._left is not None:
            self._left -= 1
            if not self._left:
                raise Enough

    def word(self, text: str) -> None:
        """Something about the tail, that is no event."""
        output.say(click.style(f"-- {printable(text)}", dim=True))


def pretty(event: dict[str, Any], width: int) -> str:
    """One line: when, what, who, and what the event says of it. Times are those of this machine."""
    moment = datetime.fromisoformat(event["event_time"]).astimezone()
    name = printable(str(event["event_name"]))
    customer = printable(str(event["customer_identifier"] or "-"))
    said = [f"{printable(key)}={printable(_text(value))}" for key, value in _fields(event)]
    head = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
    colour = _COLOURS[zlib.crc32(name.encode()) % len(_COLOURS)]
    rest = " ".join(said)
    room = max(20, width - len(head) - max(len(name), _NAME_WIDTH) - len(customer) - 6)
    if len(rest) > room:
        rest = rest[: room - 1] + "…"
    return (
        f"{click.style(head, dim=True)}  {click.style(f'{name:<{_NAME_WIDTH}}', fg=colour, bold=True)}  "
        f"{customer}  {rest}"
    )


def _fields(event: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in event.items():
        if value is None or name == "timestamp" or (name in COLUMNS and name not in _SHOWN):
            continue
        if isinstance(value, dict):
            yield from ((f"{name}.{child}", inner) for child, inner in value.items())
        else:
            yield name, value


def _text(value: object) -> str:
    """Text is bare where that cannot be taken for anything else."""
    if isinstance(value, str) and value and not any(one in value for one in ' "='):
        try:
            msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return msgspec.json.encode(value).decode()
