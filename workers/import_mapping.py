"""Other people's fields -> ours: what --event-name, --rename, --drop and their like do to a row. Pure.

A mapping moves, drops and retypes members; values that it does not touch keep their bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TypeAlias

import msgspec

from app.event import ENVELOPE, FIELD_NAME, METRIC, RESERVED, has_repeated_name
from app.timestamp import MAX_MS, MIN_MS, format_timestamp, parse_timestamp
from workers.import_content import InputError

UNITS = {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("0.001"), "ns": Decimal("0.000001")}
# Strings by the contract: in a table their values are text, whatever they look like.
TEXTS = (ENVELOPE | METRIC) - {"metric_value"}
EVERYTHING = "*"

JsonBytes: TypeAlias = bytes
_NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,9})?", re.ASCII)
# What databases print: a space for the T, an offset of hours alone, or the letters UTC behind a space.
_SQL_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?) ?(UTC|Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
encode = msgspec.json.Encoder(decimal_format="number").encode


class Mapping(msgspec.Struct, frozen=True):
    """What the options say. `moves`: old name -> new one; both may name a member of an object as `a.b`."""

    event_name: str = ""
    moves: tuple[tuple[str, str], ...] = ()
    drops: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    timestamp_from: str = ""
    timestamp_unit: str = ""

    @property
    def is_empty(self) -> bool:
        """Does an event keep its bytes?"""
        return self == Mapping()

    @property
    def identity(self) -> bytes:
        """Different for mappings that make different events."""
        return msgspec.json.encode(
            [
                *msgspec.structs.astuple(self)[:2],
                sorted(self.drops),
                sorted(self.texts),
                self.timestamp_from,
                self.timestamp_unit,
            ]
        )

    @property
    def sources(self) -> set[str]:
        """The names of fields that it expects."""
        return {old for old, _ in self.moves} | self.drops | (self.texts - {EVERYTHING})

    def target(self, column: str) -> str:
        """What a column's values become; "" when they are left out."""
        if column in self.drops:
            return ""
        return next((new for old, new in self.moves if old == column), column)

    def convert(self, column: str, target: str, value: JsonBytes) -> JsonBytes | None:
        """A value as the target wants it, None where it is left out."""
        if column == self.timestamp_from:
            return as_timestamp(value, self.timestamp_unit)
        return as_text(value) if self.is_text(column, target) else value

    def is_text(self, column: str, target: str) -> bool:
        return target in TEXTS or column in self.texts or EVERYTHING in self.texts

    def apply(self, body: JsonBytes) -> JsonBytes:
        """One event of NDJSON. What is no object of JSON stays as it is, to be refused as that."""
        try:
            fields: dict[str, bytes] = {name: bytes(raw) for name, raw in _MEMBERS.decode(body).items()}
            names = len(fields) + sum(raw.count(b'":') for raw in fields.values() if raw.startswith(b"{"))
            if body.count(b'":') != names and has_repeated_name(body):
                return body
            for path in self.drops:
                _pop(fields, path)
            moved = [(old, new, _pop(fields, old)) for old, new in self.moves]
            for old, new, raw in moved:
                converted = None if raw is None else self.convert(old, new, raw)
                if converted is not None:
                    fields[new] = converted
            if self.texts:
                moved_to = {new for _, new in self.moves}
                for name, raw in list(fields.items()):
                    if name not in moved_to and (name in self.texts or EVERYTHING in self.texts):
                        fields[name] = as_text(raw) or raw
            if self.event_name:
                fields["event_name"] = encode(self.event_name)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return body
        return b"{%s}" % b",".join([b"%s:%s" % (encode(name), raw) for name, raw in fields.items()])


def _pop(fields: dict[str, bytes], path: str) -> bytes | None:
    """Take a member out, also one of an object in it. Errors: msgspec.DecodeError."""
    parent, _, child = path.partition(".")
    if path in fields or not child:
        return fields.pop(path, None)
    if not fields.get(parent, b"").startswith(b"{"):
        return None
    inner = {name: bytes(raw) for name, raw in _MEMBERS.decode(fields[parent]).items()}
    found = inner.pop(child, None)
    if inner:
        fields[parent] = b"{%s}" % b",".join([b"%s:%s" % (encode(name), raw) for name, raw in inner.items()])
    else:
        del fields[parent]
    return found


