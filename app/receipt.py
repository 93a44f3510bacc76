"""GET /v1/receipt/<unique_req_id>: what became of an event, for whoever may write to its project.

The order of the looks is the promise that an event on its way is never called unknown: the way leads from the
spool to the stream and from there to the dead letters or the store, and each look comes after the one before
it in that order. A dead letter that is replayed goes back to the end of the stream, so before anything is
called erased or unknown, what came there meanwhile is looked at, and what it may have become by then.
Other projects' events, and other customers' where the key is bound to one, are unknown like any other id.
"""

from __future__ import annotations

import re
import time
from typing import Protocol

import structlog
from starlette.requests import Request
from starlette.responses import Response

from app import dead_letter, ledger
from app.dead import DeadLetters
from app.envelope import read_envelope
from app.errors import ApiError, Kind
from app.grant import Grant, KeyType
from app.http import json_response, read_body, while_connected, write_key
from app.redis_client import UNREACHABLE
from app.registry import Registry
from app.retention import oldest_ms
from app.scope import Hiding, Scope
from app.store import StoreError
from app.stream import Record
from app.turns import Turns
from app.whereabouts import Stored, Stream, UniqueReqId, find_in

MAX_SEARCHES = 4  # at once in one process: a search costs Redis more than an append
MAX_WAITING = 64
MAX_BODY_BYTES = 1024
WAIT_SECONDS = 2.0
RETRY_AFTER_SECONDS = 2
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)

Receipt = dict[str, str | int]

log = structlog.get_logger()


class Spool(Protocol):
    """This edge's spool, as far as a receipt goes."""

    async def find(self, request_id: bytes) -> list[bytes]:
        """The groups that wait here and hold these bytes. Errors: OSError."""
        ...


