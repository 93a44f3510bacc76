"""docs/performance.md: the stretch between two markers is made of the results, the rest is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import wanted
from bench.markdown import table
from bench.parts import PARTS
from bench.results import DIRECTORY, Results

PAGE = DIRECTORY.with_suffix(".md")
BEGIN = "<!-- bench:begin (`make bench` writes from here to bench:end) -->"
END = "<!-- bench:end -->"


class MarkersMissing(Exception):
    """The page has no stretch that is ours; the message says what to put where."""


def text(results: Results) -> str:
    """The generated stretch, from the results alone."""
    parts = results["parts"]
    figures = {name: part["figures"] for name, part in parts.items()}
    chunks = [
        "## Wanted and reached",
        table(["Figure", "Wanted", "Reached", ""], wanted.rows(figures)).replace("---: |", "--- |"),
        "Ratios are medians of alternating rounds in one run; absolute figures belong to this machine. "
        "Durable is `appendfsync always` on both sides.",
        _origin(results),
    ]
    if results["left_out"]:
        chunks += [f"* `{name}` {reason}" for name, reason in results["left_out"].items()]
    for name, part in PARTS.items():
        if name in parts:
            chunks += [f"## {part.title}", part.render(figures[name])]
    return "\n\n".join(chunks)


def _origin(results: Results) -> str:
    """Machine, versions, commit and day; of each part where they differ."""
    machine = "; ".join(f"{name}: {value}" for name, value in results["machine"].items())
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    stamps = {(part["commit"], part["date"]) for part in results["parts"].values()}
    if not stamps:
        when = "Nothing was measured yet."
    elif len(stamps) == 1:
        ((commit, date),) = stamps
        minutes = sum(part["seconds"] for part in results["parts"].values()) / 60
        when = f"Commit {commit}, {date}, measured in {minutes:.0f} minutes."
    else:
        when = "Not of one run: " + "; ".join(
            ", ".join([f"{name}: {part['commit']}", part["date"], *_other_versions(part)])
            for name, part in results["parts"].items()
        )
    return f"Machine: {machine}. Versions: {versions}. {when}"


def _other_versions(part: dict[str, Any]) -> list[str]:
    return [f"{name} {version}" for name, version in part.get("other_versions", {}).items()]


def write(results: Results, page: Path = PAGE, directory: Path = DIRECTORY) -> None:
    """The page and its pictures. Errors: MarkersMissing."""
    from bench import plots  # noqa: PLC0415

    page.write_text(between(page.read_text(), text(results)))
    plots.draw(results["parts"], directory)


def between(page: str, generated: str) -> str:
    """`page` with another stretch between its markers. Errors: MarkersMissing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MarkersMissing(f"docs/performance.md needs two lines: {BEGIN} and {END}")
    return f"{before}{begin}\n\n{generated}\n\n{end}{after}"
