"""The words of `eventbunker export`: arguments and options. What it does is `workers.export_file`'s."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

import click

from workers import asked_events
from workers.command_context import Context
from workers.descriptors import is_standard_output

EVER = "1970-01-01/2101-01-01"
_ENDINGS = {".gz": "gzip", ".zst": "zstd"}
_FORMATS = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv", ".parquet": "parquet"}
# What people expect by its name; NDJSON under it would be found out too late.
_FOREIGN = (".xlsx", ".xls", ".ods", ".tsv", ".avro", ".orc", ".feather", ".arrow", ".zip", ".bz2", ".xz")


@click.command("export")
@click.option("-o", "--output", metavar="FILE|-", help="Default: standard output, into a pipe.")
@click.option(
    "--period",
    default=EVER,
    help="today, minus_30_days, … or START/END, as a query has them. Default: everything.",
)
@click.option("--timezone", default="UTC", show_default=True, help="Of today and its like: an IANA name.")
@asked_events.which
@click.option(
    "--format",
    "format_",
    type=click.Choice(("ndjson", "csv", "parquet")),
    help="Default: told by the name's ending, else ndjson.",
)
@click.option(
    "--compression",
    type=click.Choice(("none", "gzip", "zstd")),
    help="Default: told by the name's ending (.gz, .zst).",
)
@click.option("--quiet", is_flag=True, help="No progress, and no word at the end.")
@asked_events.whose
@click.pass_obj
def export_command(
    context: Context,
    *,
    output: str | None,
    period: str,
    timezone: str,
    event: str,
    filter_: tuple[str, ...],
    filters: str,
    format_: str | None,
    compression: str | None,
    quiet: bool,
    project: str,
    customer: str | None,
    url: str,
    key_file: TextIO | None,
    state: Path | None,
) -> None:
    """Export events to a file: NDJSON, CSV or Parquet, any number of them.

    FILE is there when it is whole, not before: it is written beside itself and renamed. Without --url it is
    written as the operator, who needs no key.

    \b
    Examples:
      eventbunker export -o events.parquet --period minus_30_days
      eventbunker export -o 2026.csv.gz --period 2026-01-01/2027-01-01 --event purchase
      eventbunker export --filter plan=pro | jq .price

    Exit code 0: the file is whole. 1: the request is refused, each problem is named. 2: it could not be
    begun. 3: it broke off; run it again. 130, 143, 129: Ctrl-C, SIGTERM or SIGHUP ended it.
    """
    from workers import export_file  # noqa: PLC0415
    from workers.asking import Wanted  # noqa: PLC0415

    asked_events.check(project, customer, url, key_file)
    if output == "":  # as of a variable that nobody has set
        raise click.UsageError("-o names no file: name one, or - for standard output")
    is_standard = output in (None, "-") or is_standard_output(output)
    if sys.stdout is None and is_standard:
        raise click.UsageError("standard output is closed: name a file with -o")
    if output is None and sys.stdout.isatty():
        raise click.UsageError("name a file with -o, or - for this terminal")
    output = output or "-"
    told_format, told_compression = _told_by(output)
    ending = Path(output).suffix.lower()
    if format_ is None and ending in _FOREIGN:
        raise click.UsageError(f"{ending} is no format of ours: .ndjson, .csv or .parquet, or say --format")
    start, has_end, end = period.partition("/")
    request = {
        "time_period": {"start": start, "end": end} if has_end else period,
        "timezone": timezone,
        "filters": asked_events.read_filters(event, filter_, filters),
        "format": format_ or told_format,
        "compression": compression or told_compression,
    }
    target = export_file.Target("-" if is_standard else output, is_quiet=quiet)
    if url:
        sys.exit(export_file.from_edge(url, asked_events.read_key(key_file), request, target))
    settings = context.settings(state=state)
    sys.exit(export_file.from_store(settings, Wanted(project, customer), request, target))


def _told_by(output: str) -> tuple[str, str]:
    """Format and compression."""
    endings = [one.lower() for one in Path(output).suffixes]
    compression = _ENDINGS.get(endings[-1], "none") if endings else "none"
    named = endings[:-1] if compression != "none" else endings
    return _FORMATS.get(named[-1], "ndjson") if named else "ndjson", compression
