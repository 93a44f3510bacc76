"""What is read from every format and packing, cell by cell, and what is said where nothing can be. No service."""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from workers import import_csv, import_ndjson
from workers.import_content import InputError, Mark, Source, Unreadable
from workers.import_formats import Reading, open_source
from workers.import_mapping import Mapping
from workers.import_pieces import judge

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BYTES = 65_536
PLAIN = Mapping()
PACKINGS = {"": lambda data: data, ".gz": gzip.compress, ".zst": zstd.compress}


def read(path: Path, mapping: Mapping = PLAIN, **how: Any) -> list[Any]:
    """Every row: the decoded event, or the reason for which it is none."""
    rows: list[Any] = []
    with opened(path, mapping, **how) as source:
        while (chunk := source.read(None)) is not None:
            for body in [one for one in chunk.bodies if one]:
                rows.append(body.reason if isinstance(body, Unreadable) else json.loads(body))
        assert not source.problem
    return rows


@contextlib.contextmanager
def opened(path: Path, mapping: Mapping = PLAIN, **how: Any) -> Iterator[Source]:
    with contextlib.closing(open_source(Reading(str(path), mapping, **how), MAX_BYTES)) as found:
        yield found.source


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """A real table as events, and the same in each format."""
    table = json.loads(files("vega_datasets").joinpath("_data", "cars.json").read_text())
    for row in table:
        row["event_name"], row["timestamp"] = "car", row.pop("Year")
        row["engine.mpg"] = row.pop("Miles_per_Gallon")
    directory = tmp_path_factory.mktemp("cars")
    with (directory / "c").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    parquet.write_table(pyarrow.Table.from_pylist(table), directory / "p", row_group_size=100)
    rows = []
    for one in table:
        found = {name: value for name, value in one.items() if value is not None}
        if "engine.mpg" in found:
            found["engine"] = {"mpg": found.pop("engine.mpg")}
        rows.append(found)
    lines = "".join(json.dumps(one) + "\n" for one in rows).encode()
    contents = {
        "csv": (directory / "c").read_bytes(),
        "parquet": (directory / "p").read_bytes(),
        "ndjson": lines,
    }
    return rows, contents


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("format", ["ndjson", "csv", "parquet"])
def test_every_format_in_every_packing(
    cars: tuple[list[dict[str, Any]], dict[str, bytes]], tmp_path: Path, format: str, packing: str
) -> None:
    rows, contents = cars
    path = write(tmp_path / f"cars.{format}{packing}", PACKINGS[packing](contents[format]))
    assert len(rows) == 406
    assert read(path) == rows


def test_a_packed_file_that_is_not_compressed_tells_its_format(
    cars: tuple[list[dict[str, Any]], dict[str, bytes]], tmp_path: Path
) -> None:
    rows, contents = cars
    for name, content in (("a", b"\xef\xbb\xbf" + contents["ndjson"]), ("b.parquet", contents["parquet"])):
        assert read(write(tmp_path / f"{name}.gz", gzip.compress(content, 0))) == rows


def test_each_line_of_ndjson_keeps_its_bytes(tmp_path: Path) -> None:
    bodies = [b'{"event_name":"a", "n":1.10}', b'{"event_name" : "\\u0061"}', b'  {"x":1} ']
    text = b"\xef\xbb\xbf" + bodies[0] + b"\r\n\n" + bodies[1] + b"\n" + bodies[2]
    with opened(write(tmp_path / "a.jsonl", text)) as source:
        chunk = source.read(None)
        assert chunk is not None
        found = [(line, body) for line, body in zip(chunk.lines, chunk.bodies, strict=True) if body]
        assert found == [(1, bodies[0]), (3, bodies[1]), (4, bodies[2])]
        assert source.read(None) is None


def test_a_cell_is_what_json_would_call_it(tmp_path: Path) -> None:
    text = (
        "event_name,n,zip,a.b,a.c,customer_identifier\n"
        'x,1.10,01234,true,"say ""hi""\nthere",42\n'
        "x,-0,12345,null,,\n"
        "x,1e3,NaN,True,-,\n"
        "x,.5,0x1,truthy,+1,\n"
    )
    path = write(tmp_path / "a.csv", text)
    assert read(path) == [
        {"event_name": "x", "n": 1.1, "zip": "01234", "customer_identifier": "42"}
        | {"a": {"b": True, "c": 'say "hi"\nthere'}},
        {"event_name": "x", "n": 0, "zip": 12345, "a": {"b": None}},
        {"event_name": "x", "n": 1000.0, "zip": "NaN", "a": {"b": "True", "c": "-"}},
        {"event_name": "x", "n": ".5", "zip": "0x1", "a": {"b": "truthy", "c": "+1"}},
    ]
    assert read(path, Mapping(texts=frozenset(["zip"])))[1]["zip"] == "12345"
    assert read(path, Mapping(texts=frozenset("*")))[0]["n"] == "1.10"


