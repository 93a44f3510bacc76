"""Why a body is no JSON: half a surrogate is called that, and not a body that ends too early."""

from __future__ import annotations

import msgspec
import pytest

from app.errors import ApiError
from app.malformed import malformed
from app.request import decode

HALF = rb'{"filters":[{"field_name":"v","op":"contains","value":"\ud800"}]}'


def told(body: bytes) -> str:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)) as caught:
        msgspec.json.decode(body)
    return malformed(body, caught.value)


@pytest.mark.parametrize("body", [HALF, rb'"\udfff"', rb'["a\ud83d", 1]'])
def test_half_a_surrogate_is_named(body: bytes) -> None:
    assert "lone surrogate" in told(body)


@pytest.mark.parametrize("body", [b"{", HALF[:-1], b'"a', b"[1,", rb'"\ud8', b"[" * 5000])
def test_what_ends_too_early_or_is_too_deep_is_not_called_that(body: bytes) -> None:
    assert told(body).startswith("malformed JSON: ")
    assert "surrogate" not in told(body)


def test_a_request_says_it() -> None:
    with pytest.raises(ApiError) as caught:
        decode(HALF)
    assert "lone surrogate" in caught.value.problems[0].message
