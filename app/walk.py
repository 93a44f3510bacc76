"""Decoded data against a msgspec type: every problem at once, each with its path. A leaf.

msgspec stops at the first problem, and skips unknown members unless told otherwise; people who write a
deploy.toml or a request want all of it, with a suggestion for the misspelt. What no type can say are rules
(`app.rules`).
"""

from __future__ import annotations

import enum
import operator
import re
from collections.abc import Callable
from functools import lru_cache, reduce
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from app.errors import MAX_PROBLEMS, Problem
from app.fields import near_miss, unknown
from app.rules import HasRules, Rule

_JSON_WORDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_JSON_WORDS |= {word: word for word in ("null", "array", "object", "date", "datetime", "time")}
_QUOTED = re.compile(r"`([^`]+)`")
_A = {
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def find_problems(value: object, kind: object, path: str) -> list[Problem]:
    """Every problem of `value` (plain dicts, lists and scalars) against the type `kind`, depth first.

    What is longer than it may be is not looked into, and after MAX_PROBLEMS in one array or object nothing
    more is: a megabyte of mistakes, each with its near miss, would hold up everybody.
    """
    option = _option(value, kind)
    bare = _bare(option)
    arguments = get_args(bare)
    rules = _rules(kind, option)
    problems = [*_broken([rule for rule in rules if rule.first], value, path)]
    if problems:
        return problems
    if _is_struct(bare):
        return _in_struct(value, bare, path)
    if get_origin(bare) is tuple and isinstance(value, list):
        longest = _longest(kind, option)
        if longest is not None and len(value) > longest:
            return [Problem(path, f"expected array of length <= {longest}")]
        for index, item in enumerate(value):
            if len(problems) >= MAX_PROBLEMS:
                break
            problems += find_problems(item, arguments[0], f"{path}[{index}]")
    elif get_origin(bare) is dict and isinstance(value, dict):
        for key, item in value.items():
            if len(problems) >= MAX_PROBLEMS:
                break
            here = f"{path}.{key}"
            problems += _in_leaf(key, arguments[0], here) or find_problems(item, arguments[1], here)
    elif words := _words(bare):
        problems = _in_words(value, words, path)
    problems = problems or _in_leaf(value, option, path)
    others = [rule for rule in rules if not rule.first]
    return problems or (_broken(others, convert(value, kind), path) if others else [])


def convert(value: object, kind: object) -> Any:
    """`value`, in which `find_problems` finds none, as a `kind`."""
    return msgspec.convert(value, _option(value, kind), strict=True)


def _option(value: object, kind: object) -> Any:
    """The one type of the union `kind` that `value` can be meant for; `kind` where it is none, or the choice
    is msgspec's."""
    bare = _bare(kind)
    if get_origin(bare) not in (Union, UnionType):
        return kind
    options = [option for option in get_args(bare) if option is not msgspec.UnsetType]
    if len(options) == 1:
        return options[0]
    shapes: dict[type, Callable[[object], bool]] = {list: _is_array, dict: _is_object, str: _is_text}
    is_meant = shapes.get(type(value))
    found = [option for option in options if is_meant is not None and is_meant(_bare(option))]
    if found:
        return found[0]
    # `Struct | None`: whatever is not null was meant to be the object.
    others = [option for option in options if option is not type(None)]
    if value is not None and len(others) == 1 and _is_struct(others[0]):
        return others[0]
    return reduce(operator.or_, options)


def _bare(kind: object) -> Any:
    return _bare(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _is_object(kind: object) -> bool:
    return _is_struct(kind) or get_origin(kind) is dict


def _is_array(kind: object) -> bool:
    return get_origin(kind) is tuple


def _is_text(kind: object) -> bool:
    return kind is str


def _words(kind: object) -> list[str]:
    """The words of a closed list."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind]
    return [str(word) for word in get_args(kind)] if get_origin(kind) is Literal else []


def _in_words(value: object, words: list[str], path: str) -> list[Problem]:
    if isinstance(value, str) and value in words:
        return []
    if isinstance(value, str) and near_miss(value, words):
        return [Problem(path, unknown(path.rpartition(".")[2], value, words))]
    return [Problem(path, f"expected one of {', '.join(f'`{word}`' for word in words)}")]


def _in_struct(value: object, kind: type[msgspec.Struct], path: str) -> list[Problem]:
    if not isinstance(value, dict):
        return [Problem(path, f"expected an object, got {_A.get(type(value), type(value).__name__)}")]
    known = members(kind)
    problems = [
        Problem(_join(path, name), "required field is missing")
        for name, member in known.items()
        if member.required and name not in value
    ]
    for name, item in value.items():
        if len(problems) >= MAX_PROBLEMS:
            break
        here = _join(path, str(name)[:100])
        if name in known:
            problems += find_problems(item, known[name].kind, here)
        else:
            problems.append(Problem(here, unknown(_word(path), str(name), known)))
    if problems or not issubclass(kind, HasRules):
        return problems
    broken = msgspec.convert(value, kind, strict=True).broken_rules()
    return [Problem(f"{path}{below}", message) for below, message in broken]


def _word(path: str) -> str:
    """What JSON calls a name of an object, and TOML that of a table."""
    return "member" if path.startswith("$") else "key"


class Member(msgspec.Struct, frozen=True):
    """One member of a struct: its name in Python, and its type with all that is written beside it."""

    name: str
    kind: Any
    required: bool


@lru_cache(maxsize=256)
def members(kind: type[msgspec.Struct]) -> dict[str, Member]:
    """Those of a struct by their names in JSON."""
    hints = get_type_hints(kind, include_extras=True)
    fields = msgspec.structs.fields(kind)
    return {field.encode_name: Member(field.name, hints[field.name], field.required) for field in fields}


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


def _rules(kind: object, option: object) -> list[Rule]:
    annotations = {id(one): one for one in (kind, option) for one in getattr(one, "__metadata__", ())}
    return [one for one in annotations.values() if isinstance(one, Rule)]


def _longest(kind: object, option: object) -> int | None:
    """How many items an array of this type may have."""
    metas = [meta for one in (kind, option) for meta in getattr(one, "__metadata__", ())]
    return next(
        (meta.max_length for meta in metas if isinstance(meta, msgspec.Meta) and meta.max_length), None
    )


def _broken(rules: list[Rule], value: object, path: str) -> list[Problem]:
    for rule in rules:
        try:
            rule.check(value)
        except ValueError as error:
            return [Problem(path, str(error))]
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
