"""The curves as a picture, by matplotlib."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from gecaso.advice.report import Advice

__all__ = ["plot"]


def plot(advice: Advice, path: str) -> None:
    """Write the hit ratio over the size into a file; its ending says which kind of picture."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes: Any = figure.add_subplot()  # pyright: ignore[reportUnknownMemberType] - matplotlib's types are not complete
    sizes = [point.size for point in advice.points]
    ours = [100 * point.tinylfu for point in advice.points]
    axes.plot(sizes, [100 * p.optimum for p in advice.points], ":", color="grey", label="optimum")
    axes.plot(sizes, [100 * p.lru for p in advice.points], "--", label="LRU")
    line = axes.plot(sizes, ours, "o-", label="tinylfu")[0]
    doubts = [100 * point.doubt for point in advice.points]
    axes.fill_between(
        sizes,
        [ratio - doubt for ratio, doubt in zip(ours, doubts, strict=True)],
        [ratio + doubt for ratio, doubt in zip(ours, doubts, strict=True)],
        color=line.get_color(),
        alpha=0.2,
    )
    axes.axvline(advice.knee.size, color="black", linewidth=0.8)
    axes.annotate(f" knee: {advice.knee.size:,}", (advice.knee.size, 2))
    axes.set(xscale="log", ylim=(0, 100), xlabel="entries", ylabel="hits, per cent")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)  # pyright: ignore[reportUnknownMemberType] - matplotlib's types are not complete
