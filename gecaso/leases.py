"""The leases of one process: a table, and callers that wait for one to go.

The table is what fences: a discard removes the lease of a key, a commit requires it. It does no
waiting of its own, so that loops and threads can share it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable
from math import inf

from gecaso.entry import Busy, Lease, new_token
from gecaso.keys import Key

__all__ = ["LeaseTable"]


class _Held(Lease):
    """A lease that is out: who waits for its end, and the loop that its holder lives in."""

    __slots__ = ("committing", "loop", "waiters")

    def __init__(self, key: Key, until: float, loop: AbstractEventLoop | None) -> None:
        self.key = key  # as the class above has it: every miss makes one
        self.token = new_token()
        self.until = until
        self.seen = None
        self.loop = loop
        self.committing = False
        self.waiters: list[Callable[[], None]] | None = None

    def is_over(self, now: float) -> bool:
        # A holder whose loop was closed without being cancelled will never come back.
        if self.loop is not None and self.loop.is_closed():
            return True
        return now >= self.until and not self.committing


class LeaseTable:
    """Outstanding leases by key. Every method is atomic and none waits, except ``wait*``."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._held: dict[Key, _Held] = {}
        _tables.add(self)
        self._reset()

    def _reset(self) -> None:
        self.lock = threading.RLock()
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"<LeaseTable: {len(self._held)} out>"

    def take(self, key: Key, seconds: float) -> Lease | Busy:
        """Return a new lease of ``key``, or `Busy` with the one in the way."""
        with self.lock:
            return self.taken(key, seconds)

    def taken(self, key: Key, seconds: float) -> Lease | Busy:
        """Do the same for who holds the lock."""
        held = self._held.get(key)
        if held is not None:
            now = self._now()
            if not held.is_over(now):
                return Busy(key, held.token, max(0.0, held.until - now))
            self._drop(key, held)
        until = seconds if seconds == inf else self._now() + seconds
        held = self._held[key] = _Held(key, until, asyncio._get_running_loop())
        return held

    def owns(self, lease: Lease) -> bool:
        """Return whether this very lease is still out and has not run over."""
        if self._held.get(lease.key) is not lease:
            return False
        return lease.until == inf or self._now() < lease.until

    def renew(self, lease: Lease, seconds: float) -> bool:
        with self.lock:
            if not self.owns(lease):
                return False
            lease.until = self._now() + seconds
            return True

    def give_back(self, lease: Lease) -> bool:
        """End this lease; return whether it was still out."""
        with self.lock:
            return self.given_back(lease)

    def given_back(self, lease: Lease) -> bool:
        """Do the same for who holds the lock."""
        held = self._held.get(lease.key)
        if held is None or held is not lease:
            return False
        self._drop(lease.key, held)
        return True

    def kill(self, key: Key) -> None:
        """End whatever lease of ``key`` is out."""
        with self.lock:
            held = self._held.get(key)
            if held is not None:
                self._drop(key, held)

    def kill_all(self, keys: Iterable[Key] | None = None) -> None:
        with self.lock:
            for key in list(self._held if keys is None else keys):
                self.kill(key)

    def outstanding(self) -> list[Key]:
        """Return the keys whose lease is out."""
        with self.lock:
            return list(self._held)

    def begin_commit(self, lease: Lease) -> bool:
        """Hold the lease against invalidations while its value is being written.

        For a storage whose writes take time and cannot be made conditional. The writer ends the
        lease with `give_back`; whoever invalidates meanwhile waits for that (`committing`).
        """
        with self.lock:
            if not self.owns(lease) or self._held[lease.key].committing:
                return False
            self._held[lease.key].committing = True
            return True

    def is_writing(self, lease: Lease) -> bool:
        with self.lock:
            held = self._held.get(lease.key)
            return held is not None and held is lease and held.committing

    def seize(self, key: Key) -> Lease | Busy:
        """Kill the lease of ``key`` and take it for a write; `Busy` while another write runs."""
        with self.lock:
            held = self._held.get(key)
            if held is not None and held.committing and not held.is_over(self._now()):
                return Busy(key, held.token, 0.0)
            self.kill(key)
            lease = self.take(key, inf)
            assert isinstance(lease, Lease)
            self.begin_commit(lease)
            return lease

    def is_held_here(self, busy: Busy) -> bool:
        """Return whether the holder lives in the loop that runs in this thread."""
        held, loop = self._held.get(busy.key), asyncio._get_running_loop()
        return held is not None and loop is not None and held.loop is loop

    def _drop(self, key: Key, held: _Held) -> None:
        del self._held[key]
        for wake in held.waiters or ():
            wake()

    # --- waiting ------------------------------------------------------------------------------

    def _add_waiter(self, busy: Busy, wake: Callable[[], None]) -> bool:
        with self.lock:
            held = self._held.get(busy.key)
            if held is None or held.token != busy.token:
                return False
            if held.waiters is None:
                held.waiters = []
            held.waiters.append(wake)
            return True

    def _remove_waiter(self, busy: Busy, wake: Callable[[], None]) -> None:
        with self.lock:
            held = self._held.get(busy.key)
            if held is not None and held.waiters and wake in held.waiters:
                held.waiters.remove(wake)

    async def wait(self, busy: Busy, timeout: float) -> None:
        """Wait until that lease is gone, at most ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(gone.set)

        if not self._add_waiter(busy, wake):
            return
        try:
            async with asyncio.timeout(None if timeout == inf else timeout):
                await gone.wait()
        except TimeoutError:
            pass  # the caller looks again in any case
        finally:
            self._remove_waiter(busy, wake)

    def wait_blocking(self, busy: Busy, timeout: float) -> None:
        """The same for a thread."""
        gone = threading.Event()
        if self._add_waiter(busy, gone.set):
            try:
                gone.wait(None if timeout == inf else timeout)
            finally:
                self._remove_waiter(busy, gone.set)


_tables: weakref.WeakSet[LeaseTable] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The holders are the parent's tasks and threads; none of them lives on in the child.
    for table in list(_tables):
        table._reset()  # pyright: ignore[reportPrivateUsage] - the hook is a part of LeaseTable


os.register_at_fork(after_in_child=_after_fork_in_child)
