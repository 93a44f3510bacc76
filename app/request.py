"""The body of a request -> a struct, or every problem of it at once. A leaf.

The struct is the whole description of the request: its types are what is checked (`app.walk`), what
/openapi.json says and what the reference tables of docs/ are made from.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from app.errors import Problem, invalid_body
from app.event import has_repeated_name
from app.malformed import malformed
from app.walk import convert, find_problems, members

R = TypeVar("R", bound=msgspec.Struct)


def decode(body: bytes) -> object:
    """The JSON in `body`, in which no object names a member twice. Errors: ApiError 400."""
    if not body.strip():
        raise invalid_body([Problem("$", "the body is empty; send one JSON object")])
    try:
        decoded: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_body([Problem("$", malformed(body, error))]) from None
    if has_repeated_name(body):
        raise invalid_body([Problem("$", "a name stands twice in one object")])
    return decoded


def read_request(body: bytes, kind: type[R]) -> R:
    """The request in `body`. Errors: ApiError 400 that names every problem found."""
    asked, problems = read_members(body, kind)
    if problems:
        raise invalid_body(problems)
    return asked


def read_members(body: bytes, kind: type[R]) -> tuple[R, list[Problem]]:
    """The request in `body`, and what is wrong with its members one by one.

    For callers with rules between members, so that one answer names everything: a wrong member is left at
    its default, or UNSET where it is required. Whoever finds no more problems has the request.
    Errors: ApiError 400 if the body is no object at all.
    """
    decoded = decode(body)
    try:
        problems = find_problems(decoded, kind, "$")
        if not problems:
            return convert(decoded, kind), problems
        if isinstance(decoded, dict):
            return _of_right_members(decoded, kind), problems
    except RecursionError:
        problems = [Problem("$", "nested too deeply")]
    raise invalid_body(problems)


def _of_right_members(decoded: dict[str, object], kind: type[R]) -> R:
    right: dict[str, object] = {}
    for name, member in members(kind).items():
        if name in decoded and not find_problems(decoded[name], member.kind, name):
            right[member.name] = convert(decoded[name], member.kind)
        elif member.required:
            right[member.name] = msgspec.UNSET
    return kind(**right)
