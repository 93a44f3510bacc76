"""Record -> one row of the events table in ClickHouse's RowBinary format. Pure.

The client's bytes go in untouched as `body`; the engine computes the JSON column from them.
Columns and their order are those of COLUMNS; the table is made by `workers/migrations`.
Source: https://clickhouse.com/docs/interfaces/formats/RowBinary
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

import msgspec

from app.enrich import NOWHERE, UTM_NAMES, Geography, read_campaign, read_client
from app.shown import OwnColumns
from app.stream import Record
from app.timestamp import parse_timestamp

# In the order in which a row is put together: what requests have in common comes first, and is remembered.
COLUMNS = (
    *("project_id", "browser_name", "browser_version", "os_name", "os_version", "device_type", "is_bot"),
    *("user_agent", "ip_country", "ip_region", "ip_city", "time_recorded", "event_time", "unique_req_id"),
    *("event_name", "customer_identifier", "event_id", "page_url", "referrer", *UTM_NAMES, "body"),
)
CACHED_SENDERS = 512  # of a project and a User-Agent, which may have 2048 characters; a miss costs 2 us
INSERT = f"INSERT INTO events ({', '.join(COLUMNS)}) FORMAT RowBinary"
INSERT_SETTINGS: dict[str, str | int | float] = {
    "async_insert": 0,  # the server must answer after the write, not after queueing it
    "insert_deduplicate": 1,
    # Otherwise strings that look like dates come back as dates and no longer equal themselves.
    "input_format_try_infer_dates": 0,
    "input_format_try_infer_datetimes": 0,
    # One block: an insert is atomic only within a block.
    "max_insert_block_size": 1_048_576,
    "min_insert_block_size_rows": 0,
    "min_insert_block_size_bytes": 0,
}


class Row(msgspec.Struct, frozen=True, gc=False):
    """`data` in RowBinary. `event_key` tells copies of one event; empty where it has no id of its own.

    `identity`: the 16 bytes of its `unique_req_id`.
    """

    data: bytes
    event_key: bytes
    customer_identifier: str
    identity: bytes


class Rows:
    """The rows of a batch; they become one block when it is asked for, since few are needed one by one."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.count = 0
        self.size = 0

    def add(self, data: bytes) -> int:
        """Where the row begins."""
        start = self.size
        self._pieces.append(data)
        self.size += len(data)
        self.count += 1
        return start

    def cut(self, start: int, size: int) -> bytes:
        """One row."""
        return self.whole()[start : start + size]

    def whole(self) -> bytes:
        """All of them, one behind the other."""
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]


_DECODER = msgspec.json.Decoder(OwnColumns)
_MOMENTS = struct.Struct("<qq").pack
_NULL = b"\x01"
_PRESENT = b"\x00"
_EMPTY = b"\x00"  # a text of no bytes
_NOWHERE = _NULL * 3
_NO_UTM = (None,) * len(UTM_NAMES)
_NO_CAMPAIGN = _NULL * len(UTM_NAMES)


def event_key(project_id: str, event_id: str) -> bytes:
    """16 bytes that stand for this id in this project; none without an id.

    A digest, so that ids of any length cost the same and their text is kept in one place only. 128 bits of
    SHA-256: no two ids that anybody ever sends have the same. `workers/migrations` computes the same in SQL.
    """
    return hashlib.sha256(f"{project_id}\0{event_id}".encode()).digest()[:16] if event_id else b""


def to_row(record: Record, geography: Geography) -> Row:
    """The row of `record`. Errors: msgspec.DecodeError or ValueError for a body no edge would accept.

    What drains spend their time with: a call that is spared here is spared for every event.
    """
    body = record.body
    envelope = _DECODER.decode(body)
    recorded = record.time_recorded
    timestamp = envelope.timestamp
    # The page that sent the request is the page of the event, unless the event names another.
    page_url, referrer = envelope.page_url, envelope.referrer
    if referrer is None and page_url is not None:
        referrer = record.referer or None
    if page_url is None:
        page_url = record.referer or None
    place = geography.place(record.client_ip)
    identity = record.unique_req_id
    customer_identifier = record.customer_identifier or envelope.customer_identifier
    event_id = envelope.event_id or record.event_id
    name, customer = envelope.event_name.encode(), customer_identifier.encode()
    size = len(body)
    data = b"".join(
        (
            _sender(record.project_id, record.user_agent),
            _NOWHERE if place is NOWHERE else _nullables(place.ip_country, place.ip_region, place.ip_city),
            _MOMENTS(recorded, recorded if timestamp is None else parse_timestamp(timestamp)),
            identity,
            encode_length(len(name)),
            name,
            encode_length(len(customer)),
            customer,
            _text(event_id) if event_id else _EMPTY,
            _NULL if page_url is None else _PRESENT + _text(page_url),
            _NULL if referrer is None else _PRESENT + _text(referrer),
            _campaign(envelope, page_url),
            encode_length(size),
            body,
        )
    )
    key = event_key(record.project_id, event_id) if event_id else b""
    return Row(data, key, customer_identifier, identity)


@lru_cache(maxsize=CACHED_SENDERS)
def _sender(project_id: str, user_agent: str) -> bytes:
    """The columns that follow from the project and the User-Agent header."""
    client = read_client(user_agent)
    software = (client.browser_name, client.browser_version, client.os_name, client.os_version)
    is_bot = _NULL if client.is_bot is None else _PRESENT + client.is_bot.to_bytes(1, "little")
    texts = _nullables(*software, client.device_type)
    return _text(project_id) + texts + is_bot + _nullables(user_agent or None)


def _campaign(envelope: OwnColumns, page_url: str | None) -> bytes:
    """The utm_ columns: the event's own, else those of its page's address."""
    own = (
        *(envelope.utm_source, envelope.utm_medium, envelope.utm_campaign),
        *(envelope.utm_term, envelope.utm_content),
    )
    if page_url is None or "utm_" not in page_url:
        return _NO_CAMPAIGN if own == _NO_UTM else _nullables(*own)
    derived = read_campaign(page_url)
    return _nullables(*map(_own_or, own, (derived.get(name) for name in UTM_NAMES)))


def _own_or(own: str | None, derived: str | None) -> str | None:
    return derived if own is None else own


def _nullables(*texts: str | None) -> bytes:
    return b"".join(_NULL if text is None else _PRESENT + _text(text) for text in texts)


def _text(text: str) -> bytes:
    value = text.encode()
    return encode_length(len(value)) + value


def _leb128(size: int) -> bytes:
    out = bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


_LENGTHS = [_leb128(size) for size in range(1024)]  # of nearly everything


def encode_length(size: int) -> bytes:
    """LEB128, the length prefix of RowBinary."""
    return _LENGTHS[size] if size < 1024 else _leb128(size)
