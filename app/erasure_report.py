"""What is kept and told of an erasure: how far it is, what it met where, what was left. A leaf."""

from __future__ import annotations

import secrets

import msgspec

from app.time_period import Period


class Open(msgspec.Struct, frozen=True):
    """How far an erasure is that is not done. `stage`: its rows are `hidden`, or the store is `clean` of them
    (`since_ms`), or all is gone and Redis's file is to be rewritten (`closing`). A deleted `project` is not
    hidden, since nobody can ask for it any more."""

    project_id: str
    up_to_ms: int
    stage: str = "hidden"
    since_ms: int = 0


class Counted(msgspec.Struct):
    """Events that were erased, by where they were."""

    store: int = 0
    stream: int = 0
    dead_letters: int = 0


class Remaining(msgspec.Struct):
    """What was left at the last count; None where nobody has counted yet. All of it is 0 when it is done."""

    store: int | None = None
    stream: int | None = None  # groups of events that were there before the tombstone was known to its drain
    dead_letters: int | None = None
    spools: int | None = None  # groups, anybody's, in edges' spools; one for an edge that has yet to tell
    files: int | None = None  # of the store that hold former versions of its rows
    unreadable: int | None = None  # dead letters that may be meant, and that nobody can read


class Report(msgspec.Struct, kw_only=True):
    """The status of an erasure; times are Unix milliseconds, None for what has not happened.

    `owner`: the digest of the customer to which the key was bound that asked for it. `charts`: tokens of
    charts that named a customer, revoked.
    """

    erasure_id: str
    project_id: str
    owner: str = ""
    state: str = "pending"
    asked_at: int
    up_to: int
    customers: int | None = None
    time_period: Period | None = None
    filters: int = 0
    matched: int = 0
    counted: Counted = msgspec.field(default_factory=Counted)
    charts: int = 0
    remaining: Remaining = msgspec.field(default_factory=Remaining)
    rows_gone_at: int | None = None
    verified_at: int | None = None
    redis_file: str = ""
    done_at: int | None = None

    def told(self) -> dict[str, object]:
        """What its owner is told."""
        told: dict[str, object] = msgspec.to_builtins(self)
        del told["project_id"], told["owner"]
        if self.time_period is not None:
            told["time_period"] = {"start": self.time_period.start_ms, "end": self.time_period.end_ms}
        return told


def new_id(now_ms: int) -> str:
    """Of an erasure; ids sort by time."""
    return f"era_{now_ms:012x}{secrets.token_hex(8)}"


encode_report = msgspec.json.Encoder().encode
decode_report = msgspec.json.Decoder(Report).decode
encode_open = msgspec.json.Encoder().encode
decode_open = msgspec.json.Decoder(Open).decode
