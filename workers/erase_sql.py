"""The statements by which tombstones choose, count and delete in the store. Pure.

Rows are chosen into the table `erasing` first, by their ids: what deletes is then a statement of ids, since
the engine keeps the text of a mutation on disk, where no client's text may stay. A round chooses a bounded
number of rows, so that a set of ids fits the engine's memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from app.fields import COLUMNS
from app.filters import each_filter
from app.scope import Erased
from app.sql_fields import elements, milliseconds
from app.sql_filters import erased, of_customer
from app.sql_literals import Literals
from app.tombstone import Tombstone

SECONDS = 600.0  # of one statement
SETTINGS = f" SETTINGS max_execution_time = {SECONDS:.0f}"
TABLES = ("events", "event_ids", "fates", "erasures")
NAMES_BYTES = 64 * 1024  # of customers in one statement: as many as a project may have waiting for a round
_INTO = "INSERT INTO erasing (round, source, erasure_id, unique_req_id, project_id, time_recorded)"
_ROW = "unique_req_id, project_id, time_recorded"
_OF_ROUND = "(SELECT unique_req_id FROM erasing WHERE round = {round:UInt64})"


class Choice:
    """What one tombstone, or several of one project that mean whole customers, choose.

    `erasure`: an SQL expression of the erasure's id; `condition`: of the rows of `events`.
    """

    def __init__(self, project_id: str, ones: Sequence[tuple[Tombstone, Erased]]) -> None:
        self.project_id = project_id
        self.ids = [one.id for one, _ in ones]
        parts = [of for _, of in ones]
        self.named = elements(item.field for of in parts for item in each_filter(of.filters))
        self.is_of_customers = all(of.is_of_customers for of in parts)
        [self._erased] = erased(parts)
        literals = Literals()
        self.erasure = literals.add(self.ids[0], "String")
        self.customers = ""
        if self.is_of_customers:
            layers = _layers(ones)
            self.erasure = _first(layers)
            self.customers = f" AND customer_identifier IN {literals.add([*layers[0]], 'Array(String)')}"

    @property
    def condition(self) -> str:
        """The customers are named once more where they can be, since an index finds them."""
        return f"project_id = {{project:String}}{self.customers} AND {self._erased}"

    def rows(self) -> str:
        """Choose rows of events."""
        return (
            f"{_INTO} {self.named}SELECT {{round:UInt64}}, 'store', {self.erasure}, {_ROW} FROM events"  # noqa: S608
            f" WHERE {self.condition} LIMIT {{limit:UInt64}}{SETTINGS}"
        )

    def fates(self) -> str:
        """Choose rows of fates, which name customers too."""
        return (
            f"{_INTO} SELECT {{round:UInt64}}, 'fate', {self.erasure}, {_ROW} FROM fates"  # noqa: S608
            f" WHERE {self.condition} LIMIT {{limit:UInt64}}{SETTINGS}"
        )

    def count(self, table: str) -> str:
        named = self.named if table == "events" else ""
        return f"{named}SELECT count() FROM {table} WHERE {self.condition}"  # noqa: S608


def _layers(ones: Sequence[tuple[Tombstone, Erased]]) -> list[dict[str, tuple[int, str]]]:
    """Customer -> (up to when, erasure): of each the erasure that was asked for first, then those of the
    second one, and so on. Nearly always there is one layer."""
    layers: list[dict[str, tuple[int, str]]] = [{}]
    depth: dict[str, int] = {}
    for one, of in sorted(ones, key=lambda pair: pair[0].id):
        for customer in dict.fromkeys(of.customers or ()):
            at = depth[customer] = depth.get(customer, -1) + 1
            if at == len(layers):
                layers.append({})
            layers[at][customer] = (one.up_to_ms, one.id)
    return layers


def _first(layers: Sequence[Mapping[str, tuple[int, str]]]) -> str:
    """The id of the first erasure that means the row, of those that mean its customer. In SQL."""
    pieces = []
    for layer in layers:
        id_ = of_customer({customer: found[1] for customer, found in layer.items()}, "")
        up_to = of_customer({customer: found[0] for customer, found in layer.items()}, -1)
        pieces += [f"{milliseconds(COLUMNS['time_recorded'])} <= {up_to}", id_]
    return pieces[1] if len(layers) == 1 else f"multiIf({', '.join(pieces)}, '')"


def choices(tombstones: Iterable[tuple[Tombstone, Erased]]) -> Iterator[Choice]:
    """As few as possible: those that mean whole customers are one for each project, up to NAMES_BYTES."""
    customers: dict[str, list[tuple[Tombstone, Erased]]] = {}
    for one, of in tombstones:
        if of.is_of_customers:
            customers.setdefault(one.project_id, []).append((one, of))
        else:
            yield Choice(one.project_id, [(one, of)])
    for project_id, ones in customers.items():
        some: list[tuple[Tombstone, Erased]] = []
        size = 0
        for one, of in ones:
            own = sum(len(name.encode()) for name in of.customers or ())
            if some and size + own > NAMES_BYTES:
                yield Choice(project_id, some)
                some, size = [], 0
            some.append((one, of))
            size += own
        yield Choice(project_id, some)


# Duplicates of what is erased name its customer.
COPIES = (
    f"{_INTO} SELECT {{round:UInt64}}, 'fate', '', {_ROW} FROM fates"  # noqa: S608
    " WHERE project_id IN {projects:Array(String)} AND fate = 'duplicate' AND customer_identifier != ''"
    " AND detail IN (SELECT lower(hex(unique_req_id)) FROM erasing"
    f" WHERE round = {{round:UInt64}} AND source = 'store'){SETTINGS}"
)
FOUND = (
    "SELECT erasure_id, source, uniqExact(unique_req_id) FROM erasing WHERE round = {round:UInt64}"
    " GROUP BY erasure_id, source"
)
HOURS = (
    "SELECT project_id, intDiv(toUnixTimestamp64Milli(time_recorded), 3600000), uniqExact(unique_req_id)"
    " FROM erasing WHERE round = {round:UInt64} AND source = 'store' GROUP BY 1, 2"
)
# What is kept of an erased event: its id, and by which erasure: the first that was asked for of those that
# mean it, and as a stored event if it is one; the same each time that it is written. It counts once.
REMEMBER = (
    "INSERT INTO fates"  # noqa: S608
    " (unique_req_id, project_id, customer_identifier, fate, detail, time_recorded, settled_at)"
    " SELECT unique_req_id, any(project_id), '', 'erased',"
    " argMin(concat(erasure_id, ' ', source), (source != 'store', erasure_id = '', erasure_id)),"
    " any(time_recorded), now64(3) FROM erasing WHERE round = {round:UInt64}"
    f" GROUP BY unique_req_id{SETTINGS}"
)
_DELETE = "ALTER TABLE {} DELETE WHERE project_id IN {{projects:Array(String)}} AND {}unique_req_id IN "
# A mutation rewrites the parts: the rows leave the disk, not only the answers.
DELETIONS = tuple(
    _DELETE.format(table, extra) + _OF_ROUND + " SETTINGS mutations_sync = 2"
    for table, extra in (("event_ids", ""), ("fates", "customer_identifier != '' AND "), ("events", ""))
)
LEFT = (
    "SELECT count() FROM events WHERE project_id IN {projects:Array(String)} AND unique_req_id IN"  # noqa: S608
    f" {_OF_ROUND}"
)
