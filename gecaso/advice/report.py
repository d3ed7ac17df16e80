"""What a trace says about the size of a memory: numbers, and text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from gecaso.advice.reading import Trace
from gecaso.advice.simulating import Model

__all__ = ["Advice", "Point", "advise", "duration_of", "knee_of", "size_of", "sizes_for", "text_of"]

Shown = Callable[[Sequence[int]], Iterable[int]]
"""What goes through the sizes, and may show how far it is."""

POINTS = 14
FEWEST = 32
"""Entries of a sample: with fewer, what a size comes to is chance."""
FEW_KEYS = 400
HEIGHT = 12
TTLS = (1, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400)


@dataclass(frozen=True)
class Point:
    """Hit ratios, from 0 to 1, at a size: the number of entries. ``bytes`` where known.

    ``doubt`` is about how far ``tinylfu`` may be off, being from a sample: one standard error.
    """

    size: int
    tinylfu: float
    lru: float
    optimum: float
    doubt: float
    bytes: int | None


@dataclass(frozen=True)
class Advice:
    """What was found. ``knee`` is where more entries begin to bring little; ``ttls`` are seconds
    and the hit ratio at the knee if values live that long, where the times are known.
    """

    points: Sequence[Point]
    knee: Point
    ttls: Sequence[tuple[float, float]]
    requests: int
    sampled_requests: int
    sampled_keys: int
    sample: float


def _every(sizes: Sequence[int]) -> Iterable[int]:
    return sizes


def advise(
    trace: Trace,
    *,
    sizes: Sequence[int] | None = None,
    ttls: Sequence[float] | None = None,
    progress: Shown = _every,
) -> Advice:
    """Return the hit ratios at ``sizes`` (entries), the knee, and the effect of ``ttls`` (seconds).

    >>> from gecaso.advice.reading import trace_of
    >>> advise(trace_of("abcabcabcabc"), sizes=[1, 3]).knee.size
    3
    """
    model = Model(trace)
    halves = [Model(half) for half in _halves(trace)]
    weight = trace.mean_weight
    wanted = sizes_for(trace) if sizes is None else sorted(set(sizes))
    if wanted[0] < 1:
        raise ValueError(f"a size is a number of entries, at least 1, not {wanted[0]}")
    points = [
        Point(
            size,
            model.tinylfu(size),
            model.lru(size),
            model.optimum(size),
            _doubt(halves, size),
            None if weight is None else round(size * weight),
        )
        for size in progress(wanted)
    ]
    knee = points[knee_of([p.size for p in points], [p.tinylfu for p in points])]
    lifetimes = sorted(_usual_ttls(trace) if ttls is None else ttls)
    if ttls and trace.times is None:
        raise ValueError("what a ttl does shows only with times; the file has none")
    return Advice(
        points,
        knee,
        [(ttl, model.tinylfu(knee.size, ttl)) for ttl in lifetimes],
        trace.total,
        len(trace),
        len(set(trace.codes)),
        trace.sample,
    )


def sizes_for(trace: Trace) -> list[int]:
    """Return sizes from a few entries to all keys, each larger by the same factor."""
    keys = len(set(trace.codes))
    most = max(1, round(keys / trace.rate))
    least = 1 if trace.sample >= 1 else min(most, round(FEWEST / trace.sample))
    step = (most / least) ** (1 / (POINTS - 1))
    return sorted({round(least * step**number) for number in range(POINTS)} | {most})


def knee_of(sizes: Sequence[int], ratios: Sequence[float]) -> int:
    """Return the place of the knee of a curve: where it is farthest above its chord.

    With both axes scaled to 1, as Kneedle does (Satopää, Albrecht, Irwin, Raghavan, *Finding a
    "Kneedle" in a Haystack*, 2011). A curve that never rises has its knee at the first size.

    >>> knee_of([0, 10, 20, 30], [0.0, 0.8, 0.9, 1.0])
    1
    """
    wide, high = sizes[-1] - sizes[0], max(ratios) - ratios[0]
    if wide <= 0 or high <= 0:
        return 0
    gains = [
        (ratio - ratios[0]) / high - (size - sizes[0]) / wide
        for size, ratio in zip(sizes, ratios, strict=True)
    ]
    # A curve that bends upwards only, such as that of a loop, is best at its end.
    best = max(gains)
    return gains.index(best) if best > 0 else max(range(len(ratios)), key=ratios.__getitem__)


def _halves(trace: Trace) -> Iterator[Trace]:
    """Split the sample by another bit of the hash: two samples, half as large."""
    for bit in (0, 1):
        codes = [code for code in trace.codes if code[7] & 1 == bit]
        part = len(set(codes)) / max(1, len(set(trace.codes)))
        yield Trace(codes, trace.sample / 2, trace.total, rate=trace.rate * part)


def _doubt(halves: Sequence[Model], size: int) -> float:
    # The whole trace has no error by sampling; of a sample, the mean of two halves has half the
    # difference of the two, about.
    if sum(half.trace.sample for half in halves) >= 1 or not all(len(h.trace) for h in halves):
        return 0.0
    one, other = (half.tinylfu(size) for half in halves)
    return abs(one - other) / 2


def _usual_ttls(trace: Trace) -> list[float]:
    fitting = [float(ttl) for ttl in TTLS if ttl <= trace.span]
    return fitting[-5:]


# --- text -----------------------------------------------------------------------------------------


def text_of(advice: Advice) -> str:
    """Return the report for a terminal: what to do, a chart, the numbers."""
    parts = [_summary(advice), _chart(advice), _table(advice)]
    if advice.ttls:
        parts.append(_ttl_lines(advice))
    if advice.sample < 1 and advice.sampled_keys < FEW_KEYS:
        parts.append(
            f"Only {advice.sampled_keys} keys are in the sample: record for longer, or with a "
            "larger sample=, before you trust this."
        )
    return "\n\n".join(parts) + "\n"


def _summary(advice: Advice) -> str:
    knee, last = advice.knee, advice.points[-1]
    memory = "" if knee.bytes is None else f" and about {size_of(knee.bytes)} of values"
    part = "all keys" if advice.sample >= 1 else f"{advice.sample:.3g} of the keys"
    return (
        f"{advice.requests:,} requests; looked at {part}: {advice.sampled_requests:,} requests of "
        f"{advice.sampled_keys:,} keys.\n"
        f"Knee: maxsize={knee.size} for {knee.tinylfu:.1%} hits{memory}; "
        f"{last.size:,} entries would have {last.tinylfu:.1%}."
    )


def _chart(advice: Advice) -> str:
    """Draw the three curves; where two meet, ours is seen."""
    width = 4
    rows = [[" "] * (width * len(advice.points)) for _ in range(HEIGHT + 1)]
    for column, point in enumerate(advice.points):
        for mark, ratio in (("o", point.optimum), ("l", point.lru), ("T", point.tinylfu)):
            rows[HEIGHT - round(ratio * HEIGHT)][column * width + 1] = mark
    lines: list[str] = []
    for number, row in enumerate(rows):
        share = (HEIGHT - number) / HEIGHT
        label = f"{share:4.0%}" if number % 3 == 0 else "    "
        lines.append(f"{label} |{''.join(row).rstrip()}")
    lines.append("     +" + "-" * (width * len(advice.points)))
    place = advice.points.index(advice.knee) * width + 1
    lines.append(" " * (6 + place) + "^ knee")
    first, last = advice.points[0].size, advice.points[-1].size
    lines.append(f"      {first:,} … {last:,} entries    T tinylfu   l LRU   o optimum")
    return "\n".join(lines)


def _table(advice: Advice) -> str:
    has_bytes = advice.knee.bytes is not None
    head = f"{'entries':>12} {'tinylfu':>8} {'±':>5} {'LRU':>7} {'optimum':>8}"
    lines = [head + (f" {'values':>9}" if has_bytes else "")]
    for point in advice.points:
        line = (
            f"{point.size:12,} {point.tinylfu:8.1%} {100 * point.doubt:5.1f} {point.lru:7.1%} "
            f"{point.optimum:8.1%}"
        )
        if point.bytes is not None:
            line += f" {size_of(point.bytes):>9}"
        lines.append(line + ("  <- knee" if point is advice.knee else ""))
    return "\n".join(lines)


def _ttl_lines(advice: Advice) -> str:
    lines = [f"With {advice.knee.size:,} entries, by how long a value lives (ttl):"]
    lines += [f"{duration_of(ttl):>12} {ratio:8.1%}" for ttl, ratio in advice.ttls]
    lines.append(f"{'for ever':>12} {advice.knee.tinylfu:8.1%}")
    return "\n".join(lines)


def size_of(count: float) -> str:
    """Return bytes for people.

    >>> size_of(1536), size_of(10)
    ('1.5 KiB', '10 B')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration_of(seconds: float) -> str:
    """Return seconds as they are written in code.

    >>> duration_of(90), duration_of(300), duration_of(86400)
    ('90s', '5m', '1d')
    """
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g}s"
