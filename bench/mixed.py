"""A running service whose store holds the mix: for parts that ask while the whole of it is there.

The rows go to the store in the drain's own statements and form; only stream and drain are left out, so that a
million events take half a minute. Their project is one of the service's, whose keys can ask for them.
"""

from __future__ import annotations

import json
import uuid

import httpx

from bench import mix
from bench.growth import MERGE_SECONDS, statement
from bench.whole import Whole
from tests.client import Client
from tests.waiting import until
from workers.rows import INSERT, INSERT_SETTINGS

INSERT_SECONDS = 60.0
PERIOD = {"start": "2025-11-01", "end": "2025-12-01"}  # all of the mix


def fill(running: Whole, events: int) -> Client:
    """A new project with `events` of the mix, beside the tenth of them in others'; the store is at rest then.

    Errors: RuntimeError when the store refuses a block.
    """
    project = running.client.new_project()
    store = json.loads((running.service.state / "store.json").read_text())
    headers = {"X-ClickHouse-User": store["user"], "X-ClickHouse-Key": store["password"]}
    with httpx.Client(base_url=store["url"], headers=headers, timeout=INSERT_SECONDS) as client:
        for block in mix.row_blocks(events, project=project.keys["project_id"]):
            token = {"insert_deduplication_token": uuid.uuid4().hex, "database": "eventbunker"}
            answer = client.post("/", params={"query": INSERT, **token, **INSERT_SETTINGS}, content=block)
            if answer.status_code != 200:
                raise RuntimeError(f"the store refused a block: {answer.text[:300]}")
    until(
        lambda: statement(running, "SELECT count() FROM system.merges").strip() == "0",
        MERGE_SECONDS,
        "the end of the merges",
    )
    return project
