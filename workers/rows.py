"""Record -> one row of the events table in ClickHouse's RowBinary format. Pure.

The client's bytes go in untouched as `body`; the engine computes the JSON column from them.
Columns and their order are those of COLUMNS; the table is made by `workers/migrations`.
Source: https://clickhouse.com/docs/interfaces/formats/RowBinary
"""

from __future__ import annotations

import hashlib
import struct

import msgspec

from app.stream import Record
from app.timestamp import parse_timestamp
from workers.enrich import UTM_NAMES, Geography, read_campaign, read_client

COLUMNS = (
    *("project_id", "event_name", "event_time", "time_recorded", "unique_req_id"),
    *("customer_identifier", "event_id", "page_url", "referrer", *UTM_NAMES),
    *("ip_country", "ip_region", "ip_city", "browser_name", "browser_version", "os_name", "os_version"),
    *("device_type", "is_bot", "user_agent", "body"),
)
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


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The fields of the body that have columns of their own; the rest is skipped unread."""

    event_name: str
    timestamp: str | None = None
    customer_identifier: str = ""
    event_id: str = ""
    page_url: str | None = None
    referrer: str | None = None
    utm_source: str | None = None
    utm_medium: str | None = None
    utm_campaign: str | None = None
    utm_term: str | None = None
    utm_content: str | None = None


class Row(msgspec.Struct, frozen=True, gc=False):
    """`data` in RowBinary. `event_key` tells copies of one event; empty where it has no id of its own."""

    data: bytes
    event_key: bytes
    customer_identifier: str


_DECODER = msgspec.json.Decoder(Envelope)
_INT64 = struct.Struct("<q").pack
_NULL = b"\x01"
_PRESENT = b"\x00"


def event_key(project_id: str, event_id: str) -> bytes:
    """16 bytes that stand for this id in this project; none without an id.

    A digest, so that ids of any length cost the same and their text is kept in one place only. 128 bits of
    SHA-256: no two ids that anybody ever sends have the same. `workers/migrations` computes the same in SQL.
    """
    return hashlib.sha256(f"{project_id}\0{event_id}".encode()).digest()[:16] if event_id else b""


def to_row(record: Record, geography: Geography) -> Row:
    """The row of `record`. Errors: msgspec.DecodeError or ValueError for a body no edge would accept."""
    envelope = _DECODER.decode(record.body)
    recorded = record.time_recorded
    event_time = recorded if envelope.timestamp is None else parse_timestamp(envelope.timestamp)
    # The page that sent the request is the page of the event, unless the event names another.
    page_url = envelope.page_url if envelope.page_url is not None else record.referer or None
    referrer = envelope.referrer
    if referrer is None and envelope.page_url is not None:
        referrer = record.referer or None
    campaign = read_campaign(page_url)
    client = read_client(record.user_agent)
    place = geography.place(record.client_ip)
    texts = (
        *(page_url, referrer),
        *(_own_or(getattr(envelope, name), campaign.get(name)) for name in UTM_NAMES),
        *(place.ip_country, place.ip_region, place.ip_city),
        *(client.browser_name, client.browser_version, client.os_name, client.os_version, client.device_type),
    )
    event_id = envelope.event_id or record.event_id
    customer_identifier = record.customer_identifier or envelope.customer_identifier
    data = b"".join(
        (
            _text(record.project_id),
            _text(envelope.event_name),
            _INT64(event_time),
            _INT64(recorded),
            record.unique_req_id,
            _text(customer_identifier),
            _text(event_id),
            *map(_nullable, texts),
            _NULL if client.is_bot is None else _PRESENT + client.is_bot.to_bytes(1, "little"),
            _nullable(record.user_agent or None),
            _bytes(record.body),
        )
    )
    return Row(data, event_key(record.project_id, event_id), customer_identifier)


def _own_or(own: str | None, derived: str | None) -> str | None:
    return derived if own is None else own


def _nullable(text: str | None) -> bytes:
    return _NULL if text is None else _PRESENT + _text(text)


def _text(text: str) -> bytes:
    return _bytes(text.encode())


def _bytes(value: bytes) -> bytes:
    return encode_length(len(value)) + value


def encode_length(size: int) -> bytes:
    """LEB128, the length prefix of RowBinary."""
    out = bytearray()
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)
