"""What a segment of the spool looks like on disk: frames, each with a checksum. Pure but for reading a file.

    segment   16 bytes `eventbunker\\x01` padded with zeros, then frames, then zeros to its allocated end
    frame     48 bytes of head, the counts for the ledger, the payload; the CRC-32 covers all that follows it

A frame is one group, exactly as it would have been appended to Redis: the same group id, the same payload.
Reading never trusts a length that the checksum has not confirmed, and goes on behind damage: at the next
place where a whole frame with a right checksum begins. Next: `app.spool`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import msgspec

SEGMENT_HEAD = b"eventbunker\x01".ljust(16, b"\0")
FRAME_MAGIC = b"EBgp"
# magic, crc, payload bytes, records, partition, counts bytes, sequence, Unix ms, incarnation
_HEAD = struct.Struct("<4sIIIHHQQ12s")
_CHECKED_FROM = 8


class Frame(msgspec.Struct, frozen=True):
    """One group. `incarnation` is 24 hex characters; `spooled_at` Unix ms; `counts` as APPEND takes them."""

    incarnation: str
    partition: int
    sequence: int
    records: int
    spooled_at: int
    counts: bytes
    payload: bytes


class Damage(msgspec.Struct, frozen=True):
    """Bytes that are no frame. `is_tail`: no frame follows them, so they may be a write that was cut off."""

    content: bytes
    is_tail: bool


def encode(frame: Frame) -> bytes:
    """The frame's bytes."""
    rest = _HEAD.pack(
        FRAME_MAGIC,
        0,
        len(frame.payload),
        frame.records,
        frame.partition,
        len(frame.counts),
        frame.sequence,
        frame.spooled_at,
        bytes.fromhex(frame.incarnation),
    )[_CHECKED_FROM:]
    body = b"".join((rest, frame.counts, frame.payload))
    return b"".join((FRAME_MAGIC, zlib.crc32(body).to_bytes(4, "little"), body))


def encoded_bytes(counts_bytes: int, payload_bytes: int) -> int:
    """The size of a frame."""
    return _HEAD.size + counts_bytes + payload_bytes


def decode(content: bytes, start: int) -> tuple[Frame, int] | None:
    """The frame that begins at `start` and where it ends; None when no whole, sound frame does."""
    if len(content) - start < _HEAD.size:
        return None
    magic, crc, payload, records, partition, counts, sequence, at, incarnation = _HEAD.unpack_from(
        content, start
    )
    end = start + _HEAD.size + counts + payload
    if magic != FRAME_MAGIC or end > len(content):
        return None
    if zlib.crc32(memoryview(content)[start + _CHECKED_FROM : end]) != crc:
        return None
    body = start + _HEAD.size
    frame = Frame(
        incarnation.hex(),
        partition,
        sequence,
        records,
        at,
        content[body : body + counts],
        content[body + counts : end],
    )
    return frame, end


def read(content: bytes) -> Iterator[tuple[Frame | Damage, int]]:
    """Everything in a segment or in the rest of one, in order, each with the place where it ends.

    Zeros behind the last frame are not worth a word.
    """
    start = len(SEGMENT_HEAD) if content.startswith(SEGMENT_HEAD) else 0
    while start < len(content):
        found = decode(content, start)
        if found is not None:
            yield found
            start = found[1]
            continue
        after = _next_frame(content, start)
        end = len(content) if after is None else after
        damaged = content[start:end].rstrip(b"\0")
        if damaged:
            yield Damage(damaged, is_tail=after is None), end
        start = end


def _next_frame(content: bytes, start: int) -> int | None:
    at = content.find(FRAME_MAGIC, start + 1)
    while at >= 0:
        if decode(content, at) is not None:
            return at
        at = content.find(FRAME_MAGIC, at + 1)
    return None
