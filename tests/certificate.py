"""A certificate for 127.0.0.1 that nobody but a test trusts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its path; the key is beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    directory = tmp_path_factory.mktemp("certificate")
    made = directory / "cert.pem"
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", str(directory / "key.pem"))
    command = ["openssl", "req", "-x509", "-days", "2", *name, *key, "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made


def tls(certificate: Path) -> str:
    """Its lines of [server]."""
    return f'certfile = "{certificate}"\nkeyfile = "{certificate.with_name("key.pem")}"\n'
