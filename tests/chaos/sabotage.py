"""Takes one safeguard out of the product, to prove that a test fails without it. The product has no hook for it.

It reaches the tests' own process and every one that they start through `site/`, the processes of `make chaos`
through `inside`. CHAOS_SABOTAGE names the safeguard; without it nothing happens. `make sabotage`
runs every one of SAFEGUARDS: see `tests.chaos.prove`.
"""

from __future__ import annotations

import fcntl
import os
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VARIABLE = "CHAOS_SABOTAGE"
EPOCH_CHECK = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end"
FREE_FROM_THE_ANSWER_ON = "tests/test_eraser.py::test_event_ids_of_what_is_erased_are_free_from_the_answer_on"
SEQUENCE_CHECK = "if not last or tonumber(last) < sequence then"


class Useless(Exception):
    """What was to be taken out is not there any more: the proof proves nothing."""


@dataclass(frozen=True)
class Safeguard:
    """`test` is the one that must fail once `remove` was called."""

    name: str
    what: str
    test: str
    remove: Callable[[], None]


def apply(name: str) -> None:
    """Take it out of this process. Call it before the product's modules are imported."""
    next(one for one in SAFEGUARDS if one.name == name).remove()


async def _nothing(*_: object, **__: object) -> None:
    """Instead of whatever was to be done."""


def _replace(owner: Any, name: str, value: object) -> None:
    """Errors: Useless when there is nothing of that name."""
    if not hasattr(owner, name):
        raise Useless(f"{owner} has no {name}")
    setattr(owner, name, value)


def _edit(owner: Any, name: str, piece: str, by: str) -> None:
    """Replace a piece of a script. Errors: Useless when it does not hold it."""
    script = getattr(owner, name)
    if piece not in script:
        raise Useless(f"{name} does not hold {piece!r}")
    setattr(owner, name, script.replace(piece, by))


def _no_plan() -> None:
    from app.partition import Partition

    _replace(Partition, "save_plan", _nothing)


def _random_token() -> None:
    from workers import plan

    _replace(plan, "token", lambda part, items: uuid.uuid4().hex)


def _no_count() -> None:
    from workers.held import Held

    async def present(self: Any, part: Any, items: Any) -> set[str]:
        return {item.record.unique_req_id.hex() for item in items if item.record is not None}

    _replace(Held, "_present", present)


def _no_quiet() -> None:
    from workers.held import Held

    _replace(Held, "wait_until_quiet", _nothing)


def _no_sequence() -> None:
    from app import stream_scripts

    _edit(stream_scripts, "APPEND", SEQUENCE_CHECK, "if true then")


def _no_epoch() -> None:
    from app import stream_scripts

    for name in ("SAVE_PLAN", "ACKNOWLEDGE"):
        _edit(stream_scripts, name, EPOCH_CHECK, "")


def _no_fence() -> None:
    from workers.insert import Inserter

    real = Inserter.__init__

    def without(self: Any, store: Any, partition: Any, fence: Any, **more: Any) -> None:
        real(self, store, partition, _nothing, **more)

    _replace(Inserter, "__init__", without)


def _no_burning() -> None:
    from workers.insert import Inserter

    _replace(Inserter, "_burn", _nothing)


def _no_plan_of_halves() -> None:
    from workers.insert import Inserter

    _replace(Inserter, "_save", _nothing)


def _no_fsync() -> None:
    _replace(os, "fdatasync", lambda descriptor: None)


def _no_checksum() -> None:
    _replace(zlib, "crc32", lambda content: 0)


def _no_slot_lock() -> None:
    _replace(fcntl, "flock", lambda descriptor, how: None)


def _no_verdict_in_plan() -> None:
    import msgspec

    from workers import plan

    real = plan.encode
    _replace(plan, "encode", lambda one: real(msgspec.structs.replace(one, duplicates=[])))


def _no_ids() -> None:
    from workers.event_ids import EventIds

    _replace(EventIds, "remember", _nothing)


