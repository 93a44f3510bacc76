"""The words of `eventbunker query` and `sql`: arguments and options.

What they do is `workers.ask_query`'s and `workers.ask_sql`'s.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TextIO

import click

from workers import ask_content, asked_events, output
from workers.command_context import Context, Seconds, state_option

FORMATS = ("table", "json", "ndjson", "csv")


_format = click.option(
    "--format", "format_", type=click.Choice(FORMATS), help="Default: table on a terminal, else json."
)


def _chosen(format_: str | None) -> str:
    is_terminal = output.is_terminal()  # asked in any case: where it is closed, nothing needs to be asked
    return format_ or ("table" if is_terminal else "json")


@click.command("query")
@click.argument("query", required=False)
@_format
@asked_events.whose
@click.pass_obj
def query_command(
    context: Context,
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
    3: the answer cannot be written.
    """
    from workers import ask_query  # noqa: PLC0415
    from workers.asking import Wanted  # noqa: PLC0415

    asked_events.check(project, customer, url, key_file)
    text = ask_content.read(query, "give a query")
    if url:
        sys.exit(ask_query.ask_edge(url, asked_events.read_key(key_file), text, format_=_chosen(format_)))
    wanted = Wanted(project, customer)
    sys.exit(ask_query.ask_store(context.settings(state=state), wanted, text, format_=_chosen(format_)))


@click.command("sql")
@click.argument("statement", required=False)
@_format
@click.option(
    "--timeout",
    "seconds",
    default=60.0,
    type=Seconds(0.1, 3600),
    show_default=True,
    help="Seconds that the statement may take.",
)
@click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="For {NAME:Type}. Repeatable."
)
@state_option
@click.pass_obj
def sql_command(
    context: Context,
    *,
    statement: str | None,
    format_: str | None,
    seconds: float,
    params: tuple[str, ...],
    state: Path | None,
) -> None:
    """Run one SELECT of your own in the store. It reads, whatever it says.

    STATEMENT is ClickHouse's SQL, @FILE, or - for standard input. Exit code 0: answered. 1: the statement is
    refused. 2: the store cannot be asked. 3: the answer cannot be written.
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
