"""How wide text in a drawing is, and what is done where it is too wide. Pure.

A drawing is made before anybody knows which font it is read in; DejaVu Sans is the widest of the usual ones.
Next reader: `app.chart_axis`.
"""

from __future__ import annotations

from collections.abc import Iterable
from unicodedata import category, east_asian_width

_GUESS = 0.6  # what pygal takes every character for
_WIDTHS = {
    **dict.fromkeys("MW@%", 1.0),
    **dict.fromkeys("mw&#+<=>~^\N{MINUS SIGN}", 0.9),
    **dict.fromkeys(".,:;'|-", 0.4),
}
_SYMBOLS = ("Sm", "So", "Pd", "Po")  # such as ∞, ©, — and …


def ems(text: str) -> float:
    """About how wide `text` is, in sizes of its font; rather too much than too little."""
    return sum(_width(character) for character in text)


def fitting(text: str, most: float) -> str:
    """`text`, cut to `most` ems."""
    if ems(text) <= most:
        return text
    cut = text
    while ems(cut) > most - 0.6:
        cut = cut[:-1]
    return cut.rstrip() + "…"


def guessed(texts: Iterable[str]) -> float:
    """How wide pygal takes the widest to be, in ems: the room that it leaves beside an axis."""
    return max((_GUESS * len(text) for text in texts), default=0.0)


def missing(texts: Iterable[str]) -> float:
    """How much wider than that they are, which is room for us to add."""
    return max((ems(text) - _GUESS * len(text) for text in texts), default=0.0)


def short_unit(unit: str) -> str:
    """Beside an axis there is room for a sign, or a word of two letters, not for more."""
    if len(unit) > 2:
        return ""
    return f"\N{NARROW NO-BREAK SPACE}{unit}" if unit.isalpha() else unit


def _width(character: str) -> float:
    if east_asian_width(character) in "WF":
        return 1.3
    if character in _WIDTHS:
        return _WIDTHS[character]
    if character.isupper():
        return 0.9
    if not character.isascii() and category(character) in _SYMBOLS:
        return 1.0
    return 0.6 if character.islower() or character.isspace() else 0.64
