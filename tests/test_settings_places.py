"""deploy.toml: files, addresses and names that could never be used are named with their key, before any start."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from app.certificate import find_problem
from app.settings import Server
from app.stream import Keys
from tests.certificate import certificate
from tests.deploy_files import SECRET, problem, problems, read
from tests.service import StartService
from workers.edges import ListenError, listen

__all__ = ["certificate"]

LONG = "x" * 5000


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture
def pems(certificate: Path, tmp_path: Path) -> dict[str, str]:
    """Files that may be named as a certificate or as a key, by what they are."""
    key = certificate.with_name("key.pem")
    found = {name: tmp_path / f"{name}.pem" for name in ("other", "locked", "text")}
    openssl("genrsa", "-out", str(found["other"]), "2048")
    openssl("rsa", "-aes128", "-passout", "pass:x", "-in", str(key), "-out", str(found["locked"]))
    found["text"].write_text("root:x:0:0\n")
    return {"cert": str(certificate), "key": str(key), **{name: str(path) for name, path in found.items()}}


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        (("text", "text"), "server.certfile", "holds no certificate in PEM form"),
        (("key", "cert"), "server.certfile", "holds no certificate in PEM form"),
        (("cert", "text"), "server.keyfile", "holds no private key in PEM form"),
        (("cert", "cert"), "server.keyfile", "holds no private key in PEM form"),
        (("cert", "other"), "server.keyfile", "is not the key of server.certfile"),
        (("cert", "locked"), "server.keyfile", "is encrypted, and nobody is there to type its password"),
    ],
)
def test_a_certificate_or_key_that_cannot_be_served_with(
    tmp_path: Path, pems: dict[str, str], files: tuple[str, str], path: str, message: str
) -> None:
    certificate, key = (pems[one] for one in files)
    found, said = problem(tmp_path, f"[server]\ncertfile = '{certificate}'\nkeyfile = '{key}'")
    assert (found, message in said) == (path, True), said


def test_whoever_may_not_read_the_key_is_warned_and_may_do_everything_but_serve(
    tmp_path: Path, pems: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain, or whoever asks, is another user than the edge, and needs no key."""

    def closed(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", closed)
    text = f"[server]\ncertfile = '{pems['cert']}'\nkeyfile = '{pems['key']}'"
    settings = read(tmp_path, text)
    [warning] = settings.warnings
    assert warning.startswith("server.certfile: cannot be read (Permission denied)")
    found = find_problem(settings.server)
    assert found is not None, "an edge does not start"
    assert found.path == "server.certfile"


def test_a_certificate_that_fits_has_no_problem(tmp_path: Path, pems: dict[str, str]) -> None:
    text = f"[server]\ncertfile = '{pems['cert']}'\nkeyfile = '{pems['key']}'"
    assert find_problem(read(tmp_path, text).server) is None
    assert find_problem(Server()) is None


@pytest.mark.service
def test_an_edge_whose_certificate_was_spoiled_says_which_key_names_it(
    start_service: StartService, pems: dict[str, str], tmp_path: Path
) -> None:
    text = f'[server]\ncertfile = "{pems["cert"]}"\nkeyfile = "{pems["other"]}"\n'
    service = start_service(deploy=text, wait=False)
    assert service.process.wait(30) == 1
    assert "server.keyfile: is not the key of server.certfile" in service.log
    assert "Traceback" not in service.log


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[dev]\nip = 'a\\u0000'", "dev.ip"),
        ("[dev]\npersist_to = '\\u0000'", "dev.persist_to"),
        ("[server]\nhost = '\\u0000'", "server.host"),
        ("[spool]\npath = 'a\\u0000b'", "spool.path"),
        ("[[stores]]\npath = '\\u0000'", "stores[0].path"),
        ("[[stores]]\nusername = 'a\\u0000'", "stores[0].username"),
        ("[vars]\nGEOIP_DB = '\\u0000'", "vars.GEOIP_DB"),
        ("[env.other.dev]\n[env.other.server]\nhost = '\\u0000'", "env.other.server.host"),
    ],
)
def test_a_zero_byte_is_no_part_of_any_text(tmp_path: Path, text: str, path: str) -> None:
    found = dict(problems(tmp_path, text.replace("'", '"')))
    assert "zero byte" in found[path]
    assert "\0" not in found[path]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (f"[dev]\npersist_to = '{LONG}'", "dev.persist_to"),
        (f"[spool]\npath = '{LONG}'", "spool.path"),
        (f"[[stores]]\npath = '{LONG}'", "stores[0].path"),
        (f"[vars]\nGEOIP_DB = '{LONG}'", "vars.GEOIP_DB"),
        (f"[server]\ncertfile = '{LONG}'\nkeyfile = 'deploy.toml'", "server.certfile"),
        (f"[server]\ncertfile = 'deploy.toml'\nkeyfile = '{LONG}'", "server.keyfile"),
    ],
)
def test_a_path_that_no_file_can_have_is_named(tmp_path: Path, text: str, path: str) -> None:
    found = dict(problems(tmp_path, text))
    assert "File name too long" in found[path]
    assert LONG not in found[path]


