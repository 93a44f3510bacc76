"""Hostile HTTP/1.1 over real sockets: each attack is answered as documented, and leaves the edge as it was."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Iterator

import pytest

from tests.client import Client, unique
from tests.engines import Target
from tests.hostile import (
    BODY,
    CHUNKED,
    CLOSE,
    GET,
    Answer,
    assert_documented,
    chunked,
    exchange,
    post,
    unharmed,
)
from tests.packers import PACKERS, bomb
from tests.waiting import until

pytestmark = pytest.mark.service


@pytest.fixture(scope="module", autouse=True)
def _unharmed(target: Target) -> Iterator[None]:
    with unharmed(target):
        yield


@pytest.fixture(scope="module")
def project(target_client: Client) -> Client:
    return target_client.new_project()


# What the server's parser refuses: 400, in our shape.
NOT_HTTP = {
    **{
        f"length {value.decode()[:12]}": (b"content-length: %s\r\n" % value, BODY)
        for value in (b"-1", b"abc", b"+18", b"1e2", b"0x12", b"18, 19", b"9" * 30, b"9" * 5000, b"1 8", b"")
    },
    "two lengths": (b"content-length: 18\r\ncontent-length: 19\r\n", BODY),
    "length and chunked": (b"content-length: 18\r\n" + CHUNKED, b"12\r\n" + BODY + b"\r\n0\r\n\r\n"),
    **{
        f"encoding {value.decode()}": (b"transfer-encoding: %s\r\n" % value, BODY)
        for value in (b"gzip", b"gzip, chunked", b"xchunked", b"chunked, chunked", b"\x0bchunked", b"identity")
    },
    "two encodings": (CHUNKED + CHUNKED, b"0\r\n\r\n"),
    "space in a name": (b"a b: 1\r\n", b""),
    "space before the colon": (b"content-length : 18\r\n", BODY),
    "no colon": (b"nonsense\r\n", b""),
    "NUL in a value": (b"a: \x00\r\n", b""),
    "a second host": (b"host: y\r\n", b""),
    "chunk size no number": (CHUNKED, b"zz\r\n"),
    "chunk size negative": (CHUNKED, b"-1\r\n"),
    "chunk without its end": (CHUNKED, b"12\r\n" + BODY + b"0\r\n\r\n"),
    "chunk size too long": (CHUNKED, b"0" * 40 + b"1\r\n"),
    "endless chunk extension": (CHUNKED, b"1;" + b"a" * 100_000),
    "endless trailers": (CHUNKED, b"0\r\n" + b"a: b\r\n" * 20_000),
}  # fmt: skip
NO_REQUESTS = {
    "garbage": b"\x00\x01\x02\x03\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http/0.9": b"GET /livez\r\n\r\n",
    "http/2.0": b"GET /livez HTTP/2.0\r\nhost: a\r\n\r\n",
    "http/9.9": b"GET /livez HTTP/9.9\r\nhost: a\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "bytes in the target": b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
    "spaces in the target": b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    "too many headers": GET + b"a: b\r\n" * 101 + b"\r\n",
    "a flood of headers": GET + b"a: b\r\n" * 100_000,
    "too large a header": GET + b"a: " + b"b" * 33_000 + b"\r\n\r\n",
    "an endless header": GET + b"a: " + b"b" * 10_000_000,
    "an endless target": b"GET /" + b"a" * 10_000_000,
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_the_parser_refuses_is_a_documented_400(project: Client, engine: str, name: str) -> None:
    if (engine, name) == ("uvicorn", "chunk size too long"):
        pytest.skip(
            "zeros before a chunk's size are harmless: httptools takes them, up to the bound of a head"
        )
    headers, body = NOT_HTTP[name]
    [answer] = exchange(project.keys["url"], post(project.keys["write_key"], headers, body, b""))
    assert_refused(answer)


@pytest.mark.parametrize("name", NO_REQUESTS)
def test_what_is_no_request_is_a_documented_400_or_431(target: Target, name: str) -> None:
    [answer] = exchange(target.url, NO_REQUESTS[name])
    assert_refused(answer)
    assert (answer.status == 431) == (name.split(maxsplit=1)[0] in ("too", "a", "an")), answer


def assert_refused(answer: Answer) -> None:
    assert_documented(answer)
    assert answer.status in (400, 431)
    assert answer.json()["code"] in ("invalid_request", "request_header_fields_too_large")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"OPTIONS * HTTP/1.1", 204),
        (b"CONNECT a:80 HTTP/1.1", 404),
        (b"TRACE / HTTP/1.1", 404),
        (b"FOO /post HTTP/1.1", 405),
        (b"GET http://evil.example/livez HTTP/1.1", 404),
        (b"GET //livez HTTP/1.1", 404),
        (b"GET /%ff%00%2e%2e/%2e%2e/etc/passwd HTTP/1.1", 404),
        (b"GET /livez/../metrics HTTP/1.1", 404),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1", 404),
        (b"GET /livez HTTP/1.0", 200),
        (b"GET /livez?" + b"&" * 20_000 + b" HTTP/1.1", 200),
    ],
)
def test_odd_targets_and_methods(target: Target, engine: str, head: bytes, status: int) -> None:
    if engine == "uvicorn" and head.startswith(b"FOO"):
        status = 400  # httptools knows a list of methods
    [answer] = exchange(target.url, head + b"\r\nhost: x\r\n" + CLOSE + b"\r\n")
    assert_documented(answer)
    assert answer.status == status


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c", b"h2c, websocket", b"TLS/1.0"])
def test_no_upgrade_is_taken(target: Target, upgrade: bytes) -> None:
    head = GET + b"upgrade: %s\r\nconnection: upgrade, close\r\nhttp2-settings: !!!\r\n" % upgrade
    [answer] = exchange(
        target.url, head + b"sec-websocket-key: dGhlIHNhbXBsZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert (answer.status, answer.body) == (200, b"ok\n")


def test_odd_but_right_bodies_are_kept(project: Client, engine: str) -> None:
    key, name = project.keys["write_key"], unique("odd")
    body = b'{"event_name":"%s"}' % name.encode()
    single = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    size = b"%x" % len(body)
    requests = [
        chunked(key, single + b"0\r\n\r\n"),
        chunked(key, size + b';a="b"\r\n' + body + b"\r\n000\r\nx-trailer: y\r\n\r\n"),
        chunked(key, size.upper() + b"\r\n" + body + b"\r\n0\r\n\r\n", b"expect: 100-continue\r\n" + CLOSE),
        post(key, b"x: \xff\xfe\r\nreferer: \xc3\x28\r\nuser-agent: \x80\r\n" + CLOSE, body),
        post(key, b"expect: 200-maybe\r\n" + CLOSE, body),
    ]
    # What RFC 9112 lets a server take or refuse: h11 takes it, httptools does not.
    either = [
        post(key, b"content-length: %d\r\n" % len(body) + CLOSE, body),  # the same length twice
        post(key, b"x: 1\r\n 2\r\n" + CLOSE, body),
    ]
    if engine == "hypercorn":
        requests += either
    for request in requests:
        [answer] = exchange(project.keys["url"], request)
        assert answer.status == 200, (request, answer)
    if engine == "uvicorn":
        for request in either:
            [answer] = exchange(project.keys["url"], request)
            assert_refused(answer)
    [answer] = exchange(project.keys["url"], post(key, b"", body), half_close=True)
    assert answer.status == 200
    until(lambda: project.count(name) == len(requests) + 1, 10, "the accepted ones in a query")


def test_pipelined_requests_and_garbage_behind_them(project: Client) -> None:
    key = project.keys["write_key"]
    answers = exchange(project.keys["url"], post(key, b"") * 5 + b"\x00\xff garbage\r\n\r\n")
    assert [answer.status for answer in answers] == [200] * 5 + [400]
    smuggled = chunked(key, b"0\r\n\r\n", b"") + post("nonsense", b"") + GET + CLOSE + b"\r\n"
    assert [answer.status for answer in exchange(project.keys["url"], smuggled)] == [400, 401, 200]


@pytest.mark.parametrize(
    "part", [b"GET /li", GET, b"POST /post HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n12"]
)
def test_a_request_that_ends_too_soon(target: Target, part: bytes) -> None:
    answers = exchange(target.url, part, half_close=True)
    for answer in answers:
        assert_documented(answer)
        assert answer.status in (400, 401)


@pytest.mark.parametrize(
    "path", [b"/post", b"/v1/query/json", b"/v1/manage/project/list", b"/nowhere", b"/livez"]
)
def test_an_answer_does_not_wait_for_a_body_in_many_pieces(target: Target, path: bytes) -> None:
    """More pieces than the server queues, in one packet, for a handler that reads none of them."""
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nx-eventbunker-write-key: %s\r\n" % (
        path,
        uuid.uuid4().hex.encode(),
    )
    head += b"x-eventbunker-query-key: x\r\nx-eventbunker-apikey: x\r\nexpect: 100-continue\r\n"
    for _ in range(3):
        [answer] = exchange(target.url, head + CHUNKED + b"\r\n" + b"1\r\n \r\n" * 100)
        assert_documented(answer)
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("size", [70_000, 10_000_000])
def test_too_large_a_body_reads_its_refusal(project: Client, size: int) -> None:
    """The answer is no reset, whatever was still under way."""
    body = b'{"event_name":"e","f":"' + b"x" * size + b'"}'
    pieces = b"".join(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(size // 0x4000 + 1))
    for request in (
        post(project.keys["write_key"], b"", body),
        chunked(project.keys["write_key"], pieces, b""),
    ):
        [answer] = exchange(project.keys["url"], request)
        assert_documented(answer)
        assert answer.status == 413
    [answer] = exchange(project.keys["url"], post("eb_w_nonsense", CLOSE, body))
    assert answer.status == 401


@pytest.mark.parametrize("path", ["/v1/query/json", "/v1/manage/project/list"])
def test_only_events_are_inflated(target_client: Client, path: str) -> None:
    keys = {
        "x-eventbunker-query-key": target_client.keys["query_key"],
        "x-eventbunker-apikey": target_client.keys["account_master_key"],
    }
    for encoding in ("gzip", "deflate", "zstd", "br", "gzip, gzip"):
        response = target_client.http.post(
            path, content=gzip.compress(BODY), headers={**keys, "content-encoding": encoding}
        )
        assert_documented(response)
        assert response.status_code == 415, encoding


@pytest.mark.parametrize("path", ["/post", "/batch"])
def test_a_bomb_goes_off_at_the_limit(target_client: Client, path: str) -> None:
    """Safeguard: inflating is bounded while it happens; `unharmed` weighs the edge afterwards."""
    for name, (encoding, _) in PACKERS.items():
        content = bomb(name)
        if path == "/post":
            content = content[:60_000]
        headers = {"x-eventbunker-write-key": target_client.keys["write_key"], "content-encoding": encoding}
        for _ in range(3):
            response = target_client.http.post(path, content=content, headers=headers)
            assert_documented(response)
            assert response.status_code == 413, name
            assert "inflated" in response.json()["detail"]


@pytest.mark.parametrize("encoding", ["\xff", "gzip, deflate", ",", "gzip;q=1", "x" * 2000])
def test_what_is_no_coding(target_client: Client, encoding: str) -> None:
    for path in ("/post", "/batch"):
        headers = {"x-eventbunker-write-key": target_client.keys["write_key"], "content-encoding": encoding}
        packed = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        response = target_client.http.post(path, content=BODY, headers=packed)
        assert_documented(response)
        assert response.status_code == (200 if encoding == "," else 415)
