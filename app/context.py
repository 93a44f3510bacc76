"""What an edge knows of whoever sent a request: client address, User-Agent, Referer. Pure.

The drain derives browser, system, place and page from it (`app.enrich`), so a request carries it once,
however many events it has. What may be believed of it depends on the key and on our own proxies.
"""

from __future__ import annotations

import ipaddress

from starlette.types import Scope

from app.grant import Grant
from app.http import header
from app.settings import Settings
from app.stream import Context

MAX_CHARACTERS = 2048  # of a User-Agent or Referer; longer ones are cut, they only enrich


class ContextReader:
    """Reads the context of requests as this deployment wants it."""

    def __init__(self, settings: Settings) -> None:
        self._keeps_address = bool(settings.vars.get("GEOIP_DB"))
        self._trusted_proxies = [ipaddress.ip_network(network) for network in settings.server.trusted_proxies]

    def read(self, scope: Scope, grant: Grant) -> Context:
        """Client address ("" unless a geography database wants it), User-Agent, Referer."""
        agent = header(scope, b"user-agent")
        address = _client_address(scope, self._trusted_proxies) if self._keeps_address else ""
        if grant.allow_client_context:
            agent = header(scope, b"x-eventbunker-client-user-agent") or agent
            forwarded = header(scope, b"x-eventbunker-client-ip")
            if forwarded and self._keeps_address:
                address = forwarded.decode("latin-1")[:64]
        return address, _text(agent), _text(header(scope, b"referer"))


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "replace")[:MAX_CHARACTERS] if value else ""


def _client_address(scope: Scope, trusted: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> str:
    """The client's address: the right-most hop that is not a trusted proxy of ours.

    Never the left-most of X-Forwarded-For, which the client itself may write.
    """
    peer = scope["client"][0] if scope.get("client") else ""
    # A balancer may add a line of its own behind the client's instead of making that one longer.
    lines: list[bytes] = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    hops = [hop.strip() for line in lines for hop in line.decode("latin-1").split(",")]
    for hop in [peer, *reversed(hops)]:
        try:
            address = ipaddress.ip_address(hop)
        except ValueError:
            return ""
        if not any(address in network for network in trusted):
            return hop
    return ""
