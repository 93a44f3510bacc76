"""The error catalogue: one row for each public error, one exception that carries a row.

    ApiError                      answered to the client as the row says
    +-- (no subclasses: the row is the kind)

Every endpoint answers every failure in one shape (api.md section 2):

    {"error", "code", "detail", "errors": [{"path", "message"}], "request_id"}

A leaf: it knows neither HTTP servers nor Redis. `app.http` turns an ApiError into a response.
"""

from __future__ import annotations

import enum

import msgspec

MAX_PROBLEMS = 20  # problems listed in one answer; more would be an echo of the client's own body


class Problem(msgspec.Struct, frozen=True, gc=False):
    """One thing that is wrong: `path` is a JSON path such as `$.event_name`."""

    path: str
    message: str


class Row(msgspec.Struct, frozen=True, gc=False):
    """One public error: HTTP status, stable slug, and the text that clients compare."""

    status: int
    code: str
    error: str


class Kind(enum.Enum):
    """The closed list of public errors. Texts marked [E] in api.md are exact and may not change."""

    # 400
    INVALID_BODY = Row(400, "invalid_body", "Body JSON validation failed.")
    INVALID_REQUEST = Row(400, "invalid_request", "Invalid request")
    INVALID_IDEMPOTENCY_KEY = Row(400, "invalid_idempotency_key", "Invalid Idempotency-Key")
    INVALID_ACCOUNT = Row(400, "invalid_account_id", "Invalid account_id")
    INVALID_PROJECT = Row(400, "invalid_project_id", "Invalid project_id")
    TOO_MANY_PROJECTS = Row(400, "too_many_projects", "Maximum number of projects reached")
    QUERY_TOO_EXPENSIVE = Row(400, "query_too_expensive", "Query too expensive")
    # 401: one pair for each kind of key
    INVALID_WRITE_KEY = Row(401, "invalid_write_key", "Invalid x-eventbunker-write-key")
    INVALID_QUERY_KEY = Row(401, "invalid_query_key", "Invalid x-eventbunker-query-key")
    INVALID_DELETE_KEY = Row(401, "invalid_delete_key", "Invalid x-eventbunker-delete-key")
    INVALID_MASTER_KEY = Row(401, "invalid_apikey", "Invalid x-eventbunker-apikey")
    NOT_A_WRITE_KEY = Row(
        401,
        "not_a_write_key",
        "Please use a write key for write requests. Invalid x-eventbunker-write-key",
    )
    NOT_A_QUERY_KEY = Row(
        401,
        "not_a_query_key",
        "Please use a query key for query requests. Invalid x-eventbunker-query-key",
    )
    NOT_A_DELETE_KEY = Row(
        401,
        "not_a_delete_key",
        "Please use a delete key for delete requests. Invalid x-eventbunker-delete-key",
    )
    NOT_AN_ACCOUNT_KEY = Row(
        401,
        "not_an_account_key",
        "Please use an account master key for account requests. Invalid x-eventbunker-apikey",
    )
    NOT_A_PROJECT_KEY = Row(
        401,
        "not_a_project_key",
        "Please use a project master key for project requests. Invalid x-eventbunker-apikey",
    )
    INVALID_CHART_TOKEN = Row(401, "invalid_chart_token", "Invalid chart token")
    # 404 to 429
    NOT_FOUND = Row(404, "not_found", "Not found")
    METHOD_NOT_ALLOWED = Row(405, "method_not_allowed", "Method not allowed")
    NOT_ACCEPTABLE = Row(406, "not_acceptable", "Not acceptable")
    REQUEST_TIMEOUT = Row(408, "request_timeout", "Request timeout")
    CHART_TOKEN_EXPIRED = Row(410, "chart_token_expired", "Chart token expired")
    CHART_TOKEN_REVOKED = Row(410, "chart_token_revoked", "Chart token revoked")
    BODY_TOO_LARGE = Row(413, "body_too_large", "Body too large")
    UNSUPPORTED_ENCODING = Row(415, "unsupported_content_encoding", "Unsupported content encoding")
    DEAD_LETTER = Row(422, "dead_letter", "Event set aside")
    RATE_LIMITED = Row(429, "rate_limit_exceeded", "Rate limit exceeded")
    HEAD_TOO_LARGE = Row(431, "request_header_fields_too_large", "Request header fields too large")
    # 5xx
    INTERNAL = Row(500, "internal_error", "Error...")
    NOT_INSTALLED = Row(501, "not_installed", "Not installed")
    UNAVAILABLE = Row(503, "service_unavailable", "Service unavailable")


class ApiError(Exception):
    """A failure that the client is told of.

    `detail` is one plain English sentence that says what to change. `retry_after_seconds` becomes an
    integer `Retry-After`. Neither may carry a secret or another customer's data.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        problems: tuple[Problem, ...] = (),
        *,
        retry_after_seconds: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.row = kind.value
        self.kind = kind
        self.detail = detail
        self.problems = problems[:MAX_PROBLEMS]
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers


def invalid_body(problems: list[Problem]) -> ApiError:
    """The 400 for a body that breaks rules; `detail` is the first problem, in the path's own words."""
    first = problems[0]
    path = first.path.removeprefix("$.")
    return ApiError(Kind.INVALID_BODY, f"{path}: {first.message}", tuple(problems))


class ErrorBody(msgspec.Struct, frozen=True):
    """The wire shape of every error."""

    error: str
    code: str
    detail: str
    errors: tuple[Problem, ...]
    request_id: str


_ENCODER = msgspec.json.Encoder()


def encode_error(error: ApiError, request_id: str) -> bytes:
    """The JSON body of `error`, as bytes."""
    return _ENCODER.encode(
        ErrorBody(error.row.error, error.row.code, error.detail, error.problems, request_id)
    )