def test_csv_of_other_habits(tmp_path: Path) -> None:
    rows = [{"event_name": "é", "x": 1}]
    assert read(write(tmp_path / "a.csv", "\ufeffevent_name;x\r\né;1\r\n")) == rows
    assert read(write(tmp_path / "e.csv", "\n\nevent_name,x\n\né,1\n")) == rows
    assert read(write(tmp_path / "a.tsv", "event_name\tx\né\t1")) == rows
    assert read(write(tmp_path / "b.csv", "event_name:x\né:1"), delimiter=":") == rows
    latin = write(tmp_path / "c.csv", "event_name,x\né,1\n".encode("cp1252"))
    assert "not UTF-8" in read(latin)[0]
    assert read(latin, encoding="cp1252") == rows
    assert read(write(tmp_path / "d.csv", "event_name,x\né,1\n".encode("utf-16")), encoding="utf-16") == rows
    with pytest.raises(InputError, match="utf-16"):  # what Excel calls Unicode text
        read(write(tmp_path / "f.csv", "event_name,x\né,1\n".encode("utf-16")))


def test_rows_that_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'event_name,x\na,1,2\na\n\nb,2\na,"open\nb,3\n')
    assert read(path) == [
        "the row has 3 cells, the header 2",
        "the row has 1 cells, the header 2",
        {"event_name": "b", "x": 2},
        "a quoted cell has no end",
    ]
    long = write(tmp_path / "a.ndjson", b'{"a":1}\n{"b":"' + b"x" * 3_000_000 + b'"}\n{"c":1}\n')
    assert read(long) == [{"a": 1}, "the line has 3,000,009 bytes; an event has at most 65,536", {"c": 1}]


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv"])
def test_text_without_line_breaks_is_not_kept_in_memory(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (import_csv, import_ndjson):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 4_000_000)
    path = write(tmp_path / name, b"event_name\n" * (name == "a.csv") + b'"' + b"x" * 20_000_000)
    with pytest.raises(InputError, match="has more than"):
        read(path)


def test_parquet_types(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678_900)
    columns = {
        "event_name": pyarrow.array(["a", "b"]),
        "timestamp": pyarrow.array([moment, None], pyarrow.timestamp("ns", "Europe/Berlin")),
        "naive": pyarrow.array([moment, None], pyarrow.timestamp("us")),
        "day": pyarrow.array([datetime.date(2026, 1, 2), None]),
        "price": pyarrow.array([Decimal("12.50"), None]),
        "ratio": pyarrow.array([0.5, float("nan")]),
        "big": pyarrow.array([2**64 - 1, 0], pyarrow.uint64()),
        "raw": pyarrow.array([b"\xff", None]),
        "kind": pyarrow.array(["x", None]).dictionary_encode(),
        "tags": pyarrow.array([["p", "q"], None]),
        "geo": pyarrow.array([{"country": "DE", "city": None}, None]),
        "customer_identifier": pyarrow.array([7, None]),
    }
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    assert read(path) == [
        {
            "event_name": "a",
            "timestamp": "2026-01-02T03:04:05.678900Z",
            "naive": "2026-01-02T03:04:05.678900",
            "day": "2026-01-02",
            "price": 12.5,
            "ratio": 0.5,
            "big": 2**64 - 1,
            "raw": "/w==",
            "kind": "x",
            "tags": ["p", "q"],
            "geo": {"country": "DE"},
            "customer_identifier": "7",
        },
        {"event_name": "b", "big": 0},
    ]
    mapped = Mapping(moves=(("geo.country", "country"),), drops=frozenset({"raw"}))
    assert {"country": "DE"}.items() <= read(path, mapped)[0].items()


MIXPANEL = (
    b'{"event":"Sign up","properties":{"time":1602611311,"distinct_id":42,"$insert_id":"i1","n":1.10,'
    b'"junk":[{}]}}\n'
)