class ReceiptHandler:
    """The endpoint."""

    def __init__(
        self,
        registry: Registry,
        spool: Spool,
        stream: Stream,
        letters: DeadLetters,
        stored: Stored,
        *,
        hiding: Hiding,
        retention_days: int = 0,
    ) -> None:
        self._registry = registry
        self._spool = spool
        self._stream = stream
        self._letters = letters
        self._stored = stored
        self._hiding = hiding
        self._retention_days = retention_days
        self._turns = Turns(MAX_SEARCHES, MAX_WAITING, WAIT_SECONDS, "receipts are asked for")

    async def receipt(self, request: Request) -> Response:
        """Errors: ApiError."""
        grant = await self._registry.authorise(write_key(request.scope), KeyType.WRITE)
        name = request.path_params["unique_req_id"]
        if not _ID.fullmatch(name):
            raise ApiError(
                Kind.INVALID_REQUEST,
                "A receipt is asked for by the unique_req_id of an answer: 32 lower-case hex digits.",
            )
        # A question has no body; once that is read, the next message is the client's leaving.
        await read_body(request.scope, request.receive, MAX_BODY_BYTES)
        wanted = UniqueReqId(bytes.fromhex(name))
        found = await while_connected(request.receive, self._find(wanted, grant))
        return json_response({"unique_req_id": name, **found})

    async def _find(self, wanted: UniqueReqId, grant: Grant) -> Receipt:
        async with self._turns.turn():
            return self._by_age(wanted, await self._look(wanted, grant))

    def _by_age(self, wanted: UniqueReqId, receipt: Receipt) -> Receipt:
        """What is stored, or nowhere, and older than events are kept is expired: its row may stand for a
        while, and the id of what was dropped tells when it came. (An old id that never was looks the same.)
        """
        oldest = oldest_ms(self._retention_days, time.time_ns() // 1_000_000)
        if receipt["state"] == "stored" and int(receipt["time_recorded"]) < oldest:
            return {**receipt, "state": ledger.EXPIRED}
        if receipt["state"] == "unknown" and wanted.milliseconds < oldest:
            return {"state": ledger.EXPIRED}
        return receipt

    async def _look(self, wanted: UniqueReqId, grant: Grant) -> Receipt:
        try:
            return await self._in_order(wanted, grant)
        except UNREACHABLE:
            log.warning("a receipt without redis", exc_info=True)
        # What the store holds stays true; a letter that it knows to be erased may still be a letter.
        receipt = await self._in_store(wanted, grant)
        if receipt is None:
            receipt = await self._fate(wanted, grant)
        if receipt is None or receipt["state"] == ledger.ERASED:
            raise _unavailable("Redis does not answer, and the event may be there.")
        return receipt

    async def _in_order(self, wanted: UniqueReqId, grant: Grant) -> Receipt:
        """Errors: redis_client.UNREACHABLE, ApiError."""
        try:
            if record := find_in(await self._spool.find(wanted.request_id), wanted):
                return _queued(record) if _may_see(grant, record) else _UNKNOWN
        except OSError as error:
            log.error("the spool cannot be read", error=str(error))
        began = await self._stream.now()
        record, is_whole = await self._stream.find(wanted, grant.project_id)
        if record is not None:
            return _queued(record) if _may_see(grant, record) else _UNKNOWN
        receipt = await self._dead(wanted, grant) or await self._in_store(wanted, grant)
        if receipt is not None:
            return receipt
        # A letter may have been replayed between two looks.
        record, is_end_whole = await self._stream.find(wanted, grant.project_id, began)
        if record is not None:
            return _queued(record) if _may_see(grant, record) else _UNKNOWN
        receipt = await self._dead(wanted, grant) or await self._in_store(wanted, grant)
        receipt = receipt or await self._fate(wanted, grant)
        if receipt is None and not (is_whole and is_end_whole):
            raise _unavailable("So many events wait that not all of them could be looked at.")
        return receipt or _UNKNOWN

    async def _dead(self, wanted: UniqueReqId, grant: Grant) -> Receipt | None:
        found = await self._letters.find(wanted.value.hex())
        if found is None or found.letter.record is None:
            return None
        if not _may_see(grant, found.letter.record):
            return _UNKNOWN
        reason, message = dead_letter.split_reason(found.letter)
        recorded = found.letter.record.time_recorded
        return {"state": "dead", "reason": f"{reason}: {message}", "time_recorded": recorded}

    async def _in_store(self, wanted: UniqueReqId, grant: Grant) -> Receipt | None:
        try:
            row = await self._stored.event(wanted, grant.project_id)
        except StoreError:
            raise _unavailable("The event store does not answer, and the event may be there.") from None
        if row is None:
            return None
        if not _is_of(grant, row.customer_identifier):
            return _UNKNOWN
        state = ledger.ERASED if await self._is_erased(wanted, grant) else "stored"
        return {"state": state, "time_recorded": row.time_recorded}

    async def _is_erased(self, wanted: UniqueReqId, grant: Grant) -> bool:
        """Does the row only wait to be deleted?"""
        try:
            erased = await self._hiding.hidden(grant.project_id)
            return bool(erased) and not await self._stored.is_seen(
                wanted, Scope(grant.project_id, None, erased)
            )
        except StoreError:
            raise _unavailable("The event store does not answer, and the event may be there.") from None

    async def _fate(self, wanted: UniqueReqId, grant: Grant) -> Receipt | None:
        """Of events that the store knows but does not hold."""
        try:
            row = await self._stored.fate(wanted, grant.project_id)
            if row is None:
                return None
            if not _is_of(grant, row.customer_identifier):
                return _UNKNOWN
            receipt: Receipt = {"state": row.fate, "time_recorded": row.time_recorded}
            if row.fate == ledger.DUPLICATE and await self._may_name(row.detail, grant):
                receipt["duplicate_of"] = row.detail
            return receipt
        except StoreError:
            raise _unavailable("The event store does not answer, and the event may be there.") from None

    async def _may_name(self, first: str, grant: Grant) -> bool:
        """A key of one customer must not learn another's ids by guessing at an event_id."""
        if grant.customer_identifier is None:
            return True
        row = await self._stored.event(UniqueReqId(bytes.fromhex(first)), grant.project_id)
        return row is not None and _is_of(grant, row.customer_identifier)


_UNKNOWN: Receipt = {"state": "unknown"}


def _queued(record: Record) -> Receipt:
    return {"state": "queued", "time_recorded": record.time_recorded}


def _may_see(grant: Grant, record: Record) -> bool:
    is_own = record.project_id == grant.project_id
    return is_own and _is_of(grant, read_envelope(record).customer_identifier)


def _is_of(grant: Grant, customer_identifier: str) -> bool:
    return grant.customer_identifier in (None, customer_identifier)


def _unavailable(why: str) -> ApiError:
    return ApiError(Kind.UNAVAILABLE, f"{why} Ask again later.", retry_after_seconds=RETRY_AFTER_SECONDS)
