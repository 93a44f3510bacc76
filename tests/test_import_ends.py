"""`eventbunker import` of what ends amid a row, is damaged, or goes on behind its end. A real Redis, nobody drains."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.import_kit import Desk, expected, lines

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 0),
    "zstd": zstd.compress,
}


@pytest.fixture
def desk(tmp_path: Path, redis_url: str) -> Desk:
    return Desk(tmp_path, redis_url)


def write(desk: Desk, name: str, content: bytes) -> str:
    path = desk.directory / name
    path.write_bytes(content)
    return str(path)


def listed(path: str) -> list[dict[str, Any]]:
    """What stands in the list of FILE's rejected rows."""
    return [json.loads(line) for line in Path(path + ".rejected.ndjson").read_text().splitlines()]


@pytest.mark.parametrize(
    ("before", "unfinished"),
    [
        (b"", b"{"),
        (b"", b'{"event_name":"e","n":'),
        (b"\xef\xbb\xbf", b"{"),
        (b"", b"{" + b" " * 3_000_000),
        (b"\n", b""),
        (b"\r\n \n", b""),
        (b"\xef\xbb\xbf", b""),
        (b"   ", b""),
    ],
)
def test_an_import_without_a_whole_row_is_not_taken_for_the_beginning_of_others(
    desk: Desk, before: bytes, unfinished: bytes
) -> None:
    """As a pipe leaves it whose writer died at once."""
    cut = write(desk, "cut.ndjson", before + unfinished)
    for _ in range(2):
        done = desk.run(cut)
        assert (done.code, done.said["accepted"], done.said["already_in"]) == (bool(unfinished), 0, 0), done
        assert done.said["rejected"] == bool(unfinished), "and each run says so"
    if unfinished:
        assert [one["line"] for one in listed(cut)] == [1]
    for numbers in (range(100), range(500, 600)):
        content = before + unfinished[:1] + lines(numbers)[len(unfinished[:1]) :]
        done = desk.run(write(desk, f"{numbers.start}.ndjson", content))
        assert (done.code, done.said["accepted"]) == (0, 100), done
    assert sum(desk.bodies().values()) == 200


CSV = b"event_name,n,text\n"
LONG = b'{"event_name":"e","text":"%s"}\n' % (b"x" * 3_000_000)


@pytest.mark.parametrize(
    ("name", "whole", "cut"),
    [
        ("a.ndjson", lines(range(1000)), 20_010),
        ("a.ndjson", lines(range(1000)), -1),  # the line break is all that is missing
        ("a.ndjson", lines(range(10)) + b'{"event_name":"e","x":{"y":1}}\n' + lines(range(10, 20)), 357),
        ("a.csv", CSV + b"e,1,x\n" * 100 + b"e,2,y\n" * 100, 620),
        ("a.csv", CSV + b"e,1,x\n" * 100 + b'e,2,"two\nlines"\n' * 100, 630),
        ("a.csv", CSV + b"e,1,x\n" * 100 + b'e,2,"two\nlines"\n' * 100, 627),
    ],
)
def test_a_row_that_was_cut_off_is_in_when_it_is_whole(desk: Desk, name: str, whole: bytes, cut: int) -> None:
    path = write(desk, name, whole[:cut])
    first = desk.run(path)
    number, refused = sum(desk.bodies().values()), first.said["rejected"]
    assert (first.code, first.said["accepted"], refused) == (cut != -1, number, cut != -1), first
    again = desk.run(path)
    assert (again.code, again.said["already_in"], again.said["rejected"]) == (cut != -1, number, refused)
    if refused:
        [one] = listed(path)
        assert one["event"]
        assert whole[:cut].decode().endswith(one["event"])
    write(desk, name, whole)
    refusal = desk.run(path)
    if cut != -1:
        assert (refusal.code, "--grown imports what is new" in refusal.said["reason"]) == (2, True)
    grown = desk.run(path, "--grown")
    rows = 1000 if len(whole) > 5000 else len(whole.splitlines())
    assert (grown.code, grown.said["rejected"], grown.said["already_in"]) == (0, 0, number), grown
    assert sum(desk.bodies().values()) == grown.said["rows"]
    if name == "a.ndjson":
        assert desk.bodies() == expected(whole)
        assert grown.said["rows"] == rows
    else:
        assert grown.said["rows"] == 200
    assert listed(path) == [] if refused else True, "nor is it listed any more"
    assert desk.run(path).said["already_in"] == grown.said["rows"]


