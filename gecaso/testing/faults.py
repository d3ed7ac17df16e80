"""The faults that a `ChaosStorage` injects: by script, or as often as `Faults` says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from typing import Final

from gecaso.errors import ConfigurationError, StorageError

__all__ = [
    "MESSAGES",
    "MESSAGE_FAULTS",
    "OPERATIONS",
    "WRITES",
    "Delay",
    "Disconnect",
    "Evict",
    "EvictLeases",
    "FailOver",
    "Fault",
    "Faults",
    "Flush",
    "Hang",
    "Jump",
    "Late",
    "Lose",
    "RaiseAfter",
    "RaiseBefore",
    "Reorder",
    "Repeat",
    "check_fault",
    "check_operations",
    "draw",
    "kind_of",
]

WRITES: Final = frozenset(
    {"lease", "renew", "commit", "release", "store", "discard", "evict", "clear"}
)
MESSAGES: Final = frozenset({"wait", "changes"})
OPERATIONS: Final = frozenset({*WRITES, *MESSAGES, "fetch", "ping"})


class Fault:
    """Something that goes wrong with one operation, or with the storage just before it."""


@dataclass(frozen=True)
class RaiseBefore(Fault):
    """The operation fails, and is not applied."""

    error: type[StorageError] = StorageError


@dataclass(frozen=True)
class RaiseAfter(Fault):
    """The operation fails after it was applied: its reply is lost."""

    error: type[StorageError] = StorageError


@dataclass(frozen=True)
class Delay(Fault):
    """The operation takes so many seconds more; beyond the timeout it fails, not applied."""

    seconds: float


@dataclass(frozen=True)
class Late(Fault):
    """The operation times out at once, and is applied so many seconds later all the same."""

    seconds: float


@dataclass(frozen=True)
class Hang(Fault):
    """The operation, or with ``applied`` its reply, hangs: until `heal`, or the timeout."""

    applied: bool = False


@dataclass(frozen=True)
class Evict(Fault):
    """So many entries, picked at random, are evicted."""

    entries: int = 1


@dataclass(frozen=True)
class EvictLeases(Fault):
    """So many leases, picked at random, are gone, as when a server evicts their markers."""

    leases: int = 1


@dataclass(frozen=True)
class Flush(Fault):
    """Everything is gone: entries and leases."""


@dataclass(frozen=True)
class Disconnect(Fault):
    """So many operations fail, beginning with this one, and messages are lost meanwhile."""

    operations: int


@dataclass(frozen=True)
class FailOver(Fault):
    """A replica that lacks the last writes takes over: so many of them are undone."""

    lost: int


@dataclass(frozen=True)
class Jump(Fault):
    """The storage's clock jumps by so many seconds, which may be negative."""

    seconds: float


@dataclass(frozen=True)
class Lose(Fault):
    """A message is lost: who waits for it waits to the end of his patience."""


@dataclass(frozen=True)
class Reorder(Fault):
    """A message comes late: after the next one, or to who waits for a lease after some seconds."""

    seconds: float = 0.05


@dataclass(frozen=True)
class Repeat(Fault):
    """A message comes twice: who waits for a lease is told before it is gone."""


MESSAGE_FAULTS: Final = (Lose, Reorder, Repeat)


@dataclass(frozen=True)
class Faults:
    """How often things go wrong: probabilities from 0 to 1, of each operation.

    ``delay``, ``late`` and ``jump`` are a probability and the most seconds, ``disconnect`` and
    ``fail_over`` a probability and the most operations. ``lose``, ``reorder`` and ``repeat`` are
    of each message. With ``on`` only the operations of these names are concerned.

    >>> Faults(raise_before=0.1, delay=(0.5, 0.02), on=("commit", "store"))
    Faults(raise_before=0.1, raise_after=0.0, delay=(0.5, 0.02), ...)
    """

    raise_before: float = 0.0
    raise_after: float = 0.0
    delay: tuple[float, float] = (0.0, 0.0)
    late: tuple[float, float] = (0.0, 0.0)
    hang: float = 0.0
    evict: float = 0.0
    evict_leases: float = 0.0
    flush: float = 0.0
    disconnect: tuple[float, int] = (0.0, 0)
    fail_over: tuple[float, int] = (0.0, 0)
    jump: tuple[float, float] = (0.0, 0.0)
    lose: float = 0.0
    reorder: float = 0.0
    repeat: float = 0.0
    on: Collection[str] = OPERATIONS

    def __post_init__(self) -> None:
        check_operations(self.on)
        for name in PROBABILITIES:
            chance, most = self.of(name)
            if not (0 <= chance <= 1 and most >= 0):
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r}: a probability is from 0 to 1, "
                    "and what comes with it is not negative"
                )

    def of(self, name: str) -> tuple[float, float]:
        """Return the probability of a fault, and the most that comes with it."""
        value: float | tuple[float, float] = getattr(self, name)
        return value if isinstance(value, tuple) else (value, 0)


