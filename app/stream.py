"""The stream contract: keys, entries, requests, records. No I/O; the scripts are in `app.stream_scripts`.

A partition is a Redis stream with a few keys beside it, all in one hash slot:

    eb:{events:0}:entries          the stream; one entry is one group of requests (field `r`), and its counts
                                   for the ledger (field `c`), which survive an unreadable `r`
    eb:{events:0}:producers        hash: edge incarnation -> last sequence number appended
    eb:{events:0}:producers:order  list: incarnations, oldest first; bounds the hash
    eb:{events:0}:imports          the same two for imports, which would displace edges if there were many
    eb:{events:0}:imports:order
    eb:{events:0}:lease            owner of the partition, expires
    eb:{events:0}:epoch            counts owners; fences the scripts of a former one
    eb:{events:0}:plan             the batch that is being inserted, if any
    eb:{events:0}:ledger           hash: fate -> number of events (`app.ledger`)
    eb:{events:0}:ledger:hours     hash: project, hour and fate -> number of events
    eb:{events:0}:progress         hash: what the drain last proved, and the last entry acknowledged
    eb:{events:0}:dead             stream of dead letters
    eb:{events:0}:dead:ids         hash: unique_req_id -> its dead letter
    eb:{events:0}:dead:copy        of the stream of dead letters while an erasure makes it anew

Beside the partitions a queue has a few keys of its own (`app.layout`, `app.presence`):

    eb:{events}:layout             hash: the number of partitions, the largest there ever was, the name of the
                                   dead letters
    eb:{events}:drains, :edges     sorted sets: who is alive, by the time until which that is believed
    eb:{events}:drains:about, …    hashes: what each of them said of itself
    eb:{events}:imports            hash: how far each import came (`workers.import_journal`)
    eb:{events}:imports:order      list: imports, the one at work last; bounds the hash

Everything in the entries stream is unacknowledged: acknowledging trims. The edge's end is `app.append`,
the drain's end is `app.partition`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from itertools import count, repeat
from typing import Literal, TypeAlias

import msgspec

# What an edge knows of whoever sent a request: client address, User-Agent, Referer; "" where unknown.
Context: TypeAlias = tuple[str, str, str]
# One event of a request: its position from 1, the client's bytes, the id of an `Idempotency-Key`.
Carried: TypeAlias = tuple[int, bytes | memoryview, str]


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One event and what the edge knows of its request: all that the drain needs to make a row.

    `request_id` are the 12 bytes, `index` the event's position from 1: together `unique_req_id`.
    `time_recorded` is Unix milliseconds. `customer_identifier` is the key's binding, which wins over
    the body's. `client_ip` is empty unless a geography database is configured. `body` are the client's
    bytes, untouched. `event_id` is that of an `Idempotency-Key` header, which the body does not hold.
    """

    request_id: bytes
    index: int
    time_recorded: int
    project_id: str
    customer_identifier: str
    client_ip: str
    user_agent: str
    referer: str
    body: bytes
    event_id: str = ""

    @property
    def unique_req_id(self) -> bytes:
        """The 16 bytes whose hex the client was given."""
        return self.request_id + self.index.to_bytes(4, "big")


class _Event(msgspec.Struct, array_like=True, frozen=True, gc=False):
    index: int
    body: bytes
    event_id: str


