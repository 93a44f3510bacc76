"""The reference tables of docs/ are those of the types that check requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.filters import FilterRequest
from app.openapi import openapi
from app.query_request import QueryRequest
from app.walk import members
from tests.reference import DOCS, MARKED, with_references

PAGES = [path for path in sorted(DOCS.glob("*.md")) if MARKED.search(path.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_it_is_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert with_references(text) == text, "run `make reference`"


def test_the_query_language_is_among_them() -> None:
    text = (DOCS / "query.md").read_text()
    for kind in (QueryRequest, FilterRequest):
        for name in members(kind):
            assert f"\n| `{name}` |" in text


def test_openapi_describes_every_member() -> None:
    components: Any = openapi()["components"]
    for kind in (QueryRequest, FilterRequest):
        described = components["schemas"][kind.__name__]["properties"]
        assert described.keys() == members(kind).keys()
        assert all(one.get("description") or "$ref" in one for one in described.values())


def test_a_request_with_a_member_that_would_be_refused_is_described_as_wrong() -> None:
    description: Any = openapi()
    components = description["components"]["schemas"]
    for path, operations in description["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        schema = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        if schema and path not in ("/post", "/batch"):  # an event has custom members
            assert schema["additionalProperties"] is False, path
