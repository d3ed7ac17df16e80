"""The two contracts of storages.

`BaseStorage` is what a user subclasses: three methods. `EntryStorage` is what every storage of
gecaso is: entries with lifetimes, leases, fenced commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
)
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from gecaso.durations import Duration, seconds
from gecaso.entry import Busy, Entry, Lease, new_token
from gecaso.errors import StorageError, Unsupported, WaitTimeout
from gecaso.keys import Key, Owner, as_key
from gecaso.waiting import steps

if TYPE_CHECKING:
    from gecaso.advice.recording import Recorder
    from gecaso.breaker import Breaker
    from gecaso.health import Health
    from gecaso.trouble import Trouble

__all__ = ["LOCKS", "PROBE", "BaseStorage", "EntryStorage"]

T = TypeVar("T")

logger = logging.getLogger("gecaso")


class BaseStorage(ABC):
    """A place where values are kept under keys. Subclass it and write three methods.

    Under `cached`, keys arrive as text of 65 characters. What a storage does when it is in
    trouble is up to it: every exception but `KeyError` counts as trouble, and the cached function
    goes on without the storage.

    >>> class DictStorage(BaseStorage):
    ...     def __init__(self) -> None:
    ...         self.values: dict[object, object] = {}
    ...     async def get(self, key: object) -> object:
    ...         return self.values[key]
    ...     async def set(self, key: object, value: object, **params: object) -> None:
    ...         self.values[key] = value
    ...     async def remove(self, *keys: object) -> None:
    ...         for key in keys:
    ...             self.values.pop(key, None)
    """

    @abstractmethod
    async def get(self, key: Any) -> Any:
        """Return the value stored under ``key``. Raise `KeyError` if there is none."""

    @abstractmethod
    async def set(self, key: Any, value: Any, *args: Any, **params: Any) -> None:
        """Store ``value`` under ``key``, in place of what is there.

        ``params`` are the parameters given to `cached` for the storage, ``ttl`` (seconds) among
        them if one was given; those not given are not passed. Take those that you want: type
        checkers let a method of your own have any parameters after these two.
        """

    @abstractmethod
    async def remove(self, *keys: Any) -> None:
        """Remove the values stored under ``keys``; keys that are not there are fine."""

    async def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Return the values of those ``keys`` that are there."""
        found: dict[Any, Any] = {}
        for key in keys:
            with contextlib.suppress(KeyError):
                found[key] = await self.get(key)
        return found

    async def set_many(self, values: Mapping[Any, Any], *args: Any, **params: Any) -> None:
        """Store every value of a mapping under its key."""
        for key, value in values.items():
            await self.set(key, value, *args, **params)

    async def clear(self) -> None:
        """Remove everything that this storage has stored. Raises `Unsupported` by default."""
        raise Unsupported(
            f"{type(self).__name__} cannot be cleared; add a method `async def clear(self)` to it"
        )

    async def aclose(self) -> None:  # noqa: B027 - a working default, not a part to be written
        """Let go of connections and tasks. The storage may be used again afterwards."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class EntryStorage(BaseStorage):
    """A storage of entries: lifetimes, leases and fenced commits.

    Keys are `gecaso.Key`. Times are seconds of the storage's own clock, `now`. Every operation
    raises `StorageError` when the storage is in trouble and `StorageTimeout` when it does not
    answer within ``timeout`` seconds; never `KeyError`. Cancelling an operation leaves the
    storage usable, and the operation either done or not done.
    """

    shared: bool = True
    """Whether other processes see what is stored."""
    notifies: ClassVar[bool] = False
    """Whether `wait` returns when the lease goes; otherwise it only lets the time pass."""
    timeout: float = inf
    """Seconds that one operation may take."""
    keeps_times: ClassVar[bool] = True
    """Whether entries come back with their times; without them nothing old can be served."""
    default_ttl: float | None = None
    """Seconds that a value is kept when neither `set` nor the cache says; None: for ever."""
    known_trouble: Trouble | None = None
    """What `gecaso.trouble.trouble_of` keeps here."""
    recorder: Recorder | None = None
    """Who notes which keys are asked for, while that is `recording`."""

    @property
    def takes(self) -> Callable[..., Any]:
        """The method whose parameters may be given with a value: ``set``, wherever it is."""
        return self.set

    @property
    def guarded(self) -> EntryStorage:
        """The storage whose trouble this one's is: itself, or the one that it wraps."""
        return self

    @abstractmethod
    def now(self) -> float:
        """Return the time of the storage's clock in seconds."""

    @abstractmethod
    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """Return what is stored; keys that are missing, dead or unreadable are absent."""

    def lookup(self, key: Key) -> Awaitable[Entry | None]:
        """Return the entry of one key, or None. Lookups of one tick share a round trip."""
        return self._lookup(key)

    async def _lookup(self, key: Key) -> Entry | None:
        return (await self.fetch((key,))).get(key)

    @abstractmethod
    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        """Take the lease of each key for that many seconds, and look again.

        `Lease.seen` is read after the lease was taken, so that what another process stored between
        a lookup and the lease is not loaded again.
        """

    @abstractmethod
    async def renew(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        """Let the leases run for that many seconds from now; return the keys still ours."""

    @abstractmethod
    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        """Store entries under leases that are still held, and end those leases.

        Returns the keys stored. The others were fenced: invalidated, put, or leased anew since.
        """

    @abstractmethod
    async def release(self, leases: Iterable[Lease]) -> None:
        """End leases without a value; who waits for them is told."""

    @abstractmethod
    async def store(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        """Store entries whatever is there, and kill every lease of their keys.

        With ``expect``, only where the version stored is the expected one (None: nothing is
        stored). Returns the keys stored.
        """

    @abstractmethod
    async def discard(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        """Invalidate: remove the entries and kill every lease of the keys.

        With ``keep_stale`` the entries stay until they are dead, but are no longer fresh.
        """

    @abstractmethod
    async def evict(self, keys: Iterable[Key]) -> None:
        """Remove entries to make room: kills no lease, tells nobody."""

    async def wait(self, busy: Busy, timeout: float) -> None:
        """Wait until that lease is gone, at most ``timeout`` seconds."""
        await asyncio.sleep(timeout)

    def changes(self) -> AsyncIterator[object]:
        """Iterate over what other processes changed."""
        raise Unsupported(f"{type(self).__name__} cannot tell what other processes change")

    def health(self) -> Health:
        """Return how the storage is, as this process sees it; `ping` asks the storage itself.

        >>> from gecaso import MemoryStorage
        >>> MemoryStorage().health().ok
        True
        """
        from gecaso.health import health_of  # seldom asked for

        return health_of(self)

    def breakers(self) -> Mapping[str, Breaker]:
        """Return the breakers of parts that may fail by themselves: servers, nodes."""
        return {}

    async def ping(self) -> None:
        """Ask the storage for a sign of life; raise `StorageError` if there is none."""
        await self.fetch((PROBE,))

    def learn(self, types: Iterable[type]) -> None:
        """Take note of types that values to come may have."""

    @contextlib.contextmanager
    def recording(
        self, path: str | os.PathLike[str], *, sample: float = 0.01
    ) -> Generator[Recorder, None, None]:
        """Record which keys are asked for into a file, for ``python -m gecaso advise``.

        ``sample`` is the part of the keys that is recorded, with all their requests. A file that is
        there already stays: another beside it is named after the process. Raises `OSError` if none
        can be written, `ConfigurationError` if the storage is being recorded.
        """
        from gecaso.advice.recording import Recorder  # most programs never record

        recorder = Recorder(path, sample=sample)
        recorder.begin(self)
        try:
            yield recorder
        finally:
            recorder.close()

    # --- plain values over the same entries ---------------------------------------------------

    async def get(self, key: Any, *, stale: bool = False) -> Any:
        """Return the value stored under ``key`` while it is fresh; raise `KeyError` otherwise.

        With ``stale`` an old value, too, as long as it is kept.
        """
        wanted = as_key(key)
        if self.recorder is not None:
            self.recorder.looked_up(wanted)
        entry = await self._told("get", self.lookup(wanted), wanted)
        if entry is None or not self.now() < (entry.dead_after if stale else entry.fresh_until):
            raise KeyError(key)
        if stale and entry.kind != "value":
            raise KeyError(key)
        return entry.value

    async def set(
        self, key: Any, value: Any, *, ttl: Duration | Literal["default"] | None = "default"
    ) -> None:
        """Store ``value`` under ``key`` for ``ttl`` (seconds, a timedelta, ``"5m"``; None: ever).

        A load of this key that is under way will not overwrite it.
        """
        entry = self.new_entry(value, self.default_ttl if ttl == "default" else ttl)
        wanted = as_key(key)
        await self._told("set", self.store({wanted: entry}), wanted)

    async def remove(self, *keys: Any) -> None:
        """Remove the values stored under ``keys``. Loads under way will not be stored."""
        await self._told("remove", self.discard([as_key(key) for key in keys]))

    async def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """Return the fresh values of those ``keys`` that are there, in one round trip."""
        asked = {as_key(key): key for key in keys}
        if self.recorder is not None:
            for key in asked:
                self.recorder.looked_up(key)
        found = await self._told("get_many", self.fetch(asked))
        now = self.now()
        return {asked[key]: entry.value for key, entry in found.items() if now < entry.fresh_until}

    async def set_many(
        self,
        values: Mapping[Any, Any],
        *,
        ttl: Duration | Literal["default"] | None = "default",
    ) -> None:
        """Store every value of a mapping under its key, for ``ttl``."""
        if ttl == "default":
            ttl = self.default_ttl
        entries = {as_key(key): self.new_entry(value, ttl) for key, value in values.items()}
        await self._told("set_many", self.store(entries))

    def _told(self, operation: str, work: Awaitable[T], key: Key | None = None) -> Awaitable[T]:
        """Return what comes of ``work``; what it meets counts for the storage's health."""
        return self._watched(operation, work, key)

    async def _watched(self, operation: str, work: Awaitable[T], key: Key | None) -> T:
        try:
            result = await work
        except StorageError as error:
            from gecaso.trouble import trouble_of  # most programs have none

            trouble_of(self).failed(self.guarded, operation, error, key)
            raise
        trouble = self.guarded.known_trouble
        if trouble is not None and trouble.breaker.failures:
            trouble.succeeded(self.guarded)
        return result

    def new_entry(self, value: Any, ttl: Duration | None = None, *, cost: float = 0.0) -> Entry:
        """Return an entry that is fresh from now on for ``ttl``."""
        now = self.now()
        until = inf if ttl is None else now + seconds(ttl)
        return Entry(value, now, until, until, cost, version=new_token())

    # --- the lock alone -----------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def leased(
        self, key: Any, *, seconds: float = 10.0, wait_timeout: float | None = None
    ) -> AsyncGenerator[Lease, None]:
        """Hold the lease named ``key``: for whatever should run once in a cluster.

        The lease is renewed while the block runs; a process that dies or hangs loses it after
        ``seconds``. It guards nothing but the block: values stored under ``key`` are apart.
        Raises `WaitTimeout` when it is not free within ``wait_timeout`` seconds (None: as long
        as its holder renews).
        """
        lease = await self._acquire(Key(LOCKS, str(as_key(key))), seconds, wait_timeout)
        renewing = asyncio.create_task(self._keep(lease, seconds))
        try:
            yield lease
        finally:
            renewing.cancel()
            await asyncio.shield(asyncio.ensure_future(self._let_go(lease)))

    async def _let_go(self, lease: Lease) -> None:
        try:
            await self.release((lease,))
        except StorageError as error:  # which must not hide what the block came to
            logger.warning("the lease of %s was not released, and runs out: %s", lease.key, error)

    async def _acquire(self, key: Key, seconds: float, wait_timeout: float | None) -> Lease:
        started = time.monotonic()
        for step in steps(self.notifies):
            got = (await self.lease((key,), seconds))[key]
            if isinstance(got, Lease):
                return got
            left = inf if wait_timeout is None else wait_timeout - (time.monotonic() - started)
            if left <= 0:
                raise WaitTimeout(f"the lease of {key!r} was not free within {wait_timeout} s")
            await self.wait(got, min(step, left))
        raise AssertionError("the steps do not end")

    async def _keep(self, lease: Lease, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                kept = await self.renew((lease,), seconds)
            except StorageError as error:
                logger.warning("the lease of %s could not be renewed: %s", lease.key, error)
                continue
            if not kept:
                logger.warning("the lease of %s was lost while its block runs", lease.key)
                return


LOCKS = Owner("gecaso:locks", arity=1)
PROBE = Key(Owner("gecaso:probe", arity=0), ())
