"""The text of an import, unpacked and decoded, with a position and a digest of all before it.

The digest is how an import knows its content again (`workers.import_journal`). It is of the unpacked bytes,
so a file that was packed since is the same; and it runs along, so that a pipe can be resumed as well.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from collections.abc import Callable

from workers import import_zstd
from workers.import_content import BLOCK_BYTES, Chunk, InputError, Mark, Peekable, ReadError, Unreadable

# How errors begin that are raised where a packed part is expected to begin, and something else stands.
NO_PART = ("Not a gzipped file", "Unable to decompress Zstandard data: Unknown frame descriptor")
MENDED = (
    "rows that are in may be damaged too, and stay so. Run the same command again with the mended file: it "
    "goes on if they were right, else it is refused, and says what there is to do"
)


class Content:
    """Unpacked text, taken piece by piece from the front. All that was taken is in the digest."""

    def __init__(self, stream: Peekable, packing: str, encoding: str = "", *, grows: bool = False) -> None:
        """`grows`: a last line without a line break is not finished yet, and not read."""
        self._stream = stream
        self.packing = packing
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self._has_ended = False
        self._grows = grows
        self._is_in_line = False  # was something taken of the line, and not its end?
        self.position = 0
        self.line = 1
        self.problem = ""
        self.advice = ""
        self.is_followed = False  # by what is not of the packed data, which is whole

    @property
    def mark(self) -> Mark:
        # Of a last row without a line break the line is behind, though no line has begun.
        return Mark(self.position, self.line + self._is_in_line, self._hash.hexdigest())

    @property
    def is_cut_off(self) -> bool:
        """Is what stands behind the last line break no whole row? To be asked at the end."""
        return self._grows or bool(self.problem)

    @property
    def waiting(self) -> bytearray:
        """What was filled and not taken. Only to look at."""
        return self._buffer

    def fill(self, size: int) -> bool:
        """Have `size` bytes waiting; False where there are not so many."""
        while len(self._buffer) < size and not self._has_ended:
            self._buffer += self._read()
        return len(self._buffer) >= size

    def take(self, size: int) -> bytes:
        """The next `size` bytes, which wait already."""
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._hash.update(data)
        self.position += len(data)
        self._is_in_line = bool(data) and not data.endswith(b"\n")
        return data

    def leave(self) -> None:
        """Let go of what waits, at the end: it is in no digest."""
        self._buffer.clear()

    def keep_mark(self) -> Callable[[], None]:
        """What sets the mark back to here, whatever was taken since: for the end, where that is no row."""
        kept = (self.position, self.line, self._is_in_line, self._hash.copy())

        def set_back() -> None:
            self.position, self.line, self._is_in_line, self._hash = kept

        return set_back

    def digest_at(self, position: int) -> str | None:
        """The digest of everything before `position`, which is not behind; None where it ends sooner."""
        size = position - self.position
        if size < 0 or not self.fill(size):
            return None
        ahead = self._hash.copy()
        ahead.update(memoryview(self._buffer)[:size])
        return ahead.hexdigest()

    def skip_to(self, position: int) -> None:
        while self.position < position:
            self.fill(min(position - self.position, BLOCK_BYTES))
            if not self._buffer:
                return
            self.line += self.take(min(position - self.position, len(self._buffer))).count(b"\n")

    def _read(self) -> bytes:
        data = self._unpack()
        self._has_ended = not data
        if self._decoder is None:
            return data
        try:
            return self._decoder.decode(data, final=not data and not self.problem).encode()
        except UnicodeError as error:
            raise InputError(
                f"it is not {self._encoding} after byte {self.position + len(self._buffer):,}: {error}; "
                "name another one with --encoding"
            ) from None

    def _unpack(self) -> bytes:
        try:
            # What is there: a longer read that meets the broken end would lose what came before it.
            return self._stream.read1(BLOCK_BYTES)
        except ReadError as error:
            self.problem = str(error)
        except EOFError:
            self.problem = f"the {self.packing} data ends in the middle"
        except (zlib.error, gzip.BadGzipFile, import_zstd.ZstdError) as error:
            # The first part began as it should (`unpack`), so this is said of what follows a whole one.
            self.is_followed = str(error).startswith(NO_PART)
            if not self.is_followed:
                self.problem, self.advice = f"the {self.packing} data is damaged ({error})", MENDED
        return b""


class TextSource:
    """What a `Source` of lines knows of its place, all of it from the bytes."""

    def __init__(self, content: Content) -> None:
        self._content = content

    @property
    def mark(self) -> Mark:
        return self._content.mark

    @property
    def problem(self) -> str:
        return self._content.problem

    @property
    def advice(self) -> str:
        return self._content.advice

    def digest_at(self, position: int) -> str | None:
        return self._content.digest_at(position)

    def skip_to(self, position: int) -> None:
        self._content.skip_to(position)

    def _behind_rows(self, rest: Unreadable | None = None) -> Chunk | None:
        """For the end: what is no whole row. The mark stays before it."""
        content, found = self._content, [rest] if rest is not None else []
        content.leave()
        if content.is_followed:
            content.is_followed = False
            found.append(
                Unreadable(
                    f"what follows the end of the {content.packing} data is no {content.packing} data; "
                    "mend the file if it held rows",
                    b"",
                )
            )
        return Chunk([*found], [content.mark.line] * len(found), content.mark) if found else None
