"""Reads deploy.toml and merges the chosen environment, in wrangler's manner.

Behaviour inherits from the top level (`server`, `limits`, `cors`, …), whole keys at a time. What points at
data does not (`queues`, `stores`, `vars`, `secrets`): so staging cannot write into production by omission.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import msgspec

from app.settings import DeployFile, Settings, SettingsError, SettingsProblem

NOT_INHERITED = ("queues", "stores", "vars", "secrets")
TOP_LEVEL_ONLY = ("dev", "env")
STANDARD_SECRETS = ("REDIS_PASSWORD", "CLICKHOUSE_PASSWORD")


def load(path: Path, *, environment: str | None, environ: Mapping[str, str]) -> Settings:
    """See `app.settings.load`."""
    from app import settings_checks  # noqa: PLC0415

    raw = read(path)
    problems = walk(raw, DeployFile, "")
    chosen = environment if environment is not None else environ.get("DEPLOY_ENV", "")
    defined = raw.get("env", {})
    if chosen and (not isinstance(defined, dict) or chosen not in defined):
        names = ", ".join(sorted(defined)) if isinstance(defined, dict) and defined else "none"
        problems.append(SettingsProblem("env", f"there is no environment {chosen!r}; defined: {names}"))
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
    raise SettingsError((SettingsProblem(str(path), message),))


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


def walk(value: object, kind: object, path: str) -> list[SettingsProblem]:
    """Every problem of `value` against the type `kind`, depth first, each with its path."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return _walk_struct(value, bare, path)
    arguments = get_args(bare)
    if get_origin(bare) is tuple and isinstance(value, list):
        items = [walk(item, arguments[0], f"{path}[{index}]") for index, item in enumerate(value)]
        return [problem for found in items for problem in found] or _leaf(value, kind, path)
    if get_origin(bare) is dict and isinstance(value, dict):
        entries = [
            _leaf(key, arguments[0], f"{path}.{key}") or walk(item, arguments[1], f"{path}.{key}")
            for key, item in value.items()
        ]
        return [problem for found in entries for problem in found]
    return _leaf(value, kind, path)


def _walk_struct(value: object, kind: type[msgspec.Struct], path: str) -> list[SettingsProblem]:
    if not isinstance(value, dict):
        return [SettingsProblem(path, f"expected a table, got {_a(value)}")]
    known = get_type_hints(kind, include_extras=True)
    problems: list[SettingsProblem] = []
    for key, item in value.items():
        here = f"{path}.{key}" if path else key
        if key in known:
            problems += walk(item, known[key], here)
        else:
            problems.append(SettingsProblem(here, _unknown(key, list(known))))
    return problems


def _unknown(key: str, known: list[str]) -> str:
    if key in TOP_LEVEL_ONLY:
        return "belongs to the top level only"
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown key; did you mean `{near[0]}`?" if near else f"unknown key; known: {', '.join(known)}"


def _leaf(value: object, kind: object, path: str) -> list[SettingsProblem]:
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        message = str(error).split(" - at ")[0].replace("`", "")
        return [SettingsProblem(path, message[:1].lower() + message[1:])]
    return []


def _a(value: object) -> str:
    kind = type(value).__name__
    return {
        "str": "a string",
        "int": "a number",
        "float": "a number",
        "bool": "a boolean",
        "list": "an array",
    }.get(kind, kind)


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
