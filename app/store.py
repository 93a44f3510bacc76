"""The ClickHouse client: one way to insert, one way to ask, two classes of error. The only user of httpx.

The same for a ClickHouse server, a cluster, and the embedded store, which speaks ClickHouse's HTTP interface.

    StoreError
    +-- StoreUnavailable   no answer, or one that says nothing of the statement: it may or may not have run
    +-- StoreRefused       the server's own exception, with its code: it answered, so it is done with it

Source: https://clickhouse.com/docs/interfaces/http
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeAlias

import httpx
import msgspec

from app.settings import Settings
from app.store_answer import decode

Scalar: TypeAlias = str | int | float | bool | None
Value: TypeAlias = Scalar | Sequence[Scalar]

CONNECT_SECONDS = 2.0
ANSWER_MARGIN_SECONDS = 5.0  # the server ends a query by itself; ours is the second line of defence
MAX_CONNECTIONS = 32
PIECE_BYTES = 1024 * 1024
# Tombstones stand in statements as literals (`app.sql_literals`): of one project 64 KiB of names, each many
# times; and a hundred filters may name the longest of fields. What a request may bring is bounded before.
# With the engine's own bounds, 256 KiB and 50,000 elements, a thousand customers would be too many to erase.
_LARGE = {
    "max_query_size": 32 * 1024 * 1024,
    "max_ast_elements": 2_000_000,
    "max_expanded_ast_elements": 4_000_000,
}

# Codes that say "not now" rather than "not this": the statement was fine.
PASSING_CODES = frozenset({3, 159, 202, 203, 209, 210, 236, 241, 242, 243, 252, 285, 319, 394, 439, 999})


# Where the engine's message begins to cite the data. Ours cites nothing before it.
_DATA = re.compile(r"Column values|parsed text|JSON object: |['\"{\n]")
BRIEF_CHARACTERS = 150


class StoreError(Exception):
    """The store did not do what was asked. Its text may hold a client's data; `brief` does not."""

    @property
    def brief(self) -> str:
        """For logs and probes: the code, and the message up to where it cites the data."""
        return _DATA.split(str(self), maxsplit=1)[0][:BRIEF_CHARACTERS].rstrip()


class StoreUnavailable(StoreError):
    """No answer that settles it: network, time-out, or a 5xx without an exception code."""


