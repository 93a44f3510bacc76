"""What one client may cost an edge process, whichever server speaks to it, and how it is told so.

Hypercorn (`workers.edge_protocols`, `workers.edge_connections`) and uvicorn (`workers.edge_uvicorn_protocol`)
hold these bounds in their own ways.
"""

from __future__ import annotations

import contextlib
import resource

from app.errors import ApiError, Kind
from app.settings import Settings

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
SEND_SECONDS = 30.0  # for a client to take what we send; then it is gone
LINGER_SECONDS = 2.0  # a connection that we close first is read on for so long, or the answer is lost
REQUESTS_PER_CONNECTION = 10_000  # then it is closed, and a load balancer can spread anew
RESERVED_FILES = 256  # descriptors for everything that is no client


def max_connections(settings: Settings) -> int:
    """How many clients this process can have at once."""
    return min(settings.server.max_connections, _files() - RESERVED_FILES)


def _files() -> int:
    """How many descriptors this process may have, after asking for as many as it can get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft


def head_too_late(seconds: float) -> ApiError:
    """The head of a request did not arrive in time."""
    return ApiError(
        Kind.REQUEST_TIMEOUT, f"The head of the request did not arrive within {seconds:g} seconds."
    )


def head_too_large() -> ApiError:
    """The head of a request is longer than may be."""
    return ApiError(
        Kind.HEAD_TOO_LARGE,
        f"The head of a request may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers.",
    )


def no_request() -> ApiError:
    """What came is no request that could be answered otherwise."""
    return ApiError(
        Kind.INVALID_REQUEST,
        "This is not HTTP/1.1: check the request line, Host, either Content-Length or "
        "Transfer-Encoding (only chunked), and each line of the head.",
    )
