"""`eventbunker tail`: events as they arrive, from an edge over HTTP, or straight from the stream.

Both ways bring the same messages (`app.tail_frames`). A connection that breaks is made again, later and
later, and goes on where it was.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from app.settings import Settings
from workers import asking
from workers.asking import Failed, Wanted
from workers.tail_show import Enough, Show

PATH = "/v1/tail"
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 40.0  # an edge says something every 15
MAX_WAIT_SECONDS = 15.0
LOOK_SECONDS = 1.0
_REASONS = {
    "slow_reader": "this terminal is slower than they come",
    "too_many_events": "there are more than can be looked into; ask for fewer",
    "read_too_late": "they were stored before they could be read; a query finds them",
    "away_too_long": "the connection was away for too long; a query finds them",
}


class Message(msgspec.Struct, frozen=True):
    """`name` is "message" for an event, "" for an id alone. `id`: "" where it has none."""

    name: str
    data: bytes
    id: str


class _Dropped(msgspec.Struct):
    count: int | None
    reason: str


class _End(msgspec.Struct):
    reason: str


class _Again(Exception):
    """The connection is over, and another may find more."""


def at_edge(url: str, key: str, filters: Sequence[object], show: Show) -> int:
    """Watch over HTTP, and return the exit code."""
    import httpx  # noqa: PLC0415 - costs a start that does not need it

    headers = {"x-eventbunker-query-key": key}
    parameters = {"filters": msgspec.json.encode(filters).decode()} if filters else {}
    timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
    failures = 0
    try:
        while True:
            began = time.monotonic()
            try:
                with httpx.stream(
                    "GET", url.rstrip("/") + PATH, params=parameters, headers=headers, timeout=timeout
                ) as answer:
                    if answer.status_code != 200:
                        _refused(answer.status_code, answer.read())
                    for message in messages(_lines(answer.iter_bytes())):
                        if message.id:
                            headers["last-event-id"] = message.id
                        failures = 0
                        _show(message, show)
                reason = "the edge has ended the connection"
            except (httpx.TransportError, _Again) as error:
                if failures == 0 and "last-event-id" not in headers and isinstance(error, httpx.ConnectError):
                    raise asking.away(url, error) from None
                reason = str(error) or type(error).__name__
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise asking.away(url, error) from None
            failures += 1
            seconds = min(MAX_WAIT_SECONDS, 0.5 * 2**failures) * random.uniform(0.5, 1.0)  # noqa: S311
            if failures > 1 or time.monotonic() - began > LOOK_SECONDS:
                show.word(f"{reason}; connecting again")
            time.sleep(seconds)
    except Failed as error:
        return asking.say(error)
    except (Enough, KeyboardInterrupt):
        return 0


def in_stream(settings: Settings, wanted: Wanted, filters: Sequence[object], show: Show) -> int:
    """Watch as the operator, and return the exit code."""
    try:
        running, wanted = asking.find(settings, wanted)
        asyncio.run(_in_stream(running, wanted, filters, show))
    except Failed as error:
        return asking.say(error)
    except (Enough, KeyboardInterrupt):
        return 0
    return 0


async def _in_stream(settings: Settings, wanted: Wanted, filters: Sequence[object], show: Show) -> None:
    from app import redis_client  # noqa: PLC0415
    from app.enrich import Geography, GeographyError  # noqa: PLC0415
    from app.errors import Problem, invalid_body  # noqa: PLC0415
    from app.filters import read_filters  # noqa: PLC0415
    from app.match import matcher  # noqa: PLC0415
    from app.tail import READ_SECONDS  # noqa: PLC0415
    from app.tail_listener import Listener  # noqa: PLC0415
    from app.tail_reader import TailReader  # noqa: PLC0415

    problems: list[Problem] = []
    holds = matcher(read_filters(list(filters), problems))
    async with asking.operator(settings, wanted):
        if problems:
            raise invalid_body(problems)
        path = str(settings.vars.get("GEOIP_DB", ""))
        producer, redis = settings.producer, redis_client.connect(settings, timeout_seconds=READ_SECONDS)
        reader = TailReader(
            *(redis, producer.queue, producer.shards, lambda: Geography(path)),
            retention_days=settings.store.retention_days,
        )
        listener = Listener(wanted.project_id, wanted.customer_identifier, holds)
        try:
            await reader.listen(listener, None)
            show.word("watching")
            while True:
                for piece in await listener.take(LOOK_SECONDS):
                    for message in messages(piece.decode().split("\n")):
                        _show(message, show)
        except GeographyError as error:
            raise Failed(2, str(error)) from None
        finally:
            await reader.close()
            await redis.aclose()


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Those that end with a line feed, as all of ours do. What else Unicode takes for the end of a line may
    stand inside an event: httpx would cut there, and who writes events could make up messages."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """Server-sent events, as far as ours need it."""
    name, data, identity = "message", "", ""
    for line in lines:
        key, _, value = line.partition(": ")
        if not line:
            if data or identity:
                yield Message(name if data else "", data.encode(), identity)
            name, data, identity = "message", "", ""
        elif key == "event":
            name = value
        elif key == "data":
            data = value
        elif key == "id":
            identity = value


def _show(message: Message, show: Show) -> None:
    """Errors: Enough, Failed, _Again."""
    if message.name == "message":
        show.event(message.data)
    elif message.name == "open":
        show.word("watching")
    elif message.name == "dropped":
        found = msgspec.json.decode(message.data, type=_Dropped)
        number = "some events" if found.count is None else f"{found.count:,} event(s)"
        show.word(f"{number} missing here: {_REASONS.get(found.reason, found.reason)}")
    elif message.name == "end":
        reason = msgspec.json.decode(message.data, type=_End).reason
        if reason == "key_ended":
            raise Failed(2, "the key was revoked or has expired")
        raise _Again("this edge ends")


def _refused(status: int, content: bytes) -> None:
    """Errors: Failed where trying again is no use, else _Again."""
    failed = asking.refused(status, content)
    if status in (429, 502, 503, 504):
        raise _Again(str(failed))
    raise failed
