"""The good events of a batch -> pieces -> the appenders; what could not be kept is rejected by name.

What was read as a whole is kept as a whole, if it is for one partition. Otherwise a piece is as large as a
group may be. The pieces of a partition go one after another: they would wait for each other anyway, and after
a failure the rest is not tried, so that nobody waits for one deadline each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter

import msgspec

from app import ledger
from app.append import MAX_GROUP_BYTES, MAX_GROUP_EVENTS, Appender
from app.batch_body import Whole
from app.batch_verdict import Rejections
from app.errors import ApiError
from app.event_columns import Body, Good
from app.grant import Grant
from app.stream import Carried, Context, choose_partition, encode_request

_BODY: Callable[[Carried], bytes | memoryview] = itemgetter(1)
_NOT_TRIED = "An earlier part of the batch could not be kept. Nothing was kept of this one; send it again."


class Sender(msgspec.Struct, frozen=True):
    """What the events of one request share. `key` is its `Idempotency-Key`, "" without one."""

    grant: Grant
    request_id: str
    time_recorded: int
    context: Context
    key: str


class Keeper:
    """Brings batches to the appenders of all partitions."""

    def __init__(self, appenders: list[Appender]) -> None:
        self._appenders = appenders

    async def keep(
        self, sender: Sender, groups: list[Good], bodies: Sequence[Body], rejections: Rejections
    ) -> ApiError | None:
        """Keep the events of `groups`. Returns the first failure, if any; its events are in `rejections`."""
        if isinstance(bodies, Whole) and self._stays_whole(sender, groups, bodies):
            number = choose_partition(len(self._appenders), sender.grant.project_id, "", sender.request_id)
            failure = await self._append(number, bodies.array, len(bodies), sender)
            if failure is not None:
                rejections.unkept(range(len(bodies)), failure.detail)
            return failure
        by_partition = self._distribute(sender, groups, bodies)
        keeping = [
            self._keep_in(number, events, sender, rejections) for number, events in by_partition.items()
        ]
        failures = await asyncio.gather(*keeping) if len(keeping) > 1 else [await keeping[0]]
        return next((failure for failure in failures if failure is not None), None)

    def _stays_whole(self, sender: Sender, groups: list[Good], whole: Whole) -> bool:
        """Are all of its events good, of one partition and one group, with no id from the header?"""
        return (
            not sender.key
            and sum(len(group.positions) for group in groups) == len(whole) <= MAX_GROUP_EVENTS
            and len(whole.array) <= MAX_GROUP_BYTES
            and (len(self._appenders) == 1 or not any(group.event_ids for group in groups))
        )

    def _distribute(
        self, sender: Sender, groups: list[Good], bodies: Sequence[Body]
    ) -> dict[int, list[Carried]]:
        """The events by partition, in their order."""
        shards = len(self._appenders)
        if shards == 1 and not sender.key and sum(len(group.positions) for group in groups) == len(bodies):
            return {0: list(zip(range(1, len(bodies) + 1), bodies, repeat("")))}
        own: dict[int, str] = {}
        for group in groups:
            own.update(zip(group.positions, group.event_ids))  # noqa: B905  (no ids, or one for each)
        project_id, request_id = sender.grant.project_id, sender.request_id
        by_partition: dict[int, list[Carried]] = {}
        for at in sorted(position for group in groups for position in group.positions):
            of_header = f"{sender.key}:{at}" if sender.key and at not in own else ""
            number = choose_partition(shards, project_id, own.get(at, of_header), request_id)
            by_partition.setdefault(number, []).append((at + 1, bodies[at], of_header))
        return by_partition

    async def _keep_in(
        self, partition: int, events: list[Carried], sender: Sender, rejections: Rejections
    ) -> ApiError | None:
        failure: ApiError | None = None
        for piece in _pieces(events):
            detail = _NOT_TRIED
            if failure is None:
                failure = await self._append(partition, piece, len(piece), sender)
                if failure is None:
                    continue
                detail = failure.detail
            rejections.unkept([index - 1 for index, _, _ in piece], detail)
        return failure

    async def _append(
        self, partition: int, events: list[Carried] | bytes, number: int, sender: Sender
    ) -> ApiError | None:
        """Keep so many events, those of a list or of a JSON array. Returns why they were not kept."""
        bucket = ledger.bucket(sender.grant.project_id, sender.time_recorded)
        try:
            await self._appenders[partition].append(_encode(sender, events), bucket, number)
        except ApiError as error:
            return error
        return None


def _encode(sender: Sender, events: list[Carried] | bytes) -> bytes:
    return encode_request(
        bytes.fromhex(sender.request_id),
        sender.time_recorded,
        sender.grant.project_id,
        sender.grant.customer_identifier or "",
        context=sender.context,
        events=events,
    )


def _pieces(events: list[Carried]) -> Iterator[list[Carried]]:
    """At most MAX_GROUP_EVENTS at once, and no more than fit into MAX_GROUP_BYTES (or a single one)."""
    for start in range(0, len(events), MAX_GROUP_EVENTS):
        some = events[start : start + MAX_GROUP_EVENTS]
        if sum(map(len, map(_BODY, some))) <= MAX_GROUP_BYTES:
            yield some
            continue
        piece: list[Carried] = []
        left = MAX_GROUP_BYTES
        for event in some:
            size = len(event[1])
            if size > left and piece:
                yield piece
                piece, left = [], MAX_GROUP_BYTES
            piece.append(event)
            left -= size
        yield piece
