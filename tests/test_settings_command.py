"""`eventbunker check`, and the deploy.toml, schema and documentation that are in the repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from click.testing import Result as CliResult

from app.settings import DeployFile, Environment, json_schema, load
from tests.deploy_files import ROOT, SECRET, write
from workers.cli import main
from workers.command_context import Context


def run_check(directory: Path, text: str, *arguments: str, **environ: str) -> CliResult:
    clean = dict.fromkeys(("DEPLOY_ENV", "DEPLOY_CONFIG", "REDIS_URL", "CLICKHOUSE_URL"))
    config = write(directory, text)
    return CliRunner().invoke(main, ["-c", str(config), *arguments, "check"], env={**clean, **environ})


def test_ctrl_c_is_130_before_a_command_has_its_own_word_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not 1, which of an import means that all but the rejected rows are in."""

    def interrupt(context: Context) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Context, "settings", interrupt)
    result = run_check(tmp_path, "")
    assert (result.exit_code, result.stderr) == (130, "\nAborted!\n")


def test_check_says_what_would_run(tmp_path: Path) -> None:
    result = run_check(tmp_path, "")
    assert result.exit_code == 0
    assert re.sub(" +", " ", result.stdout).split("is valid\n")[1] == (
        " name eventbunker\n environment (top level)\n edge 0.0.0.0:8787, hypercorn, workers: 1\n"
        " redis embedded, by `eventbunker dev`, durability: always\n"
        " store embedded, by `eventbunker dev`, database: eventbunker\n"
        " secrets none set\n"
    )
    given = run_check(tmp_path, "", REDIS_URL=f"redis://:{SECRET}@h", CLICKHOUSE_URL="http://h")
    assert given.exit_code == 0
    assert re.search("redis .*REDIS_URL", given.stdout)
    assert re.search("store .*CLICKHOUSE_URL", given.stdout)
    assert SECRET not in given.output
    kept = run_check(tmp_path, "[[stores]]\nretention_days = 30")
    assert "retention    30 days; older events are deleted" in kept.stdout


def test_check_prints_every_problem_and_fails(tmp_path: Path) -> None:
    result = run_check(tmp_path, "[server]\nport = ''\nprot = 1")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "has 2 problems:" in result.stderr
    assert "  server.port: expected integer, got string\n" in result.stderr
    assert "  server.prot: unknown key `prot`, did you mean `port`?\n" in result.stderr


def test_check_takes_the_environment_from_option_and_variable(tmp_path: Path) -> None:
    text = "[vars]\nX = 1\n[env.production]"
    result = run_check(tmp_path, text, "-e", "production")
    assert result.exit_code == 0
    assert "eventbunker-production" in result.stdout
    assert result.stderr.startswith("warning: `vars` exists at the top level")
    assert "eventbunker-production" in run_check(tmp_path, text, DEPLOY_ENV="production").stdout
    on_purpose = run_check(tmp_path, text, "-e", "", DEPLOY_ENV="production")
    assert "(top level)" in on_purpose.stdout
    assert run_check(tmp_path, text, "-e", "staging").exit_code == 1


def leaves(value: object, path: str = "") -> dict[str, object]:
    """Each value of nested tables under its path; tables of an array share a path."""
    if isinstance(value, dict):
        found: dict[str, object] = {}
        for name, item in value.items():
            found |= leaves(item, f"{path}.{name}" if path else str(name))
        return found
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return {key: item for table in value for key, item in leaves(table, path).items()}
    return {path: value}


def default_leaves() -> dict[str, object]:
    """Every key of the format with its default. What stands under [vars] and [env] is the user's own."""
    return leaves(msgspec.json.decode(msgspec.json.encode(DeployFile())))


def committed() -> dict[str, object]:
    return {
        key: value for key, value in tomllib.loads((ROOT / "deploy.toml").read_text()).items() if key != "env"
    }


def test_the_committed_file_states_exactly_the_defaults() -> None:
    stated = leaves(committed())
    assert stated.pop("vars.GEOIP_DB") == ""
    assert stated == default_leaves()


def test_the_committed_file_and_its_production_are_valid() -> None:
    assert load(ROOT / "deploy.toml", environ={}).warnings == ()
    production = load(
        ROOT / "deploy.toml",
        environment="production",
        environ={"REDIS_PASSWORD": SECRET, "CLICKHOUSE_PASSWORD": SECRET},
    )
    assert production.warnings == ()
    assert production.store.engine == "clickhouse"


def test_the_committed_schema_is_that_of_the_structs() -> None:
    schema = (ROOT / "deploy.schema.json").read_text()
    assert json.loads(schema) == json.loads(json.dumps(json_schema()))
    assert CliRunner().invoke(main, ["schema"]).stdout == schema


def test_every_key_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([a-z_.\[\]]+)` \| `([^`|]*)` \|", text, re.MULTILINE)
    keys = {
        re.sub(r"^(queues\.producers|queues\.consumers|stores)\.", r"\1[].", path): value
        for path, value in default_leaves().items()
    }
    assert len(rows) == len(dict(rows))
    assert {path: json.loads(value) for path, value in rows} == keys


def test_an_environment_holds_what_the_top_level_holds() -> None:
    own = {field.name for field in msgspec.structs.fields(DeployFile)}
    assert own - {field.name for field in msgspec.structs.fields(Environment)} == {"dev", "env"}


@pytest.mark.parametrize("main", ["os:system", "nope.x:y", "app.main:nope"])
def test_check_finds_a_main_that_cannot_be_served(tmp_path: Path, main: str) -> None:
    file = tmp_path / "deploy.toml"
    file.write_text(f'main = "{main}"\n')
    done = subprocess.run(
        [sys.executable, "-c", "from workers.cli import main; main()", "-c", str(file), "check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f'main = "{main}"' in done.stderr
