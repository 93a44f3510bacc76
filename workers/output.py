"""Standard output for what others wrote: bytes as they are into a pipe, no orders for a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

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


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors: click.ClickException where nothing can be written, as on a full disk; BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise click.ClickException(f"the output cannot be written: {error.strerror or error}") from None