def test_a_long_row_that_was_cut_off_is_listed_once_when_it_is_whole(desk: Desk) -> None:
    whole = lines(range(10)) + LONG + lines(range(10, 20))
    path = write(desk, "a.ndjson", whole[:2_000_000])
    assert desk.run(path).said["rejected"] == 1
    assert " bytes; an event has at most 65,536" in listed(path)[0]["errors"][0]["message"]
    left = desk.run(path, "--grown")
    assert (left.code, left.said["rejected"]) == (0, 0), "left for the next time, as documented"
    write(desk, "a.ndjson", whole)
    grown = desk.run(path, "--grown")
    assert (grown.code, grown.said["accepted"], grown.said["rejected"]) == (1, 20, 1), grown
    assert [one["line"] for one in listed(path)] == [11]
    assert desk.bodies() == expected(lines(range(20)))


def test_a_last_row_without_a_line_break_that_is_refused_stays_listed_when_others_follow(desk: Desk) -> None:
    """It is whole, so it is known; its line is not that of the rows to come."""
    content = lines(range(3)) + b"{}"
    path = write(desk, "a.ndjson", content)
    assert desk.run(path).said["rejected"] == 1
    write(desk, "a.ndjson", content + b"\n" + lines(range(3, 5)) + b"{}\n{")
    grown = desk.run(path, "--grown")
    assert (grown.code, grown.said["accepted"], grown.said["rejected"]) == (1, 5, 2)
    assert [one["line"] for one in listed(path)] == [4, 7]
    assert desk.run(path).said["rejected"] == 3
    assert [one["line"] for one in listed(path)] == [4, 7, 8]
    assert desk.bodies() == expected(lines(range(5)))


def test_strict_stops_at_a_row_that_was_cut_off_and_goes_on_when_it_is_whole(desk: Desk) -> None:
    content = lines(range(10))
    path = write(desk, "a.ndjson", content[:-5])
    done = desk.run(path, "--strict")
    assert (done.code, "line 10: $: the line is not finished" in done.said["reason"]) == (3, True), done
    write(desk, "a.ndjson", content)
    assert desk.run(path, "--strict").code == 0
    assert desk.bodies() == expected(content)


def test_empty_lines_are_no_more_rows(desk: Desk) -> None:
    path = write(desk, "a.ndjson", lines(range(10)))
    assert desk.run(path).code == 0
    write(desk, "a.ndjson", lines(range(10)) + b"\n\n \n")
    assert desk.run(path).said["already_in"] == 10
    write(desk, "a.ndjson", lines(range(10)) + b"\n\n \n" + lines(range(10, 12)))
    assert desk.run(path).code == 2
    assert desk.run(path, "--grown").said["accepted"] == 12
    assert desk.bodies() == expected(lines(range(12)))


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("last", [b"", b'{"event_name":"last"}'])
def test_what_follows_the_end_of_packed_data_is_listed_and_all_rows_are_in(
    desk: Desk, packing: str, last: bytes
) -> None:
    """As a signature, or a second part whose beginning is damaged: running it again would never end that."""
    pack, content = PACK[packing], lines(range(3000), 100) + last
    path = write(desk, "a.ndjson", pack(content) + b"garbage behind")
    for before in (0, 3000 + bool(last)):
        done = desk.run(path)
        assert (done.code, done.said["state"], done.said["already_in"]) == (1, "queued", before), done
        assert (done.said["accepted"], done.said["rejected"]) == (3000 + bool(last), 1)
        assert [one["errors"][0]["message"] for one in listed(path)] == [
            f"what follows the end of the {packing} data is no {packing} data; mend the file if it held rows"
        ]
    assert desk.bodies() == expected(content)
    write(desk, "a.ndjson", pack(content) + pack(b"\n" + lines(range(3000, 3010))))
    assert desk.run(path, "--grown").code == 0
    assert desk.bodies() == expected(content + b"\n" + lines(range(3000, 3010)))


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_packed_content_that_is_cut_off_before_its_first_row_is_not_finished(
    desk: Desk, packing: str, words: tuple[str, ...]
) -> None:
    """It is packed as it should be, and all of it can be imported."""
    content = lines(range(10))
    packed = PACK[packing](content)
    path = write(desk, "a.ndjson", packed[:8])
    done = desk.run(path, *words)
    said = f"{path}: the {packing} data ends in the middle, before its first row"
    assert (done.code, done.said["state"], done.said["reason"]) == (3, "unfinished", said), done
    assert ("run the same command again to go on" in done.errors) != bool(words)
    write(desk, "a.ndjson", packed)
    assert desk.run(path, *words).code == 0
    assert desk.bodies() == (Counter() if words else expected(content))


