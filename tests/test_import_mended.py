"""`eventbunker import` of packed content that was damaged, and is mended. A real Redis, nobody drains."""

from __future__ import annotations

import asyncio
import gzip
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.import_kit import Desk, Dies, Done, dying, expected, lines, one_run
from workers.import_pieces import Piece
from workers.import_queue import ImportQueue, Stopped

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = lines(range(3000))


def flipped(packed: bytes, at: int, bit: int = 1) -> bytes:
    """`packed` with another byte at `at`."""
    at %= len(packed)
    return packed[:at] + bytes([packed[at] ^ bit]) + packed[at + 1 :]


def in_row(number: int, content: bytes = CONTENT) -> bytes:
    """gzip without compression, of which a digit in one row is another one."""
    packed = gzip.compress(content, 0)
    return flipped(packed, packed.index(b'"n":%d,' % number) + 4)


def checked(data: bytes) -> bytes:
    """zstd that tells of damage."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


@pytest.fixture
def desk(tmp_path: Path, redis_url: str) -> Desk:
    return Desk(tmp_path, redis_url)


def write(desk: Desk, content: bytes, name: str = "a.ndjson") -> str:
    path = desk.directory / name
    path.write_bytes(content)
    return str(path)


def is_refused(done: Done) -> bool:
    said = (
        "was damaged, up to row" in done.said["reason"] and "--again NAME imports all" in done.said["reason"]
    )
    return (done.code, done.said["state"], said) == (2, "unusable", True)


@pytest.mark.parametrize(
    ("damaged", "mended"),
    [
        (in_row(2500), gzip.compress(CONTENT, 0)),
        (in_row(0), gzip.compress(CONTENT)),
        (in_row(2999), CONTENT),  # unpacked meanwhile
        (in_row(0, lines(range(9000))), gzip.compress(lines(range(9000)))),
        (flipped(gzip.compress(CONTENT), 5000, 0x55), gzip.compress(CONTENT)),
        (flipped(checked(CONTENT), -1), CONTENT.replace(b'"n":7,', b'"n":8,')),
    ],
)
def test_what_begins_otherwise_when_it_is_mended_is_not_taken_for_another_file(
    desk: Desk, damaged: bytes, mended: bytes
) -> None:
    """Rows would be in twice: whoever comes back with it does what he was told."""
    path = write(desk, damaged)
    for _ in range(2):
        assert (desk.run(path).code, desk.run(path).said["state"]) == (3, "damaged")
    before = desk.bodies()
    assert before
    write(desk, mended)
    for words in ((), ("--grown",)):
        assert is_refused(desk.run(path, *words))
    assert desk.bodies() == before
    assert desk.run(path, "--again", "on purpose").code == 0
    assert is_refused(desk.run(path)), "it is in now, under the other name of --again"
    assert sum((desk.bodies() - before).values()) in {3000, 9000}


@pytest.mark.parametrize(
    "damaged",
    [
        flipped(gzip.compress(CONTENT), -1),
        flipped(checked(CONTENT), -1),
        flipped(gzip.compress(CONTENT[:20_000]), -1) + gzip.compress(CONTENT[20_000:]),
        checked(CONTENT[:20_000]) + flipped(checked(CONTENT[20_000:]), 300),
    ],
)
def test_what_was_right_goes_on_and_is_no_more_damaged(desk: Desk, damaged: bytes) -> None:
    path = write(desk, damaged)
    assert desk.run(path).said["state"] == "damaged"
    write(desk, gzip.compress(CONTENT))
    assert desk.run(path).code == 0
    assert desk.bodies() == expected(CONTENT)
    write(desk, lines(range(50, 60)))
    other = desk.run(path)
    assert (other.code, "taken for a new file" in other.said["note"]) == (0, True), "another file, as ever"


def test_another_file_is_imported_under_another_name_or_with_again_and_then_all_are(desk: Desk) -> None:
    path = write(desk, in_row(2500))
    assert desk.run(path).code == 3
    other, third = lines(range(4000, 4010)), lines(range(5000, 5010))
    assert is_refused(desk.run(write(desk, other)))
    assert desk.run(write(desk, other, "b.ndjson")).code == 0
    assert desk.run(write(desk, third), "--again", "third").code == 0
    assert desk.run(write(desk, lines(range(6000, 6010)))).code == 0
    assert desk.run(write(desk, third)).code == 2, "it is in"
    assert desk.run(write(desk, in_row(2500))).said["state"] == "damaged", "and that is known still"


def test_each_name_of_again_is_an_import_of_its_own(desk: Desk) -> None:
    path = write(desk, in_row(2500))
    assert desk.run(path, "--again", "x").said["state"] == "damaged"
    write(desk, gzip.compress(CONTENT))
    assert is_refused(desk.run(path, "--again", "x"))
    assert is_refused(desk.run(path))
    assert desk.run(path, "--again", "y").code == 0


def test_a_pipe_brings_it_mended(desk: Desk) -> None:
    assert desk.run("-", content=in_row(2500)).said["state"] == "damaged"
    assert is_refused(desk.run("-", content=gzip.compress(CONTENT)))


def test_another_mapping_makes_other_events(desk: Desk) -> None:
    path = write(desk, in_row(2500))
    assert desk.run(path).code == 3
    write(desk, gzip.compress(CONTENT))
    assert desk.run(path, "--drop", "pad").code == 0


def test_a_name_that_is_too_long_to_be_kept_is_the_same_name(desk: Desk) -> None:
    deep = desk.directory
    for _ in range(3):
        deep = deep / ("d" * 200)
        deep.mkdir()
    path = write(desk, in_row(2500), str((deep / "a.ndjson").relative_to(desk.directory)))
    assert desk.run(path).code == 3
    Path(path).write_bytes(gzip.compress(CONTENT))
    assert is_refused(desk.run(path))


class _StopsIt(ImportQueue):
    """Somebody wants it to end while the first piece is appended."""

    async def append(self, piece: Piece, *where: object) -> None:
        await super().append(piece, *where)  # type: ignore[arg-type]
        self._stop.set()


@pytest.mark.parametrize("number", [3, 6000])
def test_what_is_stopped_amid_damaged_content_is_known_to_be_damaged(desk: Desk, number: int) -> None:
    """Of so little content it is known before the first piece is appended, or while it is."""
    content = lines(range(7000))
    path = desk.directory / "a.ndjson"
    path.write_bytes(in_row(number, content))
    with pytest.raises(Stopped):
        asyncio.run(one_run(desk, path, _StopsIt))
    path.write_bytes(gzip.compress(content))
    done = desk.run(str(path))
    if number < 5000:
        assert is_refused(done)
    else:
        assert done.code == 0, "the damage lies behind what is in"
        assert desk.bodies() == expected(content)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_death_amid_damaged_content_leaves_it_known(desk: Desk, when: str) -> None:
    path = desk.directory / "a.ndjson"
    path.write_bytes(in_row(3))
    with pytest.raises(Dies):
        asyncio.run(one_run(desk, path, dying(when, 1)))
    path.write_bytes(gzip.compress(CONTENT))
    assert is_refused(desk.run(str(path)))
    assert desk.bodies() in (Counter(), expected(CONTENT.replace(b'"n":3,', b'"n":2,')))
