"""One SELECT, put together from pieces that are SQL already. Pure.

Next readers: `app.sql_funnel`, `app.sql_cohorts`, `app.sql_seen_fields`, where one stands inside another.
"""

from __future__ import annotations

from collections.abc import Iterable


def select(columns: Iterable[str], source: str, *clauses: str) -> str:
    """`source`: a table, or what `inside` made of a SELECT."""
    return " ".join(("SELECT", ", ".join(columns), "FROM", source, *clauses))


def inside(statement: str) -> str:
    """A SELECT as the source of another."""
    return f"({statement})"
