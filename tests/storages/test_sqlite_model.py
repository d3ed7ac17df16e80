"""A storage in a file does what a plain dict does, whatever is done to it, in whatever order."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from gecaso import Busy, Entry, Lease
from gecaso.keys import as_key
from gecaso.storages import SQLiteStorage
from tests.storages.sqlite_kit import files, select

KEYS = ["a", ("c", 1), ""]
keys = st.sampled_from(KEYS)
values = st.one_of(
    st.none(), st.integers(), st.text(max_size=5), st.tuples(st.integers()), st.just(b"x" * 5000)
)
LARGE = 2000  # bytes


class Model(RuleBasedStateMachine):
    """Two storages of one file, and what they are to have: key -> value, version; key -> token."""

    leases: Bundle[Lease] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "cache.db"
        self.runner = asyncio.Runner()
        options: dict[str, Any] = {"large": LARGE, "compress": False, "timeout": 10}
        self.storages = [SQLiteStorage(self.path, **options) for _ in range(2)]
        self.other = SQLiteStorage(self.path, namespace="other", **options)
        self.entries: dict[Any, tuple[Any, bytes, bool]] = {}  # value, version, is fresh
        self.held: dict[Any, bytes] = {}
        self.runner.run(self.other.set_many(dict.fromkeys(KEYS, "other")))  # never removed

    def teardown(self) -> None:
        for storage in (*self.storages, self.other):
            self.runner.run(storage.aclose())
        self.runner.close()
        shutil.rmtree(self.folder)

    def storage(self, which: bool) -> SQLiteStorage:
        return self.storages[which]

    def fresh(self, storage: SQLiteStorage, value: Any, stale: bool) -> Entry:
        entry = storage.new_entry(value, 600)
        if stale:
            entry.dead_after += 600
        return entry

    @rule(which=st.booleans(), key=keys, value=values, stale=st.booleans())
    def store(self, which: bool, key: Any, value: Any, stale: bool) -> None:
        storage = self.storage(which)
        entry = self.fresh(storage, value, stale)
        assert self.runner.run(storage.store({as_key(key): entry})) == {as_key(key)}
        self.entries[key] = (value, entry.version, stale)
        self.held.pop(key, None)

    @rule(which=st.booleans(), key=keys, value=values, right=st.booleans())
    def swap(self, which: bool, key: Any, value: Any, right: bool) -> None:
        storage = self.storage(which)
        there = self.entries.get(key)
        expected = (None if there is None else there[1]) if right else b"another version"
        entry = self.fresh(storage, value, stale=False)
        stored = self.runner.run(
            storage.store({as_key(key): entry}, expect={as_key(key): expected})
        )
        assert stored == ({as_key(key)} if right else set())
        if right:
            self.entries[key] = (value, entry.version, False)
            self.held.pop(key, None)

    @rule(target=leases, which=st.booleans(), key=keys)
    def lease(self, which: bool, key: Any) -> Any:
        got = self.runner.run(self.storage(which).lease([as_key(key)], 600))[as_key(key)]
        seen = got.stale if isinstance(got, Busy) else got.seen
        assert (None if seen is None else seen.value) == self.entries.get(key, (None,))[0]
        assert isinstance(got, Busy) == (key in self.held)
        if isinstance(got, Busy):
            assert got.token == self.held[key]
            return multiple()  # pyright: ignore[reportUnknownVariableType] - of nothing
        self.held[key] = got.token
        return got

    @rule(which=st.booleans(), lease=leases)
    def renew(self, which: bool, lease: Lease) -> None:
        key = next(each for each in KEYS if as_key(each) == lease.key)
        kept = self.runner.run(self.storage(which).renew([lease], 600))
        assert kept == ({lease.key} if self.held.get(key) == lease.token else set())

    @rule(which=st.booleans(), lease=leases, value=values, stale=st.booleans())
    def commit(self, which: bool, lease: Lease, value: Any, stale: bool) -> None:
        key = next(each for each in KEYS if as_key(each) == lease.key)
        storage = self.storage(which)
        entry = self.fresh(storage, value, stale)
        stored = self.runner.run(storage.commit({lease: entry}))
        assert stored == ({lease.key} if self.held.get(key) == lease.token else set())
        if stored:
            self.entries[key] = (value, entry.version, stale)
            del self.held[key]

    @rule(which=st.booleans(), lease=leases)
    def release(self, which: bool, lease: Lease) -> None:
        key = next(each for each in KEYS if as_key(each) == lease.key)
        self.runner.run(self.storage(which).release([lease]))
        if self.held.get(key) == lease.token:
            del self.held[key]

    @rule(which=st.booleans(), some=st.lists(keys), keep_stale=st.booleans())
    def discard(self, which: bool, some: list[Any], keep_stale: bool) -> None:
        storage = self.storage(which)
        self.runner.run(storage.discard(map(as_key, some), keep_stale=keep_stale))
        for key in some:
            self.held.pop(key, None)
            if not (keep_stale and key in self.entries and self.entries[key][2]):
                self.entries.pop(key, None)

    @rule(which=st.booleans(), some=st.lists(keys))
    def evict(self, which: bool, some: list[Any]) -> None:
        self.runner.run(self.storage(which).evict(map(as_key, some)))
        for key in some:
            self.entries.pop(key, None)

    @rule(which=st.booleans())
    def clear(self, which: bool) -> None:
        self.runner.run(self.storage(which).clear())
        self.entries.clear()
        self.held.clear()

    @rule(which=st.booleans())
    def close(self, which: bool) -> None:
        self.runner.run(self.storage(which).aclose())

    @invariant()
    def it_has_what_the_dict_has(self) -> None:
        for storage in self.storages:
            found = self.runner.run(storage.fetch(map(as_key, KEYS)))
            assert {key: entry.value for key, entry in found.items()} == {
                as_key(key): value for key, (value, *_) in self.entries.items()
            }
            assert {key: entry.version for key, entry in found.items()} == {
                as_key(key): version for key, (_, version, _) in self.entries.items()
            }
        assert self.runner.run(self.other.get_many(KEYS)) == dict.fromkeys(KEYS, "other")

    @invariant()
    def its_files_are_those_of_its_entries(self) -> None:
        rows = select(self.path, "SELECT file, size, (SELECT bytes FROM totals) FROM entries")
        names = sorted(file for file, *_ in rows if file is not None)
        assert names == [each.name for each in files(self.path)]
        assert len(names) == sum(value == b"x" * 5000 for value, *_ in self.entries.values())
        assert {total for *_, total in rows} == {sum(size for _, size, _ in rows)}


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
