"""The stream contract: keys, entry layout, and every script that changes a partition. No I/O.

A partition is a Redis stream with a few keys beside it, all in one hash slot:

    eb:{events:0}:entries     the stream; one entry is one group of records (field `r`)
    eb:{events:0}:producers   hash: edge incarnation -> last sequence number appended
    eb:{events:0}:lease       owner of the partition, expires
    eb:{events:0}:epoch       counts owners; fences the scripts of a former one
    eb:{events:0}:plan        the batch that is being inserted, if any
    eb:{events:0}:ledger      hash: appended, stored, dead: counts of events
    eb:{events:0}:progress    hash: what the drain last proved, for readiness
    eb:{events:0}:dead        stream of dead letters

Everything in the entries stream is unacknowledged: acknowledging trims. The edge's end is `app.append`,
the drain's end is `app.partition`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

APPENDED, STORED, DEAD = "appended", "stored", "dead"  # fields of the ledger


class Record(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One event and what the edge knows of its request: all that the drain needs to make a row.

    `request_id` are the 12 bytes, `index` the event's position from 1: together `unique_req_id`.
    `time_recorded` is Unix milliseconds. `customer_identifier` is the key's binding, which wins over
    the body's. `client_ip` is empty unless a geography database is configured. `body` are the client's
    bytes, untouched.
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

    @property
    def unique_req_id(self) -> bytes:
        """The 16 bytes whose hex the client was given."""
        return self.request_id + self.index.to_bytes(4, "big")


_ENCODER = msgspec.msgpack.Encoder()
_GROUP_DECODER = msgspec.msgpack.Decoder(list[Record])

encode_record = _ENCODER.encode


def join_group(records: Sequence[bytes]) -> bytes:
    """Encoded records -> the payload of one entry: a msgpack array made by its header alone."""
    return b"\xdd" + len(records).to_bytes(4, "big") + b"".join(records)


def split_group(payload: bytes) -> list[Record]:
    """The records of one entry, in the order in which they joined the group.

    Errors: msgspec.DecodeError (or ValidationError) for a payload that no edge of ours wrote.
    """
    return _GROUP_DECODER.decode(payload)


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
        self.lease = f"{prefix}:lease"
        self.epoch = f"{prefix}:epoch"
        self.plan = f"{prefix}:plan"
        self.ledger = f"{prefix}:ledger"
        self.progress = f"{prefix}:progress"
        self.dead = f"{prefix}:{dead_letter_queue or 'dead'}"


# A repeated append is a no-op: an incarnation appends one group after the other, so a sequence number that
# is not above the last one has been appended already. Nothing here expires, so there is no window to miss.
APPEND = """
local last = redis.call('HGET', KEYS[2], ARGV[1])
if last and tonumber(last) >= tonumber(ARGV[2]) then return 0 end
redis.call('XADD', KEYS[1], '*', 'r', ARGV[4])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[3], 'appended', ARGV[3])
return 1
"""

# -> epoch of the lease that this owner now holds, 0 while another holds it.
# An owner is `slot/incarnation`: whoever restarts in a slot need not wait for its predecessor's lease to
# end (ARGV[4] = 1). Only a process that never owned may ask for that: two of one slot would otherwise take
# turns for ever. The epoch rises with every change of hands, never on renewal; it alone fences the former
# owner.
ACQUIRE = """
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] .. '/' .. ARGV[2] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return tonumber(redis.call('GET', KEYS[2]))
end
if owner and (ARGV[4] ~= '1' or string.match(owner, '^(.*)/') ~= ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. '/' .. ARGV[2], 'PX', ARGV[3])
return redis.call('INCR', KEYS[2])
"""

RENEW = """
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

SAVE_PLAN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
"""

# Acknowledge: dead letters, ledger, entries and plan in one step, so that no crash can separate them.
# ARGV: epoch, oldest entry id to keep, rows stored, then one payload for each dead letter.
ACKNOWLEDGE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 4, #ARGV do redis.call('XADD', KEYS[5], '*', 'd', ARGV[i]) end
redis.call('XTRIM', KEYS[3], 'MINID', ARGV[2])
redis.call('HINCRBY', KEYS[4], 'stored', ARGV[3])
if #ARGV > 3 then redis.call('HINCRBY', KEYS[4], 'dead', #ARGV - 3) end
redis.call('DEL', KEYS[2])
return 1
"""

# -> {Redis's clock in ms, ms of the oldest unacknowledged entry or 0}
FRESHNESS = """
local now = redis.call('TIME')
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local oldest = 0
if first[1] then oldest = tonumber(string.match(first[1][1], '^%d+')) end
return {tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000), oldest}
"""


def with_oom_allowed(script: str, redis_version: tuple[int, int]) -> str:
    """`script` so that a Redis at `maxmemory` still runs it: the drain must be able to drain.

    Redis before 7.0 knows no such mark. There a script that has written may go on writing, so a write
    without effect comes first: https://github.com/redis/redis/blob/6.2/src/scripting.c (lua_write_dirty).
    """
    if redis_version >= (7, 0):
        return "#!lua flags=allow-oom" + script
    return "redis.call('DEL', KEYS[1] .. ':none')" + script
