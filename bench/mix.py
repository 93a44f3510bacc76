"""A realistic mix of events for the benchmarks: the same for the same seed, 241 bytes each on average.

An event has the shape of the yardstick's one (../shared/bench/wrk/event.lua): name, timestamp, customer, a
string, a number, an array and a boolean, with values that vary as they do in life; one event in four has
an `order` with a plan and an amount beside them.

* one project has all the events that are asked about; nine others have a tenth as many together
* 30 days, more at noon than at night; an event is recorded within seconds, some clients' clocks run ahead,
  one event in 500 comes up to a day late
* 12 event names, from page views (45 %) to refunds
* customers: one for each 100 events, active in sessions; a fifth of them sends half of the events
* 400 sites, whole numbers around 200, one to three of 30 words, amounts in cents, 4 plans
* seven of ten events come from browsers, one a request, with one of 150 user agents and a `Referer` of 2,000
  pages; the others from servers in batches of 20

`rich` events have as many bytes and more values: 8 of them, shorter names. No event has an `event_id`: what
one costs is told by bench/event_id.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np

from app.enrich import Geography
from app.stream import Record
from workers.rows import to_row

PROJECT = "prj_2Yx0bQhT7mEwLkZs"
SEED = 4
FIRST_MS = 1_761_955_200_000  # 2025-11-01: one month, so one partition
DAYS = 30
DAY_MS = 86_400_000
BATCH = 20  # events a request of a server
NAMES = (
    *("page_view", "button_click", "search", "video_progress", "add_to_cart", "signup_started"),
    *("login", "purchase", "invoice_paid", "file_uploaded", "support_ticket_opened", "refund"),
)
WEIGHTS = np.array([45, 20, 9, 8, 5, 3, 3, 2.5, 2, 1.5, 0.7, 0.3])
TAGS = (
    *("cat", "dog", "new", "sale", "beta", "gift", "blue", "red", "small", "large", "mobile", "trial", "vip"),
    *("promo", "spring", "autumn", "eu", "us", "apac", "retry", "import", "manual", "api", "bulk", "shared"),
    *("private", "draft", "live", "legacy", "test"),
)
PLANS = ("free", "pro", "team", "enterprise")
_TOPS = ("shop", "docs", "blog", "account", "pricing", "help", "search", "news", "forum", "jobs")
PAGES = tuple(f"/{_TOPS[i % 10]}/{i * 7919 % 9973:04d}" for i in range(2000))
SITES = tuple(f"{TAGS[i % 30]}{i:03d}.{('com', 'org', 'net', 'de')[i % 4]}" for i in range(400))
_SYSTEMS = (
    *("Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7", "X11; Linux x86_64"),
    *("Linux; Android 10; K", "iPhone; CPU iPhone OS 17_5 like Mac OS X"),
)
AGENTS = tuple(
    f"Mozilla/5.0 ({_SYSTEMS[i % 5]}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{100 + i // 5}.0.0.0 Safari/537.36"
    for i in range(150)
)


def blocks(
    count: int, size: int = 10_000, *, rich: bool = False, project: str = PROJECT
) -> Iterator[list[Record]]:
    """`count` events in the order in which they were recorded, and the tenth of other projects among them."""
    total = count + count // 10
    mix = _Mix(total, rich=rich, project=project)
    for start in range(0, total, size):
        yield mix.block(start, min(size, total - start))


class _Mix:
    """What lasts from block to block: chance, and the edges' counters of requests."""

    def __init__(self, total: int, *, rich: bool, project: str) -> None:
        self._total = total
        self._project = project
        self._chance = np.random.default_rng(SEED)
        self._make = self._rich_bodies if rich else self._bodies
        self._edges = [bytes(self._chance.integers(0, 256, 3, np.uint8)) for _ in range(4)]
        self._counters = [int(self._chance.integers(1 << 24)) for _ in self._edges]

    def block(self, start: int, size: int) -> list[Record]:
        """Events `start` to `start + size`."""
        chance = self._chance
        recorded = self._moments(start, size)
        delays = np.where(
            chance.random(size) < 0.002, chance.random(size) * DAY_MS, chance.exponential(400, size)
        )
        late = (delays - chance.random(size) ** 8 * 3000).astype(np.int64).tolist()
        agents = self._skewed(AGENTS, 2, size)
        pages = self._skewed(PAGES, 3, size)
        projects = (chance.random(size) * 11).tolist()
        browsers = (chance.random(size) < 0.7).tolist()
        heads: list[tuple[bytes, int, int, int]] = []  # request id, index, recorded, sent
        batch, left = (b"", 0), 0
        for moment, is_browser, delay in zip(recorded, browsers, late, strict=True):
            if is_browser:
                heads.append((self._identity(moment), 1, moment, moment - delay))
                continue
            if not left:
                batch, left = (self._identity(moment), moment), BATCH
            left -= 1
            heads.append((batch[0], BATCH - left, batch[1], batch[1] - delay - 500 * left))
        bodies = self._make([max(FIRST_MS, sent) for *_, sent in heads], pages)
        return [
            Record(
                identity,
                index,
                moment,
                self._project if project < 10 else f"prj_{1 + int(project * 9000) % 9}NkW3rTq8sVbA",
                "",
                "",
                agent if is_browser else "",
                f"https://{SITES[0]}{page}" if is_browser else "",
                body.encode(),
            )
            for (identity, index, moment, _), project, agent, page, is_browser, body in zip(
                heads, projects, agents, pages, browsers, bodies, strict=True
            )
        ]

    def _moments(self, start: int, size: int) -> list[int]:
        positions = (np.arange(start, start + size) + self._chance.random(size)) / self._total * DAYS
        # The density of a day: 1 - 0.7 cos, so that noon sees six times the events of midnight.
        within = positions % 1.0
        days = np.floor(positions) + within - 0.7 * np.sin(2 * np.pi * within) / (2 * np.pi)
        moments: list[int] = np.sort((FIRST_MS + days * DAY_MS).astype(np.int64)).tolist()
        return moments

    def _identity(self, moment: int) -> bytes:
        """A request's id as `app.gate` makes it."""
        edge = int(self._chance.integers(len(self._edges)))
        self._counters[edge] = (self._counters[edge] + 1) & 0xFFFFFF
        return moment.to_bytes(6, "big") + self._edges[edge] + self._counters[edge].to_bytes(3, "big")

    def _skewed(self, values: Sequence[str], power: int, size: int) -> list[str]:
        return [values[i] for i in (self._chance.random(size) ** power * len(values)).astype(int).tolist()]

    def _heads(self, sent: list[int]) -> list[str]:
        customers = max(1, self._total // 100)
        # Sessions: within a block of time, a limited set of customers is active.
        active = (self._chance.random(max(1, len(sent) // 8)) ** 2 * customers).astype(np.int64)
        who = self._chance.choice(active, len(sent)).tolist()
        names = self._chance.choice(len(NAMES), len(sent), p=WEIGHTS / WEIGHTS.sum()).tolist()
        return [
            f'{{"event_name":"{NAMES[name]}","timestamp":"{_iso(moment)}","customer_identifier":"{_customer(one)}"'
            for name, moment, one in zip(names, sent, who, strict=True)
        ]

    def _values(self, size: int) -> Iterator[tuple[str, int, str, str, str]]:
        """Site, number, words, flag, plan and amount."""
        chance = self._chance
        words = chance.integers(0, len(TAGS), (size, 3)).tolist()
        counts = chance.integers(1, 4, size).tolist()
        flags = (chance.random(size) < 0.3).tolist()
        plans = chance.choice(len(PLANS), size, p=[0.6, 0.25, 0.1, 0.05]).tolist()
        cents = np.round(chance.lognormal(8, 1, size)).astype(int).tolist()
        return zip(
            self._skewed(SITES, 2, size),
            chance.geometric(0.005, size).tolist(),
            ('","'.join(TAGS[word] for word in three[:n]) for three, n in zip(words, counts, strict=True)),
            ("true" if flag else "false" for flag in flags),
            (f'"plan":"{PLANS[p]}","amount":{c / 100}' for p, c in zip(plans, cents, strict=True)),
            strict=True,
        )

    def _bodies(self, sent: list[int], _: list[str]) -> list[str]:
        return [
            f'{head},"example_string_field":"{site}","example_number_field":{number},'
            f'"example_array_field":["{words}"],"example_bool_field":{flag}'
            + (f',"order":{{{order}}}}}' if number % 4 == 0 else "}")
            for head, (site, number, words, flag, order) in zip(
                self._heads(sent), self._values(len(sent)), strict=True
            )
        ]

    def _rich_bodies(self, sent: list[int], pages: list[str]) -> list[str]:
        seconds = np.round(self._chance.exponential(30, len(sent)), 1).tolist()
        return [
            f'{head},"site":"{site}",{order},"qty":{number},"tags":["{words}"],"paid":{flag},'
            f'"page":{{"path":"{page}","secs":{spent}}}}}'
            for head, (site, number, words, flag, order), page, spent in zip(
                self._heads(sent), self._values(len(sent)), pages, seconds, strict=True
            )
        ]


def _customer(number: int) -> str:
    return f"c_{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}"[:11]


def _iso(moment_ms: int) -> str:
    seconds, rest = divmod(moment_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def row_blocks(
    count: int, size: int = 10_000, *, rich: bool = False, project: str = PROJECT
) -> Iterator[bytes]:
    """The same in RowBinary, as the drain makes it."""
    nowhere = Geography("")
    for records in blocks(count, size, rich=rich, project=project):
        yield b"".join(to_row(record, nowhere).data for record in records)