class _Request(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is on the wire: the events of one request, or some of them, and once what they share.

    `events` is the request's body where this was a JSON array that was kept as a whole.
    """

    request_id: bytes
    time_recorded: int
    project_id: str
    customer_identifier: str
    client_ip: str
    user_agent: str
    referer: str
    events: list[_Event] | bytes


_encode = msgspec.msgpack.Encoder().encode
_DECODE_ARRAY = msgspec.json.Decoder(list[msgspec.Raw]).decode
_GROUP_DECODER = msgspec.msgpack.Decoder(list[_Request])


def encode_request(
    request_id: bytes,
    time_recorded: int,
    project_id: str,
    customer_identifier: str,
    *,
    context: Context,
    events: Sequence[Carried] | bytes,
) -> bytes:
    """Events of one request as the stream carries them, or the JSON array that all of them are in.

    The fields are those of `Record`.
    """
    return _encode((request_id, time_recorded, project_id, customer_identifier, *context, events))


def encode_record(one: Record) -> bytes:
    """A request with one event: a dead letter that goes back, a canary."""
    return encode_request(
        one.request_id,
        one.time_recorded,
        one.project_id,
        one.customer_identifier,
        context=(one.client_ip, one.user_agent, one.referer),
        events=((one.index, one.body, one.event_id),),
    )


def join_group(requests: Sequence[bytes]) -> bytes:
    """Encoded requests -> the payload of one entry: a msgpack array made by its header alone."""
    return b"\xdd" + len(requests).to_bytes(4, "big") + b"".join(requests)


def split_group(payload: bytes) -> list[Record]:
    """The events of one entry, in the order in which their requests joined the group.

    Errors: msgspec.DecodeError (or ValidationError) for a payload that no edge of ours wrote.
    """
    return [
        Record(
            request.request_id,
            event.index,
            request.time_recorded,
            request.project_id,
            request.customer_identifier,
            request.client_ip,
            request.user_agent,
            request.referer,
            event.body,
            event.event_id,
        )
        for request in _GROUP_DECODER.decode(payload)
        for event in _cut(request.events)
    ]


def _cut(events: list[_Event] | bytes) -> Iterable[_Event]:
    if isinstance(events, bytes):
        return map(_Event, count(1), map(bytes, _DECODE_ARRAY(events)), repeat(""))
    return events


def choose_partition(shards: int, project_id: str, event_id: str, request_id: str) -> int:
    """The partition of an event: all copies of one `event_id` meet in the same one."""
    if shards == 1:
        return 0
    return zlib.crc32(f"{project_id}/{event_id or request_id}".encode()) % shards


class Keys:
    """The names of one partition's keys."""

    def __init__(self, queue: str, partition: int, dead_letter_queue: str = "") -> None:
        prefix = f"eb:{{{queue}:{partition}}}"
        self.entries = f"{prefix}:entries"
        self.producers = f"{prefix}:producers"
        self.producers_order = f"{prefix}:producers:order"
        self.imports = f"{prefix}:imports"
        self.imports_order = f"{prefix}:imports:order"
        self.lease = f"{prefix}:lease"
        self.epoch = f"{prefix}:epoch"
        self.plan = f"{prefix}:plan"
        self.ledger = f"{prefix}:ledger"
        self.hours = f"{prefix}:ledger:hours"
        self.progress = f"{prefix}:progress"
        self.dead = f"{prefix}:{dead_letter_queue or 'dead'}"
        self.dead_ids = f"{prefix}:dead:ids"


def own_names() -> set[str]:
    """How keys of a partition end that are not its dead letters': under such a name these would be mixed up
    with events, or with a key of another type."""
    keys = Keys("queue", 0, "dead")
    ends = {name.removeprefix("eb:{queue:0}:") for name in vars(keys).values()}
    return {one for one in ends - {"dead"} if ":" not in one}


Role: TypeAlias = Literal["drain", "edge"]


class QueueKeys:
    """The names of the keys that a queue has once, whatever the number of its partitions."""

    def __init__(self, queue: str) -> None:
        prefix = f"eb:{{{queue}}}"
        self.layout = f"{prefix}:layout"
        self.drains = f"{prefix}:drains"
        self.edges = f"{prefix}:edges"
        self.imports = f"{prefix}:imports"

    def alive(self, role: Role) -> tuple[str, str]:
        """Two keys: who of `role` is alive, and what each said of itself."""
        members = self.drains if role == "drain" else self.edges
        return members, f"{members}:about"
