"""Rules that no type can say, written beside the types of a request. A leaf; `app.walk` applies them.

Annotated[str, Rule(check)]      about one value
def broken_rules(self): ...      of a struct, about members that are right by themselves
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import msgspec


class Rule(msgspec.Struct, frozen=True):
    """`check` is called with the converted value and raises ValueError with a sentence for the client.

    `first`: before anything else is looked at, with the value as it came. For what bounds the work.
    """

    check: Callable[[Any], object]
    first: bool = False


@runtime_checkable
class HasRules(Protocol):
    """A struct with rules between its members."""

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        """Of each broken rule the path from here (`.value`, `.value[3]`, or "") and the message."""
        ...
