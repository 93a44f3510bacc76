"""Why a body is no JSON, in words. A leaf."""

from __future__ import annotations

import json

LONE_SURROGATE = "a string holds a lone surrogate (\\ud800 to \\udfff without its pair)"


def malformed(body: bytes | str, error: Exception) -> str:
    """What `error` of msgspec's decoder means to whoever sent `body`."""
    reason = str(error).removeprefix("JSON is malformed: ")[:200]
    if ("truncated" in reason or "surrogate" in reason) and _is_whole(body):
        reason = LONE_SURROGATE
    return f"malformed JSON: {reason}"


def _is_whole(body: bytes | str) -> bool:
    """Would the standard library read it, which takes half a surrogate for a character?"""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True
