"""Geography from a real .mmdb file: from the header that names the client's address to the query."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from app.enrich import NOWHERE, Geography, Place
from tests.client import Client
from tests.service import StartService
from tests.waiting import until

BERLIN = {
    "country": {"iso_code": "DE", "names": {"en": "Germany"}},
    "subdivisions": [{"iso_code": "BE", "names": {"en": "Berlin", "de": "Berlin"}}],
    "city": {"names": {"en": "Berlin"}},
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in the layout of GeoLite2 City, with documentation addresses."""
    path = tmp_path_factory.mktemp("geo") / "places.mmdb"
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Test-City")
    writer.insert_network(IPSet(["203.0.113.0/24", "2001:db8::/32"]), BERLIN)
    writer.insert_network(IPSet(["198.51.100.0/24"]), {"country_code": "FR"})
    writer.to_db_file(str(path))
    return path


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("203.0.113.9", Place("DE", "Berlin", "Berlin")),
        ("2001:db8::1", Place("DE", "Berlin", "Berlin")),
        ("198.51.100.1", Place("FR", None, None)),
        ("192.0.2.1", NOWHERE),
        ("", NOWHERE),
        ("no address", NOWHERE),
    ],
)
def test_places(database: Path, address: str, place: Place) -> None:
    assert Geography(str(database)).place(address) == place


@pytest.mark.service
def test_an_event_carries_the_place_of_its_client(start_service: StartService, database: Path) -> None:
    toml = f'[server]\ntrusted_proxies = ["127.0.0.0/8"]\n[vars]\nGEOIP_DB = "{database}"\n'
    service = start_service(deploy=toml)
    client = Client(service.keys)
    with client.http:
        trusted = client.create_key(allow_client_context=True)["api_key"]
        sent = {
            "named": client.post({"event_name": "geo"}, x_eventbunker_write_key=trusted, x_eventbunker_client_ip="203.0.113.9"),
            "not believed": client.post({"event_name": "geo"}, x_eventbunker_client_ip="203.0.113.9"),
            "behind a proxy": client.post({"event_name": "geo"}, x_forwarded_for="192.0.2.7, 203.0.113.9, 127.0.0.1"),
        }  # fmt: skip
        lines = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "203.0.113.9")]
        key = ("x-eventbunker-write-key", client.keys["write_key"])
        sent["of a forged line"] = client.http.post(
            "/post", json={"event_name": "geo"}, headers=[*lines[::-1], key]
        )
        sent["a line each"] = client.http.post("/post", json={"event_name": "geo"}, headers=[*lines, key])
        stored = {how: client.one(answer.json()["unique_req_id"]) for how, answer in sent.items()}
    found = {
        how: (event["ip_country"], event["ip_region"], event["ip_city"]) for how, event in stored.items()
    }
    assert found == {
        "named": ("DE", "Berlin", "Berlin"),
        "not believed": (None, None, None),
        "behind a proxy": ("DE", "Berlin", "Berlin"),
        "of a forged line": (None, None, None),
        "a line each": ("DE", "Berlin", "Berlin"),
    }


@pytest.mark.service
def test_a_database_that_cannot_be_opened_is_named(start_service: StartService, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mmdb"
    broken.write_bytes(b"nothing")
    service = start_service(deploy=f'[vars]\nGEOIP_DB = "{broken}"\n', wait=False)
    until(lambda: "GEOIP_DB" in service.log and "cannot be opened" in service.log, 30, "a line that names it")
