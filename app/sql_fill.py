"""`fill`: groups of the events -> the same with every empty bucket. Pure.

Each group's buckets are collected into an array, those that it lacks are added, and the array is rows again.
So the events are read once, and order, limit and offset are the store's as ever.
Next reader: `app.sql`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from app.fill import Moments
from app.sql_literals import Parameters


def filled(
    groups: str,
    *,
    bucket: str,
    keys: Sequence[str],
    aggregates: Sequence[str],
    counts: Collection[str],
    buckets: str,
) -> str:
    """A SELECT of the columns of `groups`, and `filled`: true in rows that no event is in.

    `keys` are the groups' columns without that of the bucket, `k0`; its moment is `bucket`, which is `k0` in
    the rows. `aggregates` are all others: in filled rows those of `counts` are 0, and the rest is not to be
    used.
    """
    # The first cell stands for what a filled row has in the other columns: some value of the right type.
    cells = "arrayConcat(arrayMap(c -> (false, c.1, c), cells), arrayMap(b -> (true, b, cells[1]), missing))"
    shown = [
        f"if(filled, 0, cell.3.{index}) AS {name}" if name in counts else f"cell.3.{index} AS {name}"
        for index, name in enumerate(aggregates, 2)
    ]
    rows = ("SELECT", ", ".join(("cell.1 AS filled", "cell.2 AS k0", *keys, *shown)), "FROM (")
    collected = f"groupArray(tuple({', '.join((bucket, *aggregates))})) AS cells"
    missing = f"arrayExcept({buckets}, arrayMap(c -> c.1, cells)) AS missing"
    groups = " ".join(("SELECT", ", ".join((*keys, collected, missing)), "FROM (", groups, ")"))
    if keys:
        groups += f" GROUP BY {', '.join(keys)}"
    return " ".join((*rows, groups, ") ARRAY JOIN", cells, "AS cell"))


def all_buckets(moments: Moments, bucket_of: Callable[[str], str], parameters: Parameters) -> str:
    """The array of the buckets of `moments`. `bucket_of`: a moment's SQL -> its bucket's."""
    first, step, count, last = (
        parameters.add(value, "Int64")
        for value in (moments.first_ms, moments.step_ms, moments.count, moments.last_ms)
    )
    moment = f"fromUnixTimestamp64Milli(least({first} + n * {step}, {last}), 'UTC')"
    return f"arrayDistinct(arrayMap(n -> {bucket_of(moment)}, range({count})))"
