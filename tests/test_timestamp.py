"""Timestamps: what JavaScript's Date parses and api.md lists is accepted exactly; the rest is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import timestamp
from app.timestamp import format_timestamp, parse_timestamp

MOMENT = 1_624_718_880_000  # 2021-06-26T14:48:00Z


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-06-26", 1_624_665_600_000),
        ("2021-06-26T14:48", MOMENT),
        ("2021-06-26T14:48:00", MOMENT),
        ("2021-06-26T14:48:00Z", MOMENT),
        ("2021-06-26T14:48:00.000", MOMENT),
        ("2021-06-26T14:48:00.5Z", MOMENT + 500),
        ("2021-06-26T14:48:00.123456789Z", MOMENT + 123),
        ("2021-06-26T16:48:00+02:00", MOMENT),
        ("2021-06-26T16:48:00+0200", MOMENT),
        ("2021-06-26T10:18-04:30", MOMENT),
        ("Sat, 26 Jun 2021 14:48:00 GMT", MOMENT),
        ("Sat, 26 Jun 2021 16:48:00 +0200", MOMENT),
        ("26 Jun 2021 14:48 -0000", MOMENT),
        ("26 Jun 2021 14:48:00", MOMENT),
        ("1970-01-01T00:00:00Z", 0),
        ("2100-12-31T23:59:59.999Z", 4_133_980_799_999),
    ],
)
def test_accepted_forms_name_the_same_moment(text: str, expected: int) -> None:
    assert parse_timestamp(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "now", "yesterday", "01/02/03", "2021-6-26", "2021-06-31", "2021-02-29", "2021-13-01", "20210626",
        "2021-06-26 14:48", "2021-06-26T14", "2021-06-26T24:00:00Z", "2021-06-26T14:60Z", "2021-06-26T14:48:60Z",
        "2021-06-26T14:48:00.Z", "2021-06-26T14:48:00.1234567890Z", "2021-06-26T14:48:00+2", "2021-06-26Z",
        "2021-06-26T14:48:00+25:00", "2021-06-26T14:48:00 Z", "1969-12-31T23:59:59.999Z", "2101-01-01T00:00:00Z",
        "1970-01-01T00:00:00+00:01", "1624718880000", "２０２１-06-26", "2021-06-26T14:48:00Z\n", "Xyz, 26 Jun 2021 14:48 GMT",
        "32 Jun 2021 14:48 GMT", "26 Jun 2021", "W26-2021", "P1D",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse_timestamp(text)


@given(st.datetimes(datetime(1970, 1, 2), datetime(2100, 12, 30), timezones=st.timezones()))
def test_agrees_with_the_standard_library(moment: datetime) -> None:
    # datetime truncates sub-second parts of RFC 2822 and keeps microseconds of ISO.
    expected = (moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // (
        datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    )
    whole_minutes = moment.utcoffset().total_seconds() % 60 == 0  # type: ignore[union-attr]
    if whole_minutes:  # offsets of the nineteenth century have seconds, which no format here can carry
        assert parse_timestamp(moment.isoformat()) == expected
        assert parse_timestamp(format_datetime(moment)) == expected // 1000 * 1000
    assert parse_timestamp(format_timestamp(expected)) == expected


@given(
    st.from_regex(
        r"\A[12][09]\d\d[-0W][01]\d[-0][0-3]\d[T :][012]\d[:0][0-6]\d[:0][0-6]\d[.,:]\d\d[\dZ+][Z+ ]?\Z"
    )
)
def test_the_short_cut_takes_nothing_that_the_rule_refuses(text: str) -> None:
    try:
        moment = timestamp._from_common(text)
    except ValueError:
        moment = None
    if moment is not None:
        match = timestamp._ISO.fullmatch(text)
        assert match
        assert timestamp._from_iso(match) == moment
