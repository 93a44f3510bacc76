"""Builds the ASGI app from Settings: what there is, who gets what, which route leads where. Nothing else.

`create_app` is what servers are pointed at (`main` in deploy.toml); it imports no server.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from app import ledger_reader, redis_client
from app import store as store_client
from app.analyse import AnalyseHandlers
from app.append import Appender
from app.ask import Asker
from app.batch import Batch
from app.canary import Canary
from app.dead import DeadLetters
from app.edge_clocks import EdgeClocks
from app.embeds import Embeds
from app.erase import EraseHandlers
from app.erasures import Erasures
from app.errors import ApiError, Kind
from app.export import ExportHandler
from app.gate import Gate
from app.http import answer_bug, answer_error
from app.iframe import IframeHandlers
from app.in_flight import InFlight
from app.layout import Expected, Layout
from app.manage import ManageHandlers
from app.manage_dead import DeadHandlers
from app.manage_usage import UsageHandler
from app.partition import Freshness
from app.presence import EdgePresence
from app.pressure import Pressure
from app.probes import Probes, Watch
from app.producer import Producer
from app.read import ReadHandlers
from app.receipt import ReceiptHandler
from app.redis_client import UNREACHABLE
from app.registry import Registry
from app.replay import Replayer
from app.settings import Settings
from app.spool import Spool
from app.spool_slot import disk_id, take_free
from app.store import Store
from app.stream import Keys
from app.tail import TailHandler
from app.track import Track
from app.watermark import Watermark
from app.whereabouts import Stored, Stream

GARBAGE_OBJECTS = 10_000  # more than at the last look, before the next one
# Answers and charts are made in threads, which keep the interpreter for so long each time an event wants it:
# with Python's 5 ms half of all turns of the loop took 8 ms while a large chart was drawn, with this under 2.
# It costs nothing where no thread works, and no measurable part of a chart where one does.
SWITCH_SECONDS = 0.0005


class Draining:
    """Set by whoever stops the process, before it stops: readiness must fall first."""

    def __init__(self) -> None:
        self.is_set = False


def create_app(settings: Settings, draining: Draining | None = None) -> ASGIApp:
    """The whole edge as one ASGI app. Connects to nothing until its lifespan starts."""
    draining = draining or Draining()
    redis = redis_client.connect(settings)
    producer = settings.producer
    registry = Registry(redis, settings)
    freshness = Freshness(redis, producer.queue, producer.shards)
    pressure = Pressure(freshness, producer.max_backlog)
    spools = settings.spool_path / producer.queue
    spool = Spool(lambda: take_free(spools), settings.spool.max_bytes)

    dead_letter_queue = settings.consumer.dead_letter_queue
    expected = Expected(producer.queue, producer.shards, dead_letter_queue=dead_letter_queue)

    def connect(partition: int) -> Producer:
        return Producer(redis.connection_pool, Keys(producer.queue, partition), expected)

    replayer = Replayer(spool, spools, connect, pressure)
    letters = DeadLetters(redis, settings)
    stream = Stream(redis, producer.queue, producer.shards)

    def look_at_former(layout: Layout) -> None:
        for one in (freshness, letters, stream):
            one.watch(layout.most)

    presence = EdgePresence(
        redis,
        expected,
        place=f"{socket.gethostname()}:{spools}",
        spooled=replayer.waiting,
        disk=lambda: disk_id(spools),
        on_layout=look_at_former,
        on_foreign=lambda: signal.raise_signal(signal.SIGTERM),  # as any other wish to stop
    )
    appenders = [
        Appender(connect(partition), partition, spool=spool, pressure=pressure, settings=settings)
        for partition in range(producer.shards)
    ]
    store = store_client.connect(settings)
    erasures = Erasures(redis, store, producer.queue)
    watermark = Watermark(redis, settings, letters, InFlight(redis, store, erasures))
    track = Track(registry, appenders, watermark, settings)
    batch = Batch(registry, appenders, track.limits, settings)
    asker = Asker(registry, store, freshness, erasures, settings)
    export = ExportHandler(asker, EdgeClocks(redis, producer.queue), settings)
    tail = TailHandler(asker, settings, lambda: draining.is_set)

    def away() -> str:
        return pressure.refusal() or ("events wait in the spool" if spool.groups else "")

    interval = settings.observability.canary_interval
    canary = Canary(appenders, store, freshness, away, interval) if interval else None
    probes = Probes(freshness, replayer, lambda: draining.is_set, _watches(replayer, canary))

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await registry.start()
        await presence.start()  # raises when the queue has another number of partitions
        await replayer.open()  # before the first event: what a former life left goes first
        tasks = [
            asyncio.create_task(one)
            for one in (pressure.watch(), replayer.run(), *([canary.run()] if canary else []))
        ]
        _freeze()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            yield
        finally:
            await redis_client.stop_tasks(*tasks)
            for first in (tail, watermark):
                await first.close()
            await asyncio.gather(*(appender.close() for appender in appenders))
            for last in (presence, replayer, registry, store):
                await last.close()
            with contextlib.suppress(*UNREACHABLE):
                await redis.aclose()

    app = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/post", track, methods=["POST"]),
            Route("/batch", batch, methods=["POST"]),
            Route(
                "/v1/receipt/{unique_req_id}",
                ReceiptHandler(
                    *(registry, spool, stream, letters, Stored(store)),
                    hiding=erasures,
                    retention_days=settings.store.retention_days,
                ).receipt,
            ),
            Route("/v1/export", export, methods=["POST"]),
            Route("/v1/tail", tail, methods=["GET"]),
            *_query_routes(asker),
            *_chart_routes(IframeHandlers(asker, Embeds(redis))),
            *_erase_routes(EraseHandlers(registry, erasures, asker, settings)),
            *_manage_routes(registry, letters, store, settings),
            Route(
                "/v1/manage/usage",
                UsageHandler(registry, asker, ledger_reader.of(redis, settings), settings).usage,
                methods=["POST"],
            ),
            Route("/livez", probes.livez),
            Route("/readyz", probes.readyz),
            Route("/metrics", probes.metrics),
            Route("/version", probes.version),
            Route("/openapi.json", probes.openapi),
            Route("/example_event_body.json", probes.example_event_body),
            Route("/robots.txt", probes.robots),
        ],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            Exception: _bug,
        },
    )
    app.router.redirect_slashes = False  # a redirect would turn a POST's body away
    return Gate(app, settings, direct={"/post": track, "/batch": batch}, at_once={"/post": track.begin})


def _query_routes(asker: Asker) -> list[Route]:
    """What a QUERY key is for."""
    read, analyse = ReadHandlers(asker), AnalyseHandlers(asker)
    return [
        Route("/v1/query/json", read.query_json, methods=["POST"]),
        Route("/v1/query/funnel", analyse.funnel, methods=["POST"]),
        Route("/v1/query/retention", analyse.retention, methods=["POST"]),
        Route("/v1/query/timeline", analyse.timeline, methods=["POST"]),
        Route("/v1/query/fields", analyse.fields, methods=["POST"]),
    ]


def _chart_routes(charts: IframeHandlers) -> list[Route]:
    return [
        Route("/v1/query/iframe", charts.iframe, methods=["GET", "POST"]),
        Route("/v1/query/iframe/token", charts.create_token, methods=["POST"]),
        Route("/v1/query/iframe/token/list", charts.list_tokens, methods=["POST"]),
        Route("/v1/query/iframe/token/revoke", charts.revoke_tokens, methods=["POST"]),
    ]


def _erase_routes(erase: EraseHandlers) -> list[Route]:
    return [
        Route("/v1/delete/events", erase.delete_events, methods=["POST"]),
        Route("/v1/delete/status", erase.status, methods=["POST"]),
    ]


def _manage_routes(registry: Registry, letters: DeadLetters, store: Store, settings: Settings) -> list[Route]:
    """What the master keys are for."""
    manage, dead = ManageHandlers(registry, settings), DeadHandlers(registry, letters, store, settings)
    return [
        Route("/v1/manage/project/create", manage.create_project, methods=["POST"]),
        Route("/v1/manage/project/list", manage.list_projects, methods=["POST"]),
        Route("/v1/manage/project/reset_master_key", manage.reset_master_key, methods=["POST"]),
        Route("/v1/manage/project/delete", manage.delete_project, methods=["POST"]),
        Route("/v1/manage/project/erasure", manage.project_erasure, methods=["POST"]),
        Route("/v1/manage/apikey/create", manage.create_key, methods=["POST"]),
        Route("/v1/manage/apikey/list", manage.list_keys, methods=["POST"]),
        Route("/v1/manage/apikey/delete", manage.delete_key, methods=["POST"]),
        Route("/v1/manage/name/list", manage.list_names, methods=["POST"]),
        Route("/v1/manage/name/delete", manage.delete_names, methods=["POST"]),
        Route("/v1/manage/dead/list", dead.list_letters, methods=["POST"]),
        Route("/v1/manage/dead/show", dead.show, methods=["POST"]),
        Route("/v1/manage/dead/replay", dead.replay, methods=["POST"]),
        Route("/v1/manage/dead/purge", dead.purge, methods=["POST"]),
    ]


def _freeze() -> None:
    """What is here once all has started, stays: to look through it again and again for what can go held up
    requests for tens of milliseconds, whenever a large batch brought many new objects. Nor is it worth
    looking every 700 objects, which a batch brings and takes away again: that was a twentieth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


def _watches(replayer: Replayer, canary: Canary | None) -> dict[str, Watch]:
    """What `/readyz` names beside the drains, by its name there."""
    return {"spool": replayer} | ({"canary": canary} if canary is not None else {})


async def _api_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return await answer_error(error, request.scope, request.receive)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in our shape."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        methods = ", ".join(sorted({*allowed.split(", "), "OPTIONS"} - {""}))
        answer = ApiError(
            Kind.METHOD_NOT_ALLOWED, f"This path answers to {methods}.", headers=(("allow", methods),)
        )
    elif isinstance(error, HTTPException) and error.status_code == 404:
        answer = ApiError(Kind.NOT_FOUND, "There is nothing at this path; see /openapi.json.")
    else:
        answer = ApiError(Kind.INVALID_BODY, "The request cannot be read.")
    return await answer_error(answer, request.scope, request.receive)


async def _bug(request: Request, error: Exception) -> Response:
    return answer_bug(error, request.scope)
