"""No 200 leaves an edge before its event is on the disk: seen in the system calls of a real edge.

kill -9 cannot tell whether an fsync took place (the system keeps what was written), so it is watched.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.chaos.book import Book, open_http
from tests.chaos.topology import Topology
from tests.chaos.trace import NoTrace, Trace

CALLS = "trace=pwrite64,fdatasync,fsync,write,writev,sendto,sendmsg"
EVENTS = 5
_WRITTEN = re.compile(r"pwrite64\(\d+<[^>]*\.segment>")
_SYNCED = re.compile(r"fdatasync(\(\d+<[^>]*\.segment>\)| resumed>\)).* = 0$")
_ANSWERED = re.compile(r'"HTTP/1\.1 200 ')


@pytest.mark.service
@pytest.mark.timeout(180)
def test_a_spooled_event_is_synced_before_its_200(tmp_path: Path) -> None:
    """Safeguard: the spool's fdatasync, and that the answer waits for it."""
    with Topology(tmp_path / "t", no_mounts="not needed") as topology:
        book = Book(topology.write_key, "synced")
        with open_http(topology.edge_urls[0]) as http:

            def post() -> int:
                return book.send(book.new(lambda n: ""), 0, http).status

            assert post() == 200  # now the edge knows the key and the name
            topology.processes["redis"].kill()
            try:
                trace = Trace(
                    topology.processes["edge 0"].pid, tmp_path / "strace", "-y", "-s", "64", "-e", CALLS
                )
            except NoTrace as error:
                pytest.skip(str(error))
            assert [post() for _ in range(EVENTS)] == [200] * EVENTS
        answered, is_dirty, has_written = 0, False, False
        for line in trace.stop().splitlines():
            if _WRITTEN.search(line):
                is_dirty = has_written = True
            elif _SYNCED.search(line):
                is_dirty = False
            elif _ANSWERED.search(line):
                assert has_written, f"answered without having been written: {line}"
                assert not is_dirty, f"answered before it was synced: {line}"
                answered, has_written = answered + 1, False
        assert answered == EVENTS
