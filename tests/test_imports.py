"""The shape that makes the code readable: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    f"{package}.{path.stem}": path for package in ("app", "workers") for path in (ROOT / package).glob("*.py")
}
MAX_LINES = 300
LEAVES = {
    "app.scope",
    "app.days",
    *("app.errors", "app.grant", "app.timestamp", "app.event", "app.event_problems", "app.event_schema"),
    *(
        "app.aside",
        "app.rate_limit",
        "app.store_answer",
        "app.turns",
        "app.stream",
        "app.stream_scripts",
        "app.presence_scripts",
        "app.ledger",
        "app.dead_letter",
        "app.envelope",
        "app.ledger_scripts",
        "app.settings",
        "app.metrics",
        "app.query",
        "app.query_request",
        "app.clock_changes",
        "app.sql_buckets",
        "app.request",
        "app.sql",
        "app.sql_funnel",
        "app.sql_cohorts",
        "app.chart",
        "app.chart_page",
        "app.chart_request",
        "app.embed_token",
        "app.sql_seen_fields",
        "app.sql_usage",
        "app.sql_fill",
        "app.fill",
        "app.cursor",
        "app.formats",
        "app.retention",
        "app.sql_timeline",
        "app.match",
        "app.export_request",
        "app.export_sql",
        "app.export_text",
        "app.export_parquet",
        "app.export_writers",
        "app.tail_request",
        "app.tail_frames",
        "app.shown",
        "app.event_columns",
        "app.event_column_rules",
        "app.batch_body",
        "app.batch_verdict",
        "app.tombstone",
        "app.erase_request",
        "app.erasure_report",
        "app.erasure_scripts",
        "app.sql_literals",
    ),
}
HANDLERS = {
    "app.track",
    "app.batch",
    "app.read",
    "app.export",
    "app.tail",
    "app.analyse",
    "app.iframe",
    "app.manage",
    "app.manage_dead",
    "app.manage_usage",
    "app.probes",
    "app.receipt",
    "app.erase",
}
SERVERS = {"hypercorn", "uvicorn", "granian"}


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that `module` names in an import, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def ours(module: str) -> frozenset[str]:
    return imports(module) & MODULES.keys()


def users_of(package: str) -> set[str]:
    return {
        name for name in MODULES if any(i == package or i.startswith(f"{package}.") for i in imports(name))
    }


def closure(module: str) -> set[str]:
    """Everything of ours that `module` imports, directly or not."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        for name in ours(todo.pop()) - seen:
            seen.add(name)
            todo.append(name)
    return seen


def test_app_never_imports_workers() -> None:
    assert {
        name
        for name in MODULES
        if name.startswith("app.") and any(i.startswith("workers") for i in imports(name))
    } == set()


def test_handlers_never_import_one_another() -> None:
    for handler in HANDLERS:
        assert closure(handler) & HANDLERS == set(), handler


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_know_no_redis_no_store_and_no_http(leaf: str) -> None:
    reached = {leaf} | closure(leaf)
    outside = {i.split(".")[0] for name in reached for i in imports(name)}
    assert outside & {"redis", "httpx", "starlette", "chdb", *SERVERS} == set()


def test_who_talks_to_what() -> None:
    talks_to_redis = {"app.producer", "app.partition", "app.redis_client", "app.accounts", "app.changes"}
    talks_to_redis |= {"app.names", "app.registry", "app.dead", "app.ledger_reader"}
    talks_to_redis |= {"app.watermark", "app.whereabouts", "app.embeds"}
    talks_to_redis |= {"app.layout", "app.presence", "app.erasures", "app.tombstones", "app.in_flight"}
    talks_to_redis |= {"app.queues", "app.tail_follower", "app.tail_reader", "app.edge_clocks"}
    assert {name for name in users_of("redis") if name.startswith("app.")} == talks_to_redis
    assert {name for name in users_of("httpx") if name.startswith("app.")} == {"app.store"}
    assert users_of("chdb") <= {name for name in MODULES if name.startswith("workers.embedded")}
    assert not {name for server in SERVERS for name in users_of(server) if name.startswith("app.")}


@pytest.mark.parametrize("path", sorted(MODULES.values()), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_file_is_longer_than_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", sorted(MODULES.values()), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_module_says_what_it_is_for_and_asserts_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module begins by saying what it owns"
    # Stripped by `python -O`, so it must carry no run-time condition.
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


def test_the_tour_names_every_file_an_event_passes_in_order() -> None:
    tour = ast.get_docstring(ast.parse((ROOT / "app" / "__init__.py").read_text())) or ""
    passed = [
        *("app.gate", "app.main", "app.track", "app.registry", "app.event", "app.stream", "app.append"),
        *(
            "workers.drain",
            "workers.event_ids",
            "workers.verdict",
            "workers.plan",
            "app.enrich",
            "workers.rows",
            "workers.insert",
            "app.store",
        ),
    ]
    places = [tour.index(name) for name in passed]
    assert places == sorted(places)
    assert set(passed) <= MODULES.keys()
