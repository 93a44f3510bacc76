"""Decoded data against a msgspec type: every problem at once, each with its path. A leaf.

msgspec stops at the first problem, and skips unknown members unless told otherwise; people who write a
deploy.toml or a request want all of it, with a suggestion for the misspelt.
"""

from __future__ import annotations

import difflib
import re
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from app.errors import Problem

_JSON_WORDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_JSON_WORDS |= {word: word for word in ("null", "array", "object", "date", "datetime", "time")}
_QUOTED = re.compile(r"`([^`]+)`")
_A = {
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    list: "an array",
    type(None): "null",
}


def find_problems(value: object, kind: object, path: str) -> list[Problem]:
    """Every problem of `value` (plain dicts, lists and scalars) against the type `kind`, depth first."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    arguments = get_args(bare)
    options = arguments if get_origin(bare) in (Union, UnionType) else (bare,)
    structs = [option for option in options if _is_struct(option)]
    if structs and not (value is None and type(None) in options):
        return _in_struct(value, structs[0], path)
    if get_origin(bare) is tuple and isinstance(value, list):
        items = [find_problems(item, arguments[0], f"{path}[{index}]") for index, item in enumerate(value)]
        return [problem for found in items for problem in found] or _in_leaf(value, kind, path)
    if get_origin(bare) is dict and isinstance(value, dict):
        entries = [
            _in_leaf(key, arguments[0], f"{path}.{key}") or find_problems(item, arguments[1], f"{path}.{key}")
            for key, item in value.items()
        ]
        return [problem for found in entries for problem in found]
    if get_origin(bare) is Literal and isinstance(value, str) and value not in arguments:
        return [Problem(path, f"expected one of {', '.join(f'`{option}`' for option in arguments)}")]
    return _in_leaf(value, kind, path)


def suggest(word: str, known: list[str]) -> str:
    """ "unknown member; did you mean `x`?" or a list of what there is."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _in_struct(value: object, kind: type[msgspec.Struct], path: str) -> list[Problem]:
    if not isinstance(value, dict):
        return [Problem(path, f"expected an object, got {_A.get(type(value), type(value).__name__)}")]
    hints = get_type_hints(kind, include_extras=True)
    members = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    problems = [
        Problem(_join(path, name), "required field is missing")
        for name, field in members.items()
        if field.required and name not in value
    ]
    for name, item in value.items():
        here = _join(path, str(name)[:100])
        if name in members:
            problems += find_problems(item, hints[members[name].name], here)
        else:
            problems.append(Problem(here, f"unknown key; {suggest(str(name), list(members))}"))
    return problems


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _in_leaf(value: object, kind: object, path: str) -> list[Problem]:
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        if "matching regex" in str(error) and (words := _pattern_in_words(kind)):
            return [Problem(path, words)]
        message = _QUOTED.sub(_in_json_words, str(error).split(" - at ")[0])
        return [Problem(path, message[:1].lower() + message[1:])]
    return []


def _pattern_in_words(kind: object) -> str:
    """What the pattern of `kind` wants: the description beside it, "" when there is none."""
    metas = [meta for option in (kind, *get_args(kind)) for meta in getattr(option, "__metadata__", ())]
    described = [meta.description for meta in metas if isinstance(meta, msgspec.Meta) and meta.pattern]
    return next(filter(None, described), "")


def _in_json_words(quoted: re.Match[str]) -> str:
    """`int | null` -> integer or null; anything that is no list of types stays."""
    types = quoted[1].split(" | ")
    known = [_JSON_WORDS[word] for word in types if word in _JSON_WORDS]
    return " or ".join(known) if len(known) == len(types) else quoted[0]
