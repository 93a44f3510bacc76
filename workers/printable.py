"""What others wrote, before it is shown on a terminal: escape sequences are seen, not obeyed."""

from __future__ import annotations


def printable(text: str) -> str:
    """On one line, and nothing in it that a terminal would act on."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
