"""Environments never share data by omission; secrets come from outside and are shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import SettingsError
from tests.certificate import certificate, tls
from tests.deploy_files import SECRET, problem, read

__all__ = ["certificate"]

PRODUCTION = """
name = "shop"
[server]
workers = 4
backlog = 100
[vars]
COLOUR = "blue"
[[queues.producers]]
url = "redis://top:6379/0"
[[stores]]
engine = "clickhouse"
url = "http://top:8123"
[secrets]
required = ["TOP_SECRET"]
[env.production]
"""


def test_behaviour_inherits_whole_and_data_does_not(tmp_path: Path) -> None:
    settings = read(tmp_path, PRODUCTION, "production")
    assert settings.environment == "production"
    assert settings.name == "shop-production"
    assert (settings.server.workers, settings.server.backlog) == (4, 100)
    assert settings.vars == {}
    assert (settings.redis_url, settings.clickhouse_url) == ("", "")


def test_a_table_of_an_environment_replaces_the_whole_table(tmp_path: Path) -> None:
    settings = read(tmp_path, PRODUCTION + "[env.production.server]\nworkers = 2", "production")
    assert (settings.server.workers, settings.server.backlog) == (2, 2048)  # not 100


def test_what_is_not_inherited_is_warned_of_by_name(tmp_path: Path) -> None:
    settings = read(tmp_path, PRODUCTION + "[env.production.vars]\nX = 1", "production")
    assert settings.vars == {"X": 1}
    for key, warning in zip(("queues", "stores", "secrets"), settings.warnings[:3], strict=True):
        assert warning.startswith(f"`{key}` exists at the top level, but not on `env.production`.")
    assert not any("`vars`" in warning for warning in settings.warnings)


def test_an_environment_without_a_place_for_its_data_is_warned_of(tmp_path: Path) -> None:
    warnings = read(tmp_path, "[env.production]", "production").warnings
    assert [warning.split(":")[0] for warning in warnings] == [
        "`env.production` names no Redis (queues.producers[0].url or REDIS_URL)",
        "`env.production` names no store (stores[0].url or CLICKHOUSE_URL)",
    ]


def test_an_environment_may_set_its_own_name(tmp_path: Path) -> None:
    assert read(tmp_path, PRODUCTION + "name = 'till'", "production").name == "till"


def test_a_name_that_the_suffix_makes_too_long_is_a_problem(tmp_path: Path) -> None:
    path, _ = problem(tmp_path, f"name = '{'a' * 60}'\n[env.production]", "production")
    assert path == "name"
    own = f"[env.production]\nname = '{'a' * 64}'"
    assert problem(tmp_path, own, "production")[0] == "env.production.name"


def test_an_undefined_environment_lists_the_defined_ones(tmp_path: Path) -> None:
    text = "[env.staging]\n[env.production]"
    expected = ("env", "there is no environment 'qa'; known: production, staging")
    assert problem(tmp_path, text, "qa") == expected
    assert problem(tmp_path, text, None, DEPLOY_ENV="qa") == expected
    near = "there is no environment 'prodction'; did you mean `production`? (defined: production, staging)"
    assert problem(tmp_path, text, "prodction") == ("env", near)
    assert problem(tmp_path, "", "qa") == ("env", "there is no environment 'qa'; none is defined")


def test_the_argument_wins_over_deploy_env_also_when_empty(tmp_path: Path) -> None:
    text = "[env.staging]\n[env.production]"
    assert read(tmp_path, text, None, DEPLOY_ENV="staging").environment == "staging"
    assert read(tmp_path, text, "production", DEPLOY_ENV="staging").environment == "production"
    assert read(tmp_path, text, "", DEPLOY_ENV="staging").environment == ""


def test_a_check_names_the_table_that_was_read(tmp_path: Path) -> None:
    inherited = "[server]\ntrusted_proxies = ['x']\n[env.production]"
    assert problem(tmp_path, inherited, "production")[0] == "server.trusted_proxies[0]"
    own = "[env.production.server]\ntrusted_proxies = ['x']"
    assert problem(tmp_path, own, "production")[0] == "env.production.server.trusted_proxies[0]"
    consumer = "[[env.production.queues.consumers]]\nqueue = 'other'"
    assert problem(tmp_path, consumer, "production")[0] == "env.production.queues.consumers[0].queue"


def test_required_secrets_that_are_missing_are_named_together(tmp_path: Path) -> None:
    text = "[env.production.secrets]\nrequired = ['A_KEY', 'B_KEY', 'C_KEY']"
    path, message = problem(tmp_path, text, "production", B_KEY=SECRET)
    assert path == "env.production.secrets.required"
    assert "missing required secrets: A_KEY, C_KEY;" in message


def test_secrets_come_from_the_environment_before_dev_vars(tmp_path: Path) -> None:
    (tmp_path / ".dev.vars").write_text(
        "# a comment\nREDIS_PASSWORD = \"from file\"\nA_KEY='x=y'\nexport B_KEY=exported\nUNDECLARED=1\n"
    )
    text = "[secrets]\nrequired = ['A_KEY', 'B_KEY']\n[env.production]"
    settings = read(tmp_path, text)
    assert settings.secret("REDIS_PASSWORD") == "from file"
    assert settings.secret("A_KEY") == "x=y"
    assert settings.secret("B_KEY") == "exported"
    assert settings.secret("UNDECLARED") == ""
    assert read(tmp_path, text, None, REDIS_PASSWORD="mine").secret("REDIS_PASSWORD") == "mine"


def test_the_dev_vars_of_an_environment_replace_the_general_ones(tmp_path: Path) -> None:
    (tmp_path / ".dev.vars").write_text("REDIS_PASSWORD=general\nCLICKHOUSE_PASSWORD=general\n")
    (tmp_path / ".dev.vars.production").write_text("REDIS_PASSWORD=own\n")
    settings = read(tmp_path, "[env.production]\n[env.staging]", "production")
    assert settings.secret("REDIS_PASSWORD") == "own"
    assert settings.secret("CLICKHOUSE_PASSWORD") == ""
    assert read(tmp_path, "[env.staging]", "staging").secret("REDIS_PASSWORD") == "general"


def test_dev_vars_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / ".dev.vars").write_bytes(b"A=\xff")
    path, message = problem(tmp_path, "")
    assert path == str(tmp_path / ".dev.vars")
    assert message.startswith("cannot be read")


@pytest.mark.parametrize(
    ("table", "path", "variable"),
    [
        (
            f"[[queues.producers]]\nurl = 'redis://u:{SECRET}@h/0'",
            "queues.producers[0].url",
            "REDIS_PASSWORD",
        ),
        (
            f"[[queues.producers]]\nurl = 'redis://h/0?password={SECRET}'",
            "queues.producers[0].url",
            "REDIS_PASSWORD",
        ),
        (f"[[stores]]\nurl = 'https://u:{SECRET}@h'", "stores[0].url", "CLICKHOUSE_PASSWORD"),
        (f"[[stores]]\nurl = 'https://h/?password={SECRET}'", "stores[0].url", "CLICKHOUSE_PASSWORD"),
    ],
)
def test_a_password_in_a_url_of_the_file_is_refused(
    tmp_path: Path, table: str, path: str, variable: str
) -> None:
    found_path, message = problem(tmp_path, table)
    assert found_path == path
    assert message == f"holds a password; put it in {variable} in the environment"


@pytest.mark.parametrize(
    "url", ["redis://[::1", "redis://h:port", "localhost:6379", "http://h", "redis://", "unix://"]
)
def test_a_bad_url_is_a_problem_not_a_crash(tmp_path: Path, url: str) -> None:
    for environ, text in (({"REDIS_URL": url}, ""), ({}, f"[[queues.producers]]\nurl = '{url}'")):
        path = "REDIS_URL" if environ else "queues.producers[0].url"
        assert problem(tmp_path, text, None, **environ)[0] == path


def test_urls_of_the_environment_win_over_the_file(tmp_path: Path) -> None:
    text = "[[queues.producers]]\nurl = 'redis://file:1/0'\n[[stores]]\nengine = 'clickhouse'\nurl = 'http://file:2'"
    assert read(tmp_path, text).redis_url == "redis://file:1/0"
    assert read(tmp_path, text).clickhouse_url == "http://file:2"
    won = read(tmp_path, text, None, REDIS_URL="unix:///r.sock", CLICKHOUSE_URL="https://env")
    assert (won.redis_url, won.clickhouse_url) == ("unix:///r.sock", "https://env")


def test_the_engine_clickhouse_needs_a_url_from_somewhere(tmp_path: Path) -> None:
    text = "[[stores]]\nengine = 'clickhouse'"
    assert problem(tmp_path, text)[0] == "stores[0].url"
    assert read(tmp_path, text, None, CLICKHOUSE_URL="http://h").clickhouse_url == "http://h"


def test_certificate_and_key_belong_together_and_must_exist(tmp_path: Path, certificate: Path) -> None:
    assert problem(tmp_path, f"[server]\nkeyfile = '{certificate}'") == (
        "server.certfile",
        "certfile and keyfile belong together; set both or neither",
    )
    path, message = problem(tmp_path, f"[server]\ncertfile = '{certificate}'\nkeyfile = 'nothing.pem'")
    assert (path, message) == ("server.keyfile", f"there is no file {str(tmp_path / 'nothing.pem')!r}")
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + certificate.with_name("key.pem").read_text())
    server = read(tmp_path, "[server]\ncertfile = 'both.pem'\nkeyfile = 'both.pem'").server
    assert server.keyfile == str(both)  # beside the file, wherever the process is started


def test_bounds_that_exclude_each_other_are_a_problem(tmp_path: Path) -> None:
    text = "[limits]\nmax_event_bytes = 65536\nmax_pending_bytes = 2000"
    assert problem(tmp_path, text)[0] == "limits.max_pending_bytes"


def test_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    settings = read(tmp_path, "", None, REDIS_PASSWORD=SECRET, REDIS_URL=f"redis://:{SECRET}@h/0")
    assert settings.secret("REDIS_PASSWORD") == SECRET
    for text in (repr(settings), str(settings), f"{settings!r}", repr([settings])):
        assert SECRET not in text
    broken = (
        f"[[queues.producers]]\nurl = 'ftp://u:{SECRET}@h/0'\n[[stores]]\nurl = 'ftp://u:{SECRET}@h'\n"
        "[secrets]\nrequired = ['NOT_SET']"
    )
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, broken, None, REDIS_PASSWORD=SECRET)
    assert {problem.path for problem in caught.value.problems} == {
        "queues.producers[0].url",
        "stores[0].url",
        "secrets.required",
    }
    assert SECRET not in str(caught.value) + repr(caught.value) + repr(caught.value.problems)


def test_what_an_engine_cannot_do_is_said(tmp_path: Path, certificate: Path) -> None:
    served = tls(certificate)
    for lines, said in {
        f"engine = 'uvicorn'\n{served}": 'engine "uvicorn" does not speak',
        "": "set certfile and keyfile",
        f"workers = 2\n{served}": "needs workers = 1",
    }.items():
        path, message = problem(tmp_path, f"[server]\nquic_port = 8443\n{lines}")
        assert path == "server.quic_port"
        assert said in message
    assert read(tmp_path, f"[server]\nquic_port = 8443\n{served}").server.quic_port == 8443
    path, message = problem(tmp_path, "[server]\nengine = 'granian'")
    assert (path, message) == ("server.engine", "expected one of `hypercorn`, `uvicorn`")
    path, message = problem(tmp_path, "[server]\nengin = 'uvicorn'")
    assert (path, "`engine`" in message) == ("server.engin", True)
