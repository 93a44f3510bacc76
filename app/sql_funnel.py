"""Funnel -> one SELECT. Pure; what is counted is written down in `app.funnel`.

Each customer's matching events become one array in order. It is read from its end, step by step from the last
one: `arrayReverseFill` gives every place the nearest event behind it that matches, together with the times of
the steps that follow there. All of it is linear in the number of events, also where one customer has millions
of them; what does not fit into the query's memory ends that query alone.
Next reader: `app.analyse`, which runs it.
"""

from __future__ import annotations

from collections.abc import Iterator

from app.fields import Field
from app.funnel import Funnel
from app.scope import Scope
from app.sql_fields import elements, in_order, is_null, key, text_of_key
from app.sql_filters import asked, holds, where
from app.sql_literals import Parameter, Parameters
from app.sql_select import inside, select

_NEVER = 1 << 60  # the time of a step that no event takes; beyond any window


def to_statement(funnel: Funnel, scope: Scope) -> tuple[str, dict[str, Parameter]]:
    """Rows: is it the total?, JSON text of each group's value, and three arrays with an item for each step:
    customers, median from the step before, median from the first."""
    parameters = Parameters()
    attempts = _best_attempts(funnel, _sequences(funnel, scope, parameters), parameters)
    steps = range(1, len(funnel.steps) + 1)
    names = [f"v{index}" for index in range(len(funnel.group_by))]
    selected = [
        f"grouping({names[0]}) AS is_total" if names else "1 AS is_total",
        *names,
        f"[{', '.join(f'countIf(best >= {step})' for step in steps)}] AS counts",
        f"[{', '.join(_median(step, max(step - 1, 1)) for step in steps)}]",
        f"[{', '.join(_median(step, 1) for step in steps)}]",
    ]
    sets = f"GROUP BY GROUPING SETS (({', '.join(names)}), ())" if names else ""
    order = ["is_total DESC", "counts[1] DESC", *(in_order(name, False) for name in names)]
    limit = parameters.add(funnel.limit + 1, "UInt64")
    ordered = f"ORDER BY {', '.join(order)} LIMIT {limit}"
    return select(selected, inside(attempts), sets, ordered), parameters.values


def _median(step: int, since: int) -> str:
    """Exact, interpolated, of those who took `step`."""
    return f"quantileExactInclusiveIf(0.5)(times[{step}] - times[{since}], best >= {step})"


def _sequences(funnel: Funnel, scope: Scope, parameters: Parameters) -> str:
    """A row for each customer: `e`, its events in order, each (time, arrival, id, steps as bits, groups…)."""
    conditions = where(scope, funnel.period, funnel.filters, parameters)
    # Written once and named: a condition may be long, and there may be many.
    steps = [f"{holds(step, parameters)} AS s{index}" for index, step in enumerate(funnel.steps)]
    taken = [f"s{index}" for index in range(len(steps))]
    bits = " + ".join(f"if({name}, {1 << index}, 0)" for index, name in enumerate(taken))
    keys = [f"{key(field)} AS k{index}" for index, field in enumerate(funnel.group_by)]
    values = [
        f"if(s0, {text_of_key(field, f'k{index}')}, NULL) AS v{index}"
        for index, field in enumerate(funnel.group_by)
    ]
    columns = [
        f"{key(funnel.by)} AS c",
        "toUnixTimestamp64Milli(event_time) AS t",
        "toUnixTimestamp64Milli(time_recorded) AS r",
        "unique_req_id AS u",
        *steps,
        f"toUInt32({bits}) AS b",
        *keys,
        *values,
    ]
    fields = [funnel.by, *funnel.group_by, *_asked(funnel, scope)]
    matching = f"AND NOT {is_null(funnel.by)} AND ({' OR '.join(taken)})"
    events = elements(fields) + select(columns, "events", "WHERE", conditions, matching)
    event = ", ".join(["t", "r", "u", "b", *(f"v{index}" for index in range(len(funnel.group_by)))])
    return select([f"arraySort(groupArray(({event}))) AS e"], inside(events), "GROUP BY c")


def _best_attempts(funnel: Funnel, sequences: str, parameters: Parameters) -> str:
    """A row for each customer who began: `best`, the steps of the attempt that counts, its `times`, `v…`."""
    last = len(funnel.steps)
    columns = ["e.1 AS t", "e.4 AS b"]
    for step in range(last, 1, -1):
        columns.append(f"arrayPushBack(arrayMap(b -> bitTest(b, {step - 1}), b), 1) AS m{step}")
        for at in range(step, last + 1):
            # From every place: when does step `at` of the attempt come that takes `step` next?
            own = "t" if at == step else f"arrayPopFront(a{step + 1}_{at})"
            columns.append(
                f"arrayReverseFill((t, m) -> m, arrayPushBack({own}, {_NEVER}), m{step}) AS a{step}_{at}"
            )
    columns += [f"arrayPopFront(a2_{at}) AS s{at}" for at in range(2, last + 1)]
    window = parameters.add(funnel.window_ms, "Int64")
    later = [f"s{step}" for step in range(2, last + 1)]
    taken = " + ".join(f"({name} - t <= {window})" for name in later)
    arguments = ", ".join(["b", "t", *later])
    columns.append(
        f"arrayMap(({arguments}) -> if(bitTest(b, 0), toUInt8(1 + {taken}), 0), {arguments}) AS taken"
    )
    columns += ["arrayMax(taken) AS best", "indexOf(taken, best) AS place"]
    columns.append(f"[{', '.join(f'{name}[place]' for name in ('t', *later))}] AS times")
    columns += [f"(e.{5 + index})[place] AS v{index}" for index in range(len(funnel.group_by))]
    values = [f"v{index}" for index in range(len(funnel.group_by))]
    attempts = select(columns, inside(sequences))
    return select(["best", "times", *values], inside(attempts), "WHERE best > 0")


def _asked(funnel: Funnel, scope: Scope) -> Iterator[Field]:
    """Every field that the conditions name."""
    yield from asked(scope, (one for some in (funnel.filters, *funnel.steps) for one in some))
