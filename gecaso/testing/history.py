"""What was asked of a cache and what came back, in one order: the evidence for `check`.

The method is that of Jepsen and Porcupine: record when each operation began and ended, then ask
whether any order in which they may have taken effect explains what the reads returned.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from math import inf
from typing import Any, TypeVar

from gecaso.testing.records import EVERY_KEY, NOTHING, Kind, Operation, Outcome
from gecaso.testing.staleness import check
from gecaso.testing.timeline import timeline
from gecaso.testing.watching import recorded_loader, watched

__all__ = ["History"]

F = TypeVar("F", bound=Callable[..., Any])


class History:
    """Records the operations on a cache, of any make, and finds stale reads among them.

    ``initial`` are values by key that were in the cache, and in the source behind it, before.
    ``late`` says that what failed may still take effect at any time later, as on a network where
    a command is on its way; otherwise it has taken effect by the time it was reported, or never.
    Safe to use from tasks and threads. What counts as stale: see `check`.

    >>> history = History()
    >>> with history.load("user:7") as load:
    ...     load.returns("Ada, version 1")
    >>> with history.invalidate("user:7"):
    ...     pass
    >>> with history.read("user:7") as read:
    ...     read.returns("Ada, version 1")
    >>> history.check()
    Traceback (most recent call last):
    gecaso.testing.staleness.StaleRead: a stale read of 'user:7': ...
    """

    def __init__(self, *, initial: Mapping[Any, Any] | None = None, late: bool = False) -> None:
        self.initial: dict[Any, Any] = dict(initial or {})
        self.late = late
        self.has_loads = False
        self.has_changes = False
        self.operations: list[Operation] = []
        self._ticks = 0
        self._lock = threading.Lock()

    @classmethod
    def of(
        cls,
        operations: Iterable[Operation],
        *,
        initial: Mapping[Any, Any] | None = None,
        late: bool = False,
    ) -> History:
        """Return a history of operations recorded elsewhere.

        Processes of one machine share an order of instants: `time.monotonic`. Take ``begin``
        before an operation is started and ``end`` when it has ended; equal instants overlap.
        """
        history = cls(initial=initial, late=late)
        history.operations = list(operations)
        history.has_loads = any(one.kind == "load" for one in history.operations)
        history.has_changes = any(one.kind == "change" for one in history.operations)
        return history

    def only(self, operations: Iterable[Operation]) -> History:
        """Return the history of some of these operations alone."""
        part = History.of(operations, late=self.late)
        keys = {one.key for one in part.operations}
        part.initial = {key: value for key, value in self.initial.items() if key in keys}
        part.has_loads, part.has_changes = self.has_loads, self.has_changes
        return part

    def __len__(self) -> int:
        return len(self.operations)

    def __repr__(self) -> str:
        return f"<History of {len(self.operations)} operations>"

    def __str__(self) -> str:
        return timeline(self.operations)

    # --- recording ----------------------------------------------------------------------------

    @contextmanager
    def read(self, key: Hashable) -> Generator[Operation]:
        """Record a read: say ``returns(value)`` or ``misses()`` within the block, or raise."""
        with self._recording("read", key) as operation:
            yield operation

    @contextmanager
    def load(self, key: Hashable) -> Generator[Operation]:
        """Record a load from the source: say ``returns(value)`` within the block, or raise."""
        self.has_loads = True
        with self._recording("load", key) as operation:
            yield operation

    @contextmanager
    def put(self, key: Hashable, value: Any) -> Generator[Operation]:
        """Record that a value is put into the cache."""
        with self._recording("put", key, value) as operation:
            yield operation

    @contextmanager
    def change(self, key: Hashable, value: Any) -> Generator[Operation]:
        """Record a change of the source: what loads return from then on."""
        self.has_changes = True
        with self._recording("change", key, value) as operation:
            yield operation

    @contextmanager
    def invalidate(self, *keys: Hashable) -> Generator[None]:
        """Record an invalidation of these keys."""
        with ExitStack() as stack:
            for key in keys:
                stack.enter_context(self._recording("invalidate", key))
            yield

    @contextmanager
    def clear(self) -> Generator[None]:
        """Record an invalidation of every key."""
        with self._recording("invalidate", EVERY_KEY):
            yield

    @contextmanager
    def _recording(self, kind: Kind, key: Hashable, value: Any = NOTHING) -> Generator[Operation]:
        operation = Operation(kind, key, 0, inf, "running", value, actor=_actor())
        with self._lock:
            operation.begin = self._tick()
            self.operations.append(operation)
        try:
            yield operation
        except BaseException as error:
            self._end(operation, "failed", None if operation.is_miss else error)
            raise
        self._end(operation, "done", None)
        if kind in ("read", "load") and not operation.has_answer:
            raise RuntimeError(
                f"what did this {kind} of {key!r} come to? Call returns(value)"
                f"{' or misses()' if kind == 'read' else ''} before its block ends"
            )

    def _end(self, operation: Operation, outcome: Outcome, error: BaseException | None) -> None:
        operation.outcome = outcome
        operation.error = error
        with self._lock:
            operation.end = self._tick()

    def _tick(self) -> int:
        self._ticks += 1
        return self._ticks

    # --- cached functions ---------------------------------------------------------------------

    def watch(self, function: F, *, key: Callable[..., Hashable] | None = None) -> F:
        """Return a cached function of gecaso's, recorded: its calls, and the operations on it.

        Recorded are calls, ``peek``, ``refresh``, ``put`` and ``invalidate``; everything else is
        passed on. ``key(*args)`` names what is called for, if that is not to be ``function.key``.
        """
        return watched(self, function, key)

    def loading(self, function: F, *, key: Callable[..., Hashable] | None = None) -> F:
        """Return the function below a cache, its runs recorded as loads.

        >>> import gecaso
        >>> history = History()
        >>> @history.watch
        ... @gecaso.cached(gecaso.MemoryStorage(), ttl=60)
        ... @history.loading
        ... async def user(id: int) -> str:
        ...     return f"user {id}"
        >>> await user(7)
        'user 7'
        >>> print(history)
          #   Task-...              gecaso load
          1   read begins
          2                         load begins
          3                         load ends: 'user 7'
          4   read ends: 'user 7'

        Its key is that of the watched function above it, or ``key(*args)``.
        """
        self.has_loads = True
        return recorded_loader(self, function, key)

    def check(self) -> None:
        """Raise `StaleRead` if a read returned what it must not: see `check`."""
        check(self)


def _actor() -> str:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        task = None
    return threading.current_thread().name if task is None else task.get_name()