class StoreRefused(StoreError):
    """ClickHouse's own exception. `code` as in its documentation; `message` names tables and values."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"code {code}: {message}")
        self.code = code
        self.message = message


class Result(msgspec.Struct, frozen=True):
    """Rows as lists in the order of `columns`; 64-bit integers are Python ints."""

    columns: list[str]
    types: list[str]
    rows: list[list[object]]


class Store:
    """One database of one ClickHouse. `password` never leaves the headers."""

    def __init__(self, url: str, *, database: str, username: str, password: str) -> None:
        self._database = database
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"X-ClickHouse-User": username, "X-ClickHouse-Key": password},
            timeout=httpx.Timeout(30.0, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=30.0),
            trust_env=False,  # a proxy from the environment must not see the data
            verify=_trusted(url),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def ask(
        self,
        sql: str,
        parameters: Mapping[str, Value] | None = None,
        *,
        settings: Mapping[str, str | int | float] | None = None,
        timeout_seconds: float = 10.0,
        queue_seconds: float = 0.0,
        query_id: str | None = None,
    ) -> Result:
        """Run a SELECT and return all of its rows. `sql` names values as `{name:Type}` only.

        It may take `timeout_seconds`, and wait `queue_seconds` before it begins.
        Errors: StoreRefused, StoreUnavailable.
        """
        content = await self.read(
            sql,
            parameters,
            format_="JSONCompact",
            settings={"output_format_json_quote_64bit_integers": 0, **(settings or {})},
            timeout_seconds=timeout_seconds,
            queue_seconds=queue_seconds,
            query_id=query_id,
        )
        try:
            answer = await decode(content)
        except msgspec.DecodeError as error:
            # An exception after the first bytes of a 200 arrives as text inside the body.
            raise StoreUnavailable(f"the store's answer was cut short or is not JSON: {error}") from None
        return Result([m.name for m in answer.meta], [m.type for m in answer.meta], answer.data)

    async def read(
        self,
        sql: str,
        parameters: Mapping[str, Value] | None = None,
        *,
        format_: str,
        settings: Mapping[str, str | int | float] | None = None,
        timeout_seconds: float = 10.0,
        queue_seconds: float = 0.0,
        query_id: str | None = None,
    ) -> bytes:
        """Run a SELECT and return its answer as the server writes it in `format_`. Errors: as `ask`."""
        limits: dict[str, str | int | float] = {
            "default_format": format_,
            "max_execution_time": timeout_seconds,
            **(settings or {}),
        }
        patience_seconds = queue_seconds + timeout_seconds
        return await self._post(sql.encode(), limits, parameters or {}, patience_seconds, query_id)

    async def command(
        self,
        sql: str,
        parameters: Mapping[str, Value] | None = None,
        *,
        timeout_seconds: float = 30.0,
        without_database: bool = False,
    ) -> None:
        """Run a statement that returns no rows. Errors: StoreRefused, StoreUnavailable."""
        database = {"database": "default"} if without_database else {}
        await self._post(sql.encode(), database, parameters or {}, timeout_seconds, None)

    async def insert(
        self,
        statement: str,
        block: bytes,
        *,
        token: str,
        query_id: str,
        settings: Mapping[str, str | int | float],
        timeout_seconds: float,
    ) -> None:
        """Insert `block`, the rows in the format that `statement` ends with, as one atomic block.

        A second insert with the same `token` adds nothing, whatever it holds. An OK therefore means
        "stored" only for a token that was never sent before.
        Errors: StoreRefused (the server answered; the insert is over), StoreUnavailable (it may still run).
        """
        options: dict[str, str | int | float] = {
            "query": statement,
            "insert_deduplication_token": token,
            "max_execution_time": timeout_seconds,
            **settings,
        }
        await self._post(block, options, {}, timeout_seconds, query_id)

    async def _post(
        self,
        content: bytes,
        options: Mapping[str, str | int | float],
        parameters: Mapping[str, Value],
        timeout_seconds: float,
        query_id: str | None,
    ) -> bytes:
        params: dict[str, str | int | float] = {"database": self._database, **_LARGE, **options}
        if query_id is not None:
            # The embedded engine numbers its queries itself; the comment finds them there.
            params |= {"query_id": query_id, "log_comment": query_id}
        for name, value in parameters.items():
            params[f"param_{name}"] = encode_parameter(value)
        timeout = httpx.Timeout(timeout_seconds + ANSWER_MARGIN_SECONDS, connect=CONNECT_SECONDS)
        # httpx leaves requests to the garbage collector; in pieces, so that no block stays with one.
        is_small = len(content) <= PIECE_BYTES
        body = content if is_small else _pieces(content)
        headers = {} if is_small else {"Content-Length": str(len(content))}
        try:
            # The same with answers, which hold what was read of them: so nothing is read into them.
            async with self._client.stream(
                "POST", "/", params=params, content=body, headers=headers, timeout=timeout
            ) as response:
                answer = b"".join([piece async for piece in response.aiter_bytes()])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise StoreUnavailable(f"{type(error).__name__}: the store did not answer") from None
        code = response.headers.get("X-ClickHouse-Exception-Code", "")
        if code.isdigit() and int(code) > 0:
            raise StoreRefused(int(code), answer.decode("utf-8", "replace").strip()[:2000])
        if response.status_code != 200:
            raise StoreUnavailable(f"HTTP {response.status_code} without an exception code")
        return answer


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def connect(settings: Settings) -> Store:
    """The store that `settings` name. It connects at the first question."""
    return Store(
        settings.clickhouse_url,
        database=settings.store.database,
        username=settings.store.username,
        password=settings.secret("CLICKHOUSE_PASSWORD"),
    )


def _trusted(url: str) -> ssl.SSLContext | bool:
    """The usual authorities. Plain HTTP has nobody: reading them takes 40 ms, which each start would pay."""
    return httpx.URL(url).scheme == "https" or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def encode_parameter(value: Value) -> str:
    """The text of a `param_…` argument: ClickHouse's escaped (TSV) form, arrays as literals."""
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _escape(value)
    # The engine reads an array as a literal, which is not escaped once more.
    return "[" + ",".join(map(_literal, value)) + "]"


def _literal(value: Scalar) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _escape(text: str) -> str:
    return (
        text.replace("\\", "\\\\")
        .replace("\t", "\\t")
        .replace("\n", "\\n")
        .replace("\r", "\\r")
        .replace("\0", "\\0")
    )