PROBABILITIES: Final = tuple(field.name for field in fields(Faults) if field.name != "on")


def check_operations(names: Collection[str]) -> None:
    """Raise `ConfigurationError` for a name that no operation has."""
    unknown = {names} if isinstance(names, str) else set(names) - OPERATIONS
    if unknown:
        raise ConfigurationError(
            f"{', '.join(sorted(unknown))}: give a collection of names of a storage's operations: "
            f"{', '.join(sorted(OPERATIONS))}"
        )


def check_fault(operation: str, fault: Fault) -> None:
    """Raise `ConfigurationError` for a fault that this operation cannot have."""
    is_of_messages = isinstance(fault, MESSAGE_FAULTS)
    if is_of_messages and operation not in MESSAGES:
        raise ConfigurationError(f"{fault!r} is for messages: `wait` and `changes`")
    if operation == "changes" and not is_of_messages:
        raise ConfigurationError(f"{fault!r} is not for messages: a change is lost, late or twice")
    if isinstance(fault, Late) and operation not in WRITES:
        raise ConfigurationError(f"{fault!r} is for writes: {', '.join(sorted(WRITES))}")


def draw(faults: Faults, operation: str, choose: Callable[[int], int]) -> Iterator[Fault]:
    """Draw what goes wrong with one operation; ``choose(n)`` gives 0, which is tame, to n - 1."""
    if operation not in faults.on:
        return
    for name in PROBABILITIES:
        chance, most = faults.of(name)
        if chance and _concerns(name, operation) and _happens(chance, choose):
            yield _make(name, most, choose)


def _concerns(name: str, operation: str) -> bool:
    if name in ("lose", "reorder", "repeat"):
        return operation in MESSAGES
    if name == "late":
        return operation in WRITES
    return operation != "changes"


def _happens(chance: float, choose: Callable[[int], int]) -> bool:
    part = _fraction(chance)
    return choose(part.denominator) >= part.denominator - part.numerator


@lru_cache
def _fraction(chance: float) -> Fraction:
    # The fewer the options, the sooner a search has tried them all.
    return Fraction(chance).limit_denominator(10_000)


STEPS: Final = 8  # how finely seconds are chosen


def _make(name: str, most: float, choose: Callable[[int], int]) -> Fault:
    if name in ("delay", "late"):
        seconds = most * (choose(STEPS) + 1) / STEPS
        return Delay(seconds) if name == "delay" else Late(seconds)
    if name == "jump":
        return Jump(most * (choose(2 * STEPS + 1) - STEPS) / STEPS)
    if name in ("disconnect", "fail_over"):
        count = choose(max(1, int(most))) + 1
        return Disconnect(count) if name == "disconnect" else FailOver(count)
    if name == "hang":
        return Hang(applied=choose(2) == 1)
    return _PLAIN[name]()


_PLAIN: Final[dict[str, type[Fault]]] = {
    "raise_before": RaiseBefore,
    "raise_after": RaiseAfter,
    "evict": Evict,
    "evict_leases": EvictLeases,
    "flush": Flush,
    "lose": Lose,
    "reorder": Reorder,
    "repeat": Repeat,
}


def kind_of(fault: Fault) -> str:
    """Return the name under which a fault is counted: that of its probability.

    >>> kind_of(EvictLeases())
    'evict_leases'
    """
    words = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(fault).__name__)
    return words.removeprefix("_")
