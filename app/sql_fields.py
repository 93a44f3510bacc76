"""How a field is read in ClickHouse's SQL. Pure; the only place that writes a client's name into SQL.

A custom field is a path of the JSON column `fields`. Every event brings its own type there, so a field is
read through typed subcolumns (`fields.`x`.:Int64`), of which at most one is not NULL: that makes filters
type-strict and reads little. As a value to group by or to return, a field is its JSON text: it keeps the
type (`1` is not `"1"`), and 1 and 1.0 have the same text.
Next reader: `app.sql`.
"""

from __future__ import annotations

from app.fields import Field, Kind

# Columns that say "missing" by an empty string.
_EMPTY_IS_NULL = frozenset(("customer_identifier", "event_id"))
# No stored integer is larger, and up to here the engine converts a float to an integer exactly.
_TWO_TO_64 = "18446744073709551616."


def column(field: Field) -> str:
    """The expression for a field that is a column; NULL where the event has no value."""
    if field.name == "unique_req_id":
        return "lower(hex(unique_req_id))"
    name = _quoted(field.name)
    return f"nullIf({name}, '')" if field.name in _EMPTY_IS_NULL else name


def path(field: Field) -> str:
    """The custom field as a Dynamic: scalars and arrays; NULL where missing, null or an object."""
    return "fields." + ".".join(map(_quoted, field.name.split(".", 1)))


def typed(field: Field, kind: str) -> str:
    """The custom field where it holds a `kind` (String, Int64, UInt64, Float64, Bool), else NULL."""
    return f"{path(field)}.:`{kind}`"


def milliseconds(field: Field) -> str:
    """A column of time as Unix milliseconds."""
    return f"toUnixTimestamp64Milli({_quoted(field.name)})"


def is_null(field: Field) -> str:
    return f"isNull({path(field) if field.kind is Kind.CUSTOM else column(field)})"


def key(field: Field) -> str:
    """What groups are formed by; `text_of_key` makes it JSON text afterwards, once a group."""
    return json_text(field) if field.kind is Kind.CUSTOM else column(field)


def text_of_key(field: Field, alias: str) -> str:
    return alias if field.kind is Kind.CUSTOM else f"if(isNull({alias}), NULL, toJSONString({alias}))"


def json_text(field: Field) -> str:
    """A custom field's JSON text, NULL for none. One text for one value: 2^63 as a float is written out
    like the integer, where the engine's own text of a float would be rounded to its shortest digits."""
    exact = f"if({_is_whole(field)}, toString(toInt128({typed(field, 'Float64')})), NULL)"
    return f"coalesce({exact}, toJSONString({path(field)}))"


def whole_number(field: Field) -> str:
    """The field where it holds an integer, 1.0 included, as an exact Nullable(Int128)."""
    whole_float = f"if({_is_whole(field)}, toInt128({typed(field, 'Float64')}), NULL)"
    integers = (f"toInt128({typed(field, kind)})" for kind in ("Int64", "UInt64"))
    return f"coalesce({', '.join(integers)}, {whole_float})"


def other_number(field: Field) -> str:
    """The field where it holds any other number, as a Nullable(Float64)."""
    return f"if({_is_whole(field)}, NULL, {typed(field, 'Float64')})"


def in_order(text: str, *, descending: bool) -> str:
    """ORDER BY terms for JSON text: numbers, then strings by their bytes, then the rest; nulls last.

    Numbers are compared as floats first; integers that are equal so far, exactly.
    """
    direction = "DESC" if descending else "ASC"
    string = f"if(startsWith({text}, '\"'), JSONExtractString(assumeNotNull({text})), NULL)"
    terms = (f"toFloat64OrNull({text})", f"toInt128OrNull({text})", string, text)
    return ", ".join(f"{term} {direction} NULLS LAST" for term in terms)


def _is_whole(field: Field) -> str:
    number = typed(field, "Float64")
    return f"trunc({number}) = {number} AND abs({number}) < {_TWO_TO_64}"


def _quoted(name: str) -> str:
    """A name as an identifier. `app.fields` lets no quote through; escaping does not rely on that."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
