"""chDB as a server's engine: opens one data directory, runs one statement in a fresh connection, ends it.

Owns: loading the extension, the registry of running queries, inserts that tell the truth, errors with
their code. Knows no HTTP. Every method blocks; the caller brings threads (the engine releases the GIL).

Three things the engine does that shaped this file (chdb-core 26.9):
* `send_insert` answers OK for an insert that failed after parsing: ended by KILL, by its time limit, or by
  an exception in a materialized column. `INSERT … FROM INFILE` over an in-memory file reports all of them.
* It does not notice a full disk: see `workers.embedded_disk`.
* It numbers its queries itself. So `log_comment` carries the client's query id.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import partial
from io import FileIO
from pathlib import Path

import msgspec

from workers import embedded_config
from workers.embedded_config import Limits
from workers.embedded_disk import Room, keep_free_bytes
from workers.embedded_library import Connection, EngineError, Result, load
from workers.embedded_nice import Niceness
from workers.embedded_statement import Statement

SETTLE_SECONDS = 5.0
SETTLE_POLL_SECONDS = 0.005
_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")
_SYNTAX_ERROR, _ACCESS_DENIED, _TOO_MANY, _SAME_ID, _CANCELLED, _STD = 62, 497, 202, 216, 394, 1001
_ENCODINGS = frozenset({"gzip", "deflate", "br", "lz4", "zstd", "xz", "bz2"})


class Job(msgspec.Struct, frozen=True):
    """One statement with all that goes with it.

    An INSERT's rows, in `statement.format`, are in `statement.data` and after it in `data`; or all of them
    are in `file`, which is closed when nobody has the job any more.
    """

    statement: Statement
    query_id: str
    settings: Mapping[str, str] = {}
    parameters: Mapping[str, str] = {}
    database: str = ""
    default_format: str = "TabSeparated"
    data: tuple[bytes, ...] = ()
    file: FileIO | None = None
    is_question: bool = False  # of a client, not of the service
    quota_key: str = ""  # whose question


class Answer(msgspec.Struct, frozen=True):
    """A complete result in `format`, and what it cost."""

    body: bytes
    format: str
    rows_read: int
    bytes_read: int
    rows_written: int
    elapsed_seconds: float


class Engine:
    """One open data directory. Only one per process, and one process per directory."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """Open `path`, creating it. Errors: EngineError 76 when another process holds it; OSError."""
        if not re.fullmatch(r"[^?&#%]+", str(path)):
            raise EngineError(36, f"the path {str(path)!r} must not contain any of ? & # %")
        path.mkdir(parents=True, exist_ok=True)
        self._room = Room(path)
        self._room.wait()
        os.environ["TZ"] = "UTC"  # the engine takes its time zone from here, and only when it loads
        self._chdb = load()
        self._path = str(path.resolve())
        config = embedded_config.write(path / "config", path, limits, keep_free_bytes(path))
        # The first connection brings the settings of the whole engine and keeps it open.
        self._root = self._connect(f"?config-file={config.resolve()}")
        self._lock = threading.Lock()
        self._running: dict[str, Job] = {}
        self._ended: set[str] = set()
        self.niceness = Niceness()
        for sql in embedded_config.workloads(limits):
            self.ask(sql)
        self._room.watch()

    def close(self) -> None:
        """Close the data directory. Nothing may run any more."""
        self._root.close()

    def ask(self, sql: str, **parameters: str) -> str:
        """Run a small statement of our own; its result as TabSeparated text. Errors: EngineError."""
        connection = self._connect()
        try:
            return _query(connection, sql.encode(), "TabSeparated", parameters).bytes().decode()
        finally:
            connection.close()

    def admit(self, job: Job) -> None:
        """Enter the job into the registry; `release` it. Errors: EngineError 216 when its id runs already."""
        with self._lock:
            if job.query_id in self._running:
                raise EngineError(
                    _SAME_ID,
                    f"Query with id = {job.query_id} is already running."
                    " (QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING)",
                )
            self._running[job.query_id] = job

    def release(self, query_id: str) -> None:
        """Take a job out of the registry, whatever became of it."""
        with self._lock:
            self._running.pop(query_id, None)
            self._ended.discard(query_id)

    def running(self, *, inserts: bool) -> list[str]:
        """The ids of the admitted inserts, or of everything else."""
        with self._lock:
            return [key for key, job in self._running.items() if job.statement.inserts == inserts]

    def end(self, query_id: str) -> None:
        """End an admitted job. Repeat until it is gone: it may be between admission and the engine."""
        with self._lock:
            if query_id not in self._running:
                return
            self._ended.add(query_id)
        # Its result would be the statement's text, which need not be UTF-8.
        self.ask("KILL QUERY WHERE Settings['log_comment'] = {id:String} ASYNC FORMAT Null", id=query_id)

    def run(self, job: Job) -> Answer:
        """Run an admitted job to its end. Errors: EngineError, with the engine's own code."""
        self._refuse(job)
        if job.statement.inspects:
            self._settle()
        connection = self._connect()
        try:
            is_crowded = job.is_question and self.niceness.is_crowded
            _prepare(connection, job, {"max_threads": "1"} if is_crowded else {})
            if job.query_id in self._ended:
                raise EngineError(_CANCELLED, "Query was cancelled. (QUERY_WAS_CANCELLED)")
            if job.statement.data is not None:
                return self._insert(connection, job)
            name = job.statement.format or job.default_format
            return _answer(self._read(connection, job, name), name)
        finally:
            connection.close()

    def _read(self, connection: Connection, job: Job, name: str) -> Result:
        read = partial(_query, connection, job.statement.text, name, job.parameters)
        return self.niceness.run(job.quota_key, read) if job.is_question else read()

    def inflate(self, body: bytes, encoding: str, max_bytes: int) -> bytes:
        """Undo a Content-Encoding with the engine's own decoders, within a query's memory limit.

        Errors: EngineError 36 unknown encoding; 229, 241 or 396 too large; the decoder's own code otherwise.
        """
        if encoding not in _ENCODINGS:
            raise EngineError(36, f"Unknown Content-Encoding {encoding[:40]!r}. (BAD_ARGUMENTS)")
        connection = self._connect()
        try:
            _query(connection, f"SET max_memory_usage = {4 * max_bytes}".encode(), "Null", {})
            _query(connection, b"CREATE TEMPORARY TABLE body (b String) ENGINE = Memory", "Null", {})
            with self.file(body) as file:
                sql = f"INSERT INTO body FROM INFILE '{_name(file)}' COMPRESSION '{encoding}' FORMAT RawBLOB"
                _query(connection, sql.encode(), "Null", {})
            inflated = _query(connection, b"SELECT b FROM body", "RawBLOB", {}).bytes()
        finally:
            connection.close()
        if len(inflated) > max_bytes:
            raise EngineError(229, f"The body inflates to more than {max_bytes} bytes. (QUERY_IS_TOO_LARGE)")
        return inflated

    def _refuse(self, job: Job) -> None:
        statement = job.statement
        if not statement.verb and not statement.text.strip(b"( \t\r\n"):
            raise EngineError(_SYNTAX_ERROR, "Empty query. (SYNTAX_ERROR)")
        if statement.unclear:
            raise EngineError(
                _ACCESS_DENIED,
                "Comments in comments, names with $ and quotes beyond ASCII are not served. (ACCESS_DENIED)",
            )
        if statement.names_file:
            raise EngineError(_ACCESS_DENIED, "Files and python() are not served. (ACCESS_DENIED)")
        if statement.several:
            raise EngineError(_SYNTAX_ERROR, "Multi-statements are not allowed. (SYNTAX_ERROR)")

    def _insert(self, connection: Connection, job: Job) -> Answer:
        name = job.statement.format or "Values"
        if not name.isalnum():
            raise EngineError(73, "Unknown format. (UNKNOWN_FORMAT)")
        with self._rows(job) as file:
            source = f"\nFROM INFILE '{_name(file)}' COMPRESSION 'none' ".encode()
            sql = job.statement.text + source + job.statement.settings + f"\nFORMAT {name}".encode()
            result = _query(connection, sql, "Null", job.parameters)
        self._room.check()  # the engine's OK alone does not mean that there was room
        return _answer(result, job.default_format)

    def _settle(self) -> None:
        """Wait until each insert admitted so far has ended or is in system.processes.

        Otherwise "is this insert still running?" could be answered no by one that is about to start.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        waiting = set(self.running(inserts=True))
        while waiting := waiting & set(self.running(inserts=True)):
            waiting -= set(self.ask("SELECT Settings['log_comment'] FROM system.processes").splitlines())
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise EngineError(_TOO_MANY, "Inserts wait to start. (TOO_MANY_SIMULTANEOUS_QUERIES)")
            time.sleep(SETTLE_POLL_SECONDS)

    def file(self, *pieces: bytes) -> FileIO:
        """A file that begins with `pieces`, for rows; it has no name but its number. In memory on Linux."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("insert", os.MFD_CLOEXEC)
        else:
            descriptor, name = tempfile.mkstemp(dir=self._path)
            os.unlink(name)
        file = FileIO(descriptor, "wb")
        for piece in pieces:
            write(file, piece)
        return file

    def _rows(self, job: Job) -> FileIO:
        file = job.file or self.file(job.statement.data or b"", *job.data)
        file.seek(0)
        return file

    def _connect(self, arguments: str = "") -> Connection:
        try:
            return self._chdb.connect(self._path + arguments)
        except RuntimeError as error:
            raise _engine_error(error) from None


