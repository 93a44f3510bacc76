"""In which format an answer is given: what `Accept` asks for, and rows as NDJSON or CSV. Pure.

JSON is `app.answer`'s. A cell is what the answer holds: JSON text as it came from the store (`msgspec.Raw`),
or a string, number, boolean or null of ours.
Next reader: `app.answer`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from app.errors import ApiError, Kind

Cell = msgspec.Raw | str | int | bool | None
MAX_ACCEPT_CHARACTERS = 2000


class Format(enum.Enum):
    """The value is the media type of the answer."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    CSV = "text/csv"


class Accepted(msgspec.Struct, frozen=True):
    """`escapes_formulas`: asked for by `text/csv; formulas=escaped`."""

    format: Format
    escapes_formulas: bool = False

    @property
    def content_type(self) -> str:
        return "text/csv; charset=utf-8; header=present" if self.format is Format.CSV else self.format.value


JSON = Accepted(Format.JSON)


class _Range(msgspec.Struct, frozen=True):
    """One element of `Accept`."""

    media_type: str
    quality: float
    parameters: frozenset[str]

    def fit(self, one: Format) -> int:
        """How exactly it means this format; 0: not at all."""
        if self.media_type in (one.value, *_ALIASES.get(one, ())):
            return 3
        if self.media_type == one.value.partition("/")[0] + "/*":
            return 2
        return 1 if self.media_type == "*/*" else 0


_ALIASES = {Format.NDJSON: ("application/ndjson", "application/jsonl")}
_QUALITY = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.ASCII)
_FORMULAS = "formulas=escaped"
# What spreadsheets take for the beginning of a formula. Source: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_ENCODER = msgspec.json.Encoder()
_ON_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


def choose(accept: str | None) -> Accepted:
    """The format that a request's `Accept` likes best; of equals the one it names more exactly, then JSON.

    Errors: ApiError 406 when it takes none.
    """
    ranges = [found for item in (accept or "")[:MAX_ACCEPT_CHARACTERS].split(",") if (found := _range(item))]
    if not ranges:
        return JSON
    best: tuple[float, int, Accepted] = (0, 0, JSON)
    for one in Format:
        # The most exact range decides, whatever its quality: "text/csv;q=0, */*" refuses CSV.
        nearest = max(ranges, key=lambda item: item.fit(one))
        quality = nearest.quality if nearest.fit(one) else 0
        if (quality, nearest.fit(one)) > best[:2] and quality:
            escapes = one is Format.CSV and _FORMULAS in nearest.parameters
            best = (quality, nearest.fit(one), Accepted(one, escapes))
    if not best[0]:
        offered = ", ".join(one.value for one in Format)
        raise ApiError(Kind.NOT_ACCEPTABLE, f"Accept names no format that there is: {offered}.")
    return best[2]


def _range(item: str) -> _Range | None:
    """None for what is no media range: it is passed over."""
    media_type, *parameters = (part.strip().lower() for part in item.split(";"))
    if not re.fullmatch(r"[^\s/]+/[^\s/]+", media_type):
        return None
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            match = _QUALITY.fullmatch(parameter)
            if match is None:
                return None
            quality = float(match[1])
    return _Range(media_type, quality, frozenset(parameters))


def ndjson(rows: Sequence[Mapping[str, object]]) -> bytes:
    """One object a line, each line ended."""
    lines = _ENCODER.encode_lines(rows)
    if lines.count(b"\n") == len(rows) and b"\r" not in lines:
        return lines
    # In JSON as clients send it a line break is white space between tokens: in a string it is an escape.
    return b"".join(_ENCODER.encode(row).translate(_ON_ONE_LINE) + b"\n" for row in rows)


def columns(known: Iterable[str], rows: Iterable[Mapping[str, Cell]]) -> list[str]:
    """`known`, then what else the rows have, in the order in which it appears."""
    return list(dict.fromkeys([*known, *(name for row in rows for name in row)]))


def csv(names: Sequence[str], rows: Iterable[Mapping[str, Cell]], *, escapes_formulas: bool = False) -> bytes:
    """RFC 4180 in UTF-8, with a header. Strings, arrays and objects stand in quotes, nothing else does: so
    "1" is told from 1, and "" from null, which is empty.

    `escapes_formulas` puts an apostrophe before strings that a spreadsheet would execute.
    """
    header = ",".join(_quoted(name, escapes_formulas) for name in names) + "\r\n"
    return header.encode() + csv_rows(names, rows, escapes_formulas=escapes_formulas)


def csv_rows(
    names: Sequence[str], rows: Iterable[Mapping[str, Cell]], *, escapes_formulas: bool = False
) -> bytes:
    """The same without the header: what goes on where an answer came in parts."""
    place = {name: number for number, name in enumerate(names)}
    # An empty line would be no row to most readers.
    nothing = '""' if len(names) == 1 else ""
    empty = [""] * len(names)
    lines = []
    for row in rows:
        cells = empty.copy()  # of thousands of columns an event may have three: only those are looked at
        for name, cell in row.items():
            if (number := place.get(name)) is not None:
                cells[number] = _csv_cell(cell, escapes_formulas)
        lines.append(",".join(cells) or nothing)
    return "".join([f"{line}\r\n" for line in lines]).encode()


def _csv_cell(value: Cell, escapes_formulas: bool) -> str:
    if isinstance(value, msgspec.Raw):
        content = bytes(value)
        if content == b"null":
            return ""
        if content[:1] == b'"':
            return _quoted(str(msgspec.json.decode(content)), escapes_formulas)
        return _quoted(content.decode(), False) if content[:1] in b"[{" else content.decode()
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value, escapes_formulas) if isinstance(value, str) else str(value)


def _quoted(text: str, escapes_formulas: bool) -> str:
    if escapes_formulas and _FORMULA.match(text):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"'
