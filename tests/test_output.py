"""What a command says where nobody can read it: closed, full, or a pipe whose reader has gone."""

from __future__ import annotations

import os
import signal

import pytest

from tests.slow_answer import answer, command, ended

ANSWER = b'{"data":[{"a":1}],"row_count":1,"fresh_as_of":1,"next":null}\n'
CLOSED = ("sh", "-c", 'exec "$@" >&-', "sh")
FORMATS = ("table", "json", "ndjson", "csv")


@pytest.mark.parametrize("format_", FORMATS)
def test_who_reads_no_further_has_enough(format_: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with (
        answer(ANSWER) as url,
        command("query", "{}", "--format", format_, "--url", url, stdout=writes) as query,
    ):
        os.close(writes)
        assert ended(query) == (0, "")


@pytest.mark.parametrize("format_", FORMATS)
def test_an_answer_that_cannot_be_written_is_no_refusal(format_: str) -> None:
    with (
        open("/dev/full", "wb") as full,
        answer(ANSWER) as url,
        command("query", "{}", "--format", format_, "--url", url, stdout=full.fileno()) as query,
    ):
        assert ended(query) == (3, "Error: the output cannot be written: No space left on device\n")


def test_what_cannot_be_said_has_its_exit_code() -> None:
    with (
        open("/dev/full", "wb") as full,
        answer(ANSWER) as url,
        command("query", "{}", "--url", url, stdout=full.fileno(), stderr=full.fileno()) as query,
    ):
        assert ended(query)[0] == 3
    with (
        open("/dev/full", "wb") as full,
        command("query", "{}", "--url", "no url", stderr=full.fileno()) as query,
    ):
        assert ended(query)[0] == 2


@pytest.mark.parametrize("words", [("query", "{}"), ("query", "{}", "--format", "csv"), ("tail",)])
def test_a_closed_standard_output_is_told(words: tuple[str, ...]) -> None:
    with command(*words, "--url", "http://127.0.0.1:1", before=CLOSED) as asked:
        assert ended(asked) == (3, "Error: standard output is closed: nothing can be written there\n")


def test_ctrl_c_after_all_was_said_changes_nothing() -> None:
    """While Python takes its modules apart, which a large one makes long."""
    lines = (
        "import os",
        "class Late:",
        f"    def __del__(self, kill=os.kill, own=os.getpid()): kill(own, {int(signal.SIGINT)})",
        "late = Late()",
        "",
    )
    with command("schema", code="\n".join(("", *lines))) as schema:
        assert ended(schema) == (0, "")
