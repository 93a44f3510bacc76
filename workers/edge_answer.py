"""The lines that an HTTP/1.1 answer begins with, from an app's status and headers. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

STATUS_LINES = {
    **{status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 600)},
    **{one.value: b"HTTP/1.1 %d %b\r\n" % (one.value, one.phrase.encode()) for one in HTTPStatus},
}
# Headers that most answers have with the same value: their lines are remembered.
USUAL = frozenset(
    (
        *(b"content-type", b"cache-control", b"vary"),
        *(b"access-control-allow-origin", b"access-control-expose-headers"),
    )
)
MAX_REMEMBERED = 100  # an app may have many values for them
_remembered: dict[tuple[bytes, bytes], bytes] = {}


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> tuple[list[bytes], int | None, bool]:
    """The lines, the length of the body where a header tells it, and whether the connection is to end.

    `connection` and `transfer-encoding` are left out: the server decides about both.
    """
    lines: list[bytes] = []
    length: int | None = None
    ends = False
    for header in headers:
        line = _remembered.get(header)
        if line is None:
            name, value = header[0].lower(), header[1]
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                ends = ends or b"close" in value.lower()
                continue
            elif name == b"transfer-encoding":
                continue
            line = b"%b: %b\r\n" % (name, value)
            if name in USUAL and len(_remembered) < MAX_REMEMBERED:
                _remembered[header] = line
        lines.append(line)
    return lines, length, ends
