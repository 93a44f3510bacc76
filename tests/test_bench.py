"""The benchmark itself: its arithmetic, its report, its manners; and one short round of the real thing."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.event import read_event
from bench import __main__ as command
from bench import bodies, machine, plots, report, results, stats, subjects, versus, wanted, wrk
from bench.context import Bench, Progress, Skip
from bench.parts import PARTS, Part
from bench.process import Keeper, children
from tests.service import ROOT
from tests.waiting import until

STORED = Path(__file__).with_name("bench_results.json")


@pytest.fixture
def stored() -> results.Results:
    found = results.load(STORED)
    assert found is not None
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as sockets, Keeper() as keeper:
        yield Bench(tmp_path, Path(sockets), keeper, Progress({}), is_quick=True)


# --- Arithmetic


def test_centiles_are_values_that_occurred() -> None:
    values = list(range(1, 201))
    random.Random(1).shuffle(values)
    assert [stats.centile(values, of) for of in (50, 99, 100)] == [100, 198, 200]
    with pytest.raises(ValueError, match="of nothing"):
        stats.centile([], 50)


def test_a_ratio_is_taken_round_by_round() -> None:
    # In the second round the machine was slow for both: the ratio of the medians would be 1.5.
    assert stats.ratio([100, 10, 150], [50, 5, 100]) == 2


def test_an_event_is_seen_by_the_first_poll_that_counts_it() -> None:
    polls = [(1.0, 0), (2.0, 2), (3.0, 2), (4.0, 3)]
    assert stats.delays([1.5, 0.5, 3.5, 9.0], polls) == [1.5, 0.5, 0.5]  # the fourth was never seen


def test_a_run_is_conserved_when_all_that_was_answered_is_there() -> None:
    one = {"answered": 1000, "in_flight_at_most": 64}
    assert [versus.is_conserved({**one, "stored": kept}) for kept in (999, 1000, 1064, 1065, None)] == [
        False, True, True, False, True,
    ]  # fmt: skip


def test_what_wrk_counted() -> None:
    line = 'RESULT {"requests": 7, "bad": 2, "broken": 1, "microseconds": 500000, "p50": 1500, "p99": 9000, "worst": 9900}'
    assert wrk.parse(f"Running …\n{line}\n") == wrk.Counted(5, 2, 1, 0.5, 1.5, 9.0, 9.9)
    with pytest.raises(wrk.WrkFailed, match="unable to connect"):
        wrk.parse("unable to connect", 1)
    with pytest.raises(wrk.WrkFailed, match="no answer at all"):
        wrk.parse(line.replace('"requests": 7', '"requests": 0'))


# --- What is sent


@pytest.mark.parametrize("is_varied", [False, True])
@pytest.mark.parametrize("size", [0, 1, 100])
def test_bodies_hold_valid_events_of_241_bytes(tmp_path: Path, size: int, is_varied: bool) -> None:
    lines = bodies.write(tmp_path / "b", size, is_varied=is_varied).read_bytes().splitlines()
    assert len(lines) > 1 if is_varied else len(lines) == 1
    for line in lines[:20]:
        events = msgspec.json.decode(line, type=list[msgspec.Raw]) if size else [msgspec.Raw(line)]
        assert len(events) == max(size, 1)
        for event in events:
            assert len(bytes(event)) == bodies.EVENT_BYTES
            read_event(bytes(event))  # raises when a rule is broken


# --- The report


def test_reached_is_computed(stored: results.Results) -> None:
    rows = {figure: (reached, met) for figure, _, reached, met in figures_of(stored)}
    words = {figure.partition(":")[0]: row for figure, row in rows.items()}
    assert words["Hypercorn"] == ("0.80", "**not met**")
    assert rows["uvicorn: `/post` durable ÷ the floor under the same server"] == ("0.75", "met")
    assert rows["uvicorn: `/post` durable ÷ Fastify peer durable, one core each"] == ("1.20, p99 0.40", "met")
    assert rows["freshness at 2,000 events/s sustained on this machine"] == ("p50 150 ms, p99 300 ms", "met")
    assert ("not measured", "–") in rows.values()  # the fixture has no drain


def test_a_rate_that_was_not_kept_is_no_freshness(stored: results.Results) -> None:
    stored["parts"]["fresh"]["figures"]["levels"][1]["answered_per_second"] = 1500.0
    (row,) = [row for row in figures_of(stored) if row[0].startswith("freshness")]
    assert row[2:] == ("p50 150 ms, p99 300 ms (at 1,500/s)", "**not met**")


def figures_of(stored: results.Results) -> list[tuple[str, str, str, str]]:
    return wanted.rows({name: part["figures"] for name, part in stored["parts"].items()})


def test_the_report_tells_of_every_part(stored: results.Results) -> None:
    text = report.text(stored)
    for name in stored["parts"]:
        assert f"## {PARTS[name].title}" in text
    assert "* `crash` skipped: for the test" in text
    assert "a processor, 2 cores" in text
    assert "Python 3.11.7" in text
    assert "Commit 0123456789, 2026-11-25" in text
    assert "none was missing in any run" in text


def test_results_of_several_commits_say_so(stored: results.Results) -> None:
    stored["parts"]["memory"]["commit"] = "fedcba9876"
    assert "Not of one run: post: 0123456789" in report.text(stored)


def test_what_is_missing_in_redis_is_said_loudly(stored: results.Results) -> None:
    stored["parts"]["post"]["figures"]["conservation"] |= {"violations": 2, "missing": 7}
    assert "**2 runs do not agree, 7 are missing**" in report.text(stored)


def test_a_busy_machine_is_said_loudly(stored: results.Results) -> None:
    assert "used 0.03 cores in the median run." in report.text(stored)
    stored["parts"]["post"]["figures"]["others"] = 0.4
    assert "used 0.40 cores in the median run: too much to trust these figures.**" in report.text(stored)


def test_only_the_stretch_between_the_markers_changes() -> None:
    page = f"before\n\n{report.BEGIN}\n\nold\n\n{report.END}\n\nafter\n"
    once = report.between(page, "new")
    assert once == page.replace("old", "new")
    assert report.between(once, "new") == once
    with pytest.raises(report.MarkersMissing, match="bench:begin"):
        report.between("before and after", "new")


def test_the_page_is_made_of_the_stored_results() -> None:
    kept = results.load()
    page = report.PAGE.read_text()
    if kept is None:
        assert report.between(page, "x")  # there is a place for them
    else:
        assert report.between(page, report.text(kept)) == page


def test_pictures_are_the_same_for_the_same_figures(stored: results.Results, tmp_path: Path) -> None:
    first = plots.draw(stored["parts"], tmp_path / "a")
    second = plots.draw(stored["parts"], tmp_path / "b")
    assert {path.stem for path in first} == set(stored["parts"])
    for one, other in zip(first, second, strict=True):
        text = one.read_text()
        assert text == other.read_text()
        assert "<text" in text  # not outlines
        assert "<dc:date>" not in text
        assert str(tmp_path) not in text


# --- Manners


def run_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **parts: Part) -> results.Results:
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "work"))
    monkeypatch.setattr(command, "adopt_orphans", lambda: None)  # pytest has children of its own
    monkeypatch.setattr(command, "end_descendants", lambda: None)
    return command._run(parts, is_quick=True)


def test_a_part_that_fails_or_cannot_run_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Bench) -> dict[str, Any]:
        raise ValueError("broken")

    def skips(_: Bench) -> dict[str, Any]:
        raise Skip(wrk.MISSING)

    def works(bench: Bench) -> dict[str, Any]:
        (bench.directory("d") / "file").write_text("x")
        return {"n": 1}

    made = {
        name: Part(name, (1, 1), measure, str) for name, measure in (("a", fails), ("b", skips), ("c", works))
    }
    found = run_parts(monkeypatch, tmp_path, **made)
    assert found["left_out"] == {
        "a": "failed: ValueError: broken",
        "b": "skipped: wrk is not installed: apt-get install wrk",
    }
    assert found["parts"]["c"]["figures"] == {"n": 1}
    assert not list((tmp_path / "work").iterdir())  # every file is gone
    assert "left] c: begins" in capsys.readouterr().err


def test_a_missing_node_leaves_out_the_peer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    peer, reason = versus.peer_or_nothing(bench)
    assert not peer
    assert "node is not installed: apt-get install nodejs npm" in reason


def test_what_was_started_ends_with_all_its_children(tmp_path: Path) -> None:
    with Keeper() as keeper:
        script = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
        process = keeper.start([sys.executable, "-c", script], log=tmp_path / "log")
        (child,) = until(lambda: children(process.pid), 10, "its child")
    assert process.poll() is not None
    until(lambda: not Path(f"/proc/{child}").exists(), 10, "the end of the child")


def test_a_process_is_on_its_cores(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    log = tmp_path / "log"
    with Keeper() as keeper:
        script = "import os; print(os.sched_getaffinity(0))"
        assert keeper.start([sys.executable, "-c", script], log=log, on=frozenset([core])).wait(10) == 0
    assert log.read_text() == f"{{{core}}}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "no such part: nothing; there are post, batch"),
        (["--quick", "--write"], "--quick is too short"),
    ],
)
def test_a_wrong_command_line_is_explained(arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_the_peers_packages_are_bounded_and_not_locked() -> None:
    manifest = json.loads((subjects.PEER / "package.json").read_text())
    assert manifest["dependencies"] == {"fastify": "^5", "ioredis": "^5"}
    tracked = subprocess.run(
        ["git", "ls-files", "bench/peer"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    ).stdout
    assert tracked.split() in ([], ["bench/peer/package.json", "bench/peer/server.js"])  # [] outside of git


def test_versions_and_machine_name_no_place_of_ours() -> None:
    said = json.dumps([machine.machine(ROOT), machine.versions()])
    assert "/" not in said.replace("@", "")
    assert machine.versions()["Python"]


def test_a_part_of_another_python_says_so() -> None:
    found = results.empty(ROOT)
    found["versions"]["Python"] = "3.11.0"
    results.add(found, "post", {}, 1)
    found["parts"]["batch"] = found["parts"]["post"] | {"date": "2020-01-01", "other_versions": {}}
    said = report._origin(found)
    assert "Versions: Python 3.11.0" in said
    assert f", Python {machine.versions()['Python']}; batch: " in said
    assert said.count("Python") == 2


# --- The real thing


@pytest.mark.skipif(wrk.is_missing(), reason=wrk.MISSING)
def test_a_round_against_the_real_edge_is_conserved(bench: Bench, tmp_path: Path) -> None:
    load = versus.Load("", "/post", bodies.write(tmp_path / "one", 0, is_varied=True))
    subject = subjects.Subject("ours", "hypercorn", "always")
    runs = versus.alternate(bench, [subject], [load], rounds=1, warm=1, seconds=1)
    (one,) = runs[subject.name]
    assert versus.is_conserved(one), one
    assert (one["bad"], one["broken"]) == (0, 0)
    assert one["answered"] > 100
    assert one["cpu_us_per_event"] > 0
    assert 0 <= one["others"] <= (os.cpu_count() or 1)
    assert versus.conservation(runs)["violations"] == 0


@pytest.mark.skipif(wrk.is_missing(), reason=wrk.MISSING)
def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "bench", "--quick", "post"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        until(lambda: len(of(tmp_path)) >= 4, 60, "the bench, Redis, a supervisor and an edge")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, (tmp_path / "log").read_text()
    assert not of(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert "stopped; nothing was written" in (tmp_path / "log").read_text()


def of(directory: Path) -> list[int]:
    """Processes that know `directory`. Redis writes its title, with its socket, over its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            if entry.name.isdigit() and str(directory).encode() in known:
                found.append(int(entry.name))
    return found
