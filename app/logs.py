"""What a log line looks like: one calm line for a terminal, one JSON object for everything else.

Every process calls `configure_logging` once, before anything else of ours runs; modules then take
`structlog.get_logger()`. The standard library's loggers (asyncio, Hypercorn, warnings) end in the same
lines. Secrets are kept out by whoever logs, not here.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# They narrate their start and every connection; what is wrong they say at warning and above.
_TALKATIVE = ("asyncio", "httpcore", "httpx", "hypercorn.error", "quic", "uvicorn.error")


def configure_logging(process: str, *, stream: TextIO | None = None) -> None:
    """Route all logs of this process to `stream` (default: stderr), each line naming `process`.

    `LOG_LEVEL` in the environment (debug, info, warning, error) sets what is shown; default info.
    """
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping().get(os.environ.get("LOG_LEVEL", "info").upper(), logging.INFO)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _named(process),
    ]
    renderers = _pretty(process) if stream.isatty() else _json()
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _named(process: str) -> Processor:
    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return add_process


def _pretty(process: str) -> list[Processor]:
    def put_process_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.pop("process", None)
        event["event"] = f"{process}: {event.get('event', '')}"
        return event

    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        put_process_first,
        structlog.dev.ConsoleRenderer(
            pad_event_to=0, pad_level=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _json() -> list[Processor]:
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        _encode,
    ]


def _encode(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    first = {name: event.pop(name, None) for name in ("time", "level", "process", "message")}
    # A value that JSON does not know must never cost the line that carries it.
    return msgspec.json.encode({**first, **event}, enc_hook=repr).decode()