def _no_turn() -> None:
    from workers.event_ids import EventIds
    from workers.reading import Reader

    init, look_up, fill = EventIds.__init__, EventIds.look_up, Reader.fill
    made: list[EventIds] = []
    found: dict[int, Any] = {}

    def noted(self: EventIds, *arguments: Any, **more: Any) -> None:
        init(self, *arguments, **more)
        made.append(self)

    async def too_early(self: Reader, batch: Any) -> None:
        is_new = not batch.items
        await fill(self, batch)
        if is_new:
            found[id(batch.items)] = await look_up(made[-1], batch.items)

    async def known(self: EventIds, items: Any) -> Any:
        return found[id(items)]

    _replace(EventIds, "__init__", noted)
    _replace(EventIds, "look_up", known)
    _replace(Reader, "fill", too_early)


def _no_promotion() -> None:
    from workers import verdict

    _replace(verdict, "promote", lambda plan, items, dead_row: None)


def _no_late_look_up() -> None:
    from workers import event_ids

    _replace(event_ids, "RECENT_MS", 10**15)


def _no_look_at_the_disk() -> None:
    from workers.embedded_disk import Room

    _replace(Room, "check", lambda self: None)


def _own_clock_alone() -> None:
    import time

    from workers.retention import Retention

    async def now(self: Any) -> int:
        return time.time_ns() // 1_000_000

    _replace(Retention, "_now", now)


def _no_tombstones_in_the_drain() -> None:
    from workers.tombstones import Tombstones

    _replace(Tombstones, "find", lambda self, records: [])


def _no_reading_of_tombstones() -> None:
    from workers.tombstones import Tombstones

    _replace(Tombstones, "refresh", _nothing)


def _no_look_at_what_waits() -> None:
    from workers.tombstones import Tombstones

    async def nothing(self: Any, items: Any) -> dict[str, Any]:
        return {}

    _replace(Tombstones, "hidden", nothing)


def _copies_of_the_erased() -> None:
    from workers import event_ids

    async def all_of_them(store: Any, known: Any, hidden: Any, items: Any, **_: Any) -> Any:
        return known

    _replace(event_ids, "without_erased", all_of_them)


def _no_look_at_fates() -> None:
    from workers import erased_copies

    whole: Any = getattr(erased_copies, "_questions", None)
    _replace(erased_copies, "_questions", lambda meant, ids: whole(meant, ids)[:1])


def _no_marks() -> None:
    from workers.marks import Marks

    async def none(self: Any, mark: Any) -> int:
        return 0

    _replace(Marks, "left", none)


def _no_forgetting() -> None:
    from workers.erase_letters import Letters

    async def forgotten(self: Any) -> bool:
        return True

    _replace(Letters, "forget", forgotten)


