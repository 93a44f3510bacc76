"""The developer's keys in dev.json: kept while they are good, and said to be lost when they are not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.pipeline_kit import make_settings
from workers import dev_keys
from workers.state import State

URL = "http://127.0.0.1:1"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"url": 1}', None])
def test_lost_keys_are_said_to_be_lost(tmp_path: Path, redis_url: str, content: str | None) -> None:
    settings, state = make_settings(tmp_path, redis_url), State(tmp_path / "state")
    old = asyncio.run(dev_keys.ensure(settings, state, URL)).members
    kept = asyncio.run(dev_keys.ensure(settings, state, URL))
    assert (kept.members, kept.is_new) == (old, False)
    if content is None:
        state.dev_json.unlink()
    else:
        state.dev_json.write_text(content)
    with capture_logs() as logs:
        again = asyncio.run(dev_keys.ensure(settings, state, URL))
    assert again.is_new
    assert again.members["project_id"] != old["project_id"]
    assert state.read_json(state.dev_json) == again.members
    assert any(
        "projects of an earlier start" in line["event"] for line in logs if line["log_level"] == "warning"
    )
    if content is not None:
        assert state.dev_json.with_suffix(".json.old").read_text() == content
