"""deploy.toml: every mistake is named with its place, all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import SettingsError, load
from tests.deploy_files import problem, problems, read


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path, "")
    assert settings.name == "eventbunker"
    assert settings.environment == ""
    assert (settings.redis_url, settings.clickhouse_url) == ("", "")
    assert settings.producer.durability == "always"
    assert settings.warnings == ()


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file; run where deploy"):
        load(tmp_path / "deploy.toml", environ={})


def test_a_directory_or_binary_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path, environ={})
    (tmp_path / "deploy.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(SettingsError, match=r"is not UTF-8 \(byte 8\)"):
        load(tmp_path / "deploy.toml", environ={})


def test_a_syntax_error_says_the_line(tmp_path: Path) -> None:
    path, message = problem(tmp_path, 'name = "a"\n[server\nport = 1\n')
    assert path == str(tmp_path / "deploy.toml")
    assert message.startswith("is not valid TOML: ")
    assert "line 2" in message


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (
            "[limits]\nmax_event_byte = 5",
            "limits.max_event_byte",
            "`max_event_byte`, did you mean `max_event_bytes`?",
        ),
        ("[sever]\nport = 5", "sever", "`sever`, did you mean `server`?"),
        ("[[stores]]\npaht = ''", "stores[0].paht", "`paht`, did you mean `path`?"),
        ("[env.production.server]\nprot = 1", "env.production.server.prot", "`prot`, did you mean `port`?"),
        ("[cors]\nzzz = 1", "cors.zzz", "`zzz`; known are allowed_origins, max_age"),
    ],
)
def test_an_unknown_key_comes_with_a_suggestion(tmp_path: Path, text: str, path: str, message: str) -> None:
    assert problem(tmp_path, text) == (path, f"unknown key {message}")


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[server]\nport = '1'", "server.port", "expected integer, got string"),
        ("[server]\nport = true", "server.port", "expected integer, got boolean"),
        ("[server]\nport = 70000", "server.port", "expected integer <= 65535"),
        ("[server]\nworkers = 0", "server.workers", "expected integer >= 1"),
        ("[server]\nworker_class = 'trio'", "server.worker_class", "expected one of `uvloop`, `asyncio`"),
        ("[server]\nread_timeout = 0", "server.read_timeout", "expected number > 0"),
        ("[limits]\nquery_timeout = 86400", "limits.query_timeout", "expected number <= 3600"),
        ("[limits]\nquery_timeout = 0.001", "limits.query_timeout", "expected number >= 0.01"),
        ("[[stores]]\ninsert_timeout = 3601", "stores[0].insert_timeout", "expected number <= 3600"),
        ("[server]\nread_timeout = nan", "server.read_timeout", "expected number"),
        ("[server]\nread_timeout = inf", "server.read_timeout", "expected number"),
        ("server = 1", "server", "expected an object, got a number"),
        ("[server]\ntrusted_proxies = 'x'", "server.trusted_proxies", "expected array, got string"),
        ("[server]\ntrusted_proxies = [1]", "server.trusted_proxies[0]", "expected string, got integer"),
        (
            "compatibility_date = 2026-11-23",
            "compatibility_date",
            "expected string, got date; write it in quotes",
        ),
        ("compatibility_date = '2026-13-01'", "compatibility_date", "not a day of the calendar"),
        ("compatibility_date = '2027-01-01'", "compatibility_date", "use that one or update"),
        ("name = 'a b'", "name", "at most 63 letters, digits"),
        ("main = 'app.main'", "main", "module:name"),
        ("[vars]\nX = [1]", "vars.X", "got array"),
        ("stores = []", "stores", "length"),
        ("[[queues.producers]]\n[[queues.producers]]", "queues.producers", "length"),
        (
            "[[queues.consumers]]\nmax_batch_bytes = 100000000",
            "queues.consumers[0].max_batch_bytes",
            "<= 16777216",
        ),
        ("[secrets]\nrequired = ['lower']", "secrets.required[0]", "regex"),
        ("env = 3", "env", "expected object, got integer"),
        ("[env]\nproduction = 3", "env.production", "expected an object, got a number"),
        ("[env.'a b']", "env.a b", "at most 63 letters, digits"),
        ("[env.production.dev]\nport = 1", "env.production.dev", "belongs to the top level only"),
        ("[env.production.env.x]", "env.production.env", "belongs to the top level only"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(tmp_path: Path, text: str, path: str, message: str) -> None:
    found_path, found_message = problem(tmp_path, text)
    assert found_path == path
    assert message in found_message


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = """
    nmae = "x"
    [server]
    port = "eighty"
    [limits]
    append_timeout = -1
    [[env.production.queues.producers]]
    url = 5
    shards = 0
    [[env.production.queues.consumers]]
    max_batch_sise = 1
    [[env.staging.stores]]
    engine = "postgres"
    """
    found = problems(tmp_path, text, "nowhere")
    assert {path for path, _ in found} == {
        "nmae",
        "server.port",
        "limits.append_timeout",
        "env.production.queues.producers[0].url",
        "env.production.queues.producers[0].shards",
        "env.production.queues.consumers[0].max_batch_sise",
        "env.staging.stores[0].engine",
        "env",
    }


def test_checks_across_keys_are_told_at_once_too(tmp_path: Path) -> None:
    text = """
    [server]
    certfile = "a.pem"
    trusted_proxies = ["10.0.0.0/8", "10.0.0.1/8", "proxy"]
    [[queues.producers]]
    queue = "other"
    url = "http://redis"
    [[stores]]
    engine = "clickhouse"
    [secrets]
    required = ["ONE", "TWO"]
    """
    found = dict(problems(tmp_path, text))
    assert set(found) == {
        "server.certfile",
        "server.keyfile",
        "server.trusted_proxies[1]",
        "server.trusted_proxies[2]",
        "queues.consumers[0].queue",
        "queues.producers[0].url",
        "stores[0].url",
        "secrets.required",
    }
    assert "nobody would drain 'other'" in found["queues.consumers[0].queue"]
    assert "ONE, TWO" in found["secrets.required"]
