"""The OpenAPI description of waiting for an event and of asking what became of it. Pure."""

from __future__ import annotations

from app.event_schema import Schema
from app.openapi_schema import INTEGER, TEXT, UNIQUE_REQ_ID, object_of

PATH = "/v1/receipt/{unique_req_id}"
WRITE_SECURITY: list[Schema] = [{"write": []}, {"write_in_url": []}]
ACK: Schema = {
    "name": "ack",
    "in": "query",
    "required": False,
    "schema": {"enum": ["stored"]},
    "description": "Answer when a query sees the event: after 5 seconds 202, and if it was erased meanwhile; "
    "422 if it was set aside",
}
UNSEEN: Schema = object_of(
    "unique_req_id time_recorded state",
    unique_req_id=UNIQUE_REQ_ID,
    time_recorded=INTEGER,
    state={"enum": ["queued", "erased"]},
)
RECEIPT: Schema = object_of(
    "unique_req_id state",
    unique_req_id=UNIQUE_REQ_ID,
    state={"enum": ["queued", "stored", "dead", "duplicate", "erased", "expired", "unknown"]},
    time_recorded={
        "type": "integer",
        "description": "Unix milliseconds; of all but unknown, and of most that are expired",
    },
    reason={**TEXT, "description": "Of dead"},
    duplicate_of={**UNIQUE_REQ_ID, "description": "Of duplicate: the copy that is stored"},
)
PARAMETER: Schema = {"name": "unique_req_id", "in": "path", "required": True, "schema": UNIQUE_REQ_ID}
