"""Reads deploy.toml and merges the chosen environment, in wrangler's manner.

Behaviour inherits from the top level (`server`, `limits`, `cors`, …), whole keys at a time. What points at
data does not (`queues`, `stores`, `vars`, `secrets`): so staging cannot write into production by omission.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from app.errors import Problem
from app.settings import DeployFile, Settings, SettingsError
from app.walk import find_problems

NOT_INHERITED = ("queues", "stores", "vars", "secrets")
TOP_LEVEL_ONLY = ("dev", "env")
STANDARD_SECRETS = ("REDIS_PASSWORD", "CLICKHOUSE_PASSWORD")


def load(path: Path, *, environment: str | None, environ: Mapping[str, str]) -> Settings:
    """See `app.settings.load`."""
    from app import settings_checks  # noqa: PLC0415

    raw = read(path)
    problems = [_at_top(problem) for problem in find_problems(raw, DeployFile, "")]
    chosen = environment if environment is not None else environ.get("DEPLOY_ENV", "")
    defined = raw.get("env", {})
    if chosen and (not isinstance(defined, dict) or chosen not in defined):
        names = ", ".join(sorted(defined)) if isinstance(defined, dict) and defined else "none"
        problems.append(Problem("env", f"there is no environment {chosen!r}; defined: {names}"))
    if problems:
        raise SettingsError(tuple(problems))
    merged, warnings = merge(raw, chosen)
    file = msgspec.convert(merged, DeployFile, strict=True)
    secrets = _secrets(path, chosen, (*file.secrets.required, *STANDARD_SECRETS), environ)
    producer, store = file.queues.producers[0], file.stores[0]
    settings = Settings(
        name=file.name,
        main=file.main,
        compatibility_date=file.compatibility_date,
        environment=chosen,
        dev=file.dev,
        server=file.server,
        limits=file.limits,
        cors=file.cors,
        producer=producer,
        consumer=file.queues.consumers[0],
        store=store,
        vars=file.vars,
        redis_url=environ.get("REDIS_URL") or producer.url,
        clickhouse_url=environ.get("CLICKHOUSE_URL") or store.url,
        secrets=secrets,
        warnings=warnings,
    )
    problems = settings_checks.check(settings, file.secrets.required, _prefix(chosen))
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def read(path: Path) -> dict[str, object]:
    """The file as plain tables. Errors: SettingsError that says what to do."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        message = "no such file; run where deploy.toml is, or name it with --config"
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot be read: {error}"
    except tomllib.TOMLDecodeError as error:
        message = f"is not valid TOML: {error}"
    raise SettingsError((Problem(str(path), message),))


def merge(raw: Mapping[str, object], environment: str) -> tuple[dict[str, object], tuple[str, ...]]:
    """The tables of one environment, and a warning for each key that it should have repeated."""
    top = {key: value for key, value in raw.items() if key != "env"}
    if not environment:
        return top, ()
    environments = raw["env"]
    own: Mapping[str, object] = environments[environment] if isinstance(environments, dict) else {}
    warnings = tuple(
        f"`{key}` exists at the top level, but not on `env.{environment}`. This is not inherited: "
        f"add `{key}` to `env.{environment}` if it needs one."
        for key in NOT_INHERITED
        if key in top and key not in own
    )
    inherited = {key: value for key, value in top.items() if key not in NOT_INHERITED}
    name = own.get("name", f"{top.get('name', 'eventbunker')}-{environment}")
    return {**inherited, **own, "name": name}, warnings


def _at_top(problem: Problem) -> Problem:
    """A clearer word for what exists, but not inside an environment."""
    parts = problem.path.split(".")
    if parts[0] == "env" and len(parts) == 3 and parts[2] in TOP_LEVEL_ONLY:
        return Problem(problem.path, "belongs to the top level only")
    return problem


def _prefix(environment: str) -> str:
    return f"env.{environment}." if environment else ""


def _secrets(
    path: Path, environment: str, names: tuple[str, ...], environ: Mapping[str, str]
) -> dict[str, str]:
    """The declared secrets that are set: from the environment, else from .dev.vars beside the file."""
    local: dict[str, str] = {}
    candidates = [path.parent / f".dev.vars.{environment}"] if environment else []
    for file in (*candidates, path.parent / ".dev.vars"):
        if file.is_file():
            for line in file.read_text().splitlines():
                name, separator, value = line.partition("=")
                if separator and not name.lstrip().startswith("#"):
                    local[name.strip()] = value.strip().strip("\"'")
            break
    return {name: value for name in names if (value := environ.get(name) or local.get(name, ""))}
