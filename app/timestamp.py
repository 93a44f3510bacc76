"""Timestamps that clients send: text -> Unix milliseconds. A leaf; the event and the query language use it.

Accepted (api.md section 3.1): an ISO 8601 date, a date-time with minutes or seconds and 1 to 9 fraction
digits, each with `Z`, `±hh:mm`, `±hhmm` or no offset (which means UTC); and RFC 2822. Nothing else: a
guess at `01/02/03` would store a wrong time without anybody noticing.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

MIN_MS = 0  # 1970-01-01
MAX_MS = 4_133_980_799_999  # 2100-12-31T23:59:59.999Z

_ISO = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:T(\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?(?:(Z)|([+-])(\d{2}):?(\d{2}))?)?",
    re.ASCII,
)
_RFC_2822 = re.compile(
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),\s+)?\d{1,2}\s+"
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s+\d{4}\s+\d{2}:\d{2}(?::\d{2})?"
    r"(?:\s+(?:[+-]\d{4}|GMT|UTC|UT|Z|EST|EDT|CST|CDT|MST|MDT|PST|PDT))?",
    re.ASCII | re.IGNORECASE,
)
_HOUR = re.compile(r"(\d{4})-(\d{2})-(\d{2})T([01]\d|2[0-3])", re.ASCII)
_SECONDS = {f":{number // 60:02}:{number % 60:02}": number * 1000 for number in range(3600)}
_MILLISECONDS = {f".{number:03}": number for number in range(1000)}
_EPOCH_DAYS = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_timestamp(text: str, latest_ms: int = MAX_MS) -> int:
    """The moment that `text` names, in Unix milliseconds, digits beyond the millisecond dropped.

    Errors: ValueError with a sentence that says what is accepted.
    """
    moment = _from_common(text)
    if moment is None:
        match = _ISO.fullmatch(text)
        moment = _from_iso(match) if match else _from_rfc_2822(text)
    if not MIN_MS <= moment <= latest_ms:
        raise ValueError("the year must be between 1970 and 2100")
    return moment


def format_timestamp(moment_ms: int) -> str:
    """`2021-06-26T14:48:00.000Z` for Unix milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=moment_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment_ms % 1000:03d}Z"


def _from_common(text: str) -> int | None:
    """What nearly everybody sends, a date-time to the millisecond in UTC; None for anything else.

    Looked up, not computed: events are of few hours, and an hour has 3,600 seconds.
    """
    length = len(text)
    if length != 23 and not (length == 24 and text[23] == "Z"):
        return None
    try:
        return _hour(text[:13]) + _SECONDS[text[13:19]] + _MILLISECONDS[text[19:23]]
    except (KeyError, ValueError):
        return None


@lru_cache(maxsize=1024)
def _hour(text: str) -> int:
    """`2021-06-26T14` in milliseconds. Errors: ValueError, also for what `_from_iso` had better explain."""
    match = _HOUR.fullmatch(text)
    if match is None:
        raise ValueError
    year, month, day, hour = map(int, match.groups())
    return (date(year, month, day).toordinal() - _EPOCH_DAYS) * 86_400_000 + hour * 3_600_000


def _from_iso(match: re.Match[str]) -> int:
    year, month, day, hour, minute, second, fraction, _zulu, sign, off_hour, off_minute = match.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH_DAYS
    except ValueError:
        raise ValueError(f"{year}-{month}-{day} is not a day of the calendar") from None
    seconds = days * 86_400
    if hour is not None:
        hours, minutes, whole = int(hour), int(minute), int(second or 0)
        if hours > 23 or minutes > 59 or whole > 59:
            raise ValueError("the time of day must be between 00:00:00 and 23:59:59")
        seconds += hours * 3600 + minutes * 60 + whole
    if sign is not None:
        offset_hours, offset_minutes = int(off_hour), int(off_minute)
        if offset_hours > 23 or offset_minutes > 59:
            raise ValueError("the offset must be between -23:59 and +23:59")
        offset = offset_hours * 3600 + offset_minutes * 60
        seconds += -offset if sign == "+" else offset
    return seconds * 1000 + (int(fraction[:3].ljust(3, "0")) if fraction else 0)


def _from_rfc_2822(text: str) -> int:
    if not _RFC_2822.fullmatch(text):
        raise ValueError(
            "expected an ISO 8601 date or date-time such as 2021-06-26T14:48:00.000Z, or an RFC 2822 date"
        )
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError):
        raise ValueError("the RFC 2822 date names no moment of the calendar") from None
    if moment.tzinfo is None:  # no offset, or "-0000": both mean UTC here
        moment = moment.replace(tzinfo=UTC)
    return int((moment - _EPOCH) / timedelta(milliseconds=1))
