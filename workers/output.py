"""What a command says: its answer on standard output, bytes as they are into a pipe and no orders for a
terminal; words about it on standard error."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import sys
from collections.abc import Iterator
from typing import TextIO

import click


class Unwritten(click.ClickException):
    """The answer is there, and cannot be written. Its exit code is not that of a refusal."""

    exit_code = 3


def is_terminal() -> bool:
    """Whether a person reads standard output. Errors: Unwritten where it is closed, as by `>&-`."""
    # Typed as if it always were there. Source: https://docs.python.org/3/library/sys.html#sys.__stdout__
    if sys.stdout is None:
        raise Unwritten("standard output is closed: nothing can be written there")
    return sys.stdout.isatty()


def write(content: bytes) -> None:
    """Print `content`. On a terminal, control characters other than the line's end and tab are spelt out."""
    with told_or_enough():
        if is_terminal():
            text = content.decode("utf-8", "backslashreplace")
            harmless = [one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text]
            click.echo("".join(harmless), nl=False)
            return
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def silence(stream: TextIO) -> None:
    """What could not be written goes nowhere; else Python tries again when it ends, and ends with 120."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def line(text: str) -> None:
    """Print it, of a command that only shows. Errors: Unwritten, which is no trouble with Redis."""
    is_terminal()  # or it is closed, and click would be silent
    with told_or_enough():
        click.echo(text)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors: Unwritten where nothing can be written, as on a full disk; BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        silence(sys.stdout)
        raise
    except OSError as error:
        silence(sys.stdout)
        raise Unwritten(f"the output cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def told_or_enough() -> Iterator[None]:
    """As `told`, for what a command does last: who reads no further, as `| head`, has enough, and it ends
    with 0 and no word."""
    try:
        with told():
            yield
    except BrokenPipeError:
        sys.exit(0)


def look() -> None:
    """Before something is done that must be told. Errors: Unwritten where it can be seen already that nothing
    will be: standard output is closed, its reader gone or its disk full."""
    is_terminal()
    with told():
        file = sys.stdout.fileno()
        os.write(file, b"")  # which /dev/full refuses
        found, disk = os.fstat(file), os.fstatvfs(file)
        if stat.S_ISREG(found.st_mode) and disk.f_blocks and not disk.f_bfree:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        end = select.poll()
        end.register(file, 0)
        if any(event & select.POLLERR for _, event in end.poll(0)):
            raise Unwritten("the output cannot be written: who read it has gone")


def done(text: str) -> None:
    """Say what was done. It stays done, whoever listens: who reads no further, as `| true`, or has closed
    standard output, has the exit code. Errors: Unwritten, which says it, too."""
    with contextlib.suppress(BrokenPipeError):
        _in_any_case(text)


def once(text: str) -> None:
    """Say what can never be said again. Errors: Unwritten, which says it, too."""
    try:
        _in_any_case(text)
    except BrokenPipeError:
        raise Unwritten(f"the output cannot be written: who read it has gone; it was:\n{text}") from None


def _in_any_case(text: str) -> None:
    try:
        with told():
            click.echo(text)
    except Unwritten as error:
        raise Unwritten(f"{error}; it was:\n{text}") from None


def say(text: str) -> None:
    """A word on standard error. What cannot be said there (closed, on a full disk, to a terminal that is
    gone) costs nothing but the word: what was done is done."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)
