"""The words of `eventbunker tail`: arguments and options. What it does is `workers.tail_watch`'s."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

import click

from workers import asked_events, output
from workers.command_context import Context


@click.command("tail")
@asked_events.which
@click.option(
    "--format",
    "format_",
    type=click.Choice(("pretty", "ndjson")),
    help="Default: pretty on a terminal, else ndjson.",
)
@click.option("-n", "count", type=click.IntRange(1), help="End after so many events.")
@asked_events.whose
@click.pass_obj
def tail_command(
    context: Context,
    *,
    event: str,
    filter_: tuple[str, ...],
    filters: str,
    format_: str | None,
    count: int | None,
    project: str,
    customer: str | None,
    url: str,
    key_file: TextIO | None,
    state: Path | None,
) -> None:
    """Watch events arrive, until Ctrl-C.

    Without --url they are read from Redis as the operator, who needs no key. What is left out, because there
    are too many or the connection broke, is said on standard error.

    \b
    Examples:
      eventbunker tail
      eventbunker tail --event purchase --filter 'price>100'
      eventbunker tail --format ndjson | jq .page_url

    Exit code 0: it was ended. 1: the request is refused. 2: nothing can be watched: wrong address, key
    or project, or the key has ended. 3: what comes cannot be written.
    """
    from workers import tail_watch  # noqa: PLC0415
    from workers.asking import Wanted  # noqa: PLC0415
    from workers.tail_show import Show  # noqa: PLC0415

    asked_events.check(project, customer, url, key_file)
    asked = asked_events.read_filters(event, filter_, filters)
    is_terminal = output.is_terminal()
    show = Show(format_ or ("pretty" if is_terminal else "ndjson"), count)
    if url:
        sys.exit(tail_watch.at_edge(url, asked_events.read_key(key_file), asked, show))
    sys.exit(tail_watch.in_stream(context.settings(state=state), Wanted(project, customer), asked, show))
