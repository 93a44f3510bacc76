"""What a request to erase may say, and what it means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app import tombstone
from app.erase_request import Wanted, read_erasure, read_status
from app.errors import ApiError
from app.grant import Grant, KeyType
from app.time_period import Period
from app.tombstone import Tombstone

NOW = 1_790_000_000_000
FREE = Grant(KeyType.DELETE, "k", "a", "p")
BOUND = Grant(KeyType.DELETE, "k", "a", "p", "anna")
BY_CUSTOMER = {"field_name": "customer_identifier", "op": "equals", "value": "anna"}
BY_NAME = {"field_name": "event_name", "op": "equals", "value": "e"}


def read(body: Any, grant: Grant = FREE) -> Wanted:
    return read_erasure(body if isinstance(body, bytes) else json.dumps(body).encode(), grant, NOW)


def problems(body: Any, grant: Grant = FREE) -> dict[str, str]:
    with pytest.raises(ApiError) as caught:
        read(body, grant)
    assert caught.value.row.error == "Body JSON validation failed."
    return {problem.path: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("body", [b"", b" \n", {}, {"filters": []}, {"dry_run": True}, {"timezone": "UTC"}])
def test_nothing_is_erased_by_leaving_things_out(body: Any) -> None:
    assert problems(body)["$"].startswith("say which events to erase")
    assert read(body, BOUND).tombstone == Tombstone("", "p", 0, ("anna",))


def test_a_bound_key_means_its_own_customer_whatever_it_says() -> None:
    other = read({"filters": [{**BY_CUSTOMER, "value": "bert"}]}, BOUND).tombstone
    assert other.customers == ("anna",)
    assert len(other.filters) == 1, "and nobody is both"


def test_customers_are_told_from_other_filters() -> None:
    assert read({"filters": [BY_CUSTOMER]}).tombstone == Tombstone("", "p", 0, ("anna",))
    both = read(
        {"filters": [BY_NAME, BY_CUSTOMER], "time_period": {"start": "1970-01-01", "end": "1970-01-02"}}
    )
    assert both.tombstone == Tombstone("", "p", 0, ("anna",), None, Period(0, 86_400_000), (BY_NAME,))
    assert not both.tombstone.is_of_customers
    assert len(both.filters) == 2
    several = read({"filters": [{**BY_CUSTOMER, "op": "in", "value": ["a", "b", "a"]}]}).tombstone
    assert several.customers == ("a", "b")
    empty = read({"filters": [{**BY_CUSTOMER, "value": ""}]}).tombstone
    assert empty.customers is None, "an empty identifier is no identifier: no event has it"


def test_every_problem_is_named_at_once() -> None:
    found = problems({"filter": [], "filters": [{"field_name": "a", "op": "eqals", "value": 1}], "dry_run": 1,
                      "time_period": "minus_5_minuts", "timezone": "Europe/Berlinn"})  # fmt: skip
    assert found["$.filter"] == "unknown member `filter`, did you mean `filters`?"
    assert set(found) == {"$.filter", "$.filters[0].op", "$.dry_run", "$.time_period", "$.timezone"}
    assert problems(b"{")["$"].startswith("malformed JSON")
    assert problems(b'{"filters":[],"filters":[]}')["$"] == "a name stands twice in one object"
    assert problems(b"[]")["$"] == "the body must be one JSON object"


def test_status_is_asked_for_by_id_or_by_page() -> None:
    assert read_status(b"").limit == 100
    assert read_status(b'{"erasure_id":"era_1"}').erasure_id == "era_1"
    with pytest.raises(ApiError) as caught:
        read_status(b'{"cursor":"zz"}')
    assert caught.value.problems[0].message == "expected the `cursor` of the answer before"
    with pytest.raises(ApiError) as caught:
        read_status(b'{"erasure":"x","limit":0,"cursor":1}')
    assert {one.path for one in caught.value.problems} == {"$.erasure", "$.limit", "$.cursor"}


def test_what_is_kept_for_long_names_nobody() -> None:
    one = Tombstone("era_1", "p", 5, ("anna", "bert"), None, Period(1, 2), (BY_NAME,))
    kept = tombstone.encode(tombstone.without_names(one))
    assert b"anna" not in kept
    digests = tombstone.decode(kept).digests
    assert digests == (tombstone.digest("p", "anna"), tombstone.digest("p", "bert"))
    assert tombstone.digest("q", "anna") not in digests
    erased = tombstone.to_erased(tombstone.encode(one))
    assert (erased.up_to_ms, erased.customers, erased.period) == (5, ("anna", "bert"), Period(1, 2))
    assert len(erased.filters) == 1
    with pytest.raises(ValueError, match="cannot be read"):
        tombstone.to_erased(kept)
