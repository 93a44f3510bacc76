"""Standard output for what others wrote: bytes as they are into a pipe, no orders for a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import click


def write(content: bytes) -> None:
    """Print `content`. On a terminal, control characters other than the line's end and tab are spelt out."""
    with told():
        if sys.stdout.isatty():
            text = content.decode("utf-8", "backslashreplace")
            harmless = [one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text]
            click.echo("".join(harmless), nl=False)
            return
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def silence(stream: TextIO) -> None:
    """What could not be written goes nowhere; else Python tries again when it ends, and ends with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors: click.ClickException where nothing can be written, as on a full disk; BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise click.ClickException(f"the output cannot be written: {error.strerror or error}") from None
