"""Where an export goes: a file that is whole or not there, however it is ended and whatever else is written."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from tests.slow_answer import answer, command, ended, parts, slow_answer
from tests.waiting import until
from workers.endings import Ended, as_ctrl_c
from workers.export_target import writing

SECONDS = 30.0
# So large that half of it is on the disk, whoever has a buffer.
EVENTS = b"".join(b'{"n":%d,"text":"%s"}\n' % (n, b"x" * 90_000) for n in (1, 2))
OTHERS = EVENTS + b'{"n":3}\n'
CLOSED = ("sh", "-c", 'exec "$@" 2>&-', "sh")


def test_two_exports_into_one_file_are_each_whole(tmp_path: Path) -> None:
    """The file is that of who ended last."""
    file = tmp_path / "a.ndjson"
    words = ("export", "-o", str(file), "--url")
    with (
        slow_answer(EVENTS) as first,
        slow_answer(OTHERS) as second,
        command(*words, first.url) as one,
        command(*words, second.url) as other,
    ):
        until(lambda: len(parts(tmp_path)) == 2, SECONDS, "two that are written")
        first.go_on.set()
        assert ended(one) == (0, f"2 events in {file}\n")
        assert file.read_bytes() == EVENTS
        second.go_on.set()
        assert ended(other) == (0, f"3 events in {file}\n")
    assert file.read_bytes() == OTHERS
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_ended_leaves_no_file(number: signal.Signals, tmp_path: Path) -> None:
    words = ("export", "-o", str(tmp_path / "a.ndjson"))
    with slow_answer(EVENTS) as edge, command(*words, "--url", edge.url) as export:
        until(lambda: parts(tmp_path), SECONDS, "the first half")
        export.send_signal(number)
        assert ended(export) == (128 + number, "")
    assert list(tmp_path.iterdir()) == []


def test_nohup_is_heeded(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    words = ("export", "--quiet", "-o", str(file))
    with slow_answer(EVENTS) as edge, command(*words, "--url", edge.url, before=ignoring) as export:
        until(lambda: parts(tmp_path), SECONDS, "the first half")
        export.send_signal(signal.SIGHUP)
        edge.go_on.set()
        assert ended(export) == (0, "")
    assert file.read_bytes() == EVENTS


@pytest.mark.parametrize("ignored", [True, False], ids=["Ctrl-C ignored", "Ctrl-C heeded"])
def test_sigterm_ends_what_runs_in_a_loop(ignored: bool) -> None:
    """As a script's `&` has it, which ignores Ctrl-C. A second one does not cut short what is put away."""
    put_away = False

    async def work() -> None:
        nonlocal put_away
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(SECONDS)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0)
            put_away = True

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        with pytest.raises(Ended) as raised, as_ctrl_c():
            asyncio.run(work())
    finally:
        signal.signal(signal.SIGINT, before)
    assert (raised.value.code, put_away) == (143, True)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == handlers


def test_a_file_is_spoken_of_when_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    with slow_answer(EVENTS) as edge, command("export", "-o", str(file), "--url", edge.url) as export:
        until(lambda: parts(tmp_path), SECONDS, "the first half")
        file.mkdir()
        edge.go_on.set()
        assert ended(export) == (3, f"{file} cannot be written: Is a directory\n")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("before", [(), CLOSED], ids=["full", "closed"])
