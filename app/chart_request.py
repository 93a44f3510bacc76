"""What a client may ask of charts and of the tokens that embed them, as types; and how they are read. Pure.

A chart's request is a query with a `chart`; a token's has an end and its readers beside. A token keeps the
request, not its meaning at one moment: so "minus_7_days" ends when somebody looks.
Next reader: `app.iframe`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.chart import Chart, chosen_type, misfits
from app.errors import Problem, invalid_body
from app.query import Order, Query, to_query
from app.query_request import MAX_LIMIT, QueryRequest
from app.request import read_members
from app.rules import Rule
from app.timestamp import parse_timestamp

TABLE_ROWS = 100  # unless the query says otherwise
DEFAULT_EXPIRY_SECONDS, MAX_EXPIRY_SECONDS = 86_400, 366 * 86_400
MAX_ORIGINS = 20
MAX_KEPT_BYTES = 8192  # of a request in a token: Redis holds thousands of them
# What may stand in the policy's frame-ancestors, and so in a header: no spaces, no semicolons.
_ORIGIN = re.compile(r"https?://(\*\.)?([A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?")


def _check_some(origins: tuple[str, ...]) -> None:
    """An empty list would be read as nobody, and mean everybody. Errors: ValueError."""
    if not origins:
        raise ValueError("names no origin; leave it out if any page may embed the chart")


def _check_origin(origin: str) -> None:
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(
            "expected an origin such as https://example.com or https://*.example.com, without a path"
        )


class ChartRequest(QueryRequest, frozen=True, kw_only=True):
    """A query whose answer is drawn."""

    chart: Chart = Chart()
    limit: (
        Annotated[
            int,
            Meta(
                description=f"The largest number of rows. Without it {MAX_LIMIT:,}, for tables {TABLE_ROWS}.",
                ge=1,
                le=MAX_LIMIT,
            ),
        ]
        | UnsetType
    ) = UNSET  # type: ignore[assignment]


class TokenRequest(ChartRequest, frozen=True, kw_only=True):
    """A chart that whoever has the token may see, until it expires. A day, unless it is said otherwise."""

    expires_in: (
        Annotated[int, Meta(description="Seconds from now.", ge=1, le=MAX_EXPIRY_SECONDS)] | UnsetType
    ) = UNSET
    expires_at: (
        Annotated[
            str,
            Meta(description="A timestamp, as those of events.", max_length=100),
            Rule(parse_timestamp),
        ]
        | UnsetType
    ) = UNSET
    allowed_origins: Annotated[
        tuple[Annotated[str, Meta(max_length=200), Rule(_check_origin)], ...],
        Meta(
            description="Whose pages may embed it, such as https://example.com; any by default.",
            max_length=MAX_ORIGINS,
            extra_json_schema={"minItems": 1},
        ),
        Rule(_check_some),
    ] = ()

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        """There is one end."""
        if self.expires_in is not UNSET and self.expires_at is not UNSET:
            yield ".expires_at", "say the end by expires_in or by expires_at, not by both"


class ListTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tokens that this key made, a page at a time."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: (
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9]{1,15}-cht_[0-9a-f]{16}\Z",
                description="expected the `cursor` of the answer before",
            ),
        ]
        | None
    ) = None


class RevokeTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One token, by its id or by itself, or all that this key made."""

    token_id: Annotated[str, Meta(max_length=100)] = ""
    token: Annotated[str, Meta(max_length=200)] = ""
    all: bool = False

    def __repr__(self) -> str:
        return f"RevokeTokens({self.token_id})"  # never the token

    def broken_rules(self) -> Iterator[tuple[str, str]]:
        """Nobody revokes all by an empty id."""
        if bool(self.token_id) + bool(self.token) + self.all != 1:
            yield "", "name a token by token_id or by token, or mean all of them with all: true"


class ChartQuery(msgspec.Struct, frozen=True):
    """A checked query and how to draw it. `limit_is_ours`: did the client leave the number of rows to us?"""

    query: Query
    chart: Chart
    limit_is_ours: bool


class TokenWish(msgspec.Struct, frozen=True):
    """What a new token shall fix. `body`: the query with its chart, to be read again by each look."""

    asked: ChartQuery
    body: bytes
    expires_at_ms: int
    allowed_origins: tuple[str, ...]


def read_chart_query(body: bytes, now_ms: int) -> ChartQuery:
    """The query and chart in `body`. Errors: ApiError 400 that names every problem found."""
    asked, problems = read_members(body, ChartRequest)
    return _chart_query(asked, now_ms, problems)


def read_token_wish(body: bytes, now_ms: int) -> TokenWish:
    """What a new token shall fix. Errors: ApiError 400 that names every problem found."""
    asked, problems = read_members(body, TokenRequest)
    expires_at_ms = now_ms + DEFAULT_EXPIRY_SECONDS * 1000
    if asked.expires_in is not UNSET:
        expires_at_ms = now_ms + asked.expires_in * 1000
    if asked.expires_at is not UNSET:
        expires_at_ms = parse_timestamp(asked.expires_at)
        if not 0 < expires_at_ms - now_ms <= MAX_EXPIRY_SECONDS * 1000:
            problems.append(Problem("$.expires_at", "must be in the future, by 366 days at most"))
    query = _chart_query(asked, now_ms, problems)
    kept = _without_wishes(body)
    if len(kept) > MAX_KEPT_BYTES:
        message = f"a token keeps at most {MAX_KEPT_BYTES:,} bytes of query and chart; this has {len(kept):,}"
        raise invalid_body([Problem("$", message)])
    return TokenWish(query, kept, expires_at_ms, asked.allowed_origins)


def _chart_query(asked: ChartRequest, now_ms: int, problems: list[Problem]) -> ChartQuery:
    query = to_query(asked, now_ms, problems)  # raises where there are problems, those of the chart too
    if found := misfits(asked.chart, query):
        raise invalid_body(found)
    limit: int | UnsetType = asked.limit
    if limit is UNSET:
        limit = TABLE_ROWS if chosen_type(asked.chart, query) == "table" else MAX_LIMIT
    order_by = query.order_by
    if query.bucket is None and query.computations and not order_by:
        order_by = (Order(query.computations[0].output, descending=True),)
    query = msgspec.structs.replace(query, limit=limit, order_by=order_by)
    return ChartQuery(query, asked.chart, asked.limit is UNSET)


def _without_wishes(body: bytes) -> bytes:
    """The request of the chart alone, each member as it came."""
    members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    own = {field.encode_name for field in msgspec.structs.fields(ChartRequest)}
    return msgspec.json.encode({name: value for name, value in members.items() if name in own})
