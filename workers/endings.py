"""SIGTERM and SIGHUP as Ctrl-C: a command that would leave something behind puts it away first."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

NUMBERS = (signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """By one of these signals. `code`: the exit code, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


@contextlib.contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Within it they interrupt as Ctrl-C does, also what runs in asyncio.run. Errors: Ended."""
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        # A terminal that closes sends more than one, and the next would interrupt what is put away.
        for one in before:
            signal.signal(one, signal.SIG_IGN)
        handler = signal.getsignal(signal.SIGINT)  # asyncio.run has its own; `&` in a script: ignored
        (handler if callable(handler) else signal.default_int_handler)(number, frame)

    before = {
        one: signal.signal(one, interrupt) for one in NUMBERS if signal.getsignal(one) is not signal.SIG_IGN
    }  # ignored: nohup
    try:
        yield
    except KeyboardInterrupt:
        if came:
            raise Ended(came[0]) from None
        raise
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
