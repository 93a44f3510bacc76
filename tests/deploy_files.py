"""deploy.toml as tests write it: text in, Settings or problems out."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import Settings, SettingsError, load

ROOT = Path(__file__).parent.parent
SECRET = "s3cr3t-v4lue"


def write(directory: Path, text: str) -> Path:
    """A deploy.toml of that text."""
    path = directory / "deploy.toml"
    path.write_text(text)
    return path


def read(directory: Path, text: str, environment: str | None = None, **environ: str) -> Settings:
    """The settings of that text; nothing of the real environment is seen."""
    return load(write(directory, text), environment=environment, environ=environ)


def problems(
    directory: Path, text: str, environment: str | None = None, **environ: str
) -> list[tuple[str, str]]:
    with pytest.raises(SettingsError) as caught:
        read(directory, text, environment, **environ)
    assert all(f"{problem.path}: {problem.message}" in str(caught.value) for problem in caught.value.problems)
    return [(problem.path, problem.message) for problem in caught.value.problems]


def problem(directory: Path, text: str, environment: str | None = None, **environ: str) -> tuple[str, str]:
    found = problems(directory, text, environment, **environ)
    assert len(found) == 1, found
    return found[0]
