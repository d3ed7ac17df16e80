"""A storage against the simplest thing that does the same: a dict of entries and a dict of leases.

Two clients of one storage do what storages can do, in any order that Hypothesis thinks of, and
after each step the storage must say what the dicts say. `test_machine.py` runs it over each kind.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from gecaso import Busy, Entry, EntryStorage, Key, Lease
from gecaso.entry import new_token
from gecaso.keys import Owner

__all__ = ["Machine", "Stage"]

T = TypeVar("T")

OWNER = Owner("machine", arity=1)
NAMES = st.sampled_from("abcd")
SOME = st.lists(NAMES, min_size=1, max_size=3, unique=True)
CLIENTS = st.sampled_from((0, 1))
# No sum of times that pass is one of those that end something: then real time does no harm.
AGES = st.sampled_from([(100.0, 100.0), (100.0, 600.0), (500.0, 500.0), (-5.0, 500.0)])
"""Seconds for which an entry is fresh, and until it is dead; one of these is old already."""
LEASES = st.sampled_from([50.0, 990.0])
PASSING = st.sampled_from([70.0, 310.0])

numbers = itertools.count(1)


@dataclass
class Stage:
    """Two clients of one storage, and what that storage can do."""

    clients: tuple[EntryStorage, EntryStorage]
    run: Callable[[Awaitable[Any]], Any]
    pass_time: Callable[[float], None] | None = None
    has_versions: bool = True
    """Whether entries come back with times and versions."""
    can_clear: bool = True
    moments: list[str] = field(default_factory=list[str])
    """What was done, to see that all of it was."""


@dataclass(frozen=True)
class Kept:
    """What the model has of an entry."""

    value: Any
    fresh_until: float
    dead_after: float
    version: bytes


class Machine(RuleBasedStateMachine):
    """The storage of a `Stage` and its model."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.example = next(numbers)
        self.now = 0.0
        self.kept: dict[Key, Kept] = {}
        self.held: dict[Key, tuple[Lease, float]] = {}
        self.leases: list[tuple[int, Lease]] = []
        """Every lease that was ever given, and to whom."""
        self.has_cleared = False

    # --- the model ----------------------------------------------------------------------------

    def key(self, name: str) -> Key:
        return Key(OWNER, f"{self.example}:{name}")

    def there(self, key: Key) -> Kept | None:
        """Return what must be found, fresh or not."""
        kept = self.kept.get(key)
        return kept if kept is not None and self.now < kept.dead_after else None

    def holder(self, key: Key) -> Lease | None:
        held = self.held.get(key)
        return held[0] if held is not None and self.now < held[1] else None

    def may(self, lease: Lease, happened: bool) -> bool:
        """Return whether something may come of a lease, or not: it must be held.

        One that has run over, and that nobody has taken anew or killed, may still be good.
        """
        held = self.held.get(lease.key)
        if held is None or held[0] is not lease:
            return not happened
        return happened or self.holder(lease.key) is None

    def keep(self, key: Key, entry: Entry, ages: tuple[float, float]) -> None:
        self.held.pop(key, None)
        fresh, dead = ages if self.stage.has_versions else (1e9, 1e9)
        self.kept[key] = Kept(entry.value, self.now + fresh, self.now + dead, entry.version)

    def forget(self, key: Key) -> None:
        self.held.pop(key, None)
        self.kept.pop(key, None)

    def entry(self, client: int, ages: tuple[float, float]) -> Entry:
        """Return a new entry, timed by a client's clock."""
        value = {"number": next(numbers), "items": (1, "two", 3.0)}
        if not self.stage.has_versions:
            return Entry(value, self.stage.clients[client].now())
        now, (fresh, dead) = self.stage.clients[client].now(), ages
        return Entry(value, now - 10, now + fresh, now + dead, version=new_token())

    # --- what happens -------------------------------------------------------------------------

    def do(self, client: int, operation: str, *args: Any, **options: Any) -> Any:
        self.stage.moments.append(operation)
        return self.stage.run(self._do(client, operation, *args, **options))

    async def _do(self, client: int, operation: str, *args: Any, **options: Any) -> Any:
        return await getattr(self.stage.clients[client], operation)(*args, **options)

    def is_found(self, key: Key, found: Entry | None) -> None:
        """Compare what was found with what must be."""
        kept = self.there(key)
        value = None if found is None else found.value
        assert value == (kept and kept.value), (key, value, kept)
        if found is not None and kept is not None and self.stage.has_versions:
            assert found.version == kept.version

    @rule(client=CLIENTS, names=SOME)
    def fetch(self, client: int, names: list[str]) -> None:
        keys = [self.key(name) for name in names]
        found = self.do(client, "fetch", keys)
        assert set(found) <= set(keys)
        for key in keys:
            self.is_found(key, found.get(key))

    @rule(client=CLIENTS, name=NAMES)
    def lookup(self, client: int, name: str) -> None:
        self.is_found(self.key(name), self.do(client, "lookup", self.key(name)))

    @rule(client=CLIENTS, name=NAMES, stale=st.booleans())
    def get(self, client: int, name: str, stale: bool) -> None:
        kept = self.there(self.key(name))
        if kept is not None and not (stale or self.now < kept.fresh_until):
            kept = None
        try:
            got = self.do(client, "get", self.key(name), stale=stale)
        except KeyError:
            assert kept is None
        else:
            assert kept is not None
            assert got == kept.value
            assert type(got["items"]) is tuple

    @rule(client=CLIENTS, names=SOME)
    def get_many(self, client: int, names: list[str]) -> None:
        kept = {self.key(name): self.there(self.key(name)) for name in names}
        fresh = {key: k.value for key, k in kept.items() if k and self.now < k.fresh_until}
        assert self.do(client, "get_many", list(kept)) == fresh

    @rule(client=CLIENTS, names=SOME, ages=AGES)
    def store(self, client: int, names: list[str], ages: tuple[float, float]) -> None:
        entries = {self.key(name): self.entry(client, ages) for name in names}
        assert self.do(client, "store", entries) == set(entries)
        for key, entry in entries.items():
            self.keep(key, entry, ages)

    @rule(client=CLIENTS, names=SOME)
    def set_many(self, client: int, names: list[str]) -> None:
        values = {self.key(name): {"number": next(numbers), "items": ()} for name in names}
        self.do(client, "set_many", values)
        for key, value in values.items():
            self.held.pop(key, None)
            found = self.do(client, "fetch", [key])[key]
            assert found.value == value
            self.kept[key] = Kept(value, 1e9, 1e9, found.version)

    @precondition(lambda self: self.stage.has_versions)
    @rule(client=CLIENTS, name=NAMES, expect=st.sampled_from(["it", "nothing", "another"]))
    def swap(self, client: int, name: str, expect: str) -> None:
        """Store on condition: what is stored must be of the version that is expected."""
        key = self.key(name)
        kept = self.there(key)
        version = None if kept is None else kept.version
        expected = {"it": version, "nothing": None, "another": new_token()}[expect]
        entry = self.entry(client, (100.0, 600.0))
        stored = self.do(client, "store", {key: entry}, expect={key: expected})
        assert stored == ({key} if expected == version else set())
        if stored:
            self.keep(key, entry, (100.0, 600.0))

    @rule(client=CLIENTS, names=SOME)
    def remove(self, client: int, names: list[str]) -> None:
        keys = [self.key(name) for name in names]
        self.do(client, "remove", *keys)
        self._forget(keys)

    @rule(client=CLIENTS, names=SOME, keep_stale=st.booleans())
    def discard(self, client: int, names: list[str], keep_stale: bool) -> None:
        keys = [self.key(name) for name in names]
        self.do(client, "discard", keys, keep_stale=keep_stale)
        if not (keep_stale and self.stage.has_versions):
            self._forget(keys)
            return
        for key in keys:
            self.held.pop(key, None)
            kept = self.there(key)
            if kept is None:
                continue
            # What was never to be served when old may be kept for nobody, or not.
            is_needless = kept.fresh_until == kept.dead_after
            if is_needless and not self.do(client, "fetch", [key]):
                del self.kept[key]
            else:
                self.kept[key] = replace(kept, fresh_until=min(self.now, kept.fresh_until))

    @rule(client=CLIENTS, names=SOME)
    def evict(self, client: int, names: list[str]) -> None:
        keys = [self.key(name) for name in names]
        self.do(client, "evict", keys)
        for key in keys:
            self.kept.pop(key, None)

    def _forget(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.forget(key)

    @precondition(lambda self: self.stage.can_clear and not self.has_cleared)
    @rule(client=CLIENTS)
    def clear(self, client: int) -> None:
        self.has_cleared = True  # it takes long on some, and once in an example is enough
        self.do(client, "clear")
        self._forget({*self.kept, *self.held})

    # --- leases -------------------------------------------------------------------------------

    @rule(client=CLIENTS, names=SOME, seconds=LEASES)
    def lease(self, client: int, names: list[str], seconds: float) -> None:
        keys = [self.key(name) for name in names]
        got = self.do(client, "lease", keys, seconds)
        assert set(got) == set(keys)
        for key, answer in got.items():
            holder = self.holder(key)
            if holder is None:
                assert isinstance(answer, Lease), key
                self.is_found(key, answer.seen)
                self.held[key] = (answer, self.now + seconds)
                self.leases.append((client, answer))
            else:
                assert isinstance(answer, Busy), key
                assert answer.token == holder.token
                if self.stage.has_versions:
                    self.is_found(key, answer.stale)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), seconds=LEASES)
    def renew(self, data: st.DataObject, seconds: float) -> None:
        client, lease = data.draw(st.sampled_from(self.leases))
        kept = self.do(client, "renew", [lease], seconds)
        assert kept <= {lease.key}
        assert self.may(lease, bool(kept))
        if kept:
            self.held[lease.key] = (lease, self.now + seconds)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), ages=AGES)
    def commit(self, data: st.DataObject, ages: tuple[float, float]) -> None:
        """Commit under one of the leases there ever were, most of which are over."""
        client, lease = data.draw(st.sampled_from(self.leases))
        entry = self.entry(client, ages)
        stored = self.do(client, "commit", {lease: entry})
        assert stored <= {lease.key}
        assert self.may(lease, bool(stored))
        if stored:
            self.keep(lease.key, entry, ages)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        client, lease = data.draw(st.sampled_from(self.leases))
        self.do(client, "release", [lease])
        held = self.held.get(lease.key)
        if held is not None and held[0] is lease:
            del self.held[lease.key]

    # --- time ---------------------------------------------------------------------------------

    @precondition(lambda self: self.stage.pass_time is not None)
    @rule(seconds=PASSING)
    def time_passes(self, seconds: float) -> None:
        assert self.stage.pass_time is not None
        self.stage.moments.append("time passes")
        self.stage.pass_time(seconds)
        self.now += seconds

    def teardown(self) -> None:
        """Everything is as the model says in the end, whoever looks."""
        keys = [self.key(name) for name in "abcd"]
        for client in (0, 1):
            found: dict[Key, Entry] = self.stage.run(self.stage.clients[client].fetch(keys))
            for key in keys:
                self.is_found(key, found.get(key))
