"""How a field is read in ClickHouse's SQL. Pure; the only place that writes a client's name into SQL.

A custom field is a path of the JSON column `fields`. Every event brings its own type there, so a field is
read by type, and of all types at most one is not NULL: that makes filters type-strict. There are two ways,
and which is cheaper was measured (docs/performance.md):
* `typed`: a subcolumn (`fields.`x`.:Int64`), where one type is wanted; a filter by it reads nothing else.
* `element`: out of the whole value (`dynamicElement(fields.`x`, 'Int64')`), where several are wanted. The
  value is read once, and what rarely holds stands in a branch that the engine then does not compute.

As a value to group by, a string is itself, and anything else its JSON text after a byte that no UTF-8 has:
that keeps the types apart (`1` is not `"1"`), gives 1 and 1.0 one key, and costs strings nothing.
Next reader: `app.sql`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from app.fields import Field, Kind

# Columns that say "missing" by an empty string.
_EMPTY_IS_NULL = frozenset(("customer_identifier", "event_id"))
# No stored integer is larger, and up to here the engine converts a float to an integer exactly.
_TWO_TO_64 = "18446744073709551616."
NO_STRING = r"'\xFF'"
TEXT = "JSON"  # in the place of a type: the engine's own JSON text of whatever is there
# What the engine makes of integers of both signs beyond 64 bits, and then of any array of the same field.
MIXED_ARRAY = "Array(Dynamic)"
ITEM_NUMBER = "coalesce(toFloat64(i.Int64), i.Float64, toFloat64(i.UInt64)) + 0"  # of an item `i` of one


def column(field: Field) -> str:
    """The expression for a field that is a column; NULL where the event has no value."""
    if field.name == "unique_req_id":
        return "lower(hex(unique_req_id))"
    return _or_null(field, _quoted(field.name))


def bare(field: Field) -> str:
    """The same for comparisons that an empty string fails, so that an index serves them."""
    return _quoted(field.name) if field.name in _EMPTY_IS_NULL else column(field)


def path(field: Field) -> str:
    """The custom field as a Dynamic: scalars and arrays; NULL where missing, null or an object."""
    return "fields." + ".".join(map(_quoted, field.name.split(".", 1)))


def typed(field: Field, kind: str) -> str:
    """The custom field where it holds a `kind` (String, Int64, UInt64, Float64, Bool), else NULL."""
    return f"{path(field)}.:`{kind}`"


def milliseconds(field: Field) -> str:
    """A column of time as Unix milliseconds."""
    return f"toUnixTimestamp64Milli({_quoted(field.name)})"


def element(field: Field, kind: str) -> str:
    """The same out of the whole value, for expressions that read other types of it too: a name, which
    `elements` explains."""
    return _quoted(f"{field.name}:{kind}")


def elements(fields: Iterable[Field]) -> str:
    """The WITH clause for every `element` of these fields; the engine looks at those that are used.

    Each is written once, since what takes longest in a small query is to understand it. No field's name has
    a colon.
    """
    custom = [field for field in dict.fromkeys(fields) if field.kind is Kind.CUSTOM]
    named = [
        f"dynamicElement({path(field)}, '{kind}') AS {element(field, kind)}"
        for field in custom
        for kind in ("String", "Bool", "Int64", "UInt64", "Float64")
    ]
    named += [f"toJSONString({path(field)}) AS {element(field, TEXT)}" for field in custom]
    return f"WITH {', '.join(named)} " if named else ""


def is_null(field: Field) -> str:
    return f"isNull({path(field) if field.kind is Kind.CUSTOM else column(field)})"


def key(field: Field) -> str:
    """What groups are formed by; `text_of_key` makes it JSON text afterwards, once a group."""
    if field.kind is not Kind.CUSTOM:
        return _quoted(field.name)
    text = element(field, "String")
    return f"if(isNull({text}), concat({NO_STRING}, {_text_of_other(field)}), {text})"


def key_of_types(field: Field, types: Collection[str]) -> str:
    """`key` of a custom field in which the engine has stored no other types than these: much less to
    understand and to compute, where many fields are read at once."""
    text = element(field, "String")
    if set(types) <= {"String"}:
        return text
    if any(kind.startswith("Array") for kind in types):
        return key(field)
    other = _exact(field) if "Float64" in types else element(field, TEXT)
    return f"if(isNull({text}), concat({NO_STRING}, {other}), {text})"


def text_of_key(field: Field, alias: str) -> str:
    """JSON text of a key, NULL for none."""
    if field.kind is Kind.CUSTOM:
        other = f"startsWith({alias}, {NO_STRING}), substring({alias}, 2)"
        return f"multiIf(isNull({alias}), NULL, {other}, toJSONString({alias}))"
    name = f"lower(hex({alias}))" if field.name == "unique_req_id" else alias
    return f"if(isNull({_or_null(field, alias)}), NULL, toJSONString({name}))"


def order_of_key(field: Field, alias: str, text: str, descending: bool) -> str:
    """ORDER BY terms for a key, whose JSON text is `text`. What a column holds has an order of its own."""
    if field.kind is Kind.CUSTOM:
        return in_order(text, descending)
    return f"{_or_null(field, alias)} {'DESC' if descending else 'ASC'} NULLS LAST"


def distinct(field: Field) -> str:
    """The number of distinct values, exact."""
    name = key(field)
    return f"uniqExactIf({name}, {name} != '')" if field.name in _EMPTY_IS_NULL else f"uniqExact({name})"


def json_text(field: Field) -> str:
    """A custom field's JSON text, NULL for none."""
    text = element(field, "String")
    return f"if(isNull({text}), {_text_of_other(field)}, toJSONString({text}))"


