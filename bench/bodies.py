"""What is sent: one event again and again, as the yardstick does, or events that differ. 241 bytes each.

wrk's script takes whole bodies from a file, one a line, so that a batch costs wrk nothing while it runs.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

EVENT_BYTES = 241
# The example of the API's own documentation, as the original had it.
EXAMPLE = json.dumps(
    {
        "event_name": "my_first_event_name",
        "timestamp": "2021-06-26T14:48:00.000",
        "customer_identifier": "your_app_customer_id",
        "example_string_field": "abc.com",
        "example_number_field": 123,
        "example_array_field": ["cat", "dog"],
        "example_bool_field": True,
    },
    separators=(",", ":"),
)
NAMES = [f"page_view_{number}" for number in range(20)]
WORDS = ["cat", "dog", "fox", "owl", "bee", "ant", "elk", "emu"]
DISTINCT_EVENTS = 20_000  # of one file


def varied(source: random.Random) -> str:
    """An event of its own: name, customer, number, words, time; filled up to 241 bytes."""
    event = {
        "event_name": source.choice(NAMES),
        "timestamp": f"2026-{source.randint(1, 9):02}-{source.randint(1, 28):02}T"
        f"{source.randint(0, 23):02}:{source.randint(0, 59):02}:{source.randint(0, 59):02}.000Z",
        "customer_identifier": f"customer_{source.randint(1, 50_000)}",
        "site": f"{source.getrandbits(32):x}.example",
        "amount": source.randint(0, 100_000) / 100,
        "tags": source.sample(WORDS, 2),
        "is_member": source.random() < 0.5,
        "referrer_path": "/",
    }
    text = json.dumps(event, separators=(",", ":"))
    event["referrer_path"] = "/" + "".join(source.choices("abcdefghijklmnop", k=EVENT_BYTES - len(text)))
    return json.dumps(event, separators=(",", ":"))


def write(path: Path, size: int, *, is_varied: bool, seed: int = 1) -> Path:
    """Bodies of `size` events each, one a line; size 0 is an event that is no batch."""
    source = random.Random(seed)
    each = max(size, 1)
    if is_varied:
        bodies = [[varied(source) for _ in range(each)] for _ in range(max(8, DISTINCT_EVENTS // each))]
    else:
        bodies = [[EXAMPLE] * each]
    lines = [f"[{','.join(events)}]" if size else events[0] for events in bodies]
    path.write_text("\n".join(lines) + "\n")
    return path
