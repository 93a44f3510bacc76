"""deploy.toml + environment -> one frozen Settings, or every problem at once.

The structs are the file's format, its defaults, and (through `json_schema`) what editors check. An unknown
key is an error with a suggestion: a misspelt limit that silently does nothing is worse than a start that
fails. Reading and merging is `app.deploy_file`'s, checks across keys are `app.settings_checks`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

from app.errors import Problem

MIB = 1024 * 1024

TIB = 1024**4

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
DATE = r"^\d{4}-\d{2}-\d{2}$"
IMPORT = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"

Count: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Bytes: TypeAlias = Annotated[int, Meta(ge=1024, le=TIB)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]  # 0 takes any free one
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400)]
StatementSeconds: TypeAlias = Annotated[float, Meta(ge=0.01, le=3600)]  # the embedded store takes no others
Filled: TypeAlias = Annotated[str, Meta(min_length=1)]
Word: TypeAlias = Annotated[str, Meta(pattern=NAME)]


class Dev(Struct, frozen=True, forbid_unknown_fields=True):
    """[dev]: what `make run-edge` uses. Top level only."""

    ip: Filled = "127.0.0.1"
    port: Port = 8787
    persist_to: Filled = ".eventbunker/state"


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """[server]: how HTTP is served, and by what."""

    host: Filled = "0.0.0.0"  # noqa: S104  (a production edge stands behind a load balancer)
    port: Port = 8787
    engine: Literal["hypercorn", "uvicorn"] = "hypercorn"
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    worker_class: Literal["uvloop", "asyncio"] = "uvloop"
    backlog: Annotated[int, Meta(ge=1, le=65_535)] = 2048
    max_connections: Count = 10_000
    keep_alive_timeout: Seconds = 75.0
    shutdown_delay: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    graceful_timeout: Seconds = 20.0
    read_timeout: Seconds = 30.0
    trusted_proxies: tuple[str, ...] = ()
    certfile: str = ""
    keyfile: str = ""
    quic_port: Port = 0


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """[limits]: every queue has a bound and every wait a deadline; these are their names."""

    max_event_bytes: Annotated[int, Meta(ge=1024, le=MIB)] = 65_536
    max_request_bytes: Bytes = MIB
    max_batch_bytes: Annotated[int, Meta(ge=65_536, le=64 * MIB)] = 4 * MIB
    max_batch_events: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    max_concurrent_requests: Count = 2000
    max_pending_bytes: Annotated[int, Meta(ge=2 * MIB, le=TIB)] = 64 * MIB  # one request has nearly 2
    append_timeout: Seconds = 10.0
    query_timeout: StatementSeconds = 10.0
    query_max_memory_bytes: Bytes = 1024 * MIB
    query_max_rows_read: Annotated[int, Meta(ge=1000, le=10**15)] = 10**9
    query_max_bytes_read: Annotated[int, Meta(ge=MIB, le=1024 * TIB)] = 100 * 1024 * MIB
    query_max_result_bytes: Annotated[int, Meta(ge=MIB, le=1024 * MIB)] = 64 * MIB
    max_concurrent_queries: Count = 8
    max_concurrent_queries_per_project: Count = 6
    max_concurrent_queries_per_key: Count = 4
    max_concurrent_exports: Count = 4
    max_concurrent_tails: Count = 100
    grant_grace: Seconds = 3600.0
    max_event_names: Count = 2000
    max_field_paths: Count = 5000


class SpoolSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[spool]: where an edge keeps events while Redis is away, full or slow."""

    path: str = ""
    max_bytes: Annotated[int, Meta(ge=16 * MIB, le=TIB)] = 1024 * MIB
    redis_timeout: Seconds = 1.0


class Observability(Struct, frozen=True, forbid_unknown_fields=True):
    """[observability]: what the service finds out about itself."""

    canary_interval: Annotated[float, Meta(ge=0, le=3600)] = 5.0


class Cors(Struct, frozen=True, forbid_unknown_fields=True):
    """[cors]: which pages' scripts may read our answers."""

    allowed_origins: tuple[str, ...] = ("*",)
    max_age: Annotated[int, Meta(ge=0, le=86_400)] = 86_400


class Producer(Struct, frozen=True, forbid_unknown_fields=True):
    """[[queues.producers]]: where edges append."""

    binding: Word = "EVENTS"
    queue: Word = "events"
    url: str = ""
    shards: Annotated[int, Meta(ge=1, le=256)] = 1
    durability: Literal["always", "everysec", "memory"] = "always"
    max_backlog: Count = 2_000_000