def _text_of_other(field: Field) -> str:
    """JSON text of what is no string. One text for one value: 2^63 as a float is written out like the
    integer, where the engine's own text of a float would be rounded to its shortest digits."""
    text = element(field, TEXT)
    is_array = f"startsWith({text}, '[') AND position({text}, '\"') = 0"
    return _exact(field, f"if({is_array}, {_text_of_array(text)}, {text})")


def _exact(field: Field, other: str = "") -> str:
    """JSON text of a float; `other` of anything else, the engine's own text if it says nothing."""
    number = element(field, "Float64")
    exact = f"if({_is_whole(number)}, toString(toInt128({number})), toJSONString({number}))"
    return f"if(isNull({number}), {other or element(field, TEXT)}, {exact})"


def _text_of_array(text: str) -> str:
    """Numbers as floats, whatever the engine stored them as; booleans as they are. An array holds one kind of
    value, so without a string in it a comma parts two items. By its text: an expression for each type that
    arrays are stored as takes the engine longer to understand than all the rest of a small query."""
    items = f"splitByChar(',', substring(assumeNotNull({text}), 2, length({text}) - 2))"
    texts = f"arrayMap(i -> ifNull(toJSONString(toFloat64OrNull(i) + 0), i), {items})"
    return f"concat('[', arrayStringConcat({texts}, ','), ']')"


def array(field: Field, kind: str) -> str:
    """The field where it holds an array that is stored as a `kind`, else an empty one. Out of the whole
    value: a subcolumn for each kind would be read from the disk, though hardly any field holds arrays."""
    return f"dynamicElement({path(field)}, '{kind}')"


def array_numbers(field: Field) -> list[str]:
    """The field where it holds an array of numbers, as floats: one expression for each type the engine may
    have stored it as. Which one depends on the arrays that it stored before, and so would what is left of
    integers beyond 2^53, if they were not made floats everywhere. `+ 0` makes -0 a zero like any other."""
    return [
        f"arrayMap(i -> toFloat64(i) + 0, {array(field, f'Array(Nullable({kind}))')})"
        for kind in ("Int64", "Float64", "UInt64")
    ]


def whole_number(field: Field) -> str:
    """The field where it holds an integer, 1.0 included, as an exact Nullable(Int128)."""
    small, large, real = (element(field, kind) for kind in ("Int64", "UInt64", "Float64"))
    whole = f"if({_is_whole(real)}, toInt128({real}), NULL)"
    rare = f"if(isNull({large}), {whole}, toInt128({large}))"
    return f"if(isNull({small}), {rare}, toInt128({small}))"


def other_number(field: Field) -> str:
    """The field where it holds any other number, as a Nullable(Float64)."""
    small, real = element(field, "Int64"), element(field, "Float64")
    return f"if(isNull({small}), if({_is_whole(real)}, NULL, {real}), NULL)"


def number(field: Field) -> str:
    """The field where it holds a number of any type, as a Nullable(Float64)."""
    small, large, real = (element(field, kind) for kind in ("Int64", "UInt64", "Float64"))
    return f"if(isNull({small}), if(isNull({real}), toFloat64({large}), {real}), toFloat64({small}))"


def in_order(text: str, descending: bool) -> str:
    """ORDER BY terms for JSON text: numbers, then strings by their bytes, then the rest; nulls last.

    Numbers are compared as floats first; integers that are equal so far, exactly.
    """
    direction = "DESC" if descending else "ASC"
    string = f"if(startsWith({text}, '\"'), JSONExtractString(assumeNotNull({text})), NULL)"
    terms = (f"toFloat64OrNull({text})", f"toInt128OrNull({text})", string, text)
    return ", ".join(f"{term} {direction} NULLS LAST" for term in terms)


def _or_null(field: Field, name: str) -> str:
    return f"nullIf({name}, '')" if field.name in _EMPTY_IS_NULL else name


def _is_whole(number: str) -> str:
    return f"trunc({number}) = {number} AND abs({number}) < {_TWO_TO_64}"


def _quoted(name: str) -> str:
    """A name as an identifier. `app.fields` lets no quote through; escaping does not rely on that."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
