"""What every command is given: the settings, by the file and environment that the user chose."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

import click
import msgspec

from app.settings import Settings, SettingsError, load
from workers import output

INTERRUPTED = 130  # the exit code of Ctrl-C, as shells have it


class Seconds(click.FloatRange):
    """A number in a range. nan is in every one, since it compares with nothing, and its end never comes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return found


class Context:
    """The user's choice; its file is read when a command needs it."""

    def __init__(self, config: Path, environment: str | None) -> None:
        self.config = config
        self.environment = environment

    def settings(self, *, state: Path | None = None) -> Settings:
        """`state` replaces `dev.persist_to`: the running service that an operator's command means."""
        try:
            settings = load(self.config, environment=self.environment)
        except SettingsError as error:
            count = "1 problem" if len(error.problems) == 1 else f"{len(error.problems)} problems"
            output.say(f"{self.config} has {count}:\n{indent(str(error), '  ')}")
            sys.exit(1)
        for warning in settings.warnings:
            output.say(f"warning: {warning}")
        if state is None:
            return settings
        dev = msgspec.structs.replace(settings.dev, persist_to=str(state))
        return msgspec.structs.replace(settings, dev=dev)


state_option = click.option(
    "--state", type=click.Path(path_type=Path), help="That of `dev`, if it was given one."
)
