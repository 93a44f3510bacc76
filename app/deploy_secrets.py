"""What is secret: where its value may come from, and where it may not stand.

Values come from the environment, and in local work from `.dev.vars` beside deploy.toml. Only declared names
are read, so that a stray variable never becomes configuration. Messages name secrets, never show them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from app.errors import Problem
from app.settings import SettingsError

STANDARD_SECRETS = ("REDIS_PASSWORD", "CLICKHOUSE_PASSWORD")


def read_secrets(
    directory: Path, environment: str, names: Iterable[str], environ: Mapping[str, str]
) -> dict[str, str]:
    """The values of `names` that are set: from `environ` (even when empty), else from the local file.

    The local file is `.dev.vars.<environment>` where there is one, else `.dev.vars`; the two are not merged.
    Errors: SettingsError when the file cannot be read.
    """
    local = _local(directory, environment)
    found = {name: environ.get(name, local.get(name, "")) for name in names}
    return {name: value for name, value in found.items() if value}


def missing_secrets(required: Iterable[str], secrets: Mapping[str, str]) -> list[Problem]:
    """One problem that names every required secret without a value."""
    names = ", ".join(name for name in required if name not in secrets)
    if not names:
        return []
    where = "set them in the environment, or in .dev.vars beside this file for local work"
    return [Problem("secrets.required", f"missing required secrets: {names}; {where}")]


def find_passwords(value: object, path: str = "") -> Iterator[Problem]:
    """Every URL with a password in it: the file is shared and versioned, a secret in it is out."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from find_passwords(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from find_passwords(item, f"{path}[{index}]")
    elif isinstance(value, str) and _holds_password(value):
        place = "the environment, under a name that secrets.required lists"
        for table, secret in (("queues.", "REDIS_PASSWORD"), ("stores[", "CLICKHOUSE_PASSWORD")):
            if table in path:
                place = f"{secret} in the environment"
        yield Problem(path, f"holds a password; put it in {place}")


def _holds_password(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # not a URL; whether it should be one is another check's question
        return False
    return "://" in text and (
        bool(parts.password) or any("password" in name.lower() for name, _ in parse_qsl(parts.query))
    )


def _local(directory: Path, environment: str) -> dict[str, str]:
    candidates = [f".dev.vars.{environment}"] if environment else []
    for path in (directory / name for name in (*candidates, ".dev.vars")):
        if not path.is_file():
            continue
        try:
            return dict(_assignments(path.read_text(encoding="utf-8")))
        except OSError as error:
            reason = str(error.strerror)
        except UnicodeDecodeError:
            reason = "not UTF-8"
        raise SettingsError((Problem(str(path), f"cannot be read: {reason}"),))
    return {}


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """NAME=VALUE lines; quotes around a whole value are not part of it."""
    for line in text.splitlines():
        name, separator, value = line.strip().removeprefix("export ").partition("=")
        if not separator or name.startswith("#"):
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        yield name.strip(), value