def test_a_spool_path_from_the_environment_is_named_as_such(tmp_path: Path) -> None:
    [(path, message)] = problems(tmp_path, "", None, SPOOL_PATH=LONG)
    assert (path, "File name too long" in message) == ("SPOOL_PATH", True)


@pytest.mark.parametrize("key", ["dev.ip", "server.host"])
@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        *(("127.0.0.1", True), ("::1", True), ("fe80::1%eth0", True), ("0.0.0.0", True)),
        *(("localhost", True), ("edge-1.internal", True)),
        *(("999.1.1.1", False), ("1.2.3.4.5", False), ("::g", False), ("127.0.0.1:80", False)),
        *(("a b", False), ("http://h", False)),
    ],
)
def test_an_address_that_cannot_be_one_is_named(tmp_path: Path, key: str, address: str, is_one: bool) -> None:
    table, _, name = key.partition(".")
    text = f"[{table}]\n{name} = '{address}'"
    if is_one:
        read(tmp_path, text)
    else:
        path, message = problem(tmp_path, text)
        assert (path, "is no address" in message) == (key, True)


def test_an_address_of_another_machine_is_named_when_it_is_listened_on() -> None:
    for address in ("203.0.113.7", "no-such-name.invalid"):
        with pytest.raises(ListenError, match=r"dev\.ip in deploy\.toml must be an address of this machine"):
            listen(address, 0, 1, how="PORT=…", address="dev.ip")
    with listen("127.0.0.1", 0, 1, how="PORT=…") as taken, pytest.raises(ListenError, match="PORT=…"):
        listen("127.0.0.1", taken.getsockname()[1], 1, how="PORT=…", address="dev.ip")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{}://h:99999", "its port must be a number from 1 to 65535"),
        ("{}://h:0", "its port must be a number from 1 to 65535"),
        (f"{{}}://u:{SECRET}/x@h:1", "its port must be a number from 1 to 65535"),
        ("{}://[", "is no url"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_and_the_url_is_not(tmp_path: Path, url: str, message: str) -> None:
    text = "[[stores]]\nengine = 'clickhouse'"
    given = {"REDIS_URL": url.format("redis"), "CLICKHOUSE_URL": url.format("http")}
    found = dict(problems(tmp_path, text, None, **given))
    assert set(found) == set(given)
    for said in found.values():
        assert said.startswith(message)
        assert SECRET not in said


@pytest.mark.parametrize("value", ["5", "true", "1.5"])
def test_a_geography_that_is_no_path_is_an_error(tmp_path: Path, value: str) -> None:
    path, message = problem(tmp_path, f"[vars]\nGEOIP_DB = {value}")
    assert (path, "in quotes" in message) == ("vars.GEOIP_DB", True)
    assert read(tmp_path, "[vars]\nGEOIP_DB = ''").warnings == ()


def test_dead_letters_have_no_name_of_another_key_of_their_partition(tmp_path: Path) -> None:
    """Else they would be put into the stream as events, or the drain would fail for ever."""
    keys = {name.rpartition(":")[2] for name in vars(Keys("events", 0, "other")).values()} - {"other"}
    assert {"entries", "producers", "imports", "lease", "epoch", "plan", "ledger", "progress"} <= keys
    refused = keys - {"order", "ids", "hours"}  # those stand behind another name
    for name in sorted(refused):
        path, message = problem(tmp_path, f"[[queues.consumers]]\ndead_letter_queue = '{name}'")
        assert path == "queues.consumers[0].dead_letter_queue"
        assert f"eb:{{events:N}}:{name}" in message
    for name in ("dead", "order", "ids", "events-dead", "entries2"):
        read(tmp_path, f"[[queues.consumers]]\ndead_letter_queue = '{name}'")
