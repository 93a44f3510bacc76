"""How a value gets into a statement: as a named parameter or, where there are many, as a literal of digits.

Parameters travel in the address of a request, which is bounded; tombstones are many and go into the
statement. There a string is the hex digits of its bytes (`unhex('…')`): no character of a client's reaches
the SQL. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.operators import WITH_VALUES, FilterValue, Op

Parameter = FilterValue | Sequence[FilterValue]


class Parameters:
    """Names values as they are written into the statement."""

    def __init__(self) -> None:
        self.values: dict[str, Parameter] = {}

    def add(self, value: Parameter, kind: str) -> str:
        """What stands for `value`, of the engine's type `kind`, in the statement."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"

    def operand(self, op: Op, values: Sequence[FilterValue], kind: str) -> str:
        """What stands to the right of `op`: all of the values, or the only one."""
        if op in WITH_VALUES:
            return self.add(values, f"Array({kind})")
        return self.add(values[0], kind)


class Literals(Parameters):
    """Writes values out instead."""

    def add(self, value: Parameter, kind: str) -> str:
        if isinstance(value, str | int | float):
            return _literal(value, kind)
        of = kind.removeprefix("Array(").removesuffix(")")
        return f"[{', '.join(_literal(one, of) for one in value)}]"


def _literal(value: FilterValue, kind: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"unhex('{value.encode().hex()}')"
    return f"to{kind}({value!r})"
