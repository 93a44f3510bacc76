"""The ClickHouse client against the real engine: values arrive as they were, failures in their class."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import httpx
import pytest
import respx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.store import Store, StoreRefused, StoreUnavailable, Value
from tests.store_fixture import StoreServer
from workers.held import IDS_A_QUESTION

Rows = list[list[object]]

# What broke naive escaping elsewhere, more often than chance would bring it.
AWKWARD = (
    "'",
    '"',
    "\\",
    "\t",
    "\n",
    "\r",
    "\0",
    "\b",
    "\f",
    "\\N",
    "\\n",
    "\\0",
    "[",
    "]",
    ",",
    "%",
    "{",
    "é",
    "𝄞",
)
TEXTS = st.lists(st.sampled_from(AWKWARD) | st.characters(codec="utf-8"), max_size=12).map("".join)
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from((-(2**63), 2**63 - 1, 0, -1))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Client:
    """One store and the loop it lives in: making both for each example would be most of the time."""

    def __init__(self, server: StoreServer, url: str = "") -> None:
        self._runner = asyncio.Runner()
        self._store = Store(url or server.url, database="system", username="default", password=server.token)

    def ask(self, sql: str, parameters: Mapping[str, Value] | None = None, seconds: float = 10) -> Rows:
        return self._runner.run(self._store.ask(sql, parameters, timeout_seconds=seconds)).rows

    def echo(self, *kinds_and_values: tuple[str, Value]) -> list[object]:
        """What the engine makes of parameters, as JSON brings it back."""
        names = [f"{{p{n}:{kind}}} AS c{n}" for n, (kind, _) in enumerate(kinds_and_values)]
        values = {f"p{n}": value for n, (_, value) in enumerate(kinds_and_values)}
        return self.ask(f"SELECT {', '.join(names)}", values)[0]

    def close(self) -> None:
        self._runner.run(self._store.close())
        self._runner.close()


@pytest.fixture
def client(store_server: StoreServer) -> Iterator[Client]:
    """A client of the real engine."""
    made = Client(store_server)
    yield made
    made.close()


@pytest.fixture
def broken(store_server: StoreServer) -> Iterator[tuple[Client, respx.Route]]:
    """A client whose store answers as the test says."""
    with respx.mock:
        made = Client(store_server, "http://store.test")
        yield made, respx.post("http://store.test/")
        made.close()


@MANY
@given(text=TEXTS, texts=st.lists(TEXTS, max_size=5))
def test_strings_arrive_as_they_were(client: Client, text: str, texts: list[str]) -> None:
    """Safeguard: the escaping of parameters, in strings and inside arrays."""
    answer = client.echo(
        ("String", text),
        ("Nullable(String)", text),
        ("Array(String)", texts),
        ("Array(Nullable(String))", [*texts, None]),
    )
    assert answer == [text, text, texts, [*texts, None]]


@MANY
@given(
    number=INTEGERS, numbers=st.lists(INTEGERS, max_size=5), real=FLOATS, reals=st.lists(FLOATS, max_size=5)
)
def test_numbers_arrive_as_they_were(
    client: Client, number: int, numbers: list[int], real: float, reals: list[float]
) -> None:
    """Safeguard: 64 bits stay 64 bits, floats keep their last digit."""
    answer = client.echo(
        ("Int64", number),
        ("UInt64", number % 2**64),
        ("Array(Int64)", numbers),
        ("Float64", real),
        ("Array(Float64)", reals),
        ("Bool", number > 0),
    )
    *exact, back, backs, flag = answer
    assert exact == [number, number % 2**64, numbers]
    assert flag == (number > 0)
    # JSON writes a large float without a point, which Python then reads as an integer.
    assert float(str(back)) == real
    assert [float(item) for item in cast("list[float]", backs)] == reals


def test_missing_values_and_flags(client: Client) -> None:
    """None is NULL and not the text; an array of booleans is one."""
    answer = client.echo(
        ("Nullable(String)", None),
        ("Nullable(String)", "\\N"),
        ("Nullable(Int64)", None),
        ("Array(Bool)", [True, False]),
        ("Array(String)", []),
    )
    assert answer == [None, "\\N", None, [True, False], []]


def test_infinities_reach_the_engine(client: Client) -> None:
    sql = "SELECT isInfinite({p:Float64}), isNaN({q:Float64})"
    assert client.ask(sql, {"p": math.inf, "q": math.nan}) == [[1, 1]]


def test_the_server_s_exception_keeps_its_code(client: Client) -> None:
    """Safeguard: what the server answered is told apart from no answer; the inserter depends on it."""
    with pytest.raises(StoreRefused) as caught:
        client.ask("SELECT * FROM no_such_table")
    assert caught.value.code == 60
    assert "no_such_table" in caught.value.message
    with pytest.raises(StoreRefused) as caught:
        client.ask("SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_block_size = 1", seconds=1)
    assert caught.value.code == 159


def test_a_wrong_password_is_a_refusal(store_server: StoreServer) -> None:
    async def run() -> None:
        store = Store(store_server.url, database="default", username="default", password="wrong")
        try:
            with pytest.raises(StoreRefused) as caught:
                await store.ask("SELECT 1")
            assert caught.value.code in (516, 194)
            assert "wrong" not in repr(caught.value)
        finally:
            await store.close()

    asyncio.run(run())


def test_nobody_listens_is_no_answer(store_server: StoreServer) -> None:
    client = Client(store_server, "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable):
        client.ask("SELECT 1")
    client.close()


@pytest.mark.parametrize("is_known", [True, False])
def test_store_behind_tls_is_asked_only_if_an_authority_knows_it(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n7\n")
        writer.close()

    async def run() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
            url = f"HTTPS://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            store = Store(url, database="system", username="default", password="secret")
            try:
                assert await store.read("SELECT 7", format_="TSV") == b"7\n"
            finally:
                await store.close()

    if is_known:
        monkeypatch.setattr("certifi.where", lambda: str(certificate))
        asyncio.run(run())
    else:
        with pytest.raises(StoreUnavailable):
            asyncio.run(run())
    assert len(asked) == is_known


BROKEN = [
    pytest.param({"side_effect": httpx.ReadTimeout("slow")}, id="read time-out"),
    pytest.param({"side_effect": httpx.ConnectTimeout("slow")}, id="connect time-out"),
    pytest.param({"side_effect": httpx.RemoteProtocolError("cut")}, id="cut connection"),
    pytest.param({"return_value": httpx.Response(502, text="<html>bad gateway</html>")}, id="gateway"),
    pytest.param({"return_value": httpx.Response(503)}, id="503"),
    pytest.param({"return_value": httpx.Response(302, headers={"location": "/"})}, id="redirect"),
    pytest.param({"return_value": httpx.Response(200, text='{"meta":[{"name":"a"')}, id="cut body"),
    pytest.param({"return_value": httpx.Response(200, text="")}, id="empty body"),
    pytest.param(
        {"return_value": httpx.Response(200, text='{"meta":[],"data":[]\nCode: 241. DB::Exception')},
        id="exception inside a 200",
    ),
]


@pytest.mark.parametrize("answer", BROKEN)
def test_an_answer_that_settles_nothing(
    broken: tuple[Client, respx.Route], answer: dict[str, object]
) -> None:
    """Safeguard: none of these may pass for a refusal (it would dead-letter) nor for a result."""
    client, route = broken
    route.mock(**answer)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        client.ask("SELECT 1")


@pytest.mark.parametrize("status", [200, 404, 500])
def test_the_code_header_decides(broken: tuple[Client, respx.Route], status: int) -> None:
    """Whatever the status: ClickHouse may have sent its 200 before the exception."""
    client, route = broken
    route.respond(status, headers={"X-ClickHouse-Exception-Code": "241"}, text="Code: 241. memory")
    with pytest.raises(StoreRefused) as caught:
        client.ask("SELECT 1")
    assert caught.value.code == 241


def test_a_question_with_a_thousand_ids_fits(client: Client) -> None:
    """Safeguard: IDS_A_QUESTION keeps the request's address below what clients and servers take."""
    ids = ["f" * 32] * IDS_A_QUESTION
    assert client.ask("SELECT length({ids:Array(String)})", {"ids": ids}) == [[IDS_A_QUESTION]]
