"""Without a safeguard its test fails: the suite can fail, for each of them. The list is in docs/promise.md.

The short form: a few of them, one of each kind. All of them: `make sabotage`, three minutes.
"""

from __future__ import annotations

import pytest

from tests.chaos.prove import RUN_SECONDS, is_caught, run
from tests.chaos.sabotage import SAFEGUARDS, Safeguard
from tests.service import ROOT

SHORT = ("sequence", "epoch", "late", "lock")  # the edge's, the drain's, an event id's, the spool's


@pytest.mark.timeout(RUN_SECONDS)
@pytest.mark.parametrize(
    "safeguard", [one for one in SAFEGUARDS if one.name in SHORT], ids=lambda one: one.name
)
def test_its_test_fails_without_it(safeguard: Safeguard) -> None:
    _, printed = run([safeguard.test], safeguard.name)
    assert is_caught(printed), printed


def test_only_a_failed_test_counts() -> None:
    assert is_caught("E  assert 1 == 2\n1 failed, 3 passed in 2.0s\n")
    assert not is_caught("1 passed in 2.0s\n")
    assert not is_caught("ERROR tests/test_x.py::test - RuntimeError\n1 failed, 1 error in 2.0s\n")
    assert not is_caught("E  Failed: Timeout (>180.0s) from pytest-timeout.\n1 failed in 180.0s\n")


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda one: one.name)
def test_the_list_names_it(safeguard: Safeguard) -> None:
    page = (ROOT / "docs" / "promise.md").read_text()
    row = f"| `{safeguard.name}` | {safeguard.what} | `{safeguard.test.replace('::', '` `')}` |"
    assert row in page, row
