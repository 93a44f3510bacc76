"""Numbers as people read them: 1.2k on an axis, 1,234,567.89 in a table; and ticks at round values. Pure."""

from __future__ import annotations

import math

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MINUS = "\N{MINUS SIGN}"
# Of their size: values that are nearer to each other are drawn as one. The last digits of a float, in which
# two averages of the same prices differ, are nothing to see, and steps as small as they are none: adding one
# to a value leaves it as it is, and whoever draws by adding steps never comes to the end.
_NEAR = 1e-6


def compact(value: float, step: float = 0.0) -> str:
    """At most three digits that count and a letter: 999, 1.2k, 3.4M, 5.6e+18.

    `step`: how far the next number on the same axis is; more digits are given where it needs them.
    """
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e15 or size < 1e-6:
        digits = max(3, 2 + math.ceil(math.log10(size / step))) if step else 3
        return _signed(f"{value:.{digits}g}")
    for limit, letter in _UNITS:
        if size >= limit * 0.9995:  # 999,950 is 1M, not 1000k
            return _signed(f"{_digits(value / limit, step / limit)}{letter}")
    return _signed(_digits(value, step))


def compact_scaled(value: float, factor: float, step: float = 0.0) -> str:
    """`value` times `factor`, `step` likewise.

    The end of an axis, and a sum, may be beyond the largest float, and would be said to be infinite there.
    """
    if math.isfinite(value * factor):
        return compact(value * factor, step * factor)
    mantissa, _, power = compact(value * (factor / 100), step * (factor / 100)).partition("e+")
    return f"{mantissa}e+{int(power) + 2}"


def full(value: float, decimals: int | None = None) -> str:
    """All digits of an integer, from 1 on up to three decimals, thousands separated; or `decimals`."""
    if abs(value) >= 1e21 or 0 < abs(value) < 1e-6:
        return _signed(f"{value:,}" if isinstance(value, int) else f"{value:.6g}")
    if decimals is None:
        decimals = decimals_of(value)
    return _signed(f"{value:,.{decimals}f}" if decimals else f"{round(value):,}")


def decimals_of(value: float) -> int:
    """How many decimals `full` gives `value`."""
    if isinstance(value, int) or not 1e-6 <= abs(value) < 1e21:
        return 0
    return len(f"{value:.{3 if abs(value) >= 1 else 6}f}".rstrip("0").partition(".")[2])


def ticks(low: float, high: float, most: int, *, from_zero: bool) -> list[float]:
    """At most `most` + 1 round values that enclose `low` to `high`, equally far apart.

    Zero is among them when `from_zero`, or where leaving it out would exaggerate little.
    """
    if from_zero or low * high < 0 or min(abs(low), abs(high)) < 0.6 * max(abs(low), abs(high)):
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= _NEAR * max(abs(low), abs(high)):
        low, high = (0.0, 1.0) if low == 0 else sorted((0.0, 2 * low))
    rough = high / most - low / most  # each for itself: their difference may exceed the largest float
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in _STEPS if s * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _digits(value: float, step: float) -> str:
    """Three digits that count; or as many decimals as tell neighbours at `step` apart."""
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    if step > 0:
        decimals = next((d for d in range(17) if abs(round(step, d) - step) < step / 100), 17)
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _signed(text: str) -> str:
    return text.replace("-", _MINUS, 1) if text.startswith("-") else text
