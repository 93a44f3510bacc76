"""`eventbunker export`: the events that a request names, into a file that is whole or not there.

As the operator it goes the edge's way, `app.export`, with no edge between. From an edge it takes the answer
as it comes. Both count what they write, and compare it with what was promised at the start.

Exit codes: 0 the file is whole; 1 refused; 2 could not be begun; 3 broke off; 130 Ctrl-C, 143 SIGTERM and 129
SIGHUP.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import msgspec

from app.settings import Settings
from workers import asking, output
from workers.asking import Failed, Wanted
from workers.command_context import INTERRUPTED
from workers.endings import Ended
from workers.export_count import Counter, counter_of
from workers.export_target import Write, writing

PATH = "/v1/export"
CONNECT_SECONDS, SILENT_SECONDS = 10.0, 120.0


class Target(msgspec.Struct, frozen=True):
    """`output`: a file's name, or `-`."""

    output: str
    is_quiet: bool


def from_store(settings: Settings, wanted: Wanted, request: Mapping[str, object], target: Target) -> int:
    """Export as the operator, and return the exit code."""
    try:
        running, found = asking.find(settings, wanted)
    except Failed as error:
        return asking.say(error)
    body = msgspec.json.encode(request)
    return _into(target, lambda write: asyncio.run(_from_store(running, found, body, target, write)))


def from_edge(url: str, key: str, request: Mapping[str, object], target: Target) -> int:
    """Export what an edge answers, and return the exit code."""
    return _into(target, lambda write: _from_edge(url, key, request, target, write))


def _into(target: Target, export: Callable[[Write], int]) -> int:
    """Have `export` write, say how many events those are that it returns, and return the exit code."""
    try:
        with writing(target.output) as write:
            rows = export(write)
    except Failed as error:
        return asking.say(error)
    except Ended as error:
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    if not target.is_quiet:  # not before: a file that is spoken of is there
        where = "" if target.output == "-" else f" in {target.output}"
        output.say(f"{rows:,} event{'' if rows == 1 else 's'}{where}")
    return 0


async def _from_store(settings: Settings, wanted: Wanted, body: bytes, target: Target, write: Write) -> int:
    from app.ask import Turn  # noqa: PLC0415
    from app.edge_clocks import EdgeClocks  # noqa: PLC0415
    from app.errors import ApiError  # noqa: PLC0415
    from app.export import open_file  # noqa: PLC0415
    from app.export_pages import Pages, settle  # noqa: PLC0415
    from app.export_request import read_export  # noqa: PLC0415
    from app.export_text import UnknownField  # noqa: PLC0415

    async with asking.operator(settings, wanted) as operator:

        @contextlib.asynccontextmanager
        async def turns() -> AsyncIterator[Turn]:
            async with operator.asker.turn(operator.grant) as turn:
                yield turn

        now_ms = time.time_ns() // 1_000_000
        export = read_export(body, "", now_ms)
        clocks = EdgeClocks(operator.redis, settings.producer.queue)
        bound = await settle(turns, clocks.behind_ms, now_ms)
        found = await open_file(Pages(turns, export, bound.at_ms), export, bound, wanted.project_id)
        with _progress(target, found.count) as progress:
            try:
                async for piece in found.pieces():
                    write(piece)
                    progress.show(found.rows)
            except (ApiError, UnknownField) as error:
                raise Failed(3, f"it broke off after {found.rows:,} events ({error}); run it again") from None
        _check(found.rows, found.count)
        return found.rows


def _from_edge(url: str, key: str, request: Mapping[str, object], target: Target, write: Write) -> int:
    import httpx  # noqa: PLC0415 - costs a start that does not need it

    begun, counter = False, None
    timeout = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
    headers = {"x-eventbunker-query-key": key, "accept-encoding": "identity"}
    try:
        with httpx.stream(
            "POST", url.rstrip("/") + PATH, json=request, headers=headers, timeout=timeout
        ) as answer:
            if answer.status_code != 200:
                raise asking.refused(answer.status_code, answer.read())
            begun = True
            count = int(answer.headers.get("x-eventbunker-event-count", "-1"))
            counter = counter_of(str(request["format"]), str(request["compression"]))
            with _progress(target, count) as progress:
                for piece in answer.iter_raw():
                    write(piece)
                    progress.show(counter.add(piece))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if not begun:
            raise asking.away(url, error) from None
        raise Failed(3, f"the edge broke off ({type(error).__name__}); run it again") from None
    _check(_end(counter), count)
    return count


def _end(counter: Counter) -> int | None:
    try:
        return counter.end()
    except ValueError as error:
        raise Failed(3, f"the file is not whole ({error}); run it again") from None


def _check(rows: int | None, count: int) -> None:
    """`rows`: None where nobody can tell."""
    if rows is not None and rows < count:
        raise Failed(
            3,
            f"{count:,} events were there at the start, and {rows:,} came: some were erased or expired "
            "meanwhile. Run it again",
        )


@contextlib.contextmanager
def _progress(target: Target, count: int) -> Iterator[_Progress]:
    progress = _Progress(count, is_shown=not target.is_quiet and _is_terminal())
    try:
        yield progress
    finally:
        progress.stop()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()  # None: closed, as by `2>&-`


class _Progress:
    """A bar on a terminal. One that is gone meanwhile costs no export."""

    def __init__(self, count: int, *, is_shown: bool) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            "events",
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not is_shown,
            transient=True,
        )
        with contextlib.suppress(OSError):
            self._bar.start()
        self._task = self._bar.add_task("", total=max(count, 0) or None)

    def show(self, rows: int | None) -> None:
        if rows is not None:
            self._bar.update(self._task, completed=rows)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._bar.stop()
