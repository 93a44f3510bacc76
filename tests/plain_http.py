"""Single requests to a server of a test's own, each by a connection of its own, as httpx's functions of these names.

Those make a client each time, which reads the certificates of every authority: 40 ms of a processor, for
addresses that have no TLS.
"""

from __future__ import annotations

import ssl

import httpx

NOBODY = ssl.SSLContext(
    ssl.PROTOCOL_TLS_CLIENT
)  # whom a client trusts that speaks plain HTTP: `verify=NOBODY`

_client = httpx.Client(verify=NOBODY, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
get = _client.get
post = _client.post
