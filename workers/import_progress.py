"""How an import says how far it is: a bar on a terminal, else a line every few seconds. On standard error."""

from __future__ import annotations

import shutil
import time
from collections import deque
from typing import TextIO

from workers.output import silence
from workers.printable import printable

BAR_SECONDS = 0.1
LINE_SECONDS = 5.0
RATE_SECONDS = 10.0  # the rate shown is that of the last ones
BAR_WIDTH = 24


class Progress:
    """`total` is None where the end cannot be seen. Counts are those of this run."""

    def __init__(self, out: TextIO | None, total: int | None) -> None:
        """Silent without `out`."""
        self._out = out
        self._is_bar = out is not None and out.isatty()
        self._total = total
        self._seen: deque[tuple[float, int, int]] = deque()
        self._next = time.monotonic() + (0 if self._is_bar else LINE_SECONDS)
        self._shown = 0
        self._last = (0, 0, 0)

    def show(self, bytes_read: int, rows: int, rejected: int, *, force: bool = False) -> None:
        """Cheap to call often."""
        now, self._last = time.monotonic(), (bytes_read, rows, rejected)
        if not self._seen:
            self._seen.append((now, bytes_read, rows))
        if self._out is None or (now < self._next and not force):
            return
        self._next = now + (BAR_SECONDS if self._is_bar else LINE_SECONDS)
        self._seen.append((now, bytes_read, rows))
        while len(self._seen) > 2 and self._seen[1][0] < now - RATE_SECONDS:
            self._seen.popleft()
        text = self._text(bytes_read, rows, rejected)
        if self._is_bar:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r{text[:width]}{' ' * max(0, self._shown - len(text[:width]))}")
            self._shown = len(text[:width])
        else:
            self._write(f"{text}\n")

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._out is None:
            return
        self.end()
        self._write(f"{printable(text)}\n")

    def end(self) -> None:
        """Leave the bar as it is by now, and go to the next line."""
        if self._shown:
            self.show(*self._last, force=True)
        if self._out is not None and self._is_bar and self._shown:
            self._write("\n")
            self._shown = 0

    def _write(self, text: str) -> None:
        """Where nobody can be told, as on a full disk, the import goes on in silence."""
        if self._out is None:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:  # it would be taken for one of Redis
            silence(self._out)
            self._out = None

    def _text(self, bytes_read: int, rows: int, rejected: int) -> str:
        (began, first_bytes, first_rows), (now, _, _) = self._seen[0], self._seen[-1]
        seconds = now - began
        parts = [f"{rows:,} rows", f"{(rows - first_rows) / seconds if seconds else 0:,.0f}/s"]
        if rejected:
            parts.append(f"{rejected:,} rejected")
        if not self._total:
            return "  ".join([f"{_size(bytes_read)} read", *parts])
        share = min(1.0, bytes_read / self._total)
        speed = (bytes_read - first_bytes) / seconds if seconds else 0
        parts.append(f"{_time((self._total - bytes_read) / speed)} left" if speed and share < 1 else "")
        bar = "#" * int(share * BAR_WIDTH)
        head = [f"[{bar:<{BAR_WIDTH}}]"] if self._is_bar else []
        size = f"{_size(bytes_read)} of {_size(self._total)}"
        return "  ".join([*head, f"{share:4.0%}", size, *parts]).rstrip()


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
