"""The tables of docs/analyse.md have every member of each request, and no other."""

from __future__ import annotations

import re

import msgspec
import pytest

from app.cohorts import RetentionRequest
from app.funnel import FunnelRequest
from app.seen_fields import FieldsRequest
from app.timeline import TimelineRequest
from app.walk import members
from tests.service import ROOT

SECTIONS: dict[str, type[msgspec.Struct]] = {
    "Funnel": FunnelRequest,
    "Retention": RetentionRequest,
    "Timeline": TimelineRequest,
    "Fields": FieldsRequest,
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_member_is_documented(section: str) -> None:
    text = (ROOT / "docs" / "analyse.md").read_text()
    (body,) = re.findall(rf"^## {section}: (.*?)(?=^## )", text, re.M | re.S)
    rows = re.findall(r"^\| (`.*?) \|", body, re.M)
    required = {name for row in rows for name in re.findall(r"`(\w+)` \(required\)", row)}
    known = members(SECTIONS[section])
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == known.keys()
    assert required == {name for name, member in known.items() if member.required}
