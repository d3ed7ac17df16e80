"""Whether what the workers saw is what is promised. What counts as a violation is in `PROMISES`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, log
from pathlib import Path

from gecaso.testing import History, StaleRead
from gecaso.testing.records import Operation
from tests.soak.records import KEYS, Flag, Record, Sort, logs_of, maker_of, read_log
from tests.soak.worker import LATELY, LEASE, TTL, WINDOW

__all__ = ["BASE", "PROMISES", "Verdict", "Window", "judge"]

PROMISES = {
    "G1": f"""two loads of a key ran side by side although nothing was invalidated, expired or put
        between their beginnings, no fault was injected in the {LEASE:g} s before nor meanwhile, no
        process had trouble with the storage, and none lost its lease for want of processor time""",
    "G2": """a read that began after an invalidation or a put had returned without error gave a
        value (or an error) whose load began before it, whichever process did which. Two limits that
        docs/guarantees.md states are allowed for: a put that failed may arrive at any later time;
        and while a process has trouble with a storage its loads have no lease, so that those of
        its callers who began before such a load ended may get its value, unless the process
        *itself* invalidated""",
    "G4": "a caller was given another key's value, or one that nobody made",
    "G5": "a call raised something that its load did not",
    "G5b": """after an invalidation or put that failed or was given up, the same process was given a
        value from before it""",
    "G6": "an exception was given to a caller who began more than 2 s after its load had ended",
    "G11": f"""a value was given to a caller who began later after it was made than its ttl
        ({TTL:g} s; every fourth key is served {WINDOW:g} s longer) and 2 s for clocks that tell
        whole seconds""",
}
JOINING = 0.5
"""Seconds between the end of a load and the moment from which nobody joins it."""
SLACK = 2.0
MOST = 5
"""Violations that are told of one key."""
BASE = 1.15
"""Latencies are counted in classes, each so many times as long as the one before."""


@dataclass(frozen=True)
class Window:
    """A time of trouble: of one place, or of all (None)."""

    place: int | None
    begin: float
    end: float


@dataclass
class Verdict:
    """What is to be said of some rounds."""

    operations: Counter[str] = field(default_factory=Counter[str])
    allowed: Counter[str] = field(default_factory=Counter[str])
    """What would be a violation without the stated limits."""
    violations: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    latencies: dict[str, Counter[int]] = field(default_factory=dict[str, Counter[int]])
    """By phase and kind of call: how many took `BASE` to the power of so much, in seconds."""

    def add(self, other: Verdict) -> None:
        self.operations += other.operations
        self.allowed += other.allowed
        for promise, stories in other.violations.items():
            self.violations.setdefault(promise, []).extend(stories)
        for phase, counts in other.latencies.items():
            self.latencies.setdefault(phase, Counter()).update(counts)

    def blame(self, promise: str, story: str) -> None:
        self.violations.setdefault(promise, []).append(story)

    def quantile(self, phase: str, share: float) -> float:
        """Return the seconds within which that share of the calls of a phase had ended."""
        counts = self.latencies.get(phase, Counter())
        left = share * counts.total()
        for number in sorted(counts):
            left -= counts[number]
            if left <= 0:
                return BASE**number
        return 0.0


def judge(folder: Path, number: int, windows: Sequence[Window]) -> Verdict:
    """Judge what was written down of a round, and throw it away unless something is wrong."""
    verdict = Verdict()
    by_key: dict[int, list[Record]] = defaultdict(list)
    paths = logs_of(folder, number)
    for path in paths:
        for record in read_log(path):
            by_key[record.key].append(record)
    for key, records in by_key.items():
        here = [each for each in windows if each.place in (None, key // KEYS)]
        _Key(f"{number}:{key}", key, records, here, verdict).judge()
    if not verdict.violations:
        for path in paths:
            path.unlink()
    return verdict


class _Key:
    """The operations on one key."""

    def __init__(
        self, name: str, key: int, records: list[Record], windows: list[Window], verdict: Verdict
    ) -> None:
        self.name = name
        self.is_aging = key % 4 == 3
        self.windows = windows
        self.verdict = verdict
        self.sorts: dict[Sort, list[Record]] = defaultdict(list)
        for record in sorted(records, key=lambda record: record.begin):
            self.sorts[record.sort].append(record)
            verdict.operations[_word(record)] += 1
        made = self.sorts[Sort.LOAD] + self.sorts[Sort.PUT]
        self.origins = {record.token: record for record in made}

    def judge(self) -> None:
        for sort, promise in ((Sort.FOREIGN, "G4"), (Sort.FAILED, "G5")):
            for record in self.sorts[sort]:
                self.verdict.blame(promise, f"{self.name}: {record}")
        self._judge_ages()
        self._judge_loads()
        self._judge_staleness()
        for read in self.sorts[Sort.READ]:
            self._count_latency(read)

    # --- G2 and G5b -----------------------------------------------------------------------------

    def _judge_staleness(self) -> None:
        made = [_operation(each) for each in self.sorts[Sort.LOAD] + self.sorts[Sort.PUT]]
        fences = [_operation(each) for each in self.sorts[Sort.INVALIDATE]]
        shared = [each for each in self.sorts[Sort.READ] if not self._may_lack_a_lease(each)]
        self._check("G2", shared, made + fences)
        for worker in {each.worker for each in self.sorts[Sort.READ]}:
            reads = [each for each in self.sorts[Sort.READ] if each.worker == worker]
            self._check("G5b", reads, [*_unfenced(made), *self._own_fences(worker)])
        self.verdict.allowed[
            "reads of loads without a lease, not held against other processes"
        ] += len(self.sorts[Sort.READ]) - len(shared)

    def _may_lack_a_lease(self, read: Record) -> bool:
        origin = self.origins.get(read.token)
        return (
            origin is not None
            and origin.sort is Sort.LOAD
            and bool(origin.flag & Flag.IN_TROUBLE)
            and maker_of(read.token) == read.worker
            and read.begin <= origin.end + JOINING
        )

    def _own_fences(self, worker: int) -> Iterator[Operation]:
        """What a process has invalidated or put, whether the storage has heard of it or not."""
        for each in self.sorts[Sort.INVALIDATE] + self.sorts[Sort.PUT]:
            if each.worker == worker and not each.flag & Flag.RUNNING:
                yield Operation("invalidate", 0, each.begin, each.end, actor=f"{worker}")

    def _check(self, promise: str, reads: list[Record], others: list[Operation]) -> None:
        asked = [_operation(each) for each in reads]
        for _ in range(MOST):
            try:
                History.of([*others, *asked], late=True).check()
            except StaleRead as error:
                self.verdict.blame(promise, f"{self.name}: {error}")
                wrong = max(error.history.operations, key=lambda one: (one.kind == "read", one.end))
                asked.remove(wrong)
            else:
                return

    # --- G1 -------------------------------------------------------------------------------------

    def _judge_loads(self) -> None:
        sorts = (Sort.INVALIDATE, Sort.EXPIRE, Sort.PUT, Sort.LOST)
        causes = [each for sort in sorts for each in self.sorts[sort]]
        last: Record | None = None
        for load in self.sorts[Sort.LOAD]:
            if load.flag & (Flag.FAILED | Flag.RUNNING):
                continue  # all who wanted it have left, or its process was killed
            if last is not None and load.begin < last.end:
                if self._is_explained(last, load, causes):
                    self.verdict.allowed["loads side by side, with a reason"] += 1
                else:
                    self.verdict.blame("G1", f"{self.name}: {last} and {load}")
            if last is None or load.end > last.end:
                last = load

    def _is_explained(self, first: Record, second: Record, causes: list[Record]) -> bool:
        if (first.flag | second.flag) & Flag.IN_TROUBLE:
            return True
        if any(each.begin <= second.begin and each.end >= first.begin for each in causes):
            return True
        since = first.begin - LEASE
        return any(each.begin <= second.begin and each.end >= since for each in self.windows)

    # --- G6 and G11 -----------------------------------------------------------------------------

    def _judge_ages(self) -> None:
        longest = TTL + (WINDOW if self.is_aging else 0.0) + SLACK
        for read in self.sorts[Sort.READ]:
            origin = self.origins.get(read.token)
            if origin is None or origin.end == inf:
                continue
            age = read.begin - origin.end
            if read.flag & Flag.ERROR and age > SLACK:
                self.verdict.blame("G6", f"{self.name}: {read} after {origin}")
            elif age > longest and not origin.flag & Flag.FAILED:  # such a put may arrive later
                self.verdict.blame("G11", f"{self.name}: {age:.2f} s old: {read} of {origin}")

    # --- latencies ------------------------------------------------------------------------------

    def _count_latency(self, read: Record) -> None:
        origin = self.origins.get(read.token)
        is_hit = origin is not None and origin.end < read.begin
        near = [
            each.place
            for each in self.windows
            if each.begin <= read.end and each.end + LATELY >= read.begin
        ]
        when = (
            "normal"
            if not near
            else "during a fault"
            if any(place is not None for place in near)
            else "a worker is paused or killed"
        )
        phase = f"{'hits' if is_hit else 'loads'}, {when}"
        took = max(read.end - read.begin, 1e-6)
        self.verdict.latencies.setdefault(phase, Counter())[round(log(took, BASE))] += 1


KINDS = {Sort.READ: "read", Sort.LOAD: "load", Sort.PUT: "put", Sort.INVALIDATE: "invalidate"}


def _operation(record: Record) -> Operation:
    failed = record.flag & Flag.FAILED and record.sort is not Sort.LOAD
    outcome = "running" if record.flag & Flag.RUNNING else "failed" if failed else "done"
    actor = f"worker {record.worker}"
    if record.sort is Sort.INVALIDATE:
        return Operation("invalidate", 0, record.begin, record.end, outcome, actor=actor)  # type: ignore[arg-type]  # one of the three
    kind = KINDS[record.sort]
    return Operation(kind, 0, record.begin, record.end, outcome, record.token, actor=actor)  # type: ignore[arg-type]  # likewise


def _unfenced(made: Iterable[Operation]) -> Iterator[Operation]:
    """The same as origins of values alone: puts that forbid nothing."""
    for one in made:
        outcome = "failed" if one.outcome == "done" and one.kind == "put" else one.outcome
        yield Operation(one.kind, one.key, one.begin, one.end, outcome, one.value, actor=one.actor)


WORDS = {Sort.INVALIDATE: "invalidations", Sort.LOST: "leases lost"}


def _word(record: Record) -> str:
    word = WORDS.get(record.sort, f"{record.sort.name.lower()}s")
    if record.flag & Flag.RUNNING:
        return f"{word} that a SIGKILL ended"
    return f"{word} that failed" if record.flag & Flag.FAILED else word
