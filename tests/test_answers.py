"""Answers of the running service in every format, over HTTP and by `eventbunker query`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.client import FRESH_SECONDS, Client
from tests.service import FROM_OUTSIDE, Service
from tests.waiting import until
from workers.cli import main

RAW = {"time_period": "minus_1_hours", "order_by": [{"field_name": "n"}]}
GROUPS = {
    "time_period": "minus_1_hours",
    "group_by": ["text"],
    "computations": [{"function": "count"}, {"function": "sum", "field_name": "n"}],
}


@pytest.fixture(scope="module")
def project(client: Client) -> Client:
    """Three events in a project of their own."""
    made = client.new_project()
    for number, text in enumerate(('a,"b"', "", None)):
        made.track(n=number, text=text, tags=["x", "y"], at={"home": True}, customer_identifier=f"c{number}")
    until(lambda: len(made.events()) == 3, FRESH_SECONDS, "three events")
    return made


def ask(project: Client, query: object, **headers: str) -> httpx.Response:
    return project.http.post(
        "/v1/query/json",
        json=query,
        headers={"x-eventbunker-query-key": project.keys["query_key"], **headers},
    )


@pytest.mark.service
def test_all_formats_tell_the_same(project: Client) -> None:
    for query in (RAW, GROUPS):
        plain = ask(project, query)
        assert plain.headers["content-type"] == "application/json"
        assert plain.headers["vary"].lower().split(", ")[-1] == "accept"
        rows = plain.json()["data"]
        assert len(rows) == 3

        lines = ask(project, query, accept="application/x-ndjson")
        assert lines.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in lines.text.splitlines()] == rows

        table = ask(project, query, accept="text/csv", origin="https://page.example")
        assert table.headers["content-type"] == "text/csv; charset=utf-8; header=present"
        assert table.headers["content-disposition"] == 'attachment; filename="eventbunker.csv"'
        assert table.headers["x-eventbunker-row-count"] == "3"
        assert int(table.headers["x-eventbunker-fresh-as-of"]) >= plain.json()["fresh_as_of"]
        start, end = table.headers["x-eventbunker-time-period"].split("/")
        assert start.endswith("Z")
        assert end.endswith("Z")
        exposed = {name.strip().lower() for name in table.headers["access-control-expose-headers"].split(",")}
        assert {"x-request-id", "x-eventbunker-fresh-as-of", "content-disposition"} <= exposed
        read = list(csv.DictReader(io.StringIO(table.text, newline="")))
        assert [{name: text for name, text in row.items() if text != ""} for row in read] == [
            {name: shown(value) for name, value in row.items() if value not in (None, "")} for row in rows
        ]


def shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)  # as the client wrote it


@pytest.mark.service
def test_next_leads_through_all_events_in_any_format(project: Client) -> None:
    query: dict[str, Any] = {"time_period": "minus_1_hours", "limit": 2}
    first = ask(project, query).json()
    last = ask(project, {**query, "cursor": first["next"]})
    assert (last.json()["row_count"], last.json()["next"]) == (1, None)
    table = ask(project, query, accept="text/csv", origin="https://page.example")
    assert "x-eventbunker-next" in table.headers["access-control-expose-headers"]
    rest = ask(
        project, {**query, "cursor": table.headers["x-eventbunker-next"]}, accept="application/x-ndjson"
    )
    assert [json.loads(line) for line in rest.text.splitlines()] == last.json()["data"]
    assert "x-eventbunker-next" not in rest.headers


@pytest.mark.service
def test_accept_in_several_lines_is_one_list(project: Client) -> None:
    lines = [
        ("accept", "image/png"),
        ("accept", "text/csv"),
        ("x-eventbunker-query-key", project.keys["query_key"]),
    ]
    answer = project.http.post("/v1/query/json", json=RAW, headers=lines)
    assert answer.headers["content-type"].startswith("text/csv")


@pytest.mark.service
def test_errors_are_json_whatever_is_accepted(project: Client) -> None:
    refused = ask(project, {"time_period": "yestoday"}, accept="text/csv")
    assert (refused.status_code, refused.headers["content-type"]) == (400, "application/json")
    refused = ask(project, RAW, accept="image/png")
    assert (refused.status_code, refused.json()["code"]) == (406, "not_acceptable")
    # The key is checked first.
    refused = project.http.post("/v1/query/json", json=RAW, headers={"accept": "image/png"})
    assert refused.status_code == 401


class Operator:
    """`eventbunker query` beside the running service."""

    def __init__(self, service: Service, project: Client, directory: Path) -> None:
        self.service = service
        self.project = project
        self.config = directory / "deploy.toml"
        self.config.write_text(f'[dev]\npersist_to = "{service.state}"\n')

    def run(self, query: object, *words: str, environ: dict[str, str] | None = None) -> Result:
        text = query if isinstance(query, str) else json.dumps(query)
        command = ["-c", str(self.config), "query", text, *words]
        clean: dict[str, str | None] = dict.fromkeys((*FROM_OUTSIDE, "QUERY_KEY", "EVENTBUNKER_QUERY_KEY"))
        return CliRunner().invoke(main, command, env={**clean, **(environ or {})}, catch_exceptions=False)

    def rows(self, query: object, *words: str) -> Any:
        done = self.run(query, "--project", self.project.keys["project_id"], *words)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)["data"]


@pytest.fixture
def operator(service: Service, project: Client, tmp_path: Path) -> Operator:
    return Operator(service, project, tmp_path)


@pytest.mark.service
def test_the_operator_sees_what_a_key_sees(operator: Operator) -> None:
    project = operator.project
    for query in (RAW, GROUPS):
        assert operator.rows(query) == ask(project, query).json()["data"]
    assert [row["n"] for row in operator.rows(RAW, "--customer", "c1")] == [1]
    # Without a project it is that of `dev`, whose events are others.
    done = operator.run(RAW)
    assert (done.exit_code, '"n":2,' in done.stdout) == (0, False)

    edge = ["--url", operator.service.url]
    for format_, accept in (
        ("json", "application/json"),
        ("csv", "text/csv"),
        ("ndjson", "application/x-ndjson"),
    ):
        local = operator.run(RAW, "--project", project.keys["project_id"], "--format", format_)
        remote = operator.run(
            RAW, *edge, "--format", format_, environ={"QUERY_KEY": project.keys["query_key"]}
        )
        direct = ask(project, RAW, accept=accept)
        assert (local.exit_code, remote.exit_code) == (0, 0), local.stderr + remote.stderr
        if format_ != "json":  # which says how long it took
            # `CliRunner` reads lines as text files do, so CSV's ends of lines are compared as such.
            expected = direct.text.replace("\r\n", "\n")
            assert local.stdout.replace("\r\n", "\n") == remote.stdout.replace("\r\n", "\n") == expected
        else:
            assert json.loads(remote.stdout)["data"] == direct.json()["data"]


@pytest.mark.service
def test_the_operator_sees_nothing_that_was_erased(operator: Operator) -> None:
    project = operator.project.new_project()
    operator.project = project
    for customer in ("gone", "stays"):
        project.track(customer_identifier=customer)
    until(lambda: len(project.events()) == 2, FRESH_SECONDS, "two events")
    chosen = {"filters": [{"field_name": "customer_identifier", "op": "equals", "value": "gone"}]}
    erased = project.http.post(
        "/v1/delete/events",
        json={**chosen, "time_period": "today"},
        headers={"x-eventbunker-delete-key": project.keys["delete_key"]},
    )
    assert erased.status_code == 200, erased.text
    left = operator.rows({"time_period": "today"})
    assert [row["customer_identifier"] for row in left] == ["stays"]


@pytest.mark.service
def test_a_table_shows_what_there_is(operator: Operator) -> None:
    done = operator.run(GROUPS, "--project", operator.project.keys["project_id"], "--format", "table")
    assert next(line.split() for line in done.stdout.splitlines() if line.strip()) == [
        "text",
        "count",
        "sum_n",
    ]
    assert "null" in done.stdout
    assert done.stderr == "3 rows\n"
    events = operator.run(RAW, "--project", operator.project.keys["project_id"], "--format", "table")
    assert "customer_identifier" in events.stdout
    assert "utm_term" not in events.stdout  # nothing but nulls


@pytest.mark.service
def test_what_is_wrong_is_said_with_its_place(operator: Operator, tmp_path: Path) -> None:
    wrong = {"time_period": "today", "computations": [{"function": "averge", "field_name": "n"}], "limt": 3}
    (tmp_path / "key").write_text(operator.project.keys["query_key"] + "\n")
    own = ["--project", operator.project.keys["project_id"]]
    edge = ["--url", operator.service.url, "--key-file", str(tmp_path / "key")]
    for words in (own, edge):
        done = operator.run(wrong, *words)
        assert (done.exit_code, done.stdout) == (1, "")
        assert "$.computations[0].function: unknown function `averge`, did you mean `avg`?" in done.stderr
        assert "$.limt: unknown member `limt`, did you mean `limit`?" in done.stderr


@pytest.mark.service
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--project", "prj_none"], "does not exist"),
        (["--url", "http://127.0.0.1:1"], "no QUERY key"),
        (["--url", "http://127.0.0.1:1", "--project", "p"], "the key's to say"),
        (["--key-file", "/dev/null"], "goes with --url"),
    ],
)
def test_what_cannot_be_asked_is_another_exit_code(operator: Operator, words: list[str], said: str) -> None:
    done = operator.run(RAW, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.service
def test_an_edge_that_is_away_or_refuses_the_key(operator: Operator) -> None:
    done = operator.run(RAW, "--url", "http://127.0.0.1:1", environ={"QUERY_KEY": "eb_q_x"})
    assert (done.exit_code, "127.0.0.1:1 does not answer" in done.stderr) == (2, True)
    done = operator.run(RAW, "--url", "127.0.0.1:1", environ={"QUERY_KEY": "eb_q_x"})
    assert (done.exit_code, "--url must begin with http:// or https://" in done.stderr) == (2, True)
    done = operator.run(RAW, "--url", operator.service.url, environ={"QUERY_KEY": "eb_q_x"})
    assert (done.exit_code, "Invalid x-eventbunker-query-key" in done.stderr) == (2, True)