SAFEGUARDS = (
    Safeguard(
        "plan",
        "the plan is written before the insert",
        "tests/test_takeover.py::test_a_crash_is_taken_over",
        _no_plan,
    ),
    Safeguard(
        "token",
        "an insert carries the plan's token",
        "tests/test_settle.py::test_a_late_insert_of_a_former_owner_adds_nothing",
        _random_token,
    ),
    Safeguard(
        "count",
        "after an error the rows are counted, whatever a repeat answers",
        "tests/test_settle.py::test_an_ok_to_a_repeated_token_is_not_believed",
        _no_count,
    ),
    Safeguard(
        "quiet",
        "counting waits until none of the plan's inserts runs",
        "tests/test_settle.py::test_an_insert_that_still_runs_is_waited_for",
        _no_quiet,
    ),
    Safeguard(
        "sequence",
        "an append skips what its incarnation has appended",
        "tests/test_append.py::test_a_lost_reply_is_repeated_and_stored_once",
        _no_sequence,
    ),
    Safeguard(
        "epoch",
        "scripts refuse a former owner",
        "tests/test_partition.py::test_a_former_owner_changes_nothing",
        _no_epoch,
    ),
    Safeguard(
        "fence",
        "the lease is proven before each insert",
        "tests/test_takeover.py::test_no_insert_leaves_without_the_lease",
        _no_fence,
    ),
    Safeguard(
        "burn",
        "a token is used up before its rows go in under another",
        "tests/test_burn.py::test_a_store_that_refuses_all_repeats_of_the_block",
        _no_burning,
    ),
    Safeguard(
        "bisect",
        "halves replace the plan before they are inserted",
        "tests/chaos/test_bisected_zombie.py",
        _no_plan_of_halves,
    ),
    Safeguard(
        "verdict",
        "the plan keeps which events are copies",
        "tests/test_event_id.py::test_a_crash_around_each_write_changes_no_verdict",
        _no_verdict_in_plan,
    ),
    Safeguard(
        "ids",
        "ids are written before the acknowledgement",
        "tests/test_event_id.py::test_copies_in_one_batch_and_in_later_ones",
        _no_ids,
    ),
    Safeguard(
        "turn",
        "ids of a batch that is read ahead are asked for when its turn has come",
        "tests/test_read_ahead.py::test_copies_in_the_batch_that_was_read_ahead",
        _no_turn,
    ),
    Safeguard(
        "promote",
        "the copy of a dead letter takes its place",
        "tests/test_event_id.py::test_the_copy_of_a_dead_letter_is_stored_in_its_place",
        _no_promotion,
    ),
    Safeguard(
        "late",
        "ids of what comes late are looked up among the events",
        "tests/test_event_id.py::test_the_edge_of_seven_days_in_the_store",
        _no_late_look_up,
    ),
    Safeguard(
        "fsync",
        "the spool is synced before the 200",
        "tests/chaos/test_synced.py",
        _no_fsync,
    ),
    Safeguard(
        "checksum",
        "a frame of the spool is believed only with its checksum",
        "tests/test_spool_disk.py::test_damage_takes_one_frame_and_no_other",
        _no_checksum,
    ),
    Safeguard(
        "lock",
        "one process for each slot of the spool",
        "tests/test_spool.py::test_a_slot_has_one_owner",
        _no_slot_lock,
    ),
    Safeguard(
        "room",
        "a full disk ends the store before it answers",
        "tests/chaos/test_full_store.py",
        _no_look_at_the_disk,
    ),
    Safeguard(
        "clock",
        "events are dropped by age only as far as two clocks agree",
        "tests/test_retention.py::test_a_clock_that_is_wrong_deletes_nothing",
        _own_clock_alone,
    ),
    Safeguard(
        "tombstones",
        "the drain judges what comes late by every tombstone",
        "tests/test_tombstones.py::test_what_comes_late_is_erased_and_counted",
        _no_tombstones_in_the_drain,
    ),
    Safeguard(
        "news",
        "the drain learns of new tombstones before each verdict",
        "tests/test_tombstones.py::test_what_comes_late_is_erased_and_counted",
        _no_reading_of_tombstones,
    ),
    Safeguard(
        "copies",
        "an event is not dropped as the copy of an erased one",
        FREE_FROM_THE_ANSWER_ON,
        _copies_of_the_erased,
    ),
    Safeguard(
        "waiting",
        "what waits to be erased is read with each verdict",
        FREE_FROM_THE_ANSWER_ON,
        _no_look_at_what_waits,
    ),
    Safeguard(
        "between",
        "also when the erased row goes between the drain's two looks",
        FREE_FROM_THE_ANSWER_ON,
        _no_look_at_fates,
    ),
    Safeguard(
        "marks",
        "rows are erased when what was planned before is stored",
        "tests/test_eraser.py::test_what_was_planned_before_and_what_nobody_can_read",
        _no_marks,
    ),
    Safeguard(
        "letters",
        "dead letters that were given up leave Redis's memory",
        "tests/test_eraser.py::test_one_customer_of_many_is_gone_and_it_is_proven",
        _no_forgetting,
    ),
)

if _name := os.environ.get(VARIABLE):
    apply(_name)
