"""The management API of dead letters: a project lists, shows, replays and purges its own.

Unreadable entries belong to no project: they are the operator's alone (`eventbunker dead`).
"""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from app.dead import CURSOR, EVENT_ADDRESS, DeadLetters, Page
from app.dead_letter import Found, Wanted
from app.errors import ApiError, Kind, Problem
from app.http import json_response
from app.master_request import MasterRequests, ProjectRequest, answered
from app.registry import Registry
from app.settings import Settings
from app.store import Store, StoreError
from app.timestamp import parse_timestamp

RETRY_AFTER_SECONDS = 5

UniqueReqId = Annotated[
    str, Meta(pattern=rf"^{EVENT_ADDRESS.pattern}\Z", description="expected 32 digits of 0-9 and a-f")
]
Cursor = Annotated[
    str, Meta(pattern=rf"^({CURSOR.pattern})\Z", description="expected the `cursor` of the answer before")
]


class ShowDead(ProjectRequest, frozen=True):
    unique_req_id: UniqueReqId


class ListDead(ProjectRequest, frozen=True):
    reason: Annotated[str, Meta(max_length=200)] = ""
    since: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: Cursor | None = None


class MoveDead(ListDead, frozen=True):
    """Of replay and purge: letters by name, or all that the filters admit, a page at a time."""

    unique_req_ids: Annotated[tuple[UniqueReqId, ...], Meta(max_length=1000)] = ()
    all: bool = False


class DeadHandlers:
    """One method for each call. Errors: ApiError."""

    def __init__(self, registry: Registry, letters: DeadLetters, store: Store, settings: Settings) -> None:
        self._requests = MasterRequests(registry, settings, _broken_rules)
        self._letters = letters
        self._store = store

    async def list_letters(self, request: Request) -> Response:
        asked = await self._requests.of_project(request, ListDead)
        page = await self._page(asked)
        described = [found.describe() for found in page.found]
        return json_response({"dead_letters": described, "cursor": page.cursor or None})

    async def show(self, request: Request) -> Response:
        asked = await self._requests.of_project(request, ShowDead)
        found = await self._own(asked.project_id, asked.unique_req_id)
        if found is None or found.letter.record is None:
            raise ApiError(
                Kind.NOT_FOUND, f"The project has no dead letter {asked.unique_req_id}; list shows them."
            )
        record = found.letter.record
        context = {"user_agent": record.user_agent, "referer": record.referer}
        return json_response(msgspec.to_builtins(found.describe()) | context | _body(record.body))

    async def replay(self, request: Request) -> Response:
        asked = await self._requests.of_project(request, MoveDead)
        if reason := await answered(self._letters.refusal()):
            raise ApiError(
                Kind.UNAVAILABLE,
                f"{reason}; nothing was put back. Try again later.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        found, not_found, cursor = await self._chosen(asked)
        replayed = await answered(self._letters.replay(found))
        refused = [{"unique_req_id": name, "detail": why} for name, why in replayed.refused]
        answer = {"project_id": asked.project_id, "replayed": replayed.done, "refused": refused}
        return json_response(answer | {"not_found": not_found, "cursor": cursor})

    async def purge(self, request: Request) -> Response:
        asked = await self._requests.of_project(request, MoveDead)
        found, not_found, cursor = await self._chosen(asked)
        try:
            purged = await answered(self._letters.purge(found, self._store))
        except StoreError:
            raise ApiError(
                Kind.UNAVAILABLE,
                "The event store does not answer; not all letters were purged. Try again.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from None
        answer = {"project_id": asked.project_id, "purged": purged}
        return json_response(answer | {"not_found": not_found, "cursor": cursor})

    async def _chosen(self, asked: MoveDead) -> tuple[list[Found], list[str], str | None]:
        """The letters that a request means, names without a letter, and where the next page begins."""
        if asked.all:
            page = await self._page(asked)
            return page.found, [], page.cursor or None
        found: dict[str, Found] = {}
        not_found = []
        for name in dict.fromkeys(asked.unique_req_ids):
            one = await self._own(asked.project_id, name)
            if one is None:
                not_found.append(name)
            else:
                found[name] = one
        return [*found.values()], not_found, None

    async def _page(self, asked: ListDead) -> Page:
        since = parse_timestamp(asked.since) if asked.since is not None else 0
        wanted = Wanted(asked.project_id, asked.reason, since)
        return await answered(self._letters.page(wanted, asked.cursor or "", asked.limit))

    async def _own(self, project_id: str, unique_req_id: str) -> Found | None:
        """The project's letter of that name; another project's is not told from none."""
        found = await answered(self._letters.find(unique_req_id))
        return found if found is not None and Wanted(project_id).admits(found.letter) else None


def _body(body: bytes) -> dict[str, str]:
    """The client's bytes, exactly: as text where they are UTF-8, else as base64."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": b64encode(body).decode()}


def _broken_rules(body: object, kind: type[msgspec.Struct]) -> list[Problem]:
    """What no type can say, of a body that may break the types' rules too."""
    if not isinstance(body, dict):
        return []
    problems = []
    if isinstance(since := body.get("since"), str):
        try:
            parse_timestamp(since)
        except ValueError as error:
            problems.append(Problem("$.since", str(error)))
    if kind is not MoveDead:
        return problems
    names = body.get("unique_req_ids")
    # An empty list beside all: true may be a filter that found nothing: it must not mean everything.
    if names == [] or ("unique_req_ids" in body) == (body.get("all") is True):
        problems.append(Problem("$", "name letters in unique_req_ids, or mean all of them with all: true"))
    elif names:
        problems += [
            Problem(f"$.{name}", "narrows all: true; letters that are named need no filter")
            for name in ("reason", "since", "cursor")
            if body.get(name)
        ]
    return problems
