"""`python -m tests.erasing --runs 10`: does each of many erasures count what its customer had sent, through kills?

Run after run a customer of their own sends among others, is erased in the midst of it, and the drain is killed
at a random moment around that; in every third run the store too, after the answer. For each erasure, when it is
done:

    counted    is what was answered with 200 and recorded up to its moment, no event more or less
    matched    is not more than what was counted in the store
    what came after the moment is there, once, and `verify` is clean
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import msgspec

from tests.client import equals
from tests.erasing import DONE_SECONDS, Scene, Senders
from tests.load import assert_verified
from tests.service import Service
from tests.waiting import until

OTHERS = 40
LOAD_SECONDS = (0.5, 2.5)  # of load before an erasure, and after it
KILL_SECONDS = (-0.3, 3.0)  # from the request to the kill


class Run(msgspec.Struct):
    """One erasure. `sent`: when each event of the customer that was answered was recorded, Unix ms."""

    customer: str
    erasure: dict[str, Any]
    sent: list[int]
    uncertain: int

    @property
    def meant(self) -> int:
        return sum(recorded <= self.erasure["up_to"] for recorded in self.sent)


def run(service: Service, runs: int, seed: int) -> None:
    dice = random.Random(seed)
    here = Scene(service)
    print(f"seed {seed}")
    made = [one_run(service, here, number, dice) for number in range(runs)]
    service.wait_ready()
    for number, one in enumerate(made):
        look_at(here, number, one)
    assert here.ledger("erased") == sum(sum(counts(here, one).values()) for one in made)
    assert_verified(service)
    print(f"{runs} erasures: all counted, the ledger agrees, verify is clean")


def one_run(service: Service, here: Scene, number: int, dice: random.Random) -> Run:
    here.marked = f"customer-{number}-{os.urandom(8).hex()}"
    senders = Senders(service.keys, [f"c{one}" for one in range(OTHERS)] + [here.marked] * (OTHERS // 4))
    before, is_answered = dice.uniform(*LOAD_SECONDS), threading.Event()
    after = before + dice.uniform(*KILL_SECONDS)

    def kill() -> None:
        time.sleep(after)  # at any moment: what is looked for is not known before
        old = service.kill("drain")
        service.wait_restarted("drain", old)
        if number % 3 == 2 and is_answered.wait(60):
            old = service.kill("store")
            service.wait_restarted("store", old)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        time.sleep(before)
        erasure = here.erase()
        is_answered.set()
        time.sleep(dice.uniform(*LOAD_SECONDS))
    finally:
        senders.stop()
        killer.join(120)
    sent = [recorded for customer, recorded in senders.answered if customer == here.marked]
    service.wait_ready()
    until(lambda: here.client.ask(time_period="today").status_code == 200, 60, "a store that answers")
    return Run(here.marked, erasure, sent, senders.uncertain)


def look_at(here: Scene, number: int, one: Run) -> None:
    erasure_id = one.erasure["erasure_id"]
    until(lambda: here.status(erasure_id)["state"] == "done", DONE_SECONDS, f"the erasure of run {number}")
    counted, matched = counts(here, one), one.erasure["matched"]
    total = sum(counted.values())
    print(f"run {number}: sent {len(one.sent)}, meant {one.meant}, matched {matched}, counted {counted}")
    assert one.meant <= total <= one.meant + one.uncertain, one.uncertain
    assert matched <= counted["store"]
    left = here.client.events(equals("customer_identifier", one.customer))
    assert all(event["time_recorded"] > one.erasure["up_to"] for event in left)
    assert len(one.sent) - one.meant <= len(left) <= len(one.sent) - one.meant + one.uncertain


def counts(here: Scene, one: Run) -> dict[str, int]:
    return dict(here.status(one.erasure["erasure_id"])["counted"])
