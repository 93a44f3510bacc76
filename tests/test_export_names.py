"""What `export -o NAME` means by all that is no plain file's name: descriptors, links, directories, long names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.slow_answer import answer, command, ended
from tests.waiting import until
from workers.descriptors import Descriptor, descriptor_of

EVENTS = b'{"n":1}\n{"n":2}\n'
SECONDS = 30.0
NOWHERE = "http://127.0.0.1:1"
LONGEST = 255  # bytes of a name, on most file systems


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_what_others_write_to_standard_output_stays(name: str, tmp_path: Path) -> None:
    """As of `{ echo head; eventbunker export -o /dev/stdout; echo tail; } > file`."""
    if name == "link":
        name = str(tmp_path / "link")
        (tmp_path / "stdout").symlink_to("/dev/stdout")
        os.symlink("stdout", name)
    file = tmp_path / "file"
    with open(file, "wb", buffering=0) as output, answer(EVENTS) as url:
        output.write(b"head\n")
        with command("export", "-o", name, "--url", url, stdout=output.fileno()) as export:
            assert ended(export) == (0, "2 events\n")
        output.write(b"tail\n")
    assert file.read_bytes() == b"head\n" + EVENTS + b"tail\n"


def test_another_name_of_standard_output_is_as_the_usual_one() -> None:
    closed = ("sh", "-c", 'exec "$@" >&-', "sh")
    words = ("export", "-o", "/dev/stdout", "--url")
    with command(*words, NOWHERE, before=closed) as export:
        code, said = ended(export)
    assert (code, "standard output is closed: name a file with -o" in said) == (2, True), said
    reads, writes = os.pipe()
    os.close(reads)
    with answer(EVENTS) as url, command(*words, url, stdout=writes) as export:
        os.close(writes)
        assert ended(export) == (0, "")


def test_any_open_descriptor_is_written_into(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"head\n")
    third = ("sh", "-c", f'exec "$@" 3>>{file}', "sh")
    with answer(EVENTS) as url:
        with command("export", "-o", "/dev/fd/3", "--url", url, before=third) as export:
            assert ended(export) == (0, "2 events in /dev/fd/3\n")
        with command("export", "-o", "/dev/fd/999", "--url", url) as export:
            assert ended(export) == (2, "/dev/fd/999 cannot be written: Bad file descriptor\n")
    assert file.read_bytes() == b"head\n" + EVENTS


def test_a_file_of_another_process_is_left_to_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with open(file, "wb") as output, subprocess.Popen(["sleep", "60"], stdout=output) as other:
        try:
            name = f"/proc/{other.pid}/fd/1"
            until(lambda: os.path.realpath(name) == str(file), SECONDS, "what is started has its file")
            with command("export", "-o", name, "--url", NOWHERE) as export:
                code, said = ended(export)
        finally:
            other.kill()
    assert (code, "that another process has open: write to - or" in said) == (2, True), said
    assert list(tmp_path.iterdir()) == [file]


def test_a_descriptor_is_told_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "fd").mkdir()
    (tmp_path / "fd" / "1").touch()
    assert descriptor_of(str(tmp_path / "fd" / "1")) is None
    assert descriptor_of("no/such") is None
    assert descriptor_of("/dev/stderr") == Descriptor(2, is_own=True)
    assert descriptor_of("/proc/thread-self/fd/7") == Descriptor(7, is_own=True)
    assert descriptor_of("/proc/1/fd/2") == Descriptor(2, is_own=False)


@pytest.mark.parametrize("letter", ["n", "ü", "語"])
def test_a_name_may_be_as_long_as_the_file_system_takes(letter: str, tmp_path: Path) -> None:
    size = LONGEST // len(letter.encode())
    file, longer = tmp_path / (letter * size), str(tmp_path / (letter * (size + 1)))
    with answer(EVENTS) as url, command("export", "-o", str(file), "--url", url) as export:
        assert ended(export) == (0, f"2 events in {file}\n")
    assert file.read_bytes() == EVENTS
    with command("export", "-o", longer, "--url", NOWHERE) as export:
        assert ended(export) == (2, f"{longer} cannot be written: File name too long; name another file\n")
    assert list(tmp_path.iterdir()) == [file]


def test_links_that_lead_in_a_circle_stay(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to("other")
    other.symlink_to("one")
    with command("export", "-o", str(one), "--url", NOWHERE) as export:
        said = f"{one} cannot be written: Too many levels of symbolic links; name another file\n"
        assert ended(export) == (2, said)
    assert (one.is_symlink(), other.is_symlink()) == (True, True)


@pytest.mark.parametrize("end", ["/", "/.", "/.."])
def test_the_name_of_a_directory_is_no_files(end: str, tmp_path: Path) -> None:
    name = f"{tmp_path}/new{end}"
    with command("export", "-o", name, "--url", NOWHERE) as export:
        assert ended(export) == (2, f"{name} is the name of a directory: name a file\n")
    assert list(tmp_path.iterdir()) == []


def test_no_name_is_an_error() -> None:
    """As of a variable that nobody has set, which must not fill the terminal or a log."""
    with command("export", "-o", "", "--url", NOWHERE) as export:
        code, said = ended(export)
    assert (code, "-o names no file: name one, or - for standard output" in said) == (2, True), said
