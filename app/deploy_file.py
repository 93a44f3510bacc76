"""Reads deploy.toml and merges the chosen environment, in wrangler's manner.

Behaviour inherits from the top level (`server`, `limits`, `cors`, …), whole keys at a time. What points at
data does not (`queues`, `stores`, `vars`, `secrets`): so staging cannot write into production by omission.
Next: `app.walk` finds what has no place in the file, `app.settings_checks` what does not fit together.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from app.deploy_secrets import STANDARD_SECRETS, find_passwords, missing_secrets, read_secrets
from app.errors import Problem
from app.settings import DATE, IMPORT, NAME, DeployFile, Environment, Settings, SettingsError, Word
from app.settings_places import find_zero_bytes
from app.walk import find_problems

Table: TypeAlias = Mapping[str, object]

DEFAULT_SPOOL = ".eventbunker/spool"  # beside deploy.toml
NOT_INHERITED = ("queues", "stores", "vars", "secrets")
TOP_LEVEL_ONLY = ("dev", "env")
# What a pattern wants, for people; the schema keeps the pattern.
PATTERNS = {
    NAME: "expected at most 63 letters, digits, `-` and `_`",
    DATE: 'expected a day in quotes, such as "2026-11-23"',
    IMPORT: 'expected module:name, such as "app.main:create_app"',
}


def load(path: Path, *, environment: str | None, environ: Mapping[str, str]) -> Settings:
    """See `app.settings.load`."""
    from app.settings_checks import check, warn  # noqa: PLC0415  (it is Settings' reader, not its maker)

    raw = read(path)
    problems = [_clearer(problem) for problem in find_problems(raw, DeployFile, "")]
    problems += find_passwords(raw)
    problems += find_zero_bytes(raw)
    chosen = environ.get("DEPLOY_ENV", "") if environment is None else environment
    if undefined := _undefined(raw, chosen):
        raise SettingsError((*problems, undefined))
    top, own = _tables(raw, chosen)
    if problems:  # Go on with what is sound, so that the other checks have their say in the same run.
        top, own = _sound(top, DeployFile), _sound(own, Environment)
    merged = merge(top, own, chosen)
    for problem in find_problems(merged["name"], Word, _where("name", chosen, own)):
        problems.append(_clearer(problem))
        merged["name"] = "eventbunker"
    file = msgspec.convert(merged, DeployFile, strict=True)
    secrets = read_secrets(path.parent, chosen, (*file.secrets.required, *STANDARD_SECRETS), environ)
    settings = _settings(file, chosen, path.parent, environ, secrets)
    found = [*check(settings), *missing_secrets(file.secrets.required, secrets)]
    known = {problem.path for problem in problems}
    found = [Problem(_where(problem.path, chosen, own), problem.message) for problem in found]
    problems += [problem for problem in found if problem.path not in known]
    if problems:
        raise SettingsError(tuple(problems))
    return msgspec.structs.replace(settings, warnings=(*_not_inherited(top, own, chosen), *warn(settings)))


def read(path: Path) -> dict[str, object]:
    """The file as plain tables. Errors: SettingsError that says what to do."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = "no such file; run where deploy.toml is, or name it with --config or DEPLOY_CONFIG"
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 (byte {error.start})"
    except tomllib.TOMLDecodeError as error:
        message = f"is not valid TOML: {error}"
    raise SettingsError((Problem(str(path), message),))


def merge(top: Table, own: Table, environment: str) -> dict[str, object]:
    """The keys that hold in `environment`; `own` are its own, `top` those of the top level."""
    name = top.get("name", "eventbunker")
    if not environment:
        return {**top, "name": name}
    inherited = {key: value for key, value in top.items() if key not in NOT_INHERITED}
    return {**inherited, "name": f"{name}-{environment}", **own}


