"""Can an edge serve TLS with `server.certfile` and `server.keyfile`? Loaded as an edge will load them.

The servers would say so too, in a traceback that names no key of deploy.toml. A file that may not be read is
told apart: a drain needs no certificate, and may well be another user than the edge.
"""

from __future__ import annotations

from pathlib import Path

from app.errors import Problem
from app.settings import Server

CERTIFICATE, KEY = "server.certfile", "server.keyfile"


class Unreadable(Problem, frozen=True, gc=False):
    """This user may not read the file; another one may."""


def find_problem(server: Server) -> Problem | None:
    """What is wrong with the two files, which exist; None too where neither is configured."""
    if not server.certfile or not server.keyfile:
        return None
    for path, file in ((CERTIFICATE, server.certfile), (KEY, server.keyfile)):
        try:
            Path(file).read_bytes()
        except OSError as error:
            kind = Unreadable if isinstance(error, PermissionError) else Problem
            return kind(path, f"cannot be read ({error.strerror}); whoever runs an edge must be allowed to")
    return _load(server)


def _load(server: Server) -> Problem | None:
    import ssl  # noqa: PLC0415  (most processes speak no TLS, and it is a large library)

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(server.certfile)
    except ssl.SSLError:
        return Problem(CERTIFICATE, "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    asked = []

    def password() -> str:  # else OpenSSL asks the terminal, and waits there
        asked.append(True)
        return "-"

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(server.certfile, server.keyfile, password)
    except ssl.SSLError as error:
        reason = error.reason or ""
        if asked:
            message = (
                "is encrypted, and nobody is there to type its password when an edge starts: decrypt it "
                "(openssl pkey -in KEY -out PLAIN) and let only the edge's user read it"
            )
            return Problem(KEY, message)
        if reason.endswith("_MISMATCH"):
            return Problem(KEY, f"is not the key of {CERTIFICATE}: name the two that were made together")
        if reason.startswith(("EE_", "CA_")):
            return Problem(CERTIFICATE, f"is too weak for OpenSSL ({reason}): have a new one made")
        return Problem(KEY, "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)")
    return None