class Consumer(Struct, frozen=True, forbid_unknown_fields=True):
    """[[queues.consumers]]: how the drain empties the queue."""

    queue: Word = "events"
    max_batch_size: Annotated[int, Meta(ge=1, le=100_000)] = 20_000
    max_batch_bytes: Annotated[int, Meta(ge=65_536, le=16 * MIB)] = 8 * MIB
    max_batch_timeout: Annotated[float, Meta(ge=0.01, le=10)] = 0.2
    max_retries: Annotated[int, Meta(ge=0, le=100)] = 8
    retry_delay: Annotated[float, Meta(ge=0.01, le=5)] = 0.5
    dead_letter_queue: Word = "events-dead"
    max_dead_letters: Count = 100_000
    lease_timeout: Annotated[float, Meta(ge=1, le=600)] = 5.0


class Warehouse(Struct, frozen=True, forbid_unknown_fields=True):
    """[[stores]]: where events end."""

    binding: Word = "WAREHOUSE"
    engine: Literal["embedded", "clickhouse"] = "embedded"
    url: str = ""
    database: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")] = "eventbunker"
    username: Filled = "default"
    path: str = ""
    max_memory_bytes: Annotated[int, Meta(ge=256 * MIB, le=TIB)] = 1024 * MIB
    insert_timeout: StatementSeconds = 30.0
    retention_days: Annotated[int, Meta(ge=0, le=36_500)] = 0


class Queues(Struct, frozen=True, forbid_unknown_fields=True):
    """[queues]"""

    producers: Annotated[tuple[Producer, ...], Meta(min_length=1, max_length=1)] = (Producer(),)
    consumers: Annotated[tuple[Consumer, ...], Meta(min_length=1, max_length=1)] = (Consumer(),)


class Secrets(Struct, frozen=True, forbid_unknown_fields=True):
    """[secrets]: names only; values come from the environment."""

    required: tuple[Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9_]*$")], ...] = ()


Var: TypeAlias = str | int | float | bool


class Environment(Struct, frozen=True, forbid_unknown_fields=True):
    """What an `[env.NAME]` may hold, and the top level too."""

    name: Word = "eventbunker"
    main: Annotated[str, Meta(pattern=IMPORT)] = "app.main:create_app"
    compatibility_date: Annotated[str, Meta(pattern=DATE)] = "2026-11-23"
    server: Server = Server()
    limits: Limits = Limits()
    spool: SpoolSettings = SpoolSettings()
    cors: Cors = Cors()
    observability: Observability = Observability()
    queues: Queues = Queues()
    stores: Annotated[tuple[Warehouse, ...], Meta(min_length=1, max_length=1)] = (Warehouse(),)
    vars: dict[str, Var] = field(default_factory=dict)
    secrets: Secrets = Secrets()


class DeployFile(Environment, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    dev: Dev = Dev()
    env: dict[Word, Environment] = field(default_factory=dict)


class SettingsError(Exception):
    """Everything that is wrong with the configuration."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(f"{problem.path}: {problem.message}" for problem in problems))
        self.problems = problems


class Settings(Struct, frozen=True):
    """What every process is told. Nothing in it is optional and nothing changes while it runs."""

    name: str
    main: str
    compatibility_date: str
    environment: str
    dev: Dev
    server: Server
    limits: Limits
    spool: SpoolSettings
    cors: Cors
    observability: Observability
    producer: Producer
    consumer: Consumer
    store: Warehouse
    vars: dict[str, Var]
    redis_url: str
    clickhouse_url: str
    spool_path: Path
    secrets: dict[str, str]
    warnings: tuple[str, ...] = ()

    def secret(self, name: str) -> str:
        """The value of a secret, "" where it is not set."""
        return self.secrets.get(name, "")

    def __repr__(self) -> str:
        # A traceback or a debug line must never show what `secrets` holds.
        return (
            f"Settings(name={self.name!r}, environment={self.environment!r}, secrets={sorted(self.secrets)})"
        )


def load(
    path: Path = Path("deploy.toml"),
    *,
    environment: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Read `path`, choose the environment (argument, else DEPLOY_ENV, else the top level), check it all.

    Errors: SettingsError with every problem found.
    """
    from app import deploy_file  # noqa: PLC0415  (it builds on the structs above)

    return deploy_file.load(path, environment=environment, environ=environ)


def json_schema() -> dict[str, object]:
    """The JSON Schema of deploy.toml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(DeployFile)}
