"""What an operator asks, from wherever it comes: the argument itself, `@FILE`, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

import click


def read(given: str | None, what: str) -> str:
    """The text that `given` means; `-`, and nothing at all beside a pipe, are standard input.

    Errors: click.UsageError.
    """
    if given is None and sys.stdin.isatty():
        raise click.UsageError(f"{what} as an argument, as @FILE, or on standard input")
    if given is None or given == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    if not given.startswith("@"):
        return given
    try:
        return _decoded(Path(given[1:]).read_bytes(), given[1:])
    except OSError as error:
        raise click.UsageError(f"{given[1:]} cannot be read: {error.strerror}") from None


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"{where} is not UTF-8") from None
