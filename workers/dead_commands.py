"""The words of `eventbunker dead …`: arguments and options. What they do is `workers.dead`'s."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workers.command_context import Context, state_option
from workers.since import Since

if TYPE_CHECKING:
    from app.dead_letter import Wanted

F = TypeVar("F", bound=Callable[..., Any])


def _filters(command: F) -> F:
    for option in (
        click.option("--since", type=Since(), default=0, help="Set aside then or later: 2h, 3d, a date."),
        click.option("--reason", default="", help="A part of the reason or message, in any case."),
        click.option("--project", default="", help="Of this project_id only; without, unreadable ones too."),
    ):
        command = option(command)
    return command


def _choice(command: F) -> F:
    command = click.option("--limit", type=click.IntRange(1), help="With --all: at most so many.")(command)
    command = click.option("--all", "every", is_flag=True, help="All that the filters admit.")(command)
    return click.argument("ids", nargs=-1, metavar="[ID]...")(_filters(command))


@click.group()
def dead() -> None:
    """Events that were set aside: look at them, put them back, give them up.

    An ID is the event's unique_req_id or, of an entry that cannot be read, its place PARTITION/ID.
    """


@dead.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@state_option
@click.pass_obj
def list_command(
    context: Context,
    *,
    project: str,
    reason: str,
    since: int,
    limit: int,
    as_json: bool,
    state: Path | None,
) -> None:
    """List dead letters, the oldest of each partition first."""
    from workers import dead as work  # noqa: PLC0415

    sys.exit(
        work.list_letters(
            context.settings(state=state), _wanted(project, reason, since), limit, as_json=as_json
        )
    )


@dead.command()
@click.argument("id_", metavar="ID")
@click.option("--body", "only_body", is_flag=True, help="Only the client's bytes, as they came.")
@state_option
@click.pass_obj
def show(context: Context, id_: str, only_body: bool, state: Path | None) -> None:
    """Show one: reason, message, time, project, and the client's bytes."""
    from workers import dead as work  # noqa: PLC0415

    sys.exit(work.show(context.settings(state=state), id_, only_body=only_body))


@dead.command()
@_choice
@state_option
@click.pass_obj
def replay(
    context: Context,
    *,
    ids: tuple[str, ...],
    every: bool,
    project: str,
    reason: str,
    since: int,
    limit: int | None,
    state: Path | None,
) -> None:
    """Put letters back into the stream, as events that were never set aside."""
    from workers import dead as work  # noqa: PLC0415

    _check(ids, every, project=project, reason=reason, since=since, limit=limit)
    chosen = work.Chosen(ids, _wanted(project, reason, since), limit)
    sys.exit(work.replay(context.settings(state=state), chosen))


@dead.command()
@_choice
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
@click.pass_obj
def purge(
    context: Context,
    *,
    ids: tuple[str, ...],
    every: bool,
    project: str,
    reason: str,
    since: int,
    limit: int | None,
    yes: bool,
    state: Path | None,
) -> None:
    """Give letters up for good; their receipts say `erased`."""
    from workers import dead as work  # noqa: PLC0415

    _check(ids, every, project=project, reason=reason, since=since, limit=limit)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: add --yes to purge for good")
    chosen = work.Chosen(ids, _wanted(project, reason, since), limit)
    sys.exit(work.purge(context.settings(state=state), chosen, asks=not yes))


def _wanted(project: str, reason: str, since: int) -> Wanted:
    from app.dead_letter import Wanted  # noqa: PLC0415

    return Wanted(project, reason, since)


def _check(
    ids: tuple[str, ...], every: bool, *, project: str, reason: str, since: int, limit: int | None
) -> None:
    if bool(ids) == every:
        raise click.UsageError("name letters by ID, or mean all that the filters admit with --all")
    if ids and (project or reason or since or limit):
        raise click.UsageError("filters and --limit narrow --all; letters that are named need none")
