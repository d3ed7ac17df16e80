"""One page on a run: Markdown, with plots of text; and a picture, where matplotlib is installed."""

from __future__ import annotations

import importlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, fill
from typing import Any

from tests.soak.checker import PROMISES, Verdict
from tests.soak.crew import Sample

__all__ = ["Results", "flatness", "page", "picture"]

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
TOLD = 5  # violations of one promise that are told in full
FLAT = 0.05
LONG_ENOUGH = 120.0  # seconds after which it can be told whether memory is flat


@dataclass
class Results:
    """All that is known of a run."""

    seed: int
    seconds: float
    workers: int
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter[str])
    verdict: Verdict = field(default_factory=Verdict)
    samples: list[Sample] = field(default_factory=list[Sample])
    left: list[dict[str, int]] = field(default_factory=list[dict[str, int]])
    stderr: str = ""
    troubles: str = ""

    @property
    def problems(self) -> list[str]:
        """What a run must not have: empty if all is well."""
        found = [f"{len(each)} violations of {name}" for name, each in self.violations.items()]
        for left in self.left:
            found += [f"a worker left {name}: {count}" for name, count in left.items() if count]
        if self.stderr:
            found.append(f"the workers complained:\n{self.stderr[-2000:]}")
        if not self.verdict.operations["reads"]:
            found.append("nothing was read")
        for worker, growth in flatness(self.samples, self.seconds).items():
            if growth > FLAT:
                found.append(f"the memory of worker {worker} grew by {growth:.1%}")
        return found

    @property
    def violations(self) -> dict[str, list[str]]:
        return self.verdict.violations


def flatness(samples: Sequence[Sample], seconds: float) -> dict[int, float]:
    """Return by how much the memory of each worker that lived throughout has grown.

    As a share: from its mean in the second quarter of the run to that in the last.
    """
    if seconds < LONG_ENOUGH:
        return {}
    growth: dict[int, float] = {}
    for worker, own in _by_worker(samples).items():
        early = [each.kilobytes for each in own if seconds / 4 <= each.at < seconds / 2]
        late = [each.kilobytes for each in own if seconds * 3 / 4 <= each.at]
        if early and late and own[0].at < seconds / 4:
            growth[worker] = (sum(late) / len(late)) / (sum(early) / len(early)) - 1
    return growth


def _by_worker(samples: Sequence[Sample]) -> dict[int, list[Sample]]:
    found: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.worker].append(sample)
    return found


# --- the page -------------------------------------------------------------------------------------


def page(results: Results) -> str:
    """Return the page."""
    parts = [
        f"# A soak of {results.seconds / 60:.1f} minutes, seed {results.seed}",
        _summary(results),
        "## Operations",
        _table(("operation", "times"), sorted(results.verdict.operations.items())),
        "## Faults injected",
        _table(("fault", "times"), sorted(results.faults.items())),
        "## Violations",
        _violations(results),
        "## How long a call took",
        _latencies(results.verdict),
        "## Memory, descriptors and threads",
        _resources(results),
        "## What counts as a violation",
        "\n".join(
            fill(dedent(f"* **{name}**: {' '.join(text.split())}."), 100, subsequent_indent="  ")
            for name, text in PROMISES.items()
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(results: Results) -> str:
    problems = results.problems
    total = results.verdict.operations.total()
    word = "All is well." if not problems else "\n".join(["**Not well:**", "", *problems])
    text = (
        f"{results.workers} worker processes, {results.rounds} rounds of keys of their own, "
        f"{total:,} operations, {results.faults.total():,} faults."
    )
    return f"{text}\n\n{word}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    shown = [[f"{x:,}" if isinstance(x, int) else str(x) for x in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in [list(head), ["---"] * len(head), *shown]]
    return "\n".join(lines)


def _violations(results: Results) -> str:
    rows = [(name, len(results.violations.get(name, ()))) for name in PROMISES]
    parts = [_table(("promise", "violations"), rows)]
    allowed = sorted(results.verdict.allowed.items())
    parts.append(_table(("allowed for by a limit that is stated", "times"), allowed))
    for name, stories in results.violations.items():
        parts += [f"### {name}", *(f"```\n{story}\n```" for story in stories[:TOLD])]
    if results.troubles:
        parts.append(f"```\n{results.troubles[-4000:]}\n```")
    return "\n\n".join(parts)


def _latencies(verdict: Verdict) -> str:
    rows = [
        (phase, counts.total(), *(_ms(verdict.quantile(phase, share)) for share in (0.5, 0.99, 1)))
        for phase, counts in sorted(verdict.latencies.items())
    ]
    return _table(("phase", "calls", "p50", "p99", "longest"), rows)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _resources(results: Results) -> str:
    growth = flatness(results.samples, results.seconds)
    rows: list[tuple[object, ...]] = []
    plots: list[str] = []
    for worker, own in sorted(_by_worker(results.samples).items()):
        if len(own) * 4 < len({each.at for each in results.samples}) * 3:
            continue  # it was killed, or follows one that was
        change = f"{growth[worker]:+.1%}" if worker in growth else "too short to tell"
        last = own[-1]
        megabytes = f"{last.kilobytes / 1024:.1f} MB"
        rows.append((f"worker {worker}", megabytes, change, last.descriptors, last.threads))
        for word, values in (
            ("memory", [each.kilobytes for each in own]),
            ("descriptors", [each.descriptors for each in own]),
            ("threads", [each.threads for each in own]),
        ):
            plots.append(f"worker {worker} {word:11} {_sparkline(values)}")
    head = ("lived throughout", "memory", "second to last quarter", "descriptors", "threads")
    about = "Resident memory, after malloc has given back what it held free."
    return "\n\n".join([about, _table(head, rows), "```\n" + "\n".join(plots) + "\n```"])


def _sparkline(values: Sequence[int]) -> str:
    """Return a plot of one line, from zero to the greatest value, which is told."""
    step = max(1, len(values) // WIDTH)
    means = [sum(values[i : i + step]) / step for i in range(0, len(values) - step + 1, step)]
    most = max(values) or 1
    return "".join(BARS[min(7, int(mean / most * 7.999))] for mean in means) + f"  max {most:,}"


# --- the picture ----------------------------------------------------------------------------------


def picture(results: Results, path: Path) -> bool:
    """Draw memory, descriptors and threads over time; return False where matplotlib is missing."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ImportError:
        return False
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(3, sharex=True, figsize=(9, 8))
    for worker, own in sorted(_by_worker(results.samples).items()):
        at = [each.at / 60 for each in own]
        axes[0].plot(at, [each.kilobytes / 1024 for each in own], label=f"worker {worker}")
        axes[1].plot(at, [each.descriptors for each in own])
        axes[2].plot(at, [each.threads for each in own])
    for axis, title in zip(axes, ("memory (MB)", "descriptors", "threads"), strict=True):
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
    axes[2].set_xlabel("minutes")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return True