def test_damaged_data_is_not_said_to_go_on_by_itself(desk: Desk) -> None:
    """gzip tells of damage at its end, when the rows are in: whether the mended file goes on is to be seen."""
    content = lines(range(7000))
    packed = bytearray(gzip.compress(content, 0))
    packed[packed.index(b'"n":6789,') + 4] = ord("9")
    path = write(desk, "a.ndjson", bytes(packed))
    process = desk.start(path, "--no-wait")
    _, errors = process.communicate(timeout=60)
    said = errors.decode()
    assert (process.returncode, "no row will be doubled" in said) == (3, False), said
    assert "the gzip data is damaged (CRC check failed" in said
    assert "rows that are in may be damaged" in said
    write(desk, "a.ndjson", gzip.compress(content))
    mended = desk.run(path)
    assert (mended.code, "--again NAME imports all of it" in mended.said["reason"]) == (2, True), mended
    at_its_end = bytearray(gzip.compress(content, 0))
    at_its_end[-6] ^= 1  # of the checksum alone
    other = write(desk, "b.ndjson", bytes(at_its_end))
    assert desk.run(other, "--again", "b").said["state"] == "damaged"
    write(desk, "b.ndjson", gzip.compress(content))
    assert desk.run(other, "--again", "b").code == 0, "what was right goes on"
    assert desk.bodies() == expected(content) + expected(content.replace(b'"n":6789,', b'"n":9789,'))


def test_damaged_parquet_is_another_file_when_it_is_mended(desk: Desk) -> None:
    path = desk.directory / "a.parquet"
    table = pyarrow.table({"event_name": ["e"] * 9000, "n": range(9000)})
    parquet.write_table(table, path, row_group_size=6000, compression="zstd")
    whole = path.read_bytes()
    group = parquet.ParquetFile(path).metadata.row_group(1).column(1)
    at = group.dictionary_page_offset or group.data_page_offset
    path.write_bytes(whole[:at] + b"\xff" * 40 + whole[at + 40 :])  # where the page says what it is
    process = desk.start(str(path), "--no-wait")
    _, errors = process.communicate(timeout=60)
    said = errors.decode()
    assert (process.returncode, "the Parquet file is damaged" in said) == (3, True), said
    assert "not finished: mended, it is another file, and all of it is imported" in said
    before = sum(desk.bodies().values())
    assert 0 < before < 9000
    path.write_bytes(whole)
    done = desk.run(str(path))
    assert (done.code, done.said["accepted"], sum(desk.bodies().values())) == (0, 9000, before + 9000)


class _Failing(io.FileIO):
    """On a disk of which only the beginning can be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 500_000:
            raise OSError(5, "Input/output error")
        return super().read(size) or b""


@pytest.mark.parametrize("packing", [None, *PACK])
def test_a_disk_that_fails_is_not_taken_for_redis(
    desk: Desk, packing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = lines(range(10_000), 100)
    path = write(desk, "a.ndjson", content if packing is None else gzip.compress(content, 0))
    with monkeypatch.context() as patch:
        patch.setattr("workers.import_formats.io.FileIO", _Failing)
        done = desk.run(path)
        assert (done.code, done.said["state"]) == (3, "unfinished"), done
        assert "cannot be read behind byte 5" in done.said["reason"]
        assert "Input/output error; the rows before that are in" in done.said["reason"]
        assert 0 < sum(desk.bodies().values()) < 5000
        dry = desk.run(path, "--dry-run")
        assert (dry.code, dry.said["reason"].endswith("Input/output error")) == (3, True), dry
    assert desk.run(path).code == 0
    assert desk.bodies() == expected(content)


def test_a_disk_that_fails_under_a_format_that_must_be_complete(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.import_formats.io.FileIO", _Failing)
    path = write(desk, "a.parquet.gz", gzip.compress(b"PAR1" + lines(range(10_000), 100), 0))
    done = desk.run(path)
    assert (done.code, "a.parquet.gz cannot be read behind byte 5" in done.said["reason"]) == (2, True), done


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_file_that_cannot_be_read_at_all_is_said(desk: Desk, words: tuple[str, ...]) -> None:
    path = "/proc/self/mem"
    done = desk.run(path, *words)
    assert (done.code, done.said["reason"]) == (2, f"{path} cannot be read behind byte 0: Input/output error")
    assert desk.bodies() == Counter()
