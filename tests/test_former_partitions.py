"""An edge of fewer partitions than there once were: what lies in the former ones is still worked with."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import msgspec
from starlette.applications import Starlette

from app import dead_letter, redis_client
from app.accounts import Accounts
from app.dead_letter import DeadLetter
from app.gate import Gate
from app.main import create_app
from app.stream import Keys, QueueKeys
from tests.pipeline_kit import make_settings, record
from tests.store_fixture import StoreServer
from tests.waiting import async_until


def test_an_edge_looks_at_former_partitions(
    tmp_path: Path, redis_url: str, store_server: StoreServer
) -> None:
    """Safeguard: the edge is told the largest number there ever was, and hands it on to whoever looks."""

    async def run() -> None:
        settings = make_settings(tmp_path, redis_url, store_server)
        redis = redis_client.connect(settings)
        accounts = Accounts(redis)
        account = await accounts.create_account("test")
        made = await accounts.create_project(account.account_id, "test")
        queue = settings.producer.queue
        await redis.hset(QueueKeys(queue).layout, mapping={"shards": 1, "most": 6})
        one = msgspec.structs.replace(record(), project_id=made.project_id)
        former = Keys(queue, 5, settings.consumer.dead_letter_queue)
        await redis.xadd(former.dead, {"d": dead_letter.encode(DeadLetter("x", 0, "1-0", one))}, id="1-0")
        app = create_app(settings)
        assert isinstance(app, Gate)
        assert isinstance(app._inner, Starlette)
        async with (
            app._inner.router.lifespan_context(app._inner),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edge") as http,
        ):

            async def listed() -> list[object]:
                answer = await http.post(
                    "/v1/manage/dead/list",
                    json={"project_id": made.project_id},
                    headers={"x-eventbunker-apikey": made.master_api_key},
                )
                return [letter["place"] for letter in answer.json()["dead_letters"]]

            assert await async_until(listed, 5, "the letter") == ["5/1-0"]
        await redis.aclose()

    asyncio.run(run())
