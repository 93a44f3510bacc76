"""Record -> the event as a query shows it, for whoever meets events outside of the store. Pure.

The same values as `workers.rows.to_row` writes; tests/test_tombstones.py holds the two together.
Next reader: `app.match`.
"""

from __future__ import annotations

import msgspec

from app.enrich import UTM_NAMES, Geography, read_campaign, read_client
from app.stream import Record
from app.timestamp import parse_timestamp


class OwnColumns(msgspec.Struct, frozen=True, gc=False):
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


_OWN_COLUMNS = msgspec.json.Decoder(OwnColumns).decode
_BODY = msgspec.json.Decoder(dict[str, object]).decode


def as_shown(record: Record, geography: Geography) -> dict[str, object]:
    """The body with the envelope's values over it, times in Unix milliseconds, None for what is unknown.

    Errors: msgspec.DecodeError or ValueError for a body of which no row can be made either.
    """
    own = _OWN_COLUMNS(record.body)
    page_url = own.page_url if own.page_url is not None else record.referer or None
    referrer = own.referrer
    if referrer is None and own.page_url is not None:
        referrer = record.referer or None
    campaign = read_campaign(page_url)
    place, client = geography.place(record.client_ip), read_client(record.user_agent)
    recorded, timestamp = record.time_recorded, own.timestamp
    return {
        **_BODY(record.body),
        **msgspec.structs.asdict(client),
        **msgspec.structs.asdict(place),
        **{name: _first(getattr(own, name), campaign.get(name)) for name in UTM_NAMES},
        "user_agent": record.user_agent or None,
        "project_id": record.project_id,
        "unique_req_id": record.unique_req_id.hex(),
        "time_recorded": recorded,
        "event_time": recorded if timestamp is None else parse_timestamp(timestamp),
        "event_name": own.event_name,
        "customer_identifier": record.customer_identifier or own.customer_identifier or None,
        "event_id": own.event_id or record.event_id or None,
        "page_url": page_url,
        "referrer": referrer,
    }


def _first(own: str | None, derived: str | None) -> str | None:
    return derived if own is None else own