def as_text(value: JsonBytes) -> JsonBytes | None:
    """A number or boolean as a string of the same characters; null is left out, the rest stays."""
    if value[:1] in b'"[{':
        return value
    return None if value == b"null" else b'"%s"' % value


def as_timestamp(value: JsonBytes, unit: str) -> JsonBytes | None:
    """What `timestamp` takes, where it can be told; else the value, which will be refused with the reason."""
    if value == b"null":
        return None
    text = msgspec.json.decode(value) if value.startswith(b'"') else value.decode()
    if not isinstance(text, str):
        return value
    if unit and _NUMBER.fullmatch(text):
        moment = int(Decimal(text) * UNITS[unit])
        return encode(format_timestamp(moment)) if MIN_MS <= moment <= MAX_MS else value
    match = _SQL_TIME.fullmatch(text)
    zone = (match[3] or "") if match else ""
    if match and (text[10] == " " or len(zone) == 3):
        zone = "Z" if zone == "UTC" else f"{zone}:00" if len(zone) == 3 else zone
        repaired = f"{match[1]}T{match[2]}{zone}"
        try:
            parse_timestamp(repaired)
        except ValueError:
            return value
        return encode(repaired)
    return value


class Builder:
    """Rows of a table -> events. Columns named `parent.child` become one object."""

    def __init__(self, columns: Sequence[str], mapping: Mapping) -> None:
        """Errors: InputError, which names every column that cannot be a field."""
        self.targets = [mapping.target(column) for column in columns]
        _check(columns, self.targets, mapping)
        self._start = b'{"event_name":%s' % encode(mapping.event_name) if mapping.event_name else b"{"
        if mapping.event_name:
            self.targets = ["" if target == "event_name" else target for target in self.targets]
        plain = [(at, name) for at, name in enumerate(self.targets) if name and "." not in name]
        self._plain = [(at, b"%s:" % encode(name)) for at, name in plain]
        nested: dict[str, list[tuple[int, bytes]]] = {}
        for at, name in enumerate(self.targets):
            parent, dot, child = name.partition(".")
            if dot:
                nested.setdefault(parent, []).append((at, b"%s:" % encode(child)))
        self._nested = [(b"%s:{" % encode(parent), members) for parent, members in nested.items()]

    def build(self, values: Sequence[JsonBytes | None]) -> JsonBytes:
        """One event; None is left out."""
        members = [name + value for at, name in self._plain if (value := values[at]) is not None]
        for start, children in self._nested:
            inner = [name + value for at, name in children if (value := values[at]) is not None]
            if inner:
                members.append(start + b",".join(inner) + b"}")
        start = self._start
        if len(start) > 1 and members:
            start += b","
        return start + b",".join(members) + b"}"


def _check(columns: Sequence[str], targets: Sequence[str], mapping: Mapping) -> None:
    problems = []
    if missing := sorted(mapping.sources - set(columns)):
        problems.append(f"there is no column {_listed(missing)}; there are {_listed(columns)}")
    for column, target in zip(columns, targets, strict=True):
        hint = f"--rename '{column}=…' or --drop '{column}'"
        if target in RESERVED:
            problems.append(f"column {column}: the name is reserved; {hint}")
        elif target and not _is_name(target):
            problems.append(
                f"column {column}: a field's name starts with a letter, digit, _, $ or - and holds only "
                f"these and spaces, at most one dot between parent and child; {hint}"
            )
    kept = [target for target in targets if target]
    for double in sorted({target for target in kept if kept.count(target) > 1}):
        problems.append(f"{double}: more than one column becomes this; --rename or --drop all but one")
    for parent in sorted({target.partition(".")[0] for target in kept if "." in target} & set(kept)):
        problems.append(f"{parent}: a column has this name, and others are {parent}.…; --rename it")
    if not mapping.event_name and "event_name" not in kept:
        problems.append(
            "no column is event_name: add --event-name-from COLUMN, or --event-name NAME for all rows; "
            f"there are {_listed(columns)}"
        )
    if problems:
        raise InputError("\n".join(problems))


def _is_name(target: str) -> bool:
    names = target.split(".")
    if len(names) > 1 and (names[0] in ENVELOPE or names[0] in METRIC):
        return False
    return len(names) <= 2 and all(FIELD_NAME.fullmatch(name) for name in names)


def _listed(names: Iterable[str]) -> str:
    some = list(names)
    return ", ".join(some[:30]) + (f" and {len(some) - 30} more" if len(some) > 30 else "")
