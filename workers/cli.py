"""The command line: `eventbunker COMMAND`. Each command reads the settings and calls one function.

It lives here because some commands start workers, and `app` never imports `workers`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from app.settings import json_schema
from workers import output
from workers.ask_commands import query_command, sql_command
from workers.command_context import INTERRUPTED, Context, Seconds, state_option
from workers.dead_commands import dead
from workers.export_command import export_command
from workers.import_command import import_command
from workers.lean import import_lean
from workers.since import Since
from workers.tail_command import tail_command

_pass = click.make_pass_decorator(Context)


class _Commands(click.Group):
    """Ctrl-C before a command has its own word for it is 130, as shells have it. Click's is 1, which an
    import has for "all but the rejected rows". What is wrong has its code where it cannot be said, too."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click's. Source: https://click.palletsprojects.com/en/stable/exceptions/"""
        # For the tenths of a second in which Python takes itself apart: all was done and said by then, and a
        # Ctrl-C would end the command with another exit code than its own.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            output.say("\nAborted!")
            sys.exit(INTERRUPTED)
        except click.ClickException as error:
            # Click's own try would end with a 1 where nobody can be told, whatever was wrong.
            with contextlib.suppress(OSError):
                error.show()
            sys.exit(error.exit_code)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "-c", "--config", default="deploy.toml", envvar="DEPLOY_CONFIG", type=click.Path(path_type=Path)
)
@click.option("-e", "--env", "environment", envvar="DEPLOY_ENV", help='An [env.NAME]; "" is the top level.')
@click.version_option(package_name="eventbunker")
@click.pass_context
def main(context: click.Context, config: Path, environment: str | None) -> None:
    """Event tracking that a team hosts itself and can trust."""
    context.obj = Context(config, environment)


@main.command()
@_pass
def check(context: Context) -> None:
    """Validate deploy.toml and the secrets, and exit."""
    from workers.edge_app import EdgeError, check_engine, find_main  # noqa: PLC0415

    settings = context.settings()
    try:
        find_main(settings)
        check_engine(settings)
    except EdgeError as error:
        output.say(f"{context.config} has 1 problem(s):\n  {error}")
        sys.exit(1)
    server, producer, store = settings.server, settings.producer, settings.store
    redis = _source(settings.redis_url, producer.url, "REDIS_URL", "queues.producers[0].url")
    warehouse = _source(settings.clickhouse_url, store.url, "CLICKHOUSE_URL", "stores[0].url")
    lines = [
        f"{context.config} is valid",
        f"  name         {settings.name}",
        f"  environment  {settings.environment or '(top level)'}",
        f"  edge         {server.host}:{server.port}, {server.engine}, workers: {server.workers}",
        f"  redis        {redis}, durability: {producer.durability}",
        f"  store        {warehouse}, database: {store.database}",
    ]
    if store.retention_days:
        lines.append(f"  retention    {store.retention_days} days; older events are deleted")
    lines.append(f"  secrets      {', '.join(sorted(settings.secrets)) or 'none set'}")
    output.line("\n".join(lines))


def _source(url: str, in_file: str, variable: str, key: str) -> str:
    """Where a part is and who said so. Never the url itself: it may carry a password."""
    if not url:
        return "embedded, by `eventbunker dev`"
    parts = urlsplit(url)
    host = parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host} ({key if url == in_file else variable})"


@main.command()
def schema() -> None:
    """Print the JSON Schema of deploy.toml, for editors."""
    output.line(json.dumps(json_schema(), indent=2, sort_keys=True))


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), help="Default: dev.port of deploy.toml.")
@click.option("--state", type=click.Path(path_type=Path), help="Default: dev.persist_to of deploy.toml.")
@click.option("--with-parent", is_flag=True, help="Stop when the process that started this one dies.")
@_pass
def dev(context: Context, port: int | None, state: Path | None, with_parent: bool) -> None:
    """Run everything here: Redis, store, drain and edge."""
    import_lean("structlog")
    from workers.dev import run_dev  # noqa: PLC0415

    sys.exit(
        run_dev(context.settings(), config=context.config, port=port, state=state, with_parent=with_parent)
    )


