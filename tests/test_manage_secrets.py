"""No secret in the log of a running service; accounts made in the terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client import Client
from tests.management import done, manage, refused
from tests.service import COMMAND, FROM_OUTSIDE, ROOT, Service

pytestmark = pytest.mark.service


@pytest.fixture
def project(client: Client) -> Client:
    return client.new_project()


def test_no_secret_is_in_the_log(service: Service, project: Client) -> None:
    made = project.create_key()
    project.post({"event_name": "e"}, x_eventbunker_write_key=made["api_key"])
    project.post(b"{", x_eventbunker_write_key=made["api_key"])
    project.http.post(f"/post?write_key={made['api_key']}", content=b'{"event_name":"e"}')
    manage(project, "apikey/delete", "project", api_key=made["api_key"])
    secrets = [made["api_key"], *(value for name, value in project.keys.items() if name.endswith("_key"))]
    banner = {
        value for name, value in service.keys.items() if name.endswith("_key")
    }  # shown once, on purpose
    for secret in secrets:
        assert secret not in service.log
        assert secret in banner or secret not in service.stdout


def run_account_create(redis_url: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = directory / "deploy.toml"
    config.write_text("")
    inherited = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "-c", str(config), "account", "create", *arguments],
        cwd=ROOT,
        env={**inherited, **({"REDIS_URL": redis_url} if redis_url else {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_operator_makes_an_account_in_the_terminal(
    service: Service, client: Client, tmp_path: Path
) -> None:
    """Against the running service's own Redis, so that the key can be used at once."""
    url = f"unix://{service.redis_socket}"
    result = run_account_create(url, tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)
    assert set(made) == {"account_id", "account_master_key"}
    own = {"account_id": made["account_id"]}
    assert done(client.manage("project/list", made["account_master_key"], **own)) == {"projects": []}
    refused(
        client.manage("project/list", made["account_master_key"], account_id=client.keys["account_id"]),
        400,
        "Invalid account_id",
        "invalid_account_id",
        "The key belongs to another account_id.",
    )
    foreign = client.manage(
        "project/delete", made["account_master_key"], project_id=client.keys["project_id"], **own
    )
    assert (foreign.status_code, foreign.json()["error"]) == (400, "Invalid project_id")
    readable = run_account_create(url, tmp_path)
    assert readable.returncode == 0
    assert re.search(r"^account_master_key eb_am_\S{32}$", readable.stdout, re.MULTILINE)


def test_without_redis_the_terminal_says_what_to_check(tmp_path: Path) -> None:
    missing = run_account_create("", tmp_path)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("no Redis: set REDIS_URL")
    silent = run_account_create(f"unix://{tmp_path}/nobody.sock", tmp_path)
    assert (silent.returncode, silent.stdout) == (1, "")
    assert silent.stderr.startswith("Redis does not answer")
