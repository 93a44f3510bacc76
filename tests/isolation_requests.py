"""Requests of every shape for every endpoint that reads: what a key of A might try, well-meant or hostile.

A table of generators, one entry for each endpoint: a new endpoint is one more entry (tests/test_isolation.py
says so when one is missing). Values come from a vocabulary that knows the other owners' markers, ids and
customers, as somebody would who has guessed them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st

from tests.isolation_worlds import MARKERS, OWNERS, Keys, ids

HOSTILE = (
    *(
        "' OR 1=1 --",
        "') OR ('1'='1",
        "{project:String}",
        "{p0:String}",
        "\\",
        "`",
        "%",
        "_",
        "",
        "*",
        "NULL",
    ),
    *("1 UNION ALL SELECT body FROM events", "\x00", "\u2019", "0", "true"),
)
ENVELOPE = (
    *("event_name", "customer_identifier", "unique_req_id", "project_id", "event_id", "event_time"),
    *("time_recorded", "page_url", "referrer", "utm_source", "user_agent", "browser_name", "is_bot"),
    *("metric_name", "metric_value", "device_type"),
)
FIELDS = (
    *ENVELOPE,
    "secret",
    "n",
    "list",
    "deep.secret",
    "f_markerAshared",
    "deep.d_markerAshared",
    "missing",
)
FOREIGN_FIELDS = tuple(f"f_{marker}" for marker in MARKERS)
BAD_FIELDS = (
    *("project_id", "body", "fields", "fields.secret", "events.project_id", "_part", "`project_id`"),
    *("secret`) OR (`1", "deep", "deep.", ".secret", "deep.d.e", "PROJECT_ID", "system.one"),
)
OPS = (
    *("equals", "not_equals", "in", "not_in", "contains", "not_contains", "starts_with", "ends_with"),
    *("matches", "is_null", "is_not_null", "greater_than", "less_than_or_equals", "nope"),
)
FUNCTIONS = (
    *(
        "count",
        "count_distinct",
        "sum",
        "avg",
        "min",
        "max",
        "median",
        "p90",
        "p99",
        "stddev",
        "first",
        "last",
    ),
    "sleep",
)
PERIODS: tuple[Any, ...] = (
    *({"start": "2025-01-01", "end": "2026-01-01"}, {"start": "1970-01-01", "end": "2099-12-31"}),
    *("yesterday", "today", "this_month", "forever"),
)
LENGTHS = ("minute", "hour", "day", "week", "month", "year")


class Request(msgspec.Struct, frozen=True):
    """What is sent. `key`: which of a viewer's secrets goes with it."""

    method: str
    path: str
    body: Any = None
    key: str = "query"
    accept: str = "*/*"

    def content(self) -> bytes:
        return b"" if self.body is None else json.dumps(self.body).encode()

    def headers(self, keys: Keys) -> dict[str, str]:
        names = {"query": "x-eventbunker-query-key", "write": "x-eventbunker-write-key"}
        if not self.key:
            return {"accept": self.accept}
        secret = getattr(keys, self.key)
        return {names.get(self.key, "x-eventbunker-apikey"): secret, "accept": self.accept}


class Vocabulary(msgspec.Struct, frozen=True):
    """What whoever asks may have got hold of. `cursors`: those of other viewers' answers."""

    projects: tuple[str, ...]
    cursors: tuple[str, ...]
    own_project: str

    @property
    def texts(self) -> st.SearchStrategy[str]:
        customers = {owner.customer for owner in OWNERS}
        event_ids = [f"id-{marker}-0" for marker in MARKERS]
        every_id = [one for owner in OWNERS for one in ids(owner)]
        known = [*MARKERS, *customers, *self.projects, *event_ids, *every_id, "view", "buy", "x"]
        return st.sampled_from([*known, *HOSTILE]) | st.sampled_from(MARKERS)

    @property
    def values(self) -> st.SearchStrategy[Any]:
        return st.one_of(self.texts, st.sampled_from([0, 1, 11, -1, 2.5, True, False, None, 2**64, [], {}]))


def fields() -> st.SearchStrategy[str]:
    return st.one_of(
        st.sampled_from(FIELDS), st.sampled_from(FIELDS), st.sampled_from(FOREIGN_FIELDS + BAD_FIELDS)
    )


def filters(words: Vocabulary) -> st.SearchStrategy[list[Any]]:
    def made(op: str) -> st.SearchStrategy[Any]:
        value = st.lists(words.texts, max_size=4) if op in ("in", "not_in") else words.values
        own = {} if op.startswith("is_") else {"value": value}
        return st.fixed_dictionaries({"field_name": fields(), "op": st.just(op), **own})

    one = st.sampled_from(OPS).flatmap(made)
    tree = st.recursive(
        one,
        lambda inner: st.fixed_dictionaries(
            {"or": st.lists(inner | st.lists(inner, max_size=2), max_size=3)}
        ),
        max_leaves=5,
    )
    return st.lists(tree, max_size=3)


