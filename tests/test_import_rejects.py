"""Where `eventbunker import --rejects` can be written, and what happens where it cannot. A real Redis, nobody drains."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import IO, Any

import pytest

from tests.import_kit import Desk, expected, lines
from workers.import_content import InputError

BAD = b'{"event_name":"e","is_bot":true}\n'


@pytest.fixture
def desk(tmp_path: Path, redis_url: str) -> Desk:
    return Desk(tmp_path, redis_url)


def write(desk: Desk, content: bytes) -> str:
    path = desk.directory / "a.ndjson"
    path.write_bytes(content)
    return str(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize("rows", [1, 4000])  # one is less than a buffer, the others are more
def test_a_full_disk_ends_it_and_what_was_in_stays_in(desk: Desk, words: tuple[str, ...], rows: int) -> None:
    """What was refused must not be lost, and running it again goes on."""
    good = lines(range(5000))
    path = write(desk, good + BAD * rows + good)
    done = desk.run(path, "--rejects", "/dev/full", *words)
    assert (done.code, done.said["state"], done.said["accepted"]) == (3, "unfinished", 5000), done
    assert done.said["reason"] == (
        "/dev/full cannot be written: No space left on device; name another file with --rejects"
    )
    assert sum(desk.bodies().values()) == (0 if words else 5000)
    again = desk.run(path, *words)
    assert (again.code, again.said["accepted"], again.said["rejected"]) == (1, 10_000, rows)
    if not words:
        assert desk.bodies() == expected(good) + expected(good)


class _FullAtTheEnd(io.FileIO):
    """On a disk that says only at the close that it has no room: one in a network, or with a quota."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.mark.parametrize(("words", "state"), [((), "queued"), (("--dry-run",), "rejected")])
def test_a_list_that_cannot_be_closed_is_said_and_everything_is_in(
    desk: Desk, words: tuple[str, ...], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, open_path = write(desk, lines(range(10)) + BAD), Path.open

    def full_at_the_end(one: Path, mode: str = "r", *more: Any, **options: Any) -> IO[Any]:
        if one.name == "list" and mode in {"wb", "r+b"}:
            return io.BufferedWriter(_FullAtTheEnd(one, mode))
        return open_path(one, mode, *more, **options)

    monkeypatch.setattr(Path, "open", full_at_the_end)
    done = desk.run(path, "--rejects", str(desk.directory / "list"), *words)
    assert (done.code, done.said["state"]) == (3, state), done
    said = f"{desk.directory}/list cannot be written: Disk quota exceeded; name another file with --rejects"
    assert said in done.said["reason"]
    assert ("--dry-run, which lists them all" in done.said["reason"]) != bool(words)
    assert ("Every accepted row is in the stream" in done.said["reason"]) != bool(words)
    assert sum(desk.bodies().values()) == (0 if words else 10)


def test_a_run_that_broke_off_says_why_it_did_and_not_that_its_list_cannot_be_closed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first thing that went wrong is the one to mend."""
    monkeypatch.setattr("workers.import_rejects.Rejects.close", _close_in_vain)
    done = desk.run(write(desk, lines(range(10))), environ={"WRITE_KEY": "eb_w_none"})
    assert (done.code, "unknown or was revoked" in done.said["reason"]) == (2, True), done


def _close_in_vain(_: object) -> None:
    raise InputError("the list cannot be written")


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("none/list", "No such file or directory"),
        ("a.ndjson/list", "Not a directory"),
        (".", "Is a directory"),
        ("n" * 300, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("loop/list", "Too many levels of symbolic links"),
    ],
)
def test_a_place_that_can_hold_no_list_is_refused_before_anything_is_imported(
    desk: Desk, place: str, said: str, words: tuple[str, ...]
) -> None:
    """Running it again would never go on. That no row is refused is not known before."""
    path, rejects = write(desk, lines(range(10))), desk.directory / place
    (desk.directory / "loop").symlink_to("loop")
    done = desk.run(path, "--rejects", str(rejects), *words)
    reason = f"{rejects} cannot be written: {said}; name another file with --rejects"
    assert (done.code, done.said["state"], done.said["reason"]) == (2, "unusable", reason), done
    assert not desk.bodies()


@pytest.mark.parametrize("file", ["a.ndjson", "-"])
def test_standard_output_is_no_place_for_the_list(
    desk: Desk, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The summary is there; and a file called - would have to be found first."""
    monkeypatch.chdir(desk.directory)
    write(desk, BAD)
    done = desk.run(file, "--rejects", "-")
    assert (done.code, "--rejects - is no file" in done.errors) == (2, True), done
    assert not Path("-").exists()
    named = desk.run("a.ndjson", "--rejects", str(desk.directory / "-"))
    assert (named.code, named.said["rejected"]) == (1, 1), "whoever wants one has it"
    assert json.loads((desk.directory / "-").read_text())["line"] == 1


def test_a_list_that_does_not_exist_yet_is_not_made_to_try_whether_it_can_be(desk: Desk) -> None:
    rejects = desk.directory / "list"
    link = desk.directory / "link"
    link.symlink_to(rejects)
    for place in (rejects, link):
        assert (
            desk.run(write(desk, lines(range(10))), "--rejects", str(place), "--again", place.name).code == 0
        )
        assert not rejects.exists()
