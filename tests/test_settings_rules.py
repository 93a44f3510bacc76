"""deploy.toml: each rule at its edge, what is only warned of, and that no command starts against one.

The mistakes in general are `test_settings.py`'s, environments and secrets `test_settings_environments.py`'s.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from app.settings_checks import NEWEST_COMPATIBILITY_DATE
from tests.deploy_files import SECRET, problem, problems, read
from workers.cli import main


@pytest.mark.parametrize("table", ["server", "limits", "cors", "dev", "queues", "secrets"])
def test_a_key_that_does_not_exist_is_an_error_in_every_table(tmp_path: Path, table: str) -> None:
    path, message = problem(tmp_path, f"[{table}]\nnonsense = 1")
    assert (path, message.partition(";")[0]) == (f"{table}.nonsense", "unknown key `nonsense`")


@pytest.mark.parametrize("array", ["queues.producers", "queues.consumers", "stores"])
def test_a_key_that_does_not_exist_is_an_error_in_every_array(tmp_path: Path, array: str) -> None:
    path, message = problem(tmp_path, f"[[{array}]]\nnonsense = 1")
    assert (path, message.partition(";")[0]) == (f"{array}[0].nonsense", "unknown key `nonsense`")
    assert problem(tmp_path, f"[[{array}]]\n[[{array}]]")[0] == array, "exactly one"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[dev]\npersist_to = ''", "dev.persist_to"),
        ("[server]\nport = -1", "server.port"),
        ("[server]\nworkers = 65", "server.workers"),
        ("[limits]\nmax_pending_bytes = 2_097_151", "limits.max_pending_bytes"),
        ("[limits]\nmax_request_bytes = 1_000_000_000_000_000_000_000", "limits.max_request_bytes"),
        ("[[queues.producers]]\nshards = 257", "queues.producers[0].shards"),
        ("[[queues.producers]]\ndurability = 'fsync'", "queues.producers[0].durability"),
        ("[[queues.consumers]]\nmax_batch_bytes = 16_777_217", "queues.consumers[0].max_batch_bytes"),
        ("[[queues.consumers]]\nretry_delay = 5.1", "queues.consumers[0].retry_delay"),
        ("[[queues.consumers]]\ndead_letter_queue = 'events'", "queues.consumers[0].dead_letter_queue"),
        ("[[stores]]\ndatabase = 'a;b'", "stores[0].database"),
        ("[[stores]]\nurl = 'http://h'", "stores[0].url"),  # engine "embedded" would ignore it
        ("[[stores]]\nengine = 'clickhouse'\nurl = 'http://h'\npath = 'p'", "stores[0].path"),
        ("[cors]\nallowed_origins = ['shop.example']", "cors.allowed_origins[0]"),
        ("[cors]\nallowed_origins = ['*', 'https://shop.example/']", "cors.allowed_origins[1]"),
        ("[cors]\nallowed_origins = ['https://Shop.example']", "cors.allowed_origins[0]"),
        (f"[vars]\nA = 'http://u:{SECRET}@h'", "vars.A"),
        (f"[env.other.vars]\nA = 'http://u:{SECRET}@h'", "env.other.vars.A"),  # not the chosen one
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, path: str) -> None:
    found, message = problem(tmp_path, text)
    assert found == path
    assert SECRET not in message


@pytest.mark.parametrize(
    "text",
    [
        f"compatibility_date = '{NEWEST_COMPATIBILITY_DATE}'",
        "[server]\nport = 0\nworkers = 64",
        "[server]\ntrusted_proxies = ['10.0.0.0/8', '2001:db8::/32', '192.0.2.1']",
        "[cors]\nallowed_origins = ['https://shop.example:8443', 'http://[::1]:3000']",
        "[limits]\nmax_event_bytes = 1_048_576\nmax_pending_bytes = 2_097_152",
        "[[queues.producers]]\nshards = 256",
        "[[queues.consumers]]\nmax_batch_bytes = 16_777_216\nretry_delay = 5",
        "[vars]\nA = 'http://h:80/p'\nB = 'a:b@c'",
    ],
)
def test_what_is_accepted_at_the_edge_of_a_rule(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).warnings == ()


def test_a_mistake_hides_no_other_in_its_own_table_nor_invents_one(tmp_path: Path) -> None:
    text = """
    [server]
    wrokers = 2
    certfile = 5
    keyfile = "deploy.toml"
    trusted_proxies = ["10.0.0.1/8"]
    [queues]
    producers = [{shards = 0}]
    consumers = [{queue = "other"}]
    """
    found = [path for path, _ in problems(tmp_path, text)]
    assert sorted(found) == [
        "queues.producers[0].shards",  # its queue is not known: no word on whether the two agree
        "server.certfile",  # once
        "server.trusted_proxies[0]",
        "server.wrokers",
    ]


def test_paths_are_beside_the_file_wherever_the_process_was_started(tmp_path: Path) -> None:
    (tmp_path / "geo.mmdb").touch()
    text = "[dev]\npersist_to = 'state'\n[[stores]]\npath = '/data'\n[vars]\nGEOIP_DB = 'geo.mmdb'"
    settings = read(tmp_path, text)
    assert settings.warnings == ()
    assert settings.dev.persist_to == str(tmp_path / "state")
    assert settings.vars["GEOIP_DB"] == str(tmp_path / "geo.mmdb")
    assert settings.store.path == "/data"
    assert read(tmp_path, "").store.path == "", "empty stays empty: it is not the directory"


def test_what_is_allowed_but_probably_not_meant(tmp_path: Path) -> None:
    [warning] = read(tmp_path, "[vars]\nGEOIP_DB = 'none.mmdb'").warnings
    assert "none.mmdb" in warning
    [warning] = read(tmp_path, "[server]\ngraceful_timeout = 5").warnings
    assert "append_timeout" in warning


def test_a_secret_set_to_nothing_is_not_taken_from_the_local_file(tmp_path: Path) -> None:
    (tmp_path / ".dev.vars").write_text("REDIS_PASSWORD='tis\nCLICKHOUSE_PASSWORD=it's'\n")
    assert read(tmp_path, "").secret("REDIS_PASSWORD") == "'tis", "a quote without its other is the value's"
    assert read(tmp_path, "").secret("CLICKHOUSE_PASSWORD") == "it's'"
    assert read(tmp_path, "", None, REDIS_PASSWORD="").secret("REDIS_PASSWORD") == ""


def test_only_declared_secrets_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, "", None, OTHER="x").secret("OTHER") == ""


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = read(tmp_path, "")
    for struct in (settings, settings.server, settings.limits, settings.producer, settings.store):
        with pytest.raises(AttributeError):
            setattr(struct, struct.__struct_fields__[0], "other")


@pytest.mark.parametrize("command", ["check", "drain", "edge", "dev", "migrate"])
def test_no_command_starts_with_a_problem(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["-c", str(tmp_path / "none.toml"), command])
    assert result.exit_code == 1
    assert "no such file" in result.stderr


def test_wrong_usage_is_told_apart_from_a_wrong_file() -> None:
    assert CliRunner().invoke(main, ["chekc"]).exit_code == 2
    assert CliRunner().invoke(main, ["check", "--nonsense"]).exit_code == 2
