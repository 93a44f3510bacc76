"""Says what is wrong with a body that `app.event` refused: every problem, with its path. Pure.

Off the hot path, so it may read the body again, and slowly. It must find at least one problem in every
body that `read_event` refuses, and none in one that it accepts; a property test holds the two together.
"""

from __future__ import annotations

import json
from typing import NoReturn

import msgspec

from app.errors import MAX_PROBLEMS, Problem
from app.event import (
    ENVELOPE,
    EVENT_NAME,
    FIELD_NAME,
    MAX_ARRAY_ITEMS,
    MAX_CUSTOMER_CHARACTERS,
    MAX_EVENT_ID_CHARACTERS,
    MAX_FIELDS,
    MAX_INTEGER,
    MAX_STRING_BYTES,
    METRIC,
    MIN_INTEGER,
    RESERVED,
    fits,
)
from app.malformed import LONE_SURROGATE
from app.timestamp import parse_timestamp

_KINDS = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null", list: "array"}
_CUSTOM_NAME_RULE = (
    "a field name starts with a letter, digit, _, $ or - and holds only these and spaces, "
    "at most 128 characters"
)


class _Object:
    """A decoded JSON object that remembers which names were repeated."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        self.members = dict(pairs)
        names = [name for name, _ in pairs]
        self.repeated = sorted({name for name in names if names.count(name) > 1})


def find(body: bytes) -> list[Problem]:
    """Every problem of `body`, in the order of its fields, at most MAX_PROBLEMS."""
    root, problem = _parse(body)
    if problem is not None:
        return [problem]
    if not isinstance(root, _Object):
        return [Problem("$", f"the body must be one JSON object, not {_a_kind(root)}")]
    problems: list[Problem] = []
    if len(root.members) > MAX_FIELDS:
        problems.append(
            Problem("$", f"at most {MAX_FIELDS} fields an event; this one has {len(root.members)}")
        )
    problems += _repeated("$", root)
    if "event_name" not in root.members:
        problems.append(Problem("$.event_name", "required field is missing"))
    for name, value in root.members.items():
        problems += _field(name, value)
        if len(problems) >= MAX_PROBLEMS:
            break
    if not problems and _count_paths(root) > MAX_FIELDS:
        problems.append(Problem("$", f"at most {MAX_FIELDS} fields an event, nested ones counted"))
    return problems[:MAX_PROBLEMS]


def _parse(body: bytes) -> tuple[object, Problem | None]:
    """The decoded body, or why it is not JSON."""
    if not body.strip():
        return None, Problem("$", "the body is empty; send one JSON object")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        return None, Problem("$", f"the body is not valid UTF-8 (byte {error.start})")
    try:
        root = json.loads(
            text, object_pairs_hook=_Object, parse_constant=_refuse_constant, parse_int=_integer
        )
    except RecursionError:
        return None, Problem("$", "the body is nested too deeply; one level of object is allowed")
    except ValueError as error:
        return None, Problem("$", f"malformed JSON: {_reason(error)}")
    try:  # the strict decoder knows a few traps that the standard library lets through
        msgspec.json.decode(body)
    except UnicodeDecodeError:
        return None, Problem("$", "a string holds bytes that are not valid UTF-8")
    except RecursionError:
        return None, Problem("$", "the body is nested too deeply; one level of object is allowed")
    except msgspec.DecodeError as error:
        if "out of range" in str(error):
            return None, Problem("$", "a number is too large; send it as a string")
        if "\\u" in text:
            return None, Problem("$", LONE_SURROGATE)
        return None, Problem("$", f"malformed JSON: {_reason(error)}")
    return root, None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the value {name} is not a JSON number")


def _integer(digits: str) -> int:
    # Python refuses to convert thousands of digits; any value out of range serves the check as well.
    return int(digits) if len(digits) <= 40 else MAX_INTEGER + 1


def _reason(error: Exception) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    return text[:1].lower() + text[1:200]


def _a_kind(value: object) -> str:
    kind = "object" if isinstance(value, _Object) else _KINDS[type(value)]
    return ("an " if kind[0] in "ao" else "a ") + kind if kind != "null" else kind


def _repeated(path: str, value: _Object) -> list[Problem]:
    return [Problem(f"{path}.{name}", "the name stands twice in one object") for name in value.repeated]


def _field(name: str, value: object) -> list[Problem]:
    path = f"$.{name}"
    if name in RESERVED:
        return [Problem(path, "the name is reserved; it is derived from the request. Rename the field")]
    if name in ENVELOPE or name in METRIC:
        message = _envelope(name, value)
        return [Problem(path, message)] if message else []
    if not FIELD_NAME.fullmatch(name):
        return [Problem(path[:200], _CUSTOM_NAME_RULE)]
    if isinstance(value, _Object):
        return _nested(path, value)
    message = _leaf(value)
    return [Problem(path, message)] if message else []


def _nested(path: str, value: _Object) -> list[Problem]:
    problems = _repeated(path, value)
    for child, leaf in value.members.items():
        child_path = f"{path}.{child}"[:200]
        if not FIELD_NAME.fullmatch(child):
            problems.append(Problem(child_path, _CUSTOM_NAME_RULE))
        elif isinstance(leaf, _Object):
            problems.append(Problem(child_path, "objects may be nested one level deep, no deeper"))
        elif message := _leaf(leaf):
            problems.append(Problem(child_path, message))
    return problems


def _envelope(name: str, value: object) -> str | None:
    """What is wrong with a field that the contract types, or None."""
    if name == "metric_value":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"expected a number, got {_a_kind(value)}"
        return _leaf(value)
    if not isinstance(value, str):
        return f"expected a string, got {_a_kind(value)}"
    if name == "event_name" and not EVENT_NAME.fullmatch(value):
        return "must be 1 to 256 letters, digits, dots, underscores or hyphens (^[A-Za-z0-9._-]+$)"
    if name == "timestamp":
        try:
            parse_timestamp(value)
        except ValueError as error:
            return str(error)
    limits = {"customer_identifier": MAX_CUSTOMER_CHARACTERS, "event_id": MAX_EVENT_ID_CHARACTERS}
    if name in limits and not 0 < len(value) <= limits[name]:
        return f"must have 1 to {limits[name]} characters; it has {len(value)}"
    return _leaf(value)


def _leaf(value: object) -> str | None:
    if isinstance(value, str) and not fits(value):
        return f"a string may have at most {MAX_STRING_BYTES} bytes"
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        return "integers beyond 64 bits are not kept exactly; send it as a string or with an exponent"
    if isinstance(value, list):
        return _array(value)
    return None


def _array(items: list[object]) -> str | None:
    if len(items) > MAX_ARRAY_ITEMS:
        return f"an array may have at most {MAX_ARRAY_ITEMS} items; it has {len(items)}"
    kinds = {"object" if isinstance(item, _Object) else _KINDS[type(item)] for item in items}
    for kind in ("null", "object", "array"):
        if kind in kinds:
            return f"an array may not hold {kind}s; allowed are strings, numbers or booleans"
    if len(kinds) > 1:
        return f"an array holds one kind of value; this one mixes {'s and '.join(sorted(kinds))}s"
    return next((message for message in map(_leaf, items) if message), None)


def _count_paths(root: _Object) -> int:
    return sum(
        max(1, len(value.members)) if isinstance(value, _Object) else name not in ENVELOPE
        for name, value in root.members.items()
    )
