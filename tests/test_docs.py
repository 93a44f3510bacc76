"""README and docs/ do what they say: their commands run, their links lead somewhere, their texts are ours.

Every block that is marked as `sh` or `python` is run against a running service. A comment before a block
changes that, and is invisible to readers:

    <!-- not run: why -->    the block is only read
    <!-- output -->          the block shows what the one before it prints; `…` stands for anything
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from app.errors import Kind
from tests.client import Client
from tests.service import FROM_OUTSIDE, ROOT, Service
from tests.waiting import until

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
RUNNABLE = ("sh", "python")
FRESH_SECONDS = 10.0  # until a query sees what was tracked; far beyond the promise, so never flaky
COMMAND_SECONDS = 60.0


class Example(NamedTuple):
    """A block to run, and what it must print ("" where the page does not show it)."""

    page: Path
    line: int
    language: str
    text: str
    output: str


def examples(page: Path) -> list[Example]:
    """The runnable blocks of a page, each with the output block that follows it."""
    text = page.read_text()
    found: list[Example] = []
    for match in BLOCK.finditer(text):
        note, language, block = match["note"] or "", match["language"], match["text"]
        if note == "output":
            found[-1] = found[-1]._replace(output=block)
        elif language in RUNNABLE and not note.startswith("not run: "):
            found.append(Example(page, text.count("\n", 0, match.start()) + 1, language, block, ""))
    return found


BIN = Path(sys.executable).parent
EXAMPLES = [example for page in PAGES for example in examples(page)]


@pytest.fixture(scope="module")
def keys(client: Client) -> dict[str, str]:
    """The members of dev.json for a project of this module's own: pages show exact counts."""
    project = client.new_project()
    return {**project.keys, "delete_key": project.create_key("DELETE")["api_key"]}


def adapted(text: str, service: Service) -> str:
    """The reader's address, directory and virtual environment -> those of this run."""
    text = text.replace("http://127.0.0.1:8787", service.url)
    text = text.replace(".eventbunker/state", str(service.state))
    # Quoted for the shell: the checkout's own path may hold spaces.
    return re.sub(r"\.venv/bin/(\w+)", lambda match: shlex.quote(f"{BIN}/{match[1]}"), text)


def run(example: Example, service: Service, keys: dict[str, str]) -> str:
    """What the block prints. A command that fails is a failure of the page."""
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    variables = {name.upper(): value for name, value in keys.items()}
    store = json.loads((service.state / "store.json").read_text())
    variables |= {"BUNKER": service.url, "STORE": store["url"], "TOKEN": store["password"]}
    variables |= {
        "SERVER": store["url"],
        "PASSWORD": store["password"],
    }  # moving to itself: the same commands
    text = adapted(example.text, service)
    command = ["bash", "-euo", "pipefail", "-c", text]
    if example.language == "python":
        command = [sys.executable, "-c", text]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def shows(printed: str, shown: str) -> bool:
    """Are the pieces between the `…` of `shown` in `printed`, in order? White space does not count."""
    pieces = map(re.escape, squeezed(shown).split("…"))
    return re.fullmatch(".*".join(pieces), squeezed(printed)) is not None


@pytest.mark.service
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.page.name}:{example.line}")
def test_the_command_does_what_the_page_shows(
    example: Example, service: Service, keys: dict[str, str]
) -> None:
    if not example.output:
        printed = run(example, service, keys)
        assert not re.search(r'"error":|DB::Exception', printed), printed
        return
    is_query = "/v1/query/" in example.text
    if not is_query:  # a write is not repeated until it looks right
        printed = run(example, service, keys)
        assert shows(printed, example.output), printed
        return
    until(
        lambda: shows(run(example, service, keys), example.output), FRESH_SECONDS, "the output that is shown"
    )


def test_what_is_shown_is_compared() -> None:
    assert shows('{"a": 1, "b": 22}\n', '{"a":1,\n "b":…}')
    assert not shows('{"a":2,"b":22}', '{"a":1,"b":…}')
    assert not shows('{"a":1,"b":22,"c":3}', '{"a":1,"b":22}')


def test_pages_have_commands_that_run() -> None:
    assert {"README.md", "track.md", "query.md", "operate.md"} <= {example.page.name for example in EXAMPLES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert target.is_relative_to(ROOT), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_no_machine_of_ours_and_every_block_a_language(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"/(work|root|home)/", text)
    for match in BLOCK.finditer(text):
        assert match["language"], f"line {text.count(chr(10), 0, match.start()) + 1}"


def test_every_page_is_in_the_index() -> None:
    index = README.read_text()
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in index


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name)
def test_every_public_error_is_documented_word_for_word(kind: Kind) -> None:
    text = "".join(page.read_text() for page in PAGES)
    row = kind.value
    assert re.search(rf"^\| {row.status} \| `{re.escape(row.error)}`.*\| `{row.code}` \|", text, re.M), row


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "operate.md").read_text()
    documented = {name.removesuffix("_total") for name in re.findall(r"eventbunker_[a-z_]+", text)}
    defined = set(re.findall(r'"(eventbunker_[a-z_]+)"', (ROOT / "app" / "metrics.py").read_text()))
    assert documented == defined


def test_the_test_command_is_what_ci_runs() -> None:
    command = "make test"
    assert f"```sh\n{command}\n```" in README.read_text()
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith(f"exec {command}")
    assert "```sh\nmake run-edge\n```" in README.read_text()


def test_the_tour_lists_files_that_exist() -> None:
    tour = (ROOT / "app" / "__init__.py").read_text()
    steps = re.findall(r"^ +\d+  ((?:app|workers)[\w., ]*?)  ", tour, re.M)
    assert len(steps) >= 10
    for module in re.findall(r"(?:app|workers)\.\w+", " ".join(steps)):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