def test_a_mapping_moves_retypes_and_drops_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "m.ndjson", MIXPANEL + b'{"event":"a","event":"b"}\nnot json\n')
    moves = (
        ("event", "label"),
        ("properties.time", "timestamp"),
        ("properties.distinct_id", "customer_identifier"),
        ("properties.$insert_id", "event_id"),
    )
    mapping = Mapping("signup", moves, frozenset({"properties.junk"}), frozenset(), "properties.time", "s")
    with opened(path, mapping) as source:
        chunk = source.read(None)
    assert chunk is not None
    assert json.loads(chunk.bodies[0]) == {  # type: ignore[arg-type]
        "event_name": "signup",
        "label": "Sign up",
        "timestamp": "2020-10-13T17:48:31.000Z",
        "customer_identifier": "42",
        "event_id": "i1",
        "properties": {"n": 1.1},
    }
    assert b'"n":1.10' in chunk.bodies[0]  # type: ignore[operator]
    piece = judge(chunk, MAX_BYTES)
    assert [one.line for one in piece.rejected] == [2, 3], "a repeated name is still one"


@pytest.mark.parametrize(
    ("text", "unit", "stored"),
    [
        ("2021-06-26 14:48:00", "", "2021-06-26T14:48:00"),
        ("2021-06-26 14:48:00.5+02", "", "2021-06-26T14:48:00.5+02:00"),
        ("2021-06-26 14:48:00 UTC", "", "2021-06-26T14:48:00Z"),
        ("Sat, 26 Jun 2021 14:48:00 GMT", "", "Sat, 26 Jun 2021 14:48:00 GMT"),
        ("1624718880", "s", "2021-06-26T14:48:00.000Z"),
        ("1624718880.25", "s", "2021-06-26T14:48:00.250Z"),
        ("1624718880123", "ms", "2021-06-26T14:48:00.123Z"),
        ("1624718880123999", "us", "2021-06-26T14:48:00.123Z"),
        ("1624718880", "", 1624718880),  # refused: nobody guesses the unit
    ],
)
def test_times_of_others(tmp_path: Path, text: str, unit: str, stored: object) -> None:
    mapping = Mapping("e", (("t", "timestamp"),), timestamp_from="t", timestamp_unit=unit)
    quoted = text if text.replace(".", "").isdigit() else f'"{text}"'
    assert read(write(tmp_path / "a.ndjson", f'{{"t":{quoted}}}'), mapping)[0]["timestamp"] == stored
    in_csv = read(write(tmp_path / "a.csv", f't,x\n"{text}",1\n'), mapping)[0]["timestamp"]
    assert in_csv == str(stored)


@pytest.mark.parametrize(
    ("name", "text", "mapping", "said"),
    [
        ("a.csv", "x,x\n1,2\n", PLAIN, "names x more than once"),
        ("a.csv", "x,y\n1,2\n", PLAIN, "no column is event_name"),
        ("a.csv", "event_name,a (b),is_bot\n", PLAIN, "--rename 'a (b)=…'"),
        ("a.csv", "event_name,is_bot\n", PLAIN, "is_bot: the name is reserved"),
        ("a.csv", "event_name,a,a.b\n", PLAIN, "a: a column has this name"),
        ("a.csv", "event_name,x\n", Mapping(drops=frozenset("y")), "there is no column y"),
        ("a.csv", "event_name,x,y\n", Mapping(moves=(("x", "y"),)), "y: more than one column"),
        ("a.json", '[{"event_name":"a"}]', PLAIN, "one JSON array"),
        ("a", "hello", PLAIN, "add --format"),
        ("a", "", PLAIN, "is empty"),
        ("a.parquet", "{}", PLAIN, "is no Parquet file"),
        ("a.csv", "PK\x03\x04", PLAIN, "a zip archive"),
        ("a.parquet", "PAR1 and no more", PLAIN, "cannot be read"),
        ("a.ndjson", "\x1f\x8bnonsense", PLAIN, "is no gzip file"),
        ("a.ndjson", "{\0}\0", PLAIN, "UTF-16"),
    ],
)
def test_what_cannot_be_imported_is_said_before_anything_is(
    tmp_path: Path, name: str, text: str, mapping: Mapping, said: str
) -> None:
    with pytest.raises(InputError) as raised:
        read(write(tmp_path / name, text.encode("latin-1") if name != "a.csv" else text), mapping)
    assert said in str(raised.value)


@pytest.mark.parametrize("format", ["ndjson", "csv", "parquet"])
def test_every_place_between_two_rows_is_found_again(tmp_path: Path, format: str) -> None:
    """A mark is all that a later run has: position, digest, line."""
    rows = [{"event_name": "e", "n": n, "text": "two\nlines" if n % 7 else "x"} for n in range(12_000)]
    path = tmp_path / f"a.{format}"
    if format == "ndjson":
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    elif format == "csv":
        cells = ['"{}",{},"{}"\n'.format(*row.values()) for row in rows]
        write(path, "event_name,n,text\n" + "".join(cells))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3000)
    with opened(path) as source:
        marks: list[Mark] = [source.mark]
        while (chunk := source.read(None)) is not None:
            marks.append(chunk.end)
    assert len(marks) >= 4
    for before, end in pairwise(marks):
        with opened(path) as again:
            assert again.digest_at(marks[1].position) == marks[1].digest
            again.skip_to(before.position)
            assert again.mark == before
            piece = again.read(end.position)
        assert piece is not None
        assert piece.end == end


