"""The ASGI app that `main` in deploy.toml names: found, built, and started or not. Knows no server."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from typing import cast

from starlette.types import ASGIApp

from app.certificate import find_problem
from app.main import Draining
from app.settings import Settings


class EdgeError(Exception):
    """The edge cannot be built from its settings; the message names the setting."""


class AppDidNotStart(Exception):
    """The app's lifespan failed; `told` is what it said, a traceback or a sentence."""

    def __init__(self, told: str) -> None:
        *self.trace, last = told.rstrip("'\n").splitlines() or [""]
        self.is_known = "LayoutError" in last  # its sentence says all
        super().__init__(last.partition(": ")[2] or last)


NEEDED = {"hypercorn": ("hypercorn",), "uvicorn": ("uvicorn", "httptools")}


def check_engine(settings: Settings) -> None:
    """Is what `[server]` asks for installed, and can it be served with? Errors: EdgeError."""
    engine = settings.server.engine
    wanted: list[tuple[str, str, tuple[str, ...]]] = [(f'server.engine = "{engine}"', engine, NEEDED[engine])]
    if settings.server.quic_port:
        wanted.append(("server.quic_port", "http3", ("aioquic",)))
    for key, extra, names in wanted:
        missing = [name for name in names if importlib.util.find_spec(name) is None]
        if missing:
            raise EdgeError(
                f"{key} needs {' and '.join(missing)}: "
                f"python -m pip install 'eventbunker[{extra}]', or '.[{extra}]' in the repository"
            )
    if problem := find_problem(settings.server):
        raise EdgeError(f"{problem.path}: {problem.message}")


def find_main(settings: Settings) -> tuple[Callable[..., object], set[str]]:
    """What `main` names, and the names of its parameters. Errors: EdgeError."""
    module, _, name = settings.main.partition(":")
    try:
        target = getattr(importlib.import_module(module), name)
        parameters = set(inspect.signature(target).parameters)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise EdgeError(f'main = "{settings.main}" cannot be imported: {error}') from error
    if not {"scope", "receive", "send"} <= parameters and "settings" not in parameters:
        raise EdgeError(f'main = "{settings.main}" is neither an ASGI app nor a factory that takes settings')
    return target, parameters


def load_app(settings: Settings, draining: Draining) -> ASGIApp:
    """The app that `main = "module:name"` names: an ASGI app, or a factory that takes the settings.

    Errors: EdgeError.
    """
    target, parameters = find_main(settings)
    if {"scope", "receive", "send"} <= parameters:
        return cast(ASGIApp, target)
    given = {"draining": draining} if "draining" in parameters else {}
    return cast(ASGIApp, target(settings, **given))
