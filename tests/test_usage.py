"""What a project has stored: days and names from the store, fates from the ledger, and both agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import usage
from app.ledger import HOUR_MS
from app.scope import Scope
from app.sql_usage import to_statement
from app.usage import UsageRequest, to_usage
from tests.analysis_data import DAY, EVENTS, START, ZONES, bounds, examples, periods, to_row
from tests.client import Client
from tests.management import done, invalid, manage, refused
from tests.poison import poison, set_aside
from tests.query_engine import Engine
from tests.service import Service
from tests.waiting import until

NOW = START + 100 * DAY
# Recorded when others were sent, so that the two times cannot be mistaken for one another.
RECORDED = [
    {**event, "time_recorded": event["event_time"], "event_time": START + 50 * DAY}
    for project in ("turning", "sparse")
    for event in EVENTS[project]
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(str(tmp_path_factory.mktemp("store"))) as engine:
        engine.insert([to_row(event, "p") for event in RECORDED])
        engine.insert([to_row(event, "q") for event in RECORDED[:50]])
        yield engine


def request(**members: Any) -> UsageRequest:
    return msgspec.convert({"project_id": "p", **members}, UsageRequest)


@settings(
    max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(period=periods(), zone=st.sampled_from(ZONES))
def test_days_and_names_are_what_plain_python_counts(
    engine: Engine, period: dict[str, str], zone: str
) -> None:
    wanted = to_usage(request(time_period=period, timezone=zone), NOW)
    found = list(usage.days(wanted, engine.run(*to_statement(wanted, Scope("p"))), None, 0))
    start, end = bounds(period)
    events = [event for event in RECORDED if start <= event["time_recorded"] < end]
    counted = Counter((_day(event["time_recorded"], zone), event["event_name"]) for event in events)
    assert {
        (day.day[:10], name): count for day in found for name, count in day.event_names.items()
    } == counted
    first, last = _day(start, zone), _day(end - 1, zone)
    assert (found[0].day[:10], found[-1].day[:10]) == (first, last)
    assert len(found) == (datetime.fromisoformat(last) - datetime.fromisoformat(first)).days + 1
    assert sum(day.count for day in found) == len(events)


def test_the_end_of_a_period_is_not_included_and_the_servers_clock_decides(engine: Engine) -> None:
    """Most of these were recorded at midnight, or a millisecond from it."""
    at_midnight = sum(event["time_recorded"] == START + DAY for event in RECORDED)
    just_before = sum(event["time_recorded"] == START + DAY - 1 for event in RECORDED)

    def count(start: str, end: str) -> int:
        wanted = to_usage(request(time_period={"start": start, "end": end}), NOW)
        return sum(row[2] for row in engine.run(*to_statement(wanted, Scope("p"))))

    assert at_midnight > 0
    assert just_before > 0
    assert count("2024-03-25T23:59:59.999Z", "2024-03-26") == just_before
    assert count("2024-03-26", "2024-03-26T00:00:00.001Z") == at_midnight
    assert count("2024-05-14", "2024-05-15") == sum(
        START + 50 * DAY <= event["time_recorded"] < START + 51 * DAY for event in RECORDED
    )


def _day(moment_ms: int, zone: str) -> str:
    moment = datetime.fromtimestamp(0, ZoneInfo("UTC")) + timedelta(milliseconds=moment_ms)
    return moment.astimezone(ZoneInfo(zone)).date().isoformat()


def fates_of(period: dict[str, str], *, zone: str = "UTC", kept_from: int = 0) -> list[Any]:
    """What days say when every hour of the ledger has one stored event."""
    wanted = to_usage(request(time_period=period, timezone=zone), START + 9 * HOUR_MS // 2)
    by_hour = {hour: {"appended": 2, "stored": 1} for hour in usage.hours(wanted)}
    days = usage.days(wanted, [], by_hour, kept_from)
    return [day.fates and (day.fates["stored"], day.fates["queued"]) for day in days]


def test_fates_are_told_of_whole_hours_that_are_still_kept() -> None:
    whole = {"start": "2024-03-23", "end": "2024-03-26"}
    assert fates_of(whole) == [(24, 24), (24, 24), (5, 5)]  # it is half past four
    assert fates_of(whole, kept_from=START // HOUR_MS - 24) == [None, (24, 24), (5, 5)]
    assert fates_of(whole, kept_from=START // HOUR_MS - 23) == [None, None, (5, 5)]
    assert fates_of({"start": "2024-03-23T10:00Z", "end": "2024-03-25T03:30Z"}) == [(14, 14), (24, 24), None]
    assert fates_of({"start": "2024-03-23T10:30Z", "end": "2024-03-24"}) == [None]
    assert fates_of(whole, zone="Asia/Kolkata") == [None] * 4
    assert fates_of({"start": "2024-03-25", "end": "2024-03-25T05:00Z"}) == [(5, 5)]


@pytest.mark.service
def test_usage_and_ledger_agree(service: Service, client: Client) -> None:
    project = client.new_project()
    for name, times in (("view", 3), ("buy", 2)):
        for _ in range(times):
            project.track(event_name=name)
    for _ in range(3):
        project.track(event_name="once", event_id="same")
    set_aside(service, project, [poison(project)])

    def asked() -> dict[str, Any]:
        return done(manage(project, "usage", "project", time_period="today"))

    until(lambda: asked()["days"][0]["fates"]["queued"] == 0, 20, "an empty stream")
    answer = asked()
    (day,) = answer["days"]
    assert day["event_names"] == {"view": 3, "buy": 2, "once": 1}
    assert (answer["count"], day["count"]) == (6, 6)
    fates = {"appended": 9, "stored": 6, "dead": 1, "duplicate": 2, "erased": 0, "expired": 0, "queued": 0}
    assert day["fates"] == fates
    assert answer["project_id"] == project.keys["project_id"]
    assert answer["fresh_as_of"] > 0
    other = client.new_project()
    assert done(manage(other, "usage", "project", time_period="today"))["count"] == 0
    verified = service.eventbunker("verify", "--state", str(service.state), "--wait", "20")
    assert verified.returncode == 0, verified.stdout


@pytest.mark.service
def test_usage_is_the_projects_own(client: Client) -> None:
    project, other = client.new_project(), client.new_project()
    answer = manage(project, "usage", "project", time_period="today", project_id=other.keys["project_id"])
    refused(answer, 400, "Invalid project_id", "invalid_project_id", "The key belongs to another project_id.")
    invalid(
        manage(project, "usage", "project", time_period="todai", timezone="Mars", periods=1),
        ("$.time_period", 'unknown time period `todai`, did you mean `today`? or {"start": "…", "end": "…"}'),
        ("$.timezone", "unknown time zone `Mars`, use an IANA name such as Europe/Berlin"),
        ("$.periods", "unknown member `periods`, did you mean `time_period`?"),
    )
    invalid(
        manage(project, "usage", "project", time_period={"start": "2000-01-01", "end": "2010-01-01"}),
        ("$.time_period", "at most 400 days; this has 3653"),
    )
