"""A request of the query language (api.md section 5) -> a Query, or every problem.

Pure: no clock, no store. The language itself is `app.query_request`, what a Query means in SQL is `app.sql`'s
business, what its asker may see `app.scope`'s. A Query holds only checked words and values, so what reads it
decides nothing.
Next reader: `app.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from app import cursor
from app.computations import Computation, repeated_outputs, to_computations
from app.cursor import PAGED_BY, Cursor, Position
from app.errors import Problem, invalid_body
from app.fields import Field, resolve, unknown
from app.fill import too_many
from app.filters import Condition, to_conditions
from app.query_request import DEFAULT_LIMIT, Bucket, OrderRequest, QueryRequest, read_period_of
from app.request import read_members
from app.time_period import Period

TIME_OUTPUT = "event_time"  # the column of a bucket


class Order(msgspec.Struct, frozen=True):
    """`output` is an output column, or any field's name where the query returns raw events."""

    output: str
    descending: bool


class Query(msgspec.Struct, frozen=True):
    """A checked query. `after`: the event behind which a page of raw events begins; `digest`: of which query
    the page is (`app.cursor`)."""

    period: Period
    timezone: str = "UTC"
    bucket: Bucket | None = None
    fill: bool = False
    group_by: tuple[Field, ...] = ()
    computations: tuple[Computation, ...] = ()
    filters: tuple[Condition, ...] = ()
    order_by: tuple[Order, ...] = ()
    limit: int = DEFAULT_LIMIT
    offset: int = 0
    after: Position | None = None
    digest: str = ""

    @property
    def is_raw(self) -> bool:
        """Does it return events as they came, not groups of them?"""
        return not self.computations and not self.group_by and self.bucket is None

    @property
    def is_paged(self) -> bool:
        """Can a cursor say where its next page begins?"""
        return self.is_raw and all(order.output in PAGED_BY for order in self.order_by)


def read_query(body: bytes, now_ms: int) -> Query:
    """The query in `body` at `now_ms` (Unix milliseconds).

    Errors: ApiError 400 that names every problem found.
    """
    asked, problems = read_members(body, QueryRequest)
    return to_query(asked, now_ms, problems)


def to_query(asked: QueryRequest, now_ms: int, problems: list[Problem]) -> Query:
    """The query that `asked` stands for; `problems` are those of its members (`read_members`).

    Errors: ApiError 400 that names every problem found.
    """
    period = read_period_of(asked, now_ms, problems)
    bucket = None if asked.group_by_time is UNSET else asked.group_by_time
    computations = to_computations(asked.computations)
    groups = [TIME_OUTPUT] * (bucket is not None) + list(asked.group_by)
    problems += [Problem("$.computations", words) for words in repeated_outputs(groups, computations)]
    outputs = groups + [computation.output for computation in computations]
    paths = {problem.path.split("[")[0].split(".")[1] for problem in problems if "." in problem.path}
    if paths.isdisjoint(("group_by", "group_by_time", "computations")):
        problems += _problems_of_order(asked.order_by, outputs)
        if asked.cursor and outputs:
            problems.append(Problem("$.cursor", "pages through raw events only; use offset for groups"))
    if asked.fill and bucket is None and "group_by_time" not in paths:
        problems.append(Problem("$.fill", "needs group_by_time: there are no empty buckets without it"))
    if asked.fill and bucket is not None and period is not None and (words := too_many(period, bucket)):
        problems.append(Problem("$.fill", words))
    page = None if problems else _page(asked, problems)
    if problems or period is None:
        raise invalid_body(problems)
    if page is not None:
        period = Period(page.start_ms, page.end_ms)
    return Query(
        period=period,
        timezone=asked.timezone,
        bucket=bucket,
        fill=asked.fill,
        group_by=tuple(map(resolve, asked.group_by)),
        computations=computations,
        filters=to_conditions(asked.filters),
        order_by=tuple(Order(term.field_name, term.direction == "DESC") for term in asked.order_by),
        limit=asked.limit,
        offset=0 if page is not None else asked.offset,  # which the first page has left out
        after=None if page is None else page.after,
        digest=cursor.digest(asked),
    )


def _page(asked: QueryRequest, problems: list[Problem]) -> Cursor | None:
    """The page of raw events that is asked for; None for the first."""
    if not asked.cursor:
        return None
    if any(term.field_name not in PAGED_BY for term in asked.order_by):
        words = f"goes on in an order by {' or '.join(PAGED_BY)}; with another order_by use offset"
        problems.append(Problem("$.cursor", words))
        return None
    try:
        return cursor.read(asked.cursor, cursor.digest(asked))
    except ValueError as error:
        problems.append(Problem("$.cursor", str(error)))
        return None


def _problems_of_order(asked: Sequence[OrderRequest], outputs: Sequence[str]) -> list[Problem]:
    """`outputs` are the columns of groups; where there are none, any field can be ordered by."""
    problems: list[Problem] = []
    for index, term in enumerate(asked):
        path, name = f"$.order_by[{index}].field_name", term.field_name
        if outputs and name not in outputs:
            problems.append(Problem(path, unknown("output column", name, outputs)))
        if not outputs:
            try:
                resolve(name)
            except ValueError as error:
                problems.append(Problem(path, str(error)))
    return problems