def hostile_members(words: Vocabulary) -> st.SearchStrategy[dict[str, Any]]:
    """What no request has, mostly nothing."""
    names = ("project_id", "customer_identifier", "scope", "key", "settings", "sql", "database", "quota_key")
    return st.one_of(
        *[st.just({})] * 6, st.dictionaries(st.sampled_from(names), words.texts, min_size=1, max_size=2)
    )


def period() -> dict[str, st.SearchStrategy[Any]]:
    return {"time_period": st.one_of(*[st.just(PERIODS[0])] * 4, st.sampled_from(PERIODS))}


def with_members(
    words: Vocabulary, needed: dict[str, st.SearchStrategy[Any]], optional: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[Any]:
    """A body: the period, filters, what is needed, some of what is optional, and now and then a stranger."""
    more = {"filters": filters(words), "timezone": st.sampled_from(["UTC", "Asia/Kolkata", "x"])}
    body = st.fixed_dictionaries({**period(), **needed}, optional={**more, **optional})
    return st.tuples(body, hostile_members(words)).map(lambda both: {**both[0], **both[1]})


def queries(words: Vocabulary, **needed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    outputs = st.sampled_from(["count", "event_time", "out", *FIELDS[:5], *MARKERS, *BAD_FIELDS])
    computation = st.fixed_dictionaries(
        {"function": st.sampled_from(FUNCTIONS)},
        optional={"field_name": fields(), "as": st.sampled_from(["out", "count", *BAD_FIELDS, *MARKERS])},
    )
    counted = st.just({"function": "count"})
    order = st.fixed_dictionaries(
        {"field_name": outputs}, optional={"direction": st.sampled_from(["ASC", "DESC", "ASC, project_id"])}
    )
    return with_members(
        words,
        needed,
        {
            "group_by": st.lists(fields(), max_size=3),
            "group_by_time": st.sampled_from(LENGTHS),
            "fill": st.booleans(),
            "computations": st.lists(counted | computation, max_size=3),
            "order_by": st.lists(order, max_size=2),
            "limit": st.sampled_from([1, 2, 3, 1000, 10_001]),
            "offset": st.sampled_from([0, 1, 5]),
            "cursor": st.sampled_from(words.cursors) if words.cursors else st.just("x"),
        },
    )


ACCEPTS = ("*/*", "application/json", "text/csv", "application/x-ndjson", "text/html")


def _json(words: Vocabulary) -> st.SearchStrategy[Request]:
    return st.builds(
        Request,
        st.just("POST"),
        st.just("/v1/query/json"),
        queries(words),
        st.just("query"),
        st.sampled_from(ACCEPTS),
    )


def _export(words: Vocabulary) -> st.SearchStrategy[Request]:
    body = with_members(words, {}, {"format": st.sampled_from(["ndjson", "csv", "parquet", "sql"])})
    return st.builds(Request, st.just("POST"), st.just("/v1/export"), body)


def _chart() -> st.SearchStrategy[Any]:
    kinds = ("line", "bar", "area", "pie", "table", "number", "script")
    return st.fixed_dictionaries({}, optional={"type": st.sampled_from(kinds), "title": st.just("<b>")})


def _iframe(words: Vocabulary) -> st.SearchStrategy[Request]:
    return st.builds(Request, st.just("POST"), st.just("/v1/query/iframe"), queries(words, chart=_chart()))


def _token(words: Vocabulary) -> st.SearchStrategy[Request]:
    """The test looks at what the token shows, too."""
    return st.builds(
        Request, st.just("POST"), st.just("/v1/query/iframe/token"), queries(words, chart=_chart())
    )


def _tokens(words: Vocabulary) -> st.SearchStrategy[Request]:
    members = {"limit": st.just(1), "cursor": st.just("1-cht_0000000000000000"), "project_id": words.texts}
    body = st.fixed_dictionaries({}, optional=members)
    return st.builds(Request, st.just("POST"), st.just("/v1/query/iframe/token/list"), body)


def _some_events(words: Vocabulary) -> st.SearchStrategy[Any]:
    name = st.sampled_from(["view", "buy", *MARKERS])
    return st.fixed_dictionaries({}, optional={"event_name": name, "filters": filters(words)})


def _funnel(words: Vocabulary) -> st.SearchStrategy[Request]:
    steps = st.lists(_some_events(words), min_size=2, max_size=3)
    more = {"by": fields(), "group_by": st.lists(fields(), max_size=1), "limit": st.sampled_from([1, 100])}
    body = with_members(words, {"steps": steps}, {**more, "window": st.sampled_from(["1_hours", "x"])})
    return st.builds(Request, st.just("POST"), st.just("/v1/query/funnel"), body)


def _retention(words: Vocabulary) -> st.SearchStrategy[Request]:
    more = {
        "returning": _some_events(words),
        "group_by_time": st.sampled_from(["day", "month", "hour"]),
        "periods": st.sampled_from([1, 3]),
        "new_only": st.booleans(),
        "by": fields(),
        "group_by": st.lists(fields(), max_size=1),
    }
    body = with_members(words, {"first": _some_events(words)}, more)
    return st.builds(Request, st.just("POST"), st.just("/v1/query/retention"), body)


def _timeline(words: Vocabulary) -> st.SearchStrategy[Request]:
    customers = st.sampled_from([owner.customer for owner in OWNERS if owner.customer]) | words.texts
    more = {
        "customer_identifier": customers,
        "order": st.sampled_from(["newest_first", "oldest_first"]),
        "limit": st.sampled_from([1, 100]),
        "cursor": st.sampled_from(words.cursors) if words.cursors else st.just("x"),
        "session_gap_minutes": st.sampled_from([1, 60]),
    }
    return st.builds(Request, st.just("POST"), st.just("/v1/query/timeline"), with_members(words, {}, more))


def _fields(words: Vocabulary) -> st.SearchStrategy[Request]:
    more = {"event_name": st.sampled_from(["view", *MARKERS]), "limit": st.sampled_from([1, 1000])}
    body = with_members(words, {}, {**more, "offset": st.sampled_from([0, 1])})
    return st.builds(Request, st.just("POST"), st.just("/v1/query/fields"), body)


def _usage(words: Vocabulary) -> st.SearchStrategy[Request]:
    return _of_project("/v1/manage/usage", words, {"time_period": st.just(PERIODS[0])})


def _receipt(words: Vocabulary) -> st.SearchStrategy[Request]:
    every = [one for owner in OWNERS for one in ids(owner)]
    names = st.sampled_from([*every, "0" * 32, "x", "%27"])
    return names.map(lambda name: Request("GET", f"/v1/receipt/{name}", key="write"))


def _of_project(
    path: str,
    words: Vocabulary,
    needed: dict[str, st.SearchStrategy[Any]] | None = None,
    **members: st.SearchStrategy[Any],
) -> st.SearchStrategy[Request]:
    own = st.just(words.own_project)
    project_id = st.one_of(own, own, st.sampled_from(words.projects), words.texts)
    body = st.fixed_dictionaries({"project_id": project_id, **(needed or {})}, optional=members)
    return body.map(lambda content: Request("POST", path, content, key="master"))


def _dead_list(words: Vocabulary) -> st.SearchStrategy[Request]:
    return _of_project(
        "/v1/manage/dead/list",
        words,
        reason=words.texts,
        since=st.sampled_from(["2020-01-01", "2099-01-01", "x"]),
        limit=st.sampled_from([1, 2, 1000]),
        cursor=st.sampled_from(["", "0/0-0", "0/1-0", "x"]),
    )


def _dead_show(words: Vocabulary) -> st.SearchStrategy[Request]:
    every = [one for owner in OWNERS for one in ids(owner)]
    return _of_project("/v1/manage/dead/show", words, unique_req_id=st.sampled_from([*every, "x"]))


def _names(words: Vocabulary) -> st.SearchStrategy[Request]:
    kind = st.sampled_from(["event_name", "field_path", "secret"])
    return _of_project("/v1/manage/name/list", words, kind=kind)


def _keys(words: Vocabulary) -> st.SearchStrategy[Request]:
    return _of_project("/v1/manage/apikey/list", words, limit=st.sampled_from([1, 100]))


Generator = Callable[[Vocabulary], st.SearchStrategy[Request]]
ENDPOINTS: dict[str, Generator] = {
    "/v1/query/json": _json,
    "/v1/query/iframe": _iframe,
    "/v1/query/iframe/token": _token,
    "/v1/query/iframe/token/list": _tokens,
    "/v1/query/funnel": _funnel,
    "/v1/query/retention": _retention,
    "/v1/query/timeline": _timeline,
    "/v1/query/fields": _fields,
    "/v1/manage/usage": _usage,
    "/v1/export": _export,
    "/v1/receipt/{unique_req_id}": _receipt,
    "/v1/manage/dead/list": _dead_list,
    "/v1/manage/dead/show": _dead_show,
    "/v1/manage/name/list": _names,
    "/v1/manage/apikey/list": _keys,
}
# What shows nobody's events, or changes something and is tested where it is at home.
NOT_READING = {
    *("/post", "/batch", "/livez", "/readyz", "/metrics", "/version", "/openapi.json", "/robots.txt"),
    *("/example_event_body.json", "/v1/manage/project/create", "/v1/manage/project/list"),
    *("/v1/manage/project/reset_master_key", "/v1/manage/project/delete", "/v1/manage/apikey/create"),
    *("/v1/manage/project/erasure",),
    *("/v1/manage/apikey/delete", "/v1/manage/name/delete", "/v1/manage/dead/replay"),
    *("/v1/manage/dead/purge", "/v1/delete/events", "/v1/delete/status", "/v1/query/iframe/token/revoke"),
}
WITHOUT_END = {"/v1/tail"}  # a test of its own
