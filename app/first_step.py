"""A coroutine's first step, taken by hand, tells whether it has to wait; `go_on` takes the others.

For the body of a request, which has nearly always arrived with its head: a deadline that is set and taken
back for each one costs 3 us, as much as every rule of an event.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


@types.coroutine
def go_on(work: Coroutine[Any, Any, T], waits_for: object) -> Generator[Any, Any, T]:
    """Await the rest of `work`, whose first `send(None)` gave `waits_for`: what `await` does from there."""
    while True:
        try:
            try:
                got = yield waits_for
            except BaseException as error:
                waits_for = work.throw(error)
            else:
                waits_for = work.send(got)
        except StopIteration as end:
            result: T = end.value
            return result
