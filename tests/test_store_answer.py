"""Large answers of the store are decoded in steps, to the same as in one."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import store_answer
from app.store_answer import Compact, decode
from tests.store_fixture import StoreServer

HELD_SECONDS = 0.02


def compact(rows: list[list[Any]]) -> bytes:
    """As the engine writes it."""
    lines = ",\n".join("\t\t" + json.dumps(row, ensure_ascii=False) for row in rows)
    return (
        '{\n\t"meta":\n\t[\n\t\t{\n\t\t\t"name": "a",\n\t\t\t"type": "String"\n\t\t}\n\t],\n\n\t"data":\n\t[\n'
        f'{lines}\n\t],\n\n\t"rows": {len(rows)},\n\n\t"statistics":\n\t{{\n\t\t"elapsed": 0.1\n\t}}\n}}\n'
    ).encode()


def decoded(content: bytes) -> Compact:
    return asyncio.run(decode(content))


cells = (
    st.text(max_size=30)
    | st.integers(-(2**63), 2**64 - 1)
    | st.none()
    | st.just('"],\n\t],\n')
    | st.floats(0, 1)
)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.lists(cells, min_size=1, max_size=3), max_size=30), step=st.integers(1, 300))
def test_in_steps_or_at_once(rows: list[list[Any]], step: int) -> None:
    kept, store_answer.STEP_BYTES = store_answer.STEP_BYTES, step
    try:
        assert decoded(compact(rows)).data == rows
    finally:
        store_answer.STEP_BYTES = kept


def test_what_is_cut_short_is_no_answer() -> None:
    content = compact([["x" * 1000, number] for number in range(1000)])
    assert len(decoded(content).data) == 1000
    one = content.index(b'",', 500_000)
    for broken in (
        content[:-3],
        content[:600_000],
        content[:600_000] + b"Code: 241. DB::Exception",
        content[: content.index(b'\n\t],\n\n\t"rows')],
        content.replace(b'"rows": 1000', b'"rows": 1001'),
        content[:one] + content[one + 1_020 * 7 :],
    ):
        with pytest.raises(msgspec.DecodeError):
            decoded(broken)


def test_the_engine_writes_it_so(store_server: StoreServer) -> None:
    sql = "SELECT number, concat('a\\n\\t],\\n', repeat('x', 100)), NULL FROM numbers(9000)"
    content = store_server.post(sql, default_format="JSONCompact").content
    assert len(content) > 3 * store_answer.STEP_BYTES
    begin, end = content.find(store_answer._BEGIN), content.rfind(store_answer._END)
    assert 0 < begin < end
    answer = decoded(content)
    assert [column.type for column in answer.meta][1:] == ["String", "Nullable(Nothing)"]
    assert answer.data == [[n, "a\n\t],\n" + "x" * 100, None] for n in range(9000)]


def test_the_loop_goes_on_meanwhile() -> None:
    """48 MiB. What counts is this thread's own processor time between two turns of the loop."""
    content = compact([["x" * 7000, number, None] for number in range(7000)])
    longest = 0.0

    async def scenario() -> None:
        nonlocal longest

        async def tick() -> None:
            nonlocal longest
            before = time.thread_time()
            while True:
                await asyncio.sleep(0)
                now = time.thread_time()
                longest, before = max(longest, now - before), now

        ticking = asyncio.create_task(tick())
        answer = await decode(content)
        ticking.cancel()
        assert len(answer.data) == 7000

    asyncio.run(scenario())
    assert longest < HELD_SECONDS, f"{longest * 1000:.0f} ms"
