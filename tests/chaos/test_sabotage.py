"""Without a safeguard its test fails: the suite can fail, for each of them. The list is in docs/promise.md."""

from __future__ import annotations

import pytest

from tests.chaos.prove import FAILED, run
from tests.chaos.sabotage import SAFEGUARDS, Safeguard
from tests.service import ROOT


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda one: one.name)
def test_its_test_fails_without_it(safeguard: Safeguard) -> None:
    code, printed = run([safeguard.test], safeguard.name)
    assert code == FAILED, printed


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda one: one.name)
def test_the_list_names_it(safeguard: Safeguard) -> None:
    page = (ROOT / "docs" / "promise.md").read_text()
    row = f"| `{safeguard.name}` | {safeguard.what} | `{safeguard.test.replace('::', '` `')}` |"
    assert row in page, row
