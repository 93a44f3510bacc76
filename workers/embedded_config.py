"""The embedded engine's own configuration: small pools, small caches, limits, and what it may not touch.

Owns two files that it rewrites at every start, and the argument by which the engine finds them. Knows no
HTTP and runs no query. The grants leave out everything that reaches beyond the data directory: files,
URLs, remote servers, other databases' protocols, users. Next: `workers.embedded_engine`.

Source: https://clickhouse.com/docs/operations/server-configuration-parameters/settings
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import msgspec

MIB = 1024 * 1024
QUESTIONS = "questions"  # the workload of statements that clients asked for (`app.ask`)
_ENGINES = (
    *("MergeTree", "ReplacingMergeTree", "SummingMergeTree", "AggregatingMergeTree"),
    *("CollapsingMergeTree", "VersionedCollapsingMergeTree"),
    *("Memory", "Null", "Merge", "Buffer", "Set", "Join", "Log", "TinyLog", "StripeLog"),
)
_GRANTS = [
    "GRANT SHOW, SELECT, INSERT, ALTER TABLE, ALTER VIEW, CREATE DATABASE, CREATE TABLE, CREATE VIEW,"
    " CREATE TEMPORARY TABLE, CREATE FUNCTION, DROP DATABASE, DROP TABLE, DROP VIEW, DROP FUNCTION,"
    " UNDROP TABLE, TRUNCATE, OPTIMIZE, CHECK, BACKUP, KILL QUERY, dictGet, SYSTEM FLUSH, SYSTEM MERGES,"
    " CREATE RESOURCE, CREATE WORKLOAD, DROP RESOURCE, DROP WORKLOAD,"
    " SYSTEM TTL MERGES, SYSTEM DROP CACHE, SYSTEM JEMALLOC ON *.*",
    *(f"GRANT TABLE ENGINE ON {engine}" for engine in _ENGINES),
]


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the whole store. Bytes and seconds."""

    max_memory_bytes: int = 1024 * MIB  # of the process, as the engine counts it
    max_execution_seconds: float = 60.0  # a query that says nothing else
    max_threads: int = 2  # of one query
    max_result_bytes: int = 128 * MIB  # an answer is complete before its first byte is sent
    max_body_bytes: int = 64 * MIB
    queries: int = 6  # of the service itself that run at once
    questions: int = 4  # of clients that run at once, beside those
    questions_of_one: int = 3  # of those, of one `quota_key`
    questions_kept: int = 1  # of those, for a `quota_key` that has none
    inserts: int = 3  # that run at once, beside both
    waiting: int = 64  # of each kind, beyond those that run
    queue_seconds: float = 10.0  # a statement that could not start by then is told so

    @property
    def questions_memory_bytes(self) -> int:
        """Of all questions together: the rest is for inserts, merges and caches."""
        return self.max_memory_bytes // 2

    @property
    def question_memory_bytes(self) -> int:
        """Of one question: less, so that one that is alone fails by its own fault."""
        return self.questions_memory_bytes * 4 // 5


def workloads(limits: Limits) -> tuple[str, ...]:
    """Statements that bound the memory of all questions: who wants more ends the largest of them.

    As statements, since chDB reads no workloads from its configuration; it keeps them in its data directory.
    """
    return (
        "CREATE OR REPLACE RESOURCE memory (MEMORY RESERVATION)",
        "CREATE OR REPLACE WORKLOAD everything",
        f"CREATE OR REPLACE WORKLOAD {QUESTIONS} IN everything"
        f" SETTINGS max_memory = {limits.questions_memory_bytes}",
    )


def write(directory: Path, data: Path, limits: Limits, keep_free_bytes: int) -> Path:
    """Write the engine's two configuration files into `directory`; returns the main one's path.

    Inserts and merges that would leave less than `keep_free_bytes` on the disk are refused.

    Errors: OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    users, main, backups = directory / "users.xml", directory / "config.xml", data / "backups"
    users.write_text(_users(limits), encoding="utf-8")
    main.write_text(_server(users.resolve(), backups.resolve(), limits, keep_free_bytes), encoding="utf-8")
    return main


def _server(users: Path, backups: Path, limits: Limits, keep_free_bytes: int) -> str:
    values = {
        "users_config": str(users),
        "display_name": "eventbunker",
        "max_server_memory_usage": limits.max_memory_bytes,
        "mark_cache_size": 32 * MIB,
        "index_mark_cache_size": 8 * MIB,
        "uncompressed_cache_size": 0,
        "index_uncompressed_cache_size": 0,
        "primary_index_cache_size": 32 * MIB,
        "query_condition_cache_size": 4 * MIB,
        "mmap_cache_size": 64,
        "compiled_expression_cache_size": 8 * MIB,
        "background_pool_size": 2,
        "background_schedule_pool_size": 2,
        "background_move_pool_size": 1,
        "background_fetches_pool_size": 1,
        "background_common_pool_size": 1,
        "background_buffer_flush_schedule_pool_size": 1,
        "max_thread_pool_free_size": 0,  # who is nice must not serve others: `workers.embedded_nice`
        "max_io_thread_pool_free_size": 0,
    }
    body = "".join(f"<{name}>{escape(str(value))}</{name}>\n" for name, value in values.items())
    allowed = f"<backups><allowed_path>{escape(str(backups))}</allowed_path></backups>\n"
    disk = (
        "<storage_configuration><disks><default>"
        f"<keep_free_space_bytes>{keep_free_bytes}</keep_free_space_bytes>"
        "</default></disks></storage_configuration>\n"
    )
    return f"<clickhouse>\n{body}{allowed}{disk}</clickhouse>\n"


def _users(limits: Limits) -> str:
    profile = {
        "max_threads": limits.max_threads,
        "max_insert_threads": 1,
        "max_memory_usage": limits.max_memory_bytes // 2,
        "max_execution_time": limits.max_execution_seconds,
        "max_result_bytes": limits.max_result_bytes,
        "input_format_parallel_parsing": 0,
        "output_format_parallel_formatting": 0,
        "allow_introspection_functions": 0,
    }
    settings = "".join(f"<{name}>{value}</{name}>" for name, value in profile.items())
    grants = "".join(f"<query>{grant}</query>" for grant in _GRANTS)
    # A query without an end or without a bound would defeat both limits: 0 means unlimited.
    constraints = (
        "<constraints><max_execution_time><min>0.001</min><max>3600</max></max_execution_time>"
        "<max_memory_usage><min>1</min></max_memory_usage></constraints>"
    )
    return (
        "<clickhouse>\n"
        f"<profiles><default>{settings}{constraints}</default></profiles>\n"
        "<quotas><default></default></quotas>\n"
        "<users><default><password></password><networks><ip>::/0</ip></networks>"
        f"<profile>default</profile><quota>default</quota><grants>{grants}</grants></default></users>\n"
        "</clickhouse>\n"
    )
