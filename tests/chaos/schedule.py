"""Seed -> the sequence of faults: kinds, targets, durations, which overlap. Pure: the same seed, the same run.

Kinds are dealt like cards from a shuffled deck, so that a run of as many faults as there are kinds has each
of them once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

EDGES = ("edge 0", "edge 1")
DRAINS = ("drain 0", "drain 1")
EDGE_TO_REDIS = tuple(f"{name} > redis" for name in EDGES)
DRAIN_TO_REDIS = tuple(f"{name} > redis" for name in DRAINS)
TO_STORE = tuple(f"{name} > store" for name in DRAINS)
EVERYTHING = "everything"
OVERLAP_SHARE = 0.3
MAX_LAG_SECONDS = 1.5  # of the second one of two that overlap


@dataclass(frozen=True)
class Kind:
    """What may be drawn: targets, and how long it lasts."""

    name: str
    targets: tuple[str, ...]
    least: float
    most: float


KINDS = (
    *(Kind(f"kill -9 {role}", targets, 0.1, 3.0) for role, targets in
      (("edge", EDGES), ("drain", DRAINS), ("store", ("store",)), ("redis", ("redis",)))),
    *(Kind(f"pause {role}", targets, 1.0, 8.0) for role, targets in
      (("edge", EDGES), ("drain", DRAINS), ("store", ("store",)), ("redis", ("redis",)))),
    Kind("kill -9 everything", (EVERYTHING,), 0.1, 1.0),
    Kind("edge killed while redis is away", EDGES, 1.0, 4.0),
    Kind("restart edge", EDGES, 0.1, 0.5),
    Kind("restart drain", DRAINS, 0.1, 0.5),
    Kind("restart redis", ("redis",), 0.1, 3.0),
    Kind("redis at maxmemory", ("redis memory",), 1.0, 5.0),
    Kind("engine killed before rename", ("store",), 2.0, 4.0),
    *(Kind(f"full disk of {name}", (f"{name} disk",), 1.0, 5.0) for name in ("spool", "redis", "store")),
    *(Kind(f"edge to redis {mood}", EDGE_TO_REDIS, 1.0, 5.0) for mood in
      ("cut", "deaf", "slow", "cut in the answer")),
    *(Kind(f"drain to redis {mood}", DRAIN_TO_REDIS, 1.0, 5.0) for mood in ("cut", "deaf", "slow")),
    *(Kind(f"drain to store {mood}", TO_STORE, 1.0, 5.0) for mood in
      ("cut", "deaf", "slow", "cut in the request", "cut in the answer", "error", "error after success")),
    Kind("clock of edge", EDGES, 1.0, 4.0),
    Kind("clock of drain", DRAINS, 1.0, 4.0),
    Kind("clock of redis", ("redis clock",), 1.0, 4.0),
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """One fault. `amount` in [-1, 1) is for whatever its kind measures; `lag` counts from the former's start."""

    number: int
    kind: str
    target: str
    seconds: float
    amount: float
    overlaps: bool
    lag: float

    def __str__(self) -> str:
        return f"{self.kind} ({self.target}, {self.seconds:.1f} s)"


def draw(seed: int, count: int, only: Sequence[str] = ()) -> list[Planned]:
    """The first `count` faults of `seed`; `only` kinds whose names hold one of these words, if any is given."""
    chance = random.Random(seed)
    deck = _deck(chance, [kind for kind in KINDS if not only or any(word in kind.name for word in only)])
    drawn: list[Planned] = []
    for number, kind in zip(range(1, count + 1), deck, strict=False):
        target = chance.choice(kind.targets)
        former = drawn[-1] if drawn else None
        overlaps = chance.random() < OVERLAP_SHARE and former is not None and _fit(former, target)
        drawn.append(
            Planned(
                number,
                kind.name,
                target,
                round(chance.uniform(kind.least, kind.most), 2),
                round(chance.uniform(-1, 1), 4),
                overlaps,
                round(chance.uniform(0.05, MAX_LAG_SECONDS), 2),
            )
        )
    return drawn


def rounds(faults: list[Planned]) -> list[list[Planned]]:
    """What happens together: one fault, or two that overlap."""
    found: list[list[Planned]] = []
    for fault in faults:
        if fault.overlaps:
            found[-1].append(fault)
        else:
            found.append([fault])
    return found


def _fit(former: Planned, target: str) -> bool:
    return not former.overlaps and target != former.target and EVERYTHING not in (target, former.target)


def _deck(chance: random.Random, kinds: Sequence[Kind]) -> Iterator[Kind]:
    while kinds:
        cards = list(kinds)
        chance.shuffle(cards)
        yield from cards
