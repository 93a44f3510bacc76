"""What the run asks of an edge over HTTP: how many events, every event, a receipt."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from tests.client import equals

ALL_TIME = {"start": "1970-01-01", "end": "2100-12-31"}
PAGE = 10_000


class Questions:
    """Of one project's events of one name. Keys as the topology made them."""

    def __init__(self, query_key: str, write_key: str, event_name: str) -> None:
        self._query_key = {"x-eventbunker-query-key": query_key}
        self._write_key = {"x-eventbunker-write-key": write_key}
        self._event_name = event_name

    def count(self, http: httpx.Client, field_name: str, value: str) -> int | None:
        """How many events a query sees; None when there was no answer to the question."""
        query = {
            "time_period": ALL_TIME,
            "filters": [equals("event_name", self._event_name), equals(field_name, value)],
            "computations": [{"function": "count"}],
        }
        try:
            answer = http.post("/v1/query/json", json=query, headers=self._query_key)
        except httpx.TransportError:
            return None
        if answer.status_code != 200:
            return None
        data = answer.json()["data"]
        return int(data[0]["count"]) if data else 0

    def events(self, http: httpx.Client) -> Iterator[dict[str, object]]:
        """Every event, page by page. The service must be well."""
        offset = 0
        while True:
            query = {
                "time_period": ALL_TIME,
                "filters": [equals("event_name", self._event_name)],
                "order_by": [{"field_name": "unique_req_id", "direction": "ASC"}],
                "limit": PAGE,
                "offset": offset,
            }
            answer = http.post("/v1/query/json", json=query, headers=self._query_key)
            assert answer.status_code == 200, answer.text
            page = answer.json()["data"]
            yield from page
            if len(page) < PAGE:
                return
            offset += len(page)

    def receipt(self, http: httpx.Client, unique_req_id: str) -> dict[str, object]:
        """What the service says became of an event. The service must be well."""
        answer = http.get(f"/v1/receipt/{unique_req_id}", headers=self._write_key)
        assert answer.status_code == 200, answer.text
        receipt: dict[str, object] = answer.json()
        return receipt
