"""/v1/query/iframe: a query's answer as a page with a chart, for whoever has a key or a token.

Knows HTTP and the order of the steps: what is asked is read by `app.chart_request`, the page made by
`app.chart_page`, tokens kept by `app.embeds`. With a key, errors are JSON as everywhere; where a browser
shows a token's page, a person reads them, so they are a page too.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from app.answer import data
from app.aside import aside
from app.ask import GROUPED, Asker
from app.chart import chosen_type
from app.chart_page import POLICY, Shown, chart_page, message_page
from app.chart_request import ChartQuery, ListTokens, RevokeTokens, read_chart_query, read_token_wish
from app.embeds import Embed, Embeds
from app.errors import ApiError, Kind, Problem, invalid_body
from app.grant import Grant
from app.http import answer_error, json_response, query_values, while_connected
from app.query import Query
from app.request import read_request
from app.sql import Statement, to_statement
from app.store import Result
from app.timestamp import format_timestamp
from app.unsent import Answer

DRAWING_SECONDS = 40.0  # its turn, and many times what the largest chart takes on a slow machine
_HEADERS = {
    "cache-control": "no-store",  # a cached page would outlive its token
    "content-type": "text/html; charset=utf-8",
    "referrer-policy": "no-referrer",  # the address holds the token
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex",
}
_FOR_READERS = {400: "This chart cannot be drawn", 503: "This chart is away for a moment"}  # who sent no body
_ROWS = msgspec.json.Decoder(list[dict[str, object]])


class IframeHandlers:
    """One method for each call. Errors: ApiError."""

    def __init__(self, asker: Asker, embeds: Embeds) -> None:
        self._asker = asker
        self._embeds = embeds

    async def iframe(self, request: Request) -> Response:
        """The page: for a key (POST) or a token (GET)."""
        return await (self._with_key(request) if request.method == "POST" else self._with_token(request))

    async def create_token(self, request: Request) -> Response:
        """A token that fixes query, chart and scope. Its maker's key decides what it sees, for ever."""
        grant = await self._asker.grant(request)
        wish = read_token_wish(await self._asker.body(request), _now_ms())
        # Nobody gives away more time than he has.
        expires_at_ms = min(wish.expires_at_ms, grant.expires_at_ms or wish.expires_at_ms)
        text, embed = await self._embeds.create(
            grant,
            wish.body.decode(),
            title=wish.asked.chart.title,
            kind=chosen_type(wish.asked.chart, wish.asked.query),
            expires_at_ms=expires_at_ms,
            allowed_origins=wish.allowed_origins,
        )
        secret = {"token": text, "path": f"/v1/query/iframe?token={text}"}
        return json_response(_described(embed) | secret)

    async def list_tokens(self, request: Request) -> Response:
        """The live tokens that this key made."""
        grant = await self._asker.grant(request)
        asked = read_request(await self._asker.body(request), ListTokens)
        embeds, cursor = await self._embeds.list(grant, asked.cursor or "", asked.limit)
        return json_response({"tokens": [_described(embed) for embed in embeds], "cursor": cursor})

    async def revoke_tokens(self, request: Request) -> Response:
        """Revoke tokens that this key made: from the answer on, no edge shows them."""
        grant = await self._asker.grant(request)
        asked = read_request(await self._asker.body(request), RevokeTokens)
        revoked = await self._embeds.revoke(grant, token_id=asked.token_id, token=asked.token)
        return json_response({"revoked": revoked})

    async def _with_key(self, request: Request) -> Response:
        grant = await self._asker.grant(request)
        asked = read_chart_query(await self._asker.body(request), _now_ms())
        page = await while_connected(request.receive, self._page(asked, grant))
        return Answer(grant.project_id, page, _HEADERS | {"content-security-policy": POLICY})

    async def _with_token(self, request: Request) -> Response:
        try:
            return await self._embedded(request)
        except ApiError as error:
            if "text/html" not in request.headers.get("accept", ""):
                raise
            # An outage passes; a page that waits for its end shows the chart again by itself.
            again = None if error.retry_after_seconds is None else max(10, error.retry_after_seconds)
            title = _FOR_READERS.get(error.row.status, error.row.error)
            page = message_page(title, error.detail, again)
            answer = await answer_error(error, request.scope, request.receive)
            headers = {
                name: value for name, value in answer.headers.items() if not name.startswith("content-")
            }
            return Response(page, error.row.status, headers | _HEADERS | {"content-security-policy": POLICY})

    async def _embedded(self, request: Request) -> Response:
        tokens = query_values(request.scope, "token")
        if len(tokens) != 1 or not tokens[0]:
            raise ApiError(Kind.INVALID_CHART_TOKEN, "The address of this chart has no token: ?token=….")
        embed = await self._embeds.find(tokens[0])
        self._asker.count(embed.grant)
        await self._asker.body(request)  # there is none; `while_connected` wants it read
        asked = read_chart_query(embed.body.encode(), _now_ms())
        refresh = None if asked.chart.refresh_seconds is UNSET else asked.chart.refresh_seconds
        page = await while_connected(request.receive, self._page(asked, embed.grant, refresh))
        policy = POLICY
        if embed.allowed_origins:
            policy += "; frame-ancestors " + " ".join(embed.allowed_origins)
        return Answer(embed.grant.project_id, page, _HEADERS | {"content-security-policy": policy})

    async def _page(self, asked: ChartQuery, grant: Grant, refresh_seconds: int | None = None) -> str:
        query = asked.query
        async with self._asker.turn(grant) as turn:
            statement = to_statement(query, turn.scope)
            result = await turn.ask(statement.sql, statement.parameters, {} if query.is_raw else GROUPED)
            if (
                asked.limit_is_ours
                and query.bucket is not None
                and chosen_type(asked.chart, query) != "table"
            ):
                _refuse_cut(query, len(result.rows))
            draw = partial(_draw, asked, statement, result, turn.fresh_as_of, refresh_seconds)
            try:
                async with asyncio.timeout(DRAWING_SECONDS):
                    return await aside(grant.project_id, draw)  # within the turn: as in app.read
            except TimeoutError:
                detail = "This chart takes too long to draw; group by fewer fields, or choose longer buckets."
                raise ApiError(Kind.UNAVAILABLE, detail, retry_after_seconds=10) from None


def _draw(
    asked: ChartQuery, statement: Statement, result: Result, fresh_as_of: int, refresh_seconds: int | None
) -> str:
    rows = _ROWS.decode(msgspec.json.encode(data(asked.query, statement, result.rows)))
    is_cut = asked.limit_is_ours and len(rows) >= asked.query.limit
    return chart_page(Shown(asked.chart, asked.query, rows, _now_ms(), fresh_as_of, is_cut), refresh_seconds)


def _refuse_cut(query: Query, rows: int) -> None:
    """A curve that ends where the limit of rows ended it would be a lie."""
    if rows >= query.limit:
        message = (
            f"gives more than {query.limit:,} rows in all; group by fewer fields, or choose longer buckets"
        )
        raise invalid_body([Problem("$.group_by", message)])


def _described(embed: Embed) -> dict[str, object]:
    """What is told of a token: everything but itself."""
    return {
        "token_id": embed.token_id,
        "title": embed.title,
        "type": embed.type,
        "created_at": embed.created_at_ms,
        "expires_at": format_timestamp(embed.expires_at_ms),
        "allowed_origins": embed.allowed_origins,
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
