"""A full disk under the embedded store: what the engine does not notice, and what the store does about it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.trace import NoTrace, Trace
from tests.service import ROOT
from tests.store_fixture import DURABLE, StoreServer, row, start_store

INSERT = "INSERT INTO d.t FORMAT RowBinary"


def create(store: StoreServer) -> str:
    """A table; where its parts are."""
    store.text("CREATE DATABASE d")
    store.text(f"CREATE TABLE d.t (a UInt64, b String) ENGINE = MergeTree ORDER BY a SETTINGS {DURABLE}")
    return store.text("SELECT data_paths[1] FROM system.tables WHERE database = 'd'")


def without_room(store: StoreServer, log: Path, path: str) -> Trace:
    """Writes to `path` find no room from now on."""
    try:
        return Trace(store.pid, log, "-P", path, "-e", "trace=write", "-e", "inject=write:error=ENOSPC")
    except NoTrace as error:
        pytest.skip(str(error))


def test_the_engine_answers_ok_to_an_insert_that_found_no_room(tmp_path: Path) -> None:
    """The trap. If this fails, the engine has learned to notice, and `workers.embedded_disk` can be simpler."""
    store = start_store(tmp_path / "data")
    try:
        parts = create(store)
        assert store.insert(INSERT, row(1, b"x")).status_code == 200
        trace = without_room(store, tmp_path / "strace", f"{parts}tmp_insert_all_2_2_0/data.bin")
        assert store.insert(INSERT, row(2, b"y")).status_code == 200
        assert "ENOSPC" in trace.stop()
        store.kill()
        store = start_store(tmp_path / "data")
        assert store.text("SELECT a, b FROM d.t") == "1\tx"
    finally:
        store.stop()


def test_a_start_finds_the_parts_that_a_merge_without_room_replaced(tmp_path: Path) -> None:
    """What ending the process relies on: nothing that was stored before is lost by it."""
    store = start_store(tmp_path / "data")
    try:
        parts = create(store)
        store.text("SYSTEM STOP MERGES d.t")
        for number in range(3):
            store.insert(INSERT, row(number, b"x"))
        trace = without_room(store, tmp_path / "strace", f"{parts}tmp_merge_all_1_3_1/data.bin")
        store.text("SYSTEM START MERGES d.t")
        store.text("OPTIMIZE TABLE d.t FINAL")
        assert "ENOSPC" in trace.stop()
        assert store.post("SELECT sum(length(b)) FROM d.t").status_code == 500
        store.kill()
        store = start_store(tmp_path / "data")
        assert store.text("SELECT sum(length(b)) FROM d.t") == "3"
    finally:
        store.stop()


DRILL = """
import sys, threading
from pathlib import Path
from tests.chaos.disk import Disk, NoDisk, own_mounts
from tests.chaos.test_full_store import INSERT, create
from tests.store_fixture import row, start_store
from tests.waiting import until
disk = Disk(Path(sys.argv[1]) / "disk", 256 << 20, own_mounts())
data = disk.path / "data"
log = data.with_suffix(".log")
store = start_store(data)
create(store)
print(store.insert(INSERT, row(1, b"x")).status_code)
try:
    disk.fill()
except NoDisk as error:
    sys.exit(f"no disk: {error}")
print(store.process.wait(10))
def free():
    until(lambda: "waiting for room" in log.read_text(), 30, "the start that waits")
    disk.free()
waiting = threading.Thread(target=free)
waiting.start()
store = start_store(data)  # once there is room
waiting.join()
print(store.text("SELECT count() FROM d.t"))
(disk.path / "other").write_bytes(b"x" * (225 << 20))
print(store.insert(INSERT, row(2, b"y")).headers["x-clickhouse-exception-code"])
print(store.text("SELECT count() FROM d.t"))
store.stop()
disk.unmount()
"""


def test_a_full_disk_ends_the_store_and_one_that_is_nearly_full_stops_inserts(tmp_path: Path) -> None:
    """Safeguards: no OK from a full disk; a start waits for room; queries go on while there is a little left."""
    done = subprocess.run(
        [sys.executable, "-c", DRILL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=90,
        check=False,
    )  # fmt: skip
    if "no disk: " in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout.split("\n") == ["200", "75", "1", "243", "1", ""], done.stderr