def test_words_that_cannot_be_said_cost_no_file(before: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    with (
        open("/dev/full", "wb") as full,
        answer(EVENTS) as url,
        command("export", "-o", str(file), "--url", url, stderr=full.fileno(), before=before) as export,
    ):
        assert ended(export)[0] == 0
    assert file.read_bytes() == EVENTS


def test_a_terminal_that_goes_costs_no_file(tmp_path: Path) -> None:
    """It shows how far the export is."""
    file = tmp_path / "a.ndjson"
    ours, theirs = os.openpty()
    with (
        slow_answer(EVENTS) as edge,
        command("export", "-o", str(file), "--url", edge.url, stderr=theirs) as export,
    ):
        os.close(theirs)
        until(lambda: parts(tmp_path), SECONDS, "the first half")
        os.close(ours)
        edge.go_on.set()
        assert ended(export)[0] == 0
    assert file.read_bytes() == EVENTS


@pytest.mark.parametrize("is_there", [True, False], ids=["whole", "dangling"])
def test_a_symbolic_link_stays_one(is_there: bool, tmp_path: Path) -> None:
    (tmp_path / "at").mkdir()
    file, link = tmp_path / "at" / "a.ndjson", tmp_path / "latest"
    if is_there:
        file.write_text("old")
    link.symlink_to("at/a.ndjson")
    with answer(EVENTS) as url, command("export", "-o", str(link), "--url", url) as export:
        assert ended(export) == (0, f"2 events in {link}\n")
    assert (os.readlink(link), file.read_bytes()) == ("at/a.ndjson", EVENTS)
    assert list(file.parent.iterdir()) == [file]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("former", [0o600, 0o640, 0o664, 0o400])
def test_a_file_that_is_replaced_keeps_its_mode(former: int, tmp_path: Path) -> None:
    """So does its part, which may be there for hours; and whoever has a link to it."""
    (tmp_path / "at").mkdir()
    file, link = tmp_path / "at" / "a.ndjson", tmp_path / "latest"
    file.write_text("old")
    file.chmod(former)
    link.symlink_to(file)
    with slow_answer(EVENTS) as edge, command("export", "-o", str(link), "--url", edge.url) as export:
        until(lambda: parts(file.parent), SECONDS, "the first half")
        assert [mode(one) for one in parts(file.parent)] == [former]
        edge.go_on.set()
        assert ended(export)[0] == 0
    assert (mode(file), file.read_bytes()) == (former, EVENTS)


def test_a_file_that_another_group_may_read_stays_with_it(tmp_path: Path) -> None:
    groups = [one for one in (os.getgroups() if os.getuid() else [4]) if one != os.getgid()]
    if not groups:
        pytest.skip("whoever runs this is in no other group")
    file = tmp_path / "a.ndjson"
    file.write_text("old")
    os.chown(file, -1, groups[0])
    file.chmod(0o640)
    with answer(EVENTS) as url, command("export", "-o", str(file), "--url", url) as export:
        assert ended(export)[0] == 0
    assert (file.stat().st_gid, mode(file)) == (groups[0], 0o640)


def test_a_group_that_cannot_be_kept_may_read_no_more_than_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    for former, left in ((0o660, 0o600), (0o664, 0o644), (0o604, 0o604)):
        file = tmp_path / f"{former:o}"
        file.write_text("old")
        file.chmod(former)
        with writing(str(file)) as write:
            write(EVENTS)
        assert mode(file) == left


def test_a_new_file_has_the_mode_that_all_new_files_have(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    masked = ("sh", "-c", 'umask 027; exec "$@"', "sh")
    with answer(EVENTS) as url, command("export", "-o", str(file), "--url", url, before=masked) as export:
        assert ended(export)[0] == 0
    assert mode(file) == 0o640


def test_a_device_that_is_full_is_told() -> None:
    with answer(EVENTS) as url, open("/dev/full", "wb") as full:
        with command("export", "-o", "/dev/full", "--url", url) as export:
            assert ended(export) == (3, "/dev/full cannot be written: No space left on device\n")
        with command("export", "--url", url, stdout=full.fileno()) as export:
            assert ended(export) == (3, "Error: the output cannot be written: No space left on device\n")


def test_a_directory_that_is_not_there_is_told_by_the_name_that_was_given() -> None:
    with answer(EVENTS) as url, command("export", "-o", "no/such/a.csv", "--url", url) as export:
        assert ended(export) == (2, "no/such/a.csv cannot be written: No such file or directory\n")


@pytest.mark.parametrize("words", [(), ("-o", "-")])
def test_a_closed_standard_output_is_told(words: tuple[str, ...]) -> None:
    closed = ("sh", "-c", 'exec "$@" >&-', "sh")
    with command("export", *words, "--url", "http://127.0.0.1:1", before=closed) as export:
        code, said = ended(export)
    assert (code, "standard output is closed: name a file with -o" in said) == (2, True), said