@pytest.mark.parametrize("format", ["ndjson", "csv"])
def test_wherever_content_was_cut_off_the_rest_leads_on_from_its_last_mark(
    tmp_path: Path, format: str
) -> None:
    """Each row once: a part of one is neither before the mark nor behind it."""
    whole = {
        "ndjson": '\ufeff{"a":{"b":1}}\r\n\n{"s":"é\\"}{"}\n  {"l":[1,2]} \n{}\n12\n{"z":"2"}\n'.encode(),
        "csv": '\ufeffevent_name,n,t\r\ne,1,"two\nli""nes"\r\n\nf,2,x\ng,3,"y"\n'.encode(),
    }[format]
    header = len(whole.partition(b"\n")[0]) + 1 if format == "csv" else 0

    def bodies(source: Source, *, behind: bool) -> tuple[list[bytes], Mark]:
        """With what stands behind the last whole row, or without; and the mark that is left."""
        found, mark = [], source.mark
        while (chunk := source.read(None)) is not None:
            if behind or chunk.end.position > mark.position:
                found += [one if isinstance(one, bytes) else one.text for one in chunk.bodies]
            mark = chunk.end
        return [one.strip() for one in found if one.strip()], mark

    path = tmp_path / f"a.{format}"
    with opened(write(path, whole), format=format) as source:
        rows, _ = bodies(source, behind=True)
    assert len(rows) == (6 if format == "ndjson" else 3)
    for cut in range(header + 1, len(whole)):
        with opened(write(path, whole[:cut]), format=format) as source:
            first, mark = bodies(source, behind=False)
        if format == "csv" and whole[mark.position - 1 : mark.position] != b"\n":
            continue  # its last row has all cells, and passes for a whole one
        with opened(write(path, whole), format=format) as source:
            assert source.digest_at(mark.position) == mark.digest
            source.skip_to(mark.position)
            assert first + bodies(source, behind=True)[0] == rows, whole[:cut]


def wide(directory: Path, format: str) -> tuple[Path, Mapping]:
    """A file of which far more is built than is read: 3,000 events of some 12 kB."""
    number, path = 3000, directory / f"a.{format}"
    names = [f"c{at:03}{'x' * 100}" for at in range(100)]
    if format == "ndjson":
        write(path, b'{"event_name":"e","a":1}\n' * number)
        return path, Mapping("e" * 250, tuple(("a", name) for name in names[:1]))
    if format == "csv":
        write(path, f"event_name,{','.join(names)}\n" + f"e{',1' * len(names)}\n" * number)
    else:
        columns = {name: ["x" * 20] * number for name in names}
        parquet.write_table(pyarrow.table({"event_name": ["e"] * number, **columns}), path)
    return path, PLAIN


@pytest.mark.parametrize("format", ["ndjson", "csv", "parquet"])
def test_a_piece_is_bounded_by_what_is_built_of_it(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of kilobytes may unfold to gigabytes; and a piece that was cut so is found again."""
    if format == "ndjson":  # with a mapping that adds a tenth, not one that multiplies
        monkeypatch.setattr(import_ndjson, "PIECE_BYTES", 100_000)
    most = 100_000 if format == "ndjson" else 1024 * 1024
    path, mapping = wide(tmp_path, format)
    marks, sizes, number = [], [], 0
    with opened(path, mapping) as source:
        marks.append(source.mark)
        while (chunk := source.read(None)) is not None:
            bodies = [len(body) for body in chunk.bodies if isinstance(body, bytes) and body]
            marks.append(chunk.end)
            sizes.append((sum(bodies), max(bodies, default=0)))
            number += len(bodies)
    assert number == 3000
    assert len(sizes) > 5
    assert all(size < most + largest for size, largest in sizes)
    assert all(size >= most for size, _ in sizes[:-1]), "and they are not small either"
    for before, end in list(pairwise(marks))[1:4]:
        with opened(path, mapping) as again:
            again.skip_to(before.position)
            piece = again.read(end.position)
        assert piece is not None
        assert (piece.end, len(piece.bodies) > 0) == (end, True)
        with opened(path, mapping) as again:
            again.skip_to(before.position)
            ahead = again.read(None)
        assert ahead is not None
        assert ahead.end == end, "the cut does not depend on where the reading began"
