"""`MemoryStorage` against the simplest thing that does the same: a dict and a clock."""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gecaso import Lease, LRUStorage, MemoryStorage, cached
from gecaso.keys import Key, as_key
from gecaso.local import LocalStorage
from tests.doubles import FakeClock

NAMES = st.sampled_from("abcdefgh")
TTLS = st.sampled_from([None, 1.0, 5.0, 20.0])


class Model(RuleBasedStateMachine):
    """Exact LRU with times, written for clarity: ``values`` is oldest use first."""

    maxsize: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.storage = self.make()
        self.values: OrderedDict[Key, tuple[int, float]] = OrderedDict()
        self.leases: dict[Key, Lease] = {}
        self.number = 0

    def make(self) -> LocalStorage:
        return MemoryStorage(self.maxsize, clock=self.clock)

    def model_set(self, key: Key, value: int, ttl: float | None) -> None:
        until = inf if ttl is None else self.clock.now + ttl
        self.values.pop(key, None)
        self.values[key] = (value, until)
        self.forget_the_dead()
        while self.maxsize is not None and len(self.values) > self.maxsize:
            self.values.popitem(last=False)

    def forget_the_dead(self) -> None:
        for key, (_, until) in list(self.values.items()):
            if until <= self.clock.now:
                del self.values[key]

    @rule(name=NAMES, ttl=TTLS)
    def put(self, name: str, ttl: float | None) -> None:
        self.number += 1
        key = as_key(name)
        self.storage.store_now({key: self.storage.new_entry(self.number, ttl)})
        self.leases.pop(key, None)
        self.model_set(key, self.number, ttl)

    @rule(name=NAMES)
    def get(self, name: str) -> None:
        key = as_key(name)
        found = self.storage.fetch_now((key,)).get(key)
        expected = self.values.get(key)
        assert (None if found is None else found.value) == (expected and expected[0])
        if expected is not None:
            self.values.move_to_end(key)

    @rule(names=st.lists(NAMES, max_size=3))
    def remove(self, names: list[str]) -> None:
        keys = [as_key(name) for name in names]
        self.storage.discard_now(keys)
        for key in keys:
            self.values.pop(key, None)
            self.leases.pop(key, None)

    @rule(name=NAMES)
    def evict(self, name: str) -> None:
        self.storage.evict_now([as_key(name)])
        self.values.pop(as_key(name), None)

    @rule(name=NAMES)
    def lease(self, name: str) -> None:
        key = as_key(name)
        got = self.storage.lease_now([key], inf)[key]
        assert isinstance(got, Lease) is (key not in self.leases)
        if isinstance(got, Lease):
            self.leases[key] = got
        if key in self.values:
            self.values.move_to_end(key)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), ttl=TTLS)
    def commit(self, data: st.DataObject, ttl: float | None) -> None:
        lease = self.leases.pop(data.draw(st.sampled_from(list(self.leases.values()))).key)
        self.number += 1
        entry = self.storage.new_entry(self.number, ttl)
        assert self.storage.commit_now({lease: entry}) == {lease.key}
        assert self.storage.commit_now({lease: entry}) == set()
        self.model_set(lease.key, self.number, ttl)

    @rule(seconds=st.sampled_from([0.5, 1.0, 7.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.forget_the_dead()

    @rule()
    def clear(self) -> None:
        self.storage.clear_now()
        self.values.clear()
        self.leases.clear()

    @invariant()
    def what_is_there_is_right(self) -> None:
        size = len(self.storage)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - both kinds have a length
        assert size >= len(self.values)  # the dead may still be there
        assert self.maxsize is None or size <= self.maxsize
        assert len(self.storage.leases) == len(self.leases)


class OverMemory(Model):
    """An LRU over a storage that is given does the same."""

    maxsize = 1000

    def make(self) -> LocalStorage:
        storage = LRUStorage(MemoryStorage(clock=self.clock), maxsize=1000)
        assert isinstance(storage, LocalStorage)
        return storage


TestUnbounded = Model.TestCase
TestUnbounded.settings = settings(max_examples=60, stateful_step_count=40)
TestOverMemory = OverMemory.TestCase
TestOverMemory.settings = settings(max_examples=30, stateful_step_count=40)


# -- exact LRU, without times --------------------------------------------------------------------

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["set", "get", "remove", "call", "vanish"]), st.integers(0, 7))
)


@pytest.mark.parametrize("kind", ["memory", "lru", "lru over memory"])
@given(maxsize=st.integers(1, 5), operations=OPERATIONS)
def test_the_bound_is_exact_lru(kind: str, maxsize: int, operations: list[tuple[str, int]]) -> None:
    inner = MemoryStorage()
    storage: Any = MemoryStorage(maxsize, policy="lru")
    if kind != "memory":
        storage = LRUStorage(None if kind == "lru" else inner, maxsize)

    @cached(storage, key="{x}")
    def double(x: int) -> int:
        return 2 * x

    model: OrderedDict[str, int] = OrderedDict()
    for operation, x in operations:
        key = as_key(str(x))
        if operation == "set":
            storage.store_now({key: storage.new_entry(2 * x)})
        elif operation == "get":
            found = storage.fetch_now((key,)).get(key)
            assert (None if found is None else found.value) == model.get(str(x))
        elif operation == "call":
            loads = double.stats.loads
            assert double(x) == 2 * x
            assert (double.stats.loads > loads) is (str(x) not in model)
        elif operation == "remove":
            storage.discard_now([key])
        elif kind == "lru over memory":  # entries vanish underneath
            inner.evict_now([key])
            assert storage.fetch_now((key,)) == {}
        else:
            storage.evict_now([key])
        if operation in ("remove", "vanish"):
            model.pop(str(x), None)
        elif operation != "get" or str(x) in model:
            model[str(x)] = 2 * x
            model.move_to_end(str(x))
        while len(model) > maxsize:
            model.popitem(last=False)
        assert len(storage) == len(model) <= maxsize
        assert kind != "lru over memory" or len(inner) == len(model)
