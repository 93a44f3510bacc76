"""What a request asks for, as ASGI's scope has it. Pure."""

from __future__ import annotations

import re
from urllib.parse import unquote

_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")


def path_and_query(target: bytes) -> tuple[str, bytes, bytes]:
    """Path, raw path and query of a target. It may be a whole address, as a proxy is asked for it, which a
    server must take too (RFC 9112, section 3.2.2). Errors: ValueError for what is not ASCII."""
    if not target.startswith((b"/", b"*")) and (authority := _AUTHORITY.match(target)):
        target = target[authority.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, raw_path, query
