"""The words of `eventbunker import`: argument and options. What it does is `workers.import_main`'s."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from workers.command_context import Context, Seconds, state_option

F = TypeVar("F", bound=Callable[..., Any])
KEY_VARIABLES = ("EVENTBUNKER_WRITE_KEY", "WRITE_KEY")


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_key = _options(
    click.option(
        "--write-key-file",
        type=click.File("r"),
        help=f"Holds the WRITE key, which else comes from {' or '.join(KEY_VARIABLES)}, or is asked for.",
    ),
    state_option,
)
_input = _options(
    click.option(
        "--format",
        type=click.Choice(("ndjson", "csv", "parquet")),
        help="Default: told by the first bytes and the name's ending.",
    ),
    click.option(
        "--delimiter", default="", help="Of CSV; \\t is a tab. Default: the header's, of , ; tab and |."
    ),
    click.option("--encoding", default="", help="Of the text, as Python names it. Default: utf-8."),
)
_mapping = _options(
    click.option("--event-name", default="", metavar="NAME", help="The event name of every row."),
    click.option("--event-name-from", default="", metavar="COLUMN", help="Holds the event name."),
    click.option("--timestamp-from", default="", metavar="COLUMN", help="Holds the event's time."),
    click.option(
        "--timestamp-unit",
        type=click.Choice(("s", "ms", "us", "ns")),
        help="That time is a number of these since 1970.",
    ),
    click.option("--customer-from", default="", metavar="COLUMN", help="Holds the customer_identifier."),
    click.option("--id-from", default="", metavar="COLUMN", help="Holds the event_id."),
    click.option("--rename", multiple=True, metavar="OLD=NEW", help="A field gets another name. Repeatable."),
    click.option("--drop", multiple=True, metavar="COLUMN", help="A field is left out. Repeatable."),
    click.option(
        "--text",
        multiple=True,
        metavar="COLUMN",
        help="Its numbers are text: zip codes. * for all.",
    ),
)
_course = _options(
    click.option("--dry-run", is_flag=True, help="Validate everything, import nothing. Needs no key."),
    click.option("--strict", is_flag=True, help="Stop at the first row that is rejected."),
    click.option("--rejects", type=click.Path(path_type=Path), help="Default: FILE.rejected.ndjson."),
    click.option("--grown", is_flag=True, help="FILE has more rows than when it was imported: import those."),
    click.option(
        "--again", default="", metavar="NAME", help="Import the same content once more; once for each NAME."
    ),
    click.option(
        "--wait/--no-wait", default=True, show_default=True, help="End when everything is in queries."
    ),
    click.option(
        "--patience",
        type=Seconds(1, 86_400),
        default=60.0,
        show_default=True,
        help="Seconds to wait for a Redis or drain that does not move.",
    ),
    click.option("--quiet", is_flag=True, help="No progress, only the summary."),
    click.option("--json", "as_json", is_flag=True, help="The summary as JSON."),
)


@click.command("import")
@click.argument("file", metavar="FILE|-")
@_mapping
@_input
@_course
@_key
@click.pass_obj
def import_command(
    context: Context,
    file: str,
    *,
    event_name: str,
    event_name_from: str,
    timestamp_from: str,
    timestamp_unit: str | None,
    customer_from: str,
    id_from: str,
    rename: tuple[str, ...],
    drop: tuple[str, ...],
    text: tuple[str, ...],
    format: str | None,
    delimiter: str,
    encoding: str,
    dry_run: bool,
    strict: bool,
    rejects: Path | None,
    grown: bool,
    again: str,
    wait: bool,
    patience: float,
    quiet: bool,
    as_json: bool,
    write_key_file: Any,
    state: Path | None,
) -> None:
    """Import events from a file or standard input: NDJSON, CSV or Parquet; gzip, zstd.

    Every row passes the rules of POST /post. Those that break one are written to FILE.rejected.ndjson
    with line and reason; the others are imported. Running it again goes on where it ended, whatever
    ended it, and never doubles a row: what is in is told by its content.

    \b
    Examples:
      eventbunker import events.ndjson.gz
      eventbunker import orders.csv --event-name order --timestamp-from created_at --id-from order_no
      pg_dump_events | eventbunker import - --format csv --text zip

    Exit code 0: everything is in. 1: everything but the rejected rows. 2: it cannot be imported like
    this. 3: not finished; run the same command again.
    """
    from workers import import_main  # noqa: PLC0415
    from workers.import_formats import Reading  # noqa: PLC0415
    from workers.import_mapping import Mapping  # noqa: PLC0415
    from workers.import_options import Options  # noqa: PLC0415

    if event_name and event_name_from:
        raise click.UsageError("--event-name is for all rows, --event-name-from takes it from each; not both")
    if timestamp_unit and not timestamp_from:
        raise click.UsageError("--timestamp-unit says what --timestamp-from holds: name the column")
    if rejects == Path("-"):
        raise click.UsageError("--rejects - is no file, and the summary goes to standard output: name a file")
    # Not resolve(), which fails where links lead round in a circle.
    if rejects is not None and os.path.realpath(rejects) == os.path.realpath(file):
        raise click.UsageError("--rejects would overwrite FILE")
    moves = [_pair(one) for one in rename]
    moves += [
        (column, field)
        for column, field in (
            (event_name_from, "event_name"),
            (timestamp_from, "timestamp"),
            (customer_from, "customer_identifier"),
            (id_from, "event_id"),
        )
        if column
    ]
    mapping = Mapping(
        event_name, tuple(moves), frozenset(drop), frozenset(text), timestamp_from, timestamp_unit or ""
    )
    reading = Reading(file, mapping, format or "", _delimiter(delimiter), _encoding(encoding), grown)
    options = Options(
        *(rejects, again, patience, grown, strict, dry_run, wait, quiet, as_json),
    )
    settings = context.settings(state=state)
    secret = "" if dry_run else _secret(write_key_file, file)
    sys.exit(import_main.run(settings, reading, secret, options))


def _pair(text: str) -> tuple[str, str]:
    old, is_there, new = text.rpartition("=")
    if not is_there or not old or not new:
        raise click.UsageError(f"--rename {text}: write OLD=NEW")
    return old, new


def _delimiter(text: str) -> str:
    text = "\t" if text == "\\t" else text
    if len(text) > 1 or text in {'"', "\n", "\r"}:
        raise click.UsageError("--delimiter is one character, and neither a quote nor a line break")
    return text


def _encoding(text: str) -> str:
    """The encoding's own name, "" for UTF-8, which is read as it is."""
    if not text:
        return ""
    try:
        name = codecs.lookup(text).name
        codecs.getincrementaldecoder(name)
        "".encode(name)
    except LookupError:
        raise click.UsageError(f"--encoding {text} is none that Python knows") from None
    return "" if name in {"utf-8", "utf-8-sig", "ascii"} else name


def _secret(file: Any, input_file: str) -> str:
    """The key; never an argument, which others on the machine could read."""
    if file is not None:
        return str(file.read().strip())
    for variable in KEY_VARIABLES:
        if os.environ.get(variable):
            return os.environ[variable]
    if sys.stdin is not None and sys.stdin.isatty() and input_file != "-":
        return str(click.prompt("WRITE key", hide_input=True))
    raise click.UsageError(f"no WRITE key: set {KEY_VARIABLES[0]}, or name a file with --write-key-file")