@main.command()
@click.option("--with-parent", is_flag=True, help="Stop when the process that started this one dies.")
@_pass
def edge(context: Context, with_parent: bool) -> None:
    """Run the HTTP edge of a production set-up."""
    import_lean("structlog")
    from workers.edges import run_edge  # noqa: PLC0415

    sys.exit(run_edge(context.settings(), config=context.config, with_parent=with_parent))


@main.command()
@_pass
def drain(context: Context) -> None:
    """Run the drain: stream to store."""
    import_lean("structlog", "httpx")
    from workers.drain_process import main as run  # noqa: PLC0415

    sys.exit(run(context.settings()))


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), required=True)
@click.option("--path", type=click.Path(path_type=Path), required=True)
@_pass
def store(context: Context, port: int, path: Path) -> None:
    """Run the embedded store. The token comes from CLICKHOUSE_PASSWORD."""
    import_lean("structlog")
    from workers.embedded_store import main as run  # noqa: PLC0415

    sys.exit(run(context.settings(), port=port, path=path))


@main.command()
@_pass
def migrate(context: Context) -> None:
    """Bring the tables of the store up to date."""
    import_lean("structlog", "httpx")
    from workers.migrate import main as run  # noqa: PLC0415

    sys.exit(run(context.settings()))


main.add_command(dead)
main.add_command(import_command)
main.add_command(export_command)
main.add_command(tail_command)
main.add_command(query_command)
main.add_command(sql_command)


@main.command()
@click.option("--since", type=Since(), help="Recorded then or later: 24h, 7d, a date. Default: everything.")
@click.option(
    "--wait",
    default=10.0,
    type=Seconds(0, 3600),
    show_default=True,
    help="Seconds to look again at what moves while events arrive.",
)
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_pass
def verify(context: Context, since: int | None, wait: float, state: Path | None, as_json: bool) -> None:
    """Prove that nothing is lost or doubled: compare what was counted with what the store holds.

    Exit code 0: they agree. 1: each difference is named. 2: Redis or the store could not be asked. 3: what
    was found cannot be written.
    """
    from workers.verify import verify as run  # noqa: PLC0415

    settings = context.settings(state=state)
    sys.exit(run(settings, since_ms=since, wait_seconds=wait, as_json=as_json))


@main.command()
@click.argument("number", type=click.IntRange(1, 256), required=False)
@click.option("--forget-spools", is_flag=True, help="The disks of edges that are gone will never come back.")
@state_option
@_pass
def shards(context: Context, number: int | None, forget_spools: bool, state: Path | None) -> None:
    """Show the partitions of the queue, or make it NUMBER partitions while nothing is under way."""
    from workers.shards import change, show  # noqa: PLC0415

    settings = context.settings(state=state)
    sys.exit(show(settings) if number is None else change(settings, number, forget_spools=forget_spools))


@main.command()
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_pass
def erasures(context: Context, state: Path | None, as_json: bool) -> None:
    """Show which erasures are not done, and what each waits for."""
    from workers.erasures import list_erasures  # noqa: PLC0415

    sys.exit(list_erasures(context.settings(state=state), as_json=as_json))


@main.group()
def account() -> None:
    """Accounts are made here; there is no public sign-up."""


@account.command("create")
@click.option("--name", default="", help="For your own lists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_pass
def account_create(context: Context, name: str, as_json: bool) -> None:
    """Create an account and print its master key, once."""
    from workers.account import create  # noqa: PLC0415

    sys.exit(create(context.settings(), name=name, as_json=as_json))


@main.group()
def charts() -> None:
    """Tokens that embed charts in pages."""


@charts.command("rotate-key")
@state_option
@_pass
def charts_rotate_key(context: Context, state: Path | None) -> None:
    """Sign new tokens with a new key. Those of the key before work until the next rotation."""
    from workers.charts import rotate_key  # noqa: PLC0415

    sys.exit(rotate_key(context.settings(state=state)))
