"""What the tests of the contract stand on: one storage, one event loop, and plain questions to ask.

A test of the contract is written as a coroutine of a `Stage`; `scene` makes of it the plain method
that any runner of tests can call. Its assertions say in words what the storage did wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from decimal import Decimal
from typing import Any, Final, NoReturn, TypeVar

from gecaso.adapted import AdaptedStorage
from gecaso.base import BaseStorage, EntryStorage
from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import Unsupported
from gecaso.keys import Key, Owner, as_key
from gecaso.storage import adapt

__all__ = ["ContractBase", "Stage", "alike", "raises", "run", "scene", "skip", "the"]

T = TypeVar("T")

OWNER: Final = Owner("gecaso:contract", arity=1)
"""Owns the keys given to three-method storages, which are then text of 65 characters."""
LONG: Final = 30.0  # seconds of a lease that is not to end during a test


class ContractBase:
    """What an author may say about a storage, and how a test is run."""

    resolution: float = 0.1
    """Seconds by which a value or lease may end too early or too late."""
    shortest_lease: float = 0.5
    """Seconds of the shortest lease that the storage gives."""
    largest_value: int = 10_000_000
    """Bytes that one value may have; a larger one may be refused, but not lost."""
    stores: bool = True
    """Whether the storage keeps anything; False for one that is there to keep nothing."""
    any_loop: bool | None = None
    """Whether it can be used in several event loops; None: if it is an `EntryStorage`."""
    prompt: float = 2.0
    """Seconds within which who waits is told, however busy the machine."""
    patience: float = 30.0
    """Seconds that one test may take."""

    def another(self, storage: Any) -> Any:
        """Return a second object over the same data, as another process would have.

        By default the storage itself.
        """
        return storage

    async def pass_time(self, storage: Any, seconds: float) -> None:
        """Let time pass for the storage. Override it where its clock can be moved."""
        await asyncio.sleep(seconds)

    async def damage(self, storage: Any, key: Key) -> bool:
        """Write garbage in the place of the value of ``key`` and return True; False: cannot."""
        return False

    async def play(
        self, test: Callable[[Any, Stage], Awaitable[None]], storage: BaseStorage
    ) -> None:
        """Run one test in the running loop; leave the storage empty of its keys, and closed."""
        on = Stage(self, storage)
        try:
            async with asyncio.timeout(self.patience):
                await test(self, on)
        except BaseException:
            with contextlib.suppress(Exception):  # which must not hide what went wrong before
                await on.leave()
            raise
        await on.leave()


def scene(
    test: Callable[[Any, Stage], Coroutine[Any, Any, None]],
) -> Callable[[Any, BaseStorage], None]:
    """Make a plain test of one fixture, ``storage``, which runs in an event loop of its own."""

    # No functools.wraps: runners that follow __wrapped__ would find a coroutine function.
    def plain(self: ContractBase, storage: BaseStorage) -> None:
        run(self.play(test, storage))

    plain.__name__ = test.__name__
    plain.__qualname__ = test.__qualname__
    plain.__module__ = test.__module__
    plain.__doc__ = test.__doc__
    return plain


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new loop, without touching what other tests take for theirs."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


def skip(reason: str) -> NoReturn:
    """Skip the test."""
    import pytest  # the contract itself needs no runner of tests

    pytest.skip(reason)


class Stage:
    """One storage during one test.

    ``entries`` is the storage as an `EntryStorage`, ``other`` what another process has of it.
    """

    def __init__(self, contract: ContractBase, storage: BaseStorage) -> None:
        self.contract = contract
        self.storage = storage
        self.entries: EntryStorage = adapt(storage)
        self.three = isinstance(self.entries.guarded, AdaptedStorage)
        second: BaseStorage = contract.another(storage)
        self.second = second
        # The leases of a three-method storage are those of its one adapter.
        self.other = self.entries if self.three else adapt(second)
        self.stores = contract.stores
        self._keys: set[Key] = set()
        # A clock that is moved by hand goes by that alone.
        self._by_hand = type(contract).pass_time is not ContractBase.pass_time
        self._passed = 0.0

    # --- what applies ---------------------------------------------------------------------------

    def needs_times(self) -> None:
        if self.three:
            skip("a storage of three methods knows no times or versions of entries")

    def needs_ttl(self) -> None:
        if not self.takes("ttl"):
            skip("`set` takes no ttl")

    def needs_storing(self) -> None:
        if not self.stores:
            skip("the storage keeps nothing (stores = False)")

    def needs_loops(self) -> None:
        wanted = self.contract.any_loop
        if not (not self.three if wanted is None else wanted):
            skip("a storage of three methods may belong to one loop; any_loop = True tests it")

    async def clear(self) -> None:
        """Clear the storage; skip where it cannot be."""
        try:
            await self.entries.clear()
        except Unsupported as error:
            skip(f"the storage cannot be cleared: {error}")

    def takes(self, option: str) -> bool:
        """Return whether ``set`` takes an option."""
        params = inspect.signature(self.entries.takes).parameters.values()
        return any(one.name == option or one.kind is one.VAR_KEYWORD for one in params)

    # --- keys -----------------------------------------------------------------------------------

    def key(self, name: object) -> Key:
        """Return the key of anything, for the methods of an `EntryStorage`."""
        key = as_key(name)
        if self.three:
            key = Key(OWNER, key.typed)
        self._keys.add(key)
        return key

    def name(self, name: object) -> Any:
        """Return what stands for the same key in ``get``, ``set`` and ``remove``."""
        key = self.key(name)
        if not self.three:
            return name
        return key if isinstance(self.storage, EntryStorage) else str(key)

    async def leave(self) -> None:
        """Remove what the test has stored and leased; close the storage."""
        try:
            await self.entries.discard(self._keys)
        finally:
            if self.second is not self.storage:
                await self.second.aclose()
            await self.storage.aclose()

    # --- plain values ---------------------------------------------------------------------------

    async def set(self, name: object, value: object, **params: Any) -> None:
        await self.storage.set(self.name(name), value, **params)

    async def get(self, name: object) -> Any:
        return await self.storage.get(self.name(name))

    async def remove(self, *names: object) -> None:
        await self.storage.remove(*map(self.name, names))

    async def get_many(self, *names: object) -> dict[Any, Any]:
        """Ask for many values, by what `name` gives."""
        try:
            got = await self.storage.get_many([self.name(name) for name in names])
        except KeyError as error:
            raise AssertionError("get_many() raised KeyError for what is not there") from error
        the(type(got) is dict, f"get_many() returns a dict, not {short(got)}")
        return got

    async def has(self, name: object) -> bool:
        try:
            await self.get(name)
        except KeyError:
            return False
        return True

    async def holds(self, name: object, value: object) -> None:
        """Ask for a key, which must give this value (or be a miss, where nothing is kept)."""
        if not self.stores:
            await self.misses(name)
            return
        try:
            got = await self.get(name)
        except KeyError:
            raise AssertionError(f"{short(name)} was stored, and is a miss") from None
        if not alike(got, value):
            raise AssertionError(f"{short(value)} was stored, and {short(got)} came out")

    async def misses(self, *names: object) -> None:
        """Ask for keys, which must all be misses."""
        for name in names:
            try:
                got = await self.get(name)
            except KeyError:
                continue
            hint = "; a miss is a KeyError, not None" if got is None else ""
            raise AssertionError(
                f"{short(name)} should be a miss, and get() gave {short(got)}{hint}"
            )

    # --- entries --------------------------------------------------------------------------------

    def entry(self, value: object) -> Entry:
        return self.entries.new_entry(value)

    async def fetched(self, name: object) -> Entry | None:
        """Return the entry of a key as the other process sees it."""
        key = self.key(name)
        return (await self.other.fetch((key,))).get(key)

    async def lease(
        self, name: object, *, by: EntryStorage | None = None, seconds: float = LONG
    ) -> Lease:
        """Take a lease, which must be free."""
        got = await self.ask(name, by=by, seconds=seconds)
        if not isinstance(got, Lease):
            raise AssertionError(f"the lease of {short(name)} should be free, and is {got!r}")
        return got

    async def busy(self, name: object, *, by: EntryStorage | None = None) -> Busy:
        """Ask for a lease, which must be somebody else's."""
        got = await self.ask(name, by=by)
        if not isinstance(got, Busy):
            raise AssertionError(f"the lease of {short(name)} was given away twice")
        return got

    async def ask(
        self, name: object, *, by: EntryStorage | None = None, seconds: float = LONG
    ) -> Lease | Busy:
        key = self.key(name)
        answer = await (self.entries if by is None else by).lease((key,), seconds)
        the(set(answer) == {key}, "lease() answers for each key, and for no other")
        return answer[key]

    async def commit(self, lease: Lease, value: object, *, by: EntryStorage | None = None) -> bool:
        """Commit a value; return whether it was stored."""
        stored = await (self.entries if by is None else by).commit({lease: self.entry(value)})
        the(stored <= {lease.key}, "commit() returns keys that it was not given")
        return bool(stored)

    async def is_fenced(self, lease: Lease, why: str) -> None:
        """Commit under a lease that has been lost: nothing may come of it."""
        stored = await self.commit(lease, "too late")
        the(not stored, f"a commit was accepted {why}")

    # --- time -----------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the time, in seconds, as the storage under test has it."""
        return self._passed if self._by_hand else time.monotonic()

    async def pass_time(self, seconds: float) -> None:
        await self.contract.pass_time(self.storage, seconds)
        self._passed += seconds


# --- words ----------------------------------------------------------------------------------------


def the(holds: object, otherwise: str) -> None:
    """Fail with a sentence unless something holds."""
    if not holds:
        raise AssertionError(otherwise)


@contextlib.contextmanager
def raises(*kinds: type[BaseException], otherwise: str) -> Generator[None]:
    """Fail with a sentence unless the block raises one of these errors."""
    try:
        yield
    except kinds:
        return
    raise AssertionError(otherwise)


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def alike(one: Any, other: Any) -> bool:
    """Return whether two values are equal, types included, at every depth."""
    kind: Any = one.__class__
    if kind is not other.__class__:
        return False
    if issubclass(kind, dict):
        return alike(set(one), set(other)) and all(alike(one[key], other[key]) for key in one)
    if issubclass(kind, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if issubclass(kind, set | frozenset):
        return {(type(part), part) for part in one} == {(type(part), part) for part in other}
    if issubclass(kind, float | Decimal):
        return repr(one) == repr(other)
    return bool(one == other)
