"""Single events: our edge under each engine, what the same server costs by itself, and the peer."""

from __future__ import annotations

from typing import Any

from bench import bodies, versus
from bench.context import Bench
from bench.markdown import number, table
from bench.subjects import ENGINES, Subject, engines
from bench.versus import Load

TITLE = "Single events"
CALM_CORES = 0.1
SECONDS = (330.0, 50.0)  # about how long it takes, in full and quick


def measure(bench: Bench) -> dict[str, Any]:
    """Runs, medians and ratios."""
    load = Load("", "/post", bodies.write(bench.directory("bodies") / "one", 0, is_varied=False))
    peer, without_peer = versus.peer_or_nothing(bench)
    subjects: list[Subject] = []
    for engine in reversed(engines()):
        subjects += [Subject("ours", engine, "always"), Subject("floor", engine)]
        if not bench.is_quick:
            subjects.append(Subject("guarded", engine))
    if not bench.is_quick and peer:
        peer = [*peer, Subject("peer", "", "everysec")]
    if not bench.is_quick:
        subjects.append(Subject("ours", engines()[-1], "everysec"))
    runs = versus.alternate(
        bench,
        [*subjects[:2], *peer, *subjects[2:]],
        [load],
        rounds=bench.choose(3, 2),
        warm=bench.choose(2, 1),
        seconds=bench.choose(6, 3),
    )
    ratios = {}
    for engine in ENGINES:
        ours = f"ours {engine} always"
        ratios[f"{engine} ÷ floor"] = versus.compare(runs, ours, f"floor {engine}")
        ratios[f"{engine} ÷ guarded floor"] = versus.compare(runs, ours, f"guarded {engine}")
        ratios[f"{engine} ÷ peer"] = versus.compare(runs, ours, "peer always")
        ratios[f"{engine} ÷ peer, p99"] = versus.compare(runs, ours, "peer always", "p99_ms")
        ratios[f"{engine} ÷ peer, everysec"] = versus.compare(
            runs, f"ours {engine} everysec", "peer everysec"
        )
    return {
        "median": versus.summary(runs),
        "ratios": {name: value for name, value in ratios.items() if value is not None},
        "conservation": versus.conservation(runs),
        "others": versus.disturbance(runs),
        "without_peer": without_peer,
        "rounds": runs,
    }


NAMES = {
    "ours": "ours",
    "floor": "floor: the server as it comes, an app that does nothing",
    "guarded": "the same app behind our edge's protections",
    "peer": "peer: Node, Fastify, ioredis",
}


def render(result: dict[str, Any]) -> str:
    """Its section of the report."""
    rows = []
    for name, figures in result["median"].items():
        kind, *rest = name.split()
        rows.append(
            [
                f"{NAMES[kind]}{', ' if rest else ''}{', '.join(rest)}",
                number(figures["requests_per_second"]),
                f"± {figures['spread'] * 100:.0f} %",
                number(figures["p50_ms"]),
                number(figures["p99_ms"]),
                number(figures["cpu_us_per_event"]),
            ]
        )
    text = [
        table(["Median of the rounds", "requests/s", "spread", "p50 ms", "p99 ms", "CPU µs a request"], rows),
        "![Requests a second](performance/post.svg)",
        table(["Ratio", "median"], [[name, f"{value:.2f}"] for name, value in result["ratios"].items()]),
        conservation(result["conservation"]),
        calm(result["others"]),
        "`always`: fsync before the answer, on both sides; `everysec`: once a second. The floor keeps nothing. "
        "CPU is that of the process that serves. The app that does nothing behind our protections is what is "
        "left of the server when slow, oversized and malformed requests are refused and connections bounded.",
    ]
    if result["without_peer"]:
        text.append(f"Without the peer: {result['without_peer']}")
    return "\n\n".join(text)


def calm(others: float) -> str:
    """One sentence on what else the machine did meanwhile."""
    text = f"Meanwhile other programs (and the machine's host) used {others:.2f} cores in the median run"
    return f"**{text}: too much to trust these figures.**" if others > CALM_CORES else f"{text}."


def conservation(counted: dict[str, int]) -> str:
    """One sentence on whether Redis held what was answered."""
    extra = counted["stored"] - counted["answered"]
    verdict = (
        "none was missing in any run"
        if not counted["violations"]
        else f"**{counted['violations']} runs do not agree, {counted.get('missing', 0):,} are missing**"
    )
    return (
        f"Conservation: wrk counted {counted['answered']:,} events with a 200 in runs against Redis, warm-ups "
        f"included; Redis held {counted['stored']:,}: {verdict}. The other {extra:,} were under way when wrk hung up "
        f"(at most {counted['in_flight_at_most']:,} could be). Other answers: {counted['bad']:,}; "
        f"broken connections: {counted['broken']:,}."
    )


def bars(result: dict[str, Any]) -> list[tuple[str, float]]:
    """For the plot: label and requests a second."""
    return [(name, figures["requests_per_second"]) for name, figures in result["median"].items()]