def _undefined(raw: Table, environment: str) -> Problem | None:
    defined = raw.get("env", {})
    names = sorted(defined) if isinstance(defined, dict) else []
    if not environment or environment in names:
        return None
    if not names:
        hint = "none is defined"
    elif near := difflib.get_close_matches(environment, names, n=1):
        hint = f"did you mean `{near[0]}`? (defined: {', '.join(names)})"
    else:
        hint = f"known: {', '.join(names)}"
    return Problem("env", f"there is no environment {environment!r}; {hint}")


def _tables(raw: Table, environment: str) -> tuple[Table, Table]:
    """The top level without its environments, and the chosen environment."""
    environments = raw.get("env")
    own = environments.get(environment) if isinstance(environments, dict) else None
    return {key: value for key, value in raw.items() if key != "env"}, own if isinstance(own, dict) else {}


def _sound(table: Table, kind: type[msgspec.Struct]) -> Table:
    """Without the keys that have problems: those fall back to their defaults, which fit together."""

    def is_sound(key: str, value: object) -> bool:
        return not find_problems({key: value}, kind, "")

    found: dict[str, object] = {}
    for key, value in table.items():
        if is_sound(key, value):
            found[key] = value
        elif isinstance(value, dict) and key != "queues":  # its two halves must fall together
            rest = {name: item for name, item in value.items() if is_sound(key, {name: item})}
            found |= {key: rest} if is_sound(key, rest) else {}
    return found


def _not_inherited(top: Table, own: Table, environment: str) -> list[str]:
    return [
        f"`{key}` exists at the top level, but not on `env.{environment}`. It is not inherited: "
        f"add it to `env.{environment}` if it is needed there"
        for key in NOT_INHERITED
        if environment and key in top and key not in own
    ]


def _where(path: str, environment: str, own: Table) -> str:
    """Where the value at `path` was written, or should have been: in the environment or at the top."""
    key = path.partition(".")[0].partition("[")[0]
    return f"env.{environment}.{path}" if environment and (key in own or key in NOT_INHERITED) else path


def _clearer(problem: Problem) -> Problem:
    """In words for people, where the walker's are the decoder's."""
    parts = problem.path.split(".")
    if parts[0] == "env" and len(parts) == 3 and parts[2] in TOP_LEVEL_ONLY:
        return Problem(problem.path, "belongs to the top level only")
    if problem.message.endswith("got date"):  # TOML has dates without quotes, the file's format does not
        return Problem(problem.path, f"{problem.message}; write it in quotes")
    for pattern, words in PATTERNS.items():
        if repr(pattern) in problem.message:
            return Problem(problem.path, words)
    return problem


def _settings(
    file: DeployFile,
    environment: str,
    directory: Path,
    environ: Mapping[str, str],
    secrets: dict[str, str],
) -> Settings:
    """Paths in the file are relative to the file: it means the same wherever a process is started."""

    def beside(path: str) -> str:
        return str(directory / path) if path else ""

    replace = msgspec.structs.replace
    server, store, variables = file.server, file.stores[0], dict(file.vars)
    if isinstance(geography := variables.get("GEOIP_DB"), str):
        variables["GEOIP_DB"] = beside(geography)
    producer = file.queues.producers[0]
    return Settings(
        name=file.name,
        main=file.main,
        compatibility_date=file.compatibility_date,
        environment=environment,
        dev=replace(file.dev, persist_to=beside(file.dev.persist_to)),
        server=replace(server, certfile=beside(server.certfile), keyfile=beside(server.keyfile)),
        spool=file.spool,
        limits=file.limits,
        cors=file.cors,
        observability=file.observability,
        producer=producer,
        consumer=file.queues.consumers[0],
        store=replace(store, path=beside(store.path)),
        vars=variables,
        redis_url=environ.get("REDIS_URL") or producer.url,
        clickhouse_url=environ.get("CLICKHOUSE_URL") or store.url,
        spool_path=directory.absolute() / (environ.get("SPOOL_PATH") or file.spool.path or DEFAULT_SPOOL),
        secrets=secrets,
    )
