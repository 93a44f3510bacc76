"""A turn that asks the tests' engine: `app.findings` as it is, without a service around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import msgspec

from app.ask import Turn
from app.scope import Scope
from app.store import Result, Value
from tests.query_engine import Engine


class EngineTurn:
    """Keeps the statements that it ran."""

    def __init__(self, engine: Engine, scope: Scope) -> None:
        self._engine = engine
        self.scope = scope
        self.statements: list[tuple[str, Mapping[str, Value]]] = []

    async def ask(self, sql: str, parameters: Mapping[str, Value], _settings: object = None) -> Result:
        self.statements.append((sql, parameters))
        return Result([], [], self._engine.run(sql, parameters))


def found(turn: EngineTurn, asked: Any, find: Callable[[Any, Turn], Awaitable[Any]]) -> dict[str, Any]:
    """The members of the answer, decoded."""

    async def run() -> Any:
        return await find(asked, cast("Turn", turn))

    decoded: dict[str, Any] = json.loads(msgspec.json.encode(asyncio.run(run())))
    return decoded
