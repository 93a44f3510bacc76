"""A moment on the command line: `2h`, `3d`, or a timestamp."""

from __future__ import annotations

import re
import time
from typing import Any

import click

from app.timestamp import parse_timestamp

_AGO = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Since(click.ParamType[int]):
    """Unix milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if ago := _AGO.fullmatch(value):
            return max(0, time.time_ns() // 1_000_000 - int(ago[1]) * _SECONDS[ago[2]] * 1000)
        try:
            return parse_timestamp(value)
        except ValueError as error:
            self.fail(f"{value!r}: a number of s, m, h or d ago (2h), or a timestamp: {error}", param, ctx)
