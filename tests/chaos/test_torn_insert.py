"""The trap that the drain counts for: killed between token and rename, the engine knows the token, not the rows."""

from __future__ import annotations

import contextlib
from pathlib import Path

import httpx
import pytest

from tests.chaos.trace import KillAtRename, NoTrace
from tests.store_fixture import DURABLE, row, start_store

INSERT = "INSERT INTO d.t FORMAT RowBinary"


def test_a_token_was_seen_and_its_rows_are_not_there(tmp_path: Path) -> None:
    """If this fails, the fault of `make chaos` that is named after it tests nothing any more."""
    store = start_store(tmp_path / "data")
    try:
        store.text("CREATE DATABASE d")
        store.text(f"CREATE TABLE d.t (a UInt64, b String) ENGINE = MergeTree ORDER BY a SETTINGS {DURABLE}")
        assert store.insert(INSERT, row(1, b"x"), insert_deduplication_token="one").status_code == 200
        try:
            trace = KillAtRename(store.pid, tmp_path / "strace")
        except NoTrace as error:
            pytest.skip(str(error))
        with contextlib.suppress(httpx.TransportError):
            answer = store.insert(INSERT, row(2, b"y"), insert_deduplication_token="two")
            pytest.fail(f"it was answered: {answer.status_code}")
        store.process.wait(10)
        assert trace.hit() == "tmp_insert_all_2_2_0"
        store = start_store(tmp_path / "data")
        # An OK, and nothing is added: only a first attempt's OK may be believed.
        assert store.insert(INSERT, row(2, b"y"), insert_deduplication_token="two").status_code == 200
        assert store.text("SELECT a, b FROM d.t") == "1\tx"
        assert store.insert(INSERT, row(2, b"y"), insert_deduplication_token="three").status_code == 200
        assert store.text("SELECT count() FROM d.t") == "2"
    finally:
        store.stop()