def write(file: FileIO, content: bytes) -> None:
    """All of it: the system may take a part at a time."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _name(file: FileIO) -> str:
    return f"/dev/fd/{file.fileno()}"


def _prepare(connection: Connection, job: Job, more: Mapping[str, str]) -> None:
    """Settings and database of this connection, which nobody else will use."""
    if job.database:
        _query(connection, b"USE `%s`" % _escape(job.database).replace(b"`", b"\\`"), "Null", {})
    settings = {**job.settings, **more, "log_comment": job.query_id}
    if "readonly" in settings:  # last, because nothing can be set after it
        settings["readonly"] = settings.pop("readonly")
    for name in settings:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]{0,200}", name):
            raise EngineError(115, f"Unknown setting {name[:100]!r}. (UNKNOWN_SETTING)")
    pairs = [b"%s = '%s'" % (name.encode(), _escape(value)) for name, value in settings.items()]
    _query(connection, b"SET " + b", ".join(pairs), "Null", {})


def _query(connection: Connection, sql: bytes, name: str, parameters: Mapping[str, str]) -> Result:
    try:
        return connection.query(sql, name, params=dict(parameters))
    except (RuntimeError, UnicodeDecodeError) as error:
        raise _engine_error(error) from None


def _answer(result: Result, name: str) -> Answer:
    return Answer(
        bytes(result.bytes()),
        name,
        result.rows_read(),
        result.bytes_read(),
        getattr(result, "rows_written", result.rows_read)(),  # chdb-core-lite 26.5 has only the latter
        result.elapsed(),
    )


def _escape(text: str) -> bytes:
    return text.encode().replace(b"\\", b"\\\\").replace(b"'", b"\\'")


def _engine_error(error: RuntimeError | UnicodeDecodeError) -> EngineError:
    # A message quotes the statement, which may hold any bytes; Python could not make that one a string.
    text = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
    text = text.strip()
    match = _CODE.search(text)
    if match is None:
        return EngineError(_STD, f"{text or 'unknown error'} (STD_EXCEPTION)")
    return EngineError(int(match[1]), text[match.end() :])
