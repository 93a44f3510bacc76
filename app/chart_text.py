"""How wide text in a drawing is, and what is done where it is too wide. Pure.

A drawing is made before anybody knows which font it is read in; DejaVu Sans is the widest of the usual ones.
Next reader: `app.chart_axis`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from unicodedata import category, decomposition, east_asian_width, normalize

_GUESS = 0.6  # what pygal takes every character for
_WIDTHS = {  # of those that are far from others of their kind
    **dict.fromkeys("‰‱", 1.75),
    **dict.fromkeys("ЖҖШЩЮЉЊŒ", 1.1),
    **dict.fromkeys("MWm@%₩₪₴…©®°Ææœжҗшщфыюљњ", 1.0),
    **dict.fromkeys("w&#+<=>~^\N{MINUS SIGN}ωм", 0.9),
    **dict.fromkeys(".,:;'|-", 0.4),
}
_SEVERAL = ("<compat>", "<fraction>", "<font>")  # one sign made of several, such as ﬃ, ⅞ and Ⅷ, or bold
_CATEGORIES = {"Sm": 1.45, "So": 1.45, "Pd": 1.0, "Po": 1.0, "No": 1.0, "Lt": 1.1, "Lo": 0.75}


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


@lru_cache(4096)
def _width(character: str) -> float:
    if east_asian_width(character) in "WF":
        return 1.3
    base = normalize("NFD", character)[0]  # an accent takes no room
    if base in _WIDTHS:
        return _WIDTHS[base]
    if base.isspace():
        return 0.6
    if base.isascii():
        return 0.9 if base.isupper() else 0.6 if base.islower() else 0.64
    if decomposition(base).startswith(_SEVERAL):
        return 1.45
    if base.isupper():
        return 0.95
    if base.islower():
        return 0.66 if base < "\N{ARMENIAN CAPITAL LETTER AYB}" else 0.8
    return _CATEGORIES.get(category(base), 0.64)
