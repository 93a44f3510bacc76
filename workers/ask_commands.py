"""The words of `eventbunker query` and `sql`: arguments and options.

What they do is `workers.ask_query`'s and `workers.ask_sql`'s.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Protocol, TextIO

import click

from app.settings import Settings
from workers import ask_content

KEY_VARIABLES = ("EVENTBUNKER_QUERY_KEY", "QUERY_KEY")
FORMATS = ("table", "json", "ndjson", "csv")


class _Context(Protocol):
    """What `workers.cli` hands on."""

    def settings(self, *, state: Path | None = None) -> Settings: ...


_format = click.option(
    "--format", "format_", type=click.Choice(FORMATS), help="Default: table on a terminal, else json."
)
_state = click.option("--state", type=click.Path(path_type=Path), help="That of `dev`, if it was given one.")


def _chosen(format_: str | None) -> str:
    return format_ or ("table" if sys.stdout.isatty() else "json")


@click.command("query")
@click.argument("query", required=False)
@_format
@click.option("--project", metavar="PROJECT_ID", default="", help="Default: that which `dev` made.")
@click.option("--customer", metavar="CUSTOMER_IDENTIFIER", help="See this customer's events alone.")
@click.option("--url", default="", help="Ask this edge over HTTP, with a QUERY key, and nothing else.")
@click.option(
    "--key-file",
    type=click.File("r"),
    help=f"With --url. Holds the QUERY key, which else comes from {' or '.join(KEY_VARIABLES)}.",
)
@_state
@click.pass_obj
def query_command(
    context: _Context,
    *,
    query: str | None,
    format_: str | None,
    project: str,
    customer: str | None,
    url: str,
    key_file: TextIO | None,
    state: Path | None,
) -> None:
    """Ask one query, as POST /v1/query/json takes it.

    QUERY is JSON, @FILE, or - for standard input. Without --url it is asked as the operator, who needs no
    key. Exit code 0: answered. 1: the query is refused, each problem is named. 2: it could not be asked.
    """
    from workers import ask_query  # noqa: PLC0415
    from workers.asking import Wanted  # noqa: PLC0415

    if url and (project or customer is not None):
        raise click.UsageError("--project and --customer are the key's to say, with --url")
    if key_file is not None and not url:
        raise click.UsageError("--key-file goes with --url; the operator needs no key")
    if customer == "":
        raise click.UsageError("--customer is not empty")
    text = ask_content.read(query, "give a query")
    if url:
        sys.exit(ask_query.ask_edge(url, read_key(key_file), text, format_=_chosen(format_)))
    wanted = Wanted(project, customer)
    sys.exit(ask_query.ask_store(context.settings(state=state), wanted, text, format_=_chosen(format_)))


def read_key(file: TextIO | None) -> str:
    """The QUERY key; never an argument, which others on the machine could read."""
    given = [file.read()] if file is not None else [os.environ.get(name, "") for name in KEY_VARIABLES]
    found = next(filter(None, map(str.strip, given)), "")
    if not found:
        raise click.UsageError(f"no QUERY key: set {' or '.join(KEY_VARIABLES)}, or give --key-file")
    if not found.isascii() or not found.isprintable():
        raise click.UsageError("the QUERY key holds characters that no key has")
    return found


@click.command("sql")
@click.argument("statement", required=False)
@_format
@click.option(
    "--timeout",
    "seconds",
    default=60.0,
    type=click.FloatRange(0.1, 3600),
    show_default=True,
    help="Seconds that the statement may take.",
)
@click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="For {NAME:Type}. Repeatable."
)
@_state
@click.pass_obj
def sql_command(
    context: _Context,
    *,
    statement: str | None,
    format_: str | None,
    seconds: float,
    params: tuple[str, ...],
    state: Path | None,
) -> None:
    """Run one SELECT of your own in the store. It reads, whatever it says.

    STATEMENT is ClickHouse's SQL, @FILE, or - for standard input. Exit code 0: answered. 1: the statement is
    refused. 2: the store cannot be asked.
    """
    from workers import ask_sql  # noqa: PLC0415

    text = ask_content.read(statement, "give a statement")
    asked = ask_sql.Asked(text, dict(map(_parameter, params)), seconds)
    sys.exit(ask_sql.ask(context.settings(state=state), asked, format_=_chosen(format_)))


def _parameter(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise click.UsageError(f"--param is NAME=VALUE, for {{NAME:Type}} of the statement; not {text!r}")
    return name, value
