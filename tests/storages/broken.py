"""Storages that break the contract, each in one way; each is good apart from that.

``CASES`` names the test of the contract that must notice, and words of what it says.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from gecaso import Busy, Entry, Key, Lease, MemoryStorage, StorageError, pack, unpack
from gecaso.entry import new_token
from gecaso.keys import Owner, as_key
from tests.storages.three_methods import DictStorage, PackingStorage

__all__ = ["CASES"]

CASES: list[tuple[type, str, str]] = []


def noticed_by(test: str, says: str) -> Any:
    """Note which test fails over a class, and what it says."""

    def note(kind: type) -> type:
        CASES.append((kind, test, says))
        return kind

    return note


# --- three methods --------------------------------------------------------------------------------


@noticed_by("test_a_key_never_set_is_a_key_error", "a miss is a KeyError, not None")
class MissIsNone(DictStorage):
    async def get(self, key: str) -> Any:
        return self.values.get(key, (0, None))[1]


@noticed_by("test_a_value_is_there_for_its_ttl_and_gone_after_it", "was there after its ttl")
class IgnoresTheTtl(DictStorage):
    async def set(self, key: str, value: Any, **params: Any) -> None:
        await super().set(key, value)


@noticed_by("test_a_value_is_there_for_its_ttl_and_gone_after_it", "was gone before its ttl")
class TakesSecondsForMilliseconds(DictStorage):
    async def set(self, key: str, value: Any, **params: Any) -> None:
        await super().set(key, value, **{name: one / 1000 for name, one in params.items()})


@noticed_by("test_a_value_is_there_for_its_ttl_and_gone_after_it", "after its ttl|is a miss")
class KeepsTheFirstTtl(DictStorage):
    async def set(self, key: str, value: Any, **params: Any) -> None:
        until = self.values.get(key, (None,))[0]
        await super().set(key, value, **params)
        if until is not None:
            self.values[key] = (until, value)


@noticed_by("test_removing_what_is_not_there_is_fine", "raised KeyError for a key that was not")
class RemovingNothingRaises(DictStorage):
    async def remove(self, *keys: str) -> None:
        for key in keys:
            del self.values[key]


@noticed_by("test_what_was_removed_is_a_key_error", "'c' should be a miss")
class RemovesTheFirst(DictStorage):
    async def remove(self, *keys: str) -> None:
        await super().remove(*keys[:1])


@noticed_by("test_set_replaces_what_is_there", "came out")
class KeepsTheFirstValue(DictStorage):
    async def set(self, key: str, value: Any, **params: Any) -> None:
        if key not in self.values:
            await super().set(key, value, **params)


@noticed_by("test_plain_values_come_out_as_they_went_in", "was stored, and is a miss")
class TakesFalseForAMiss(DictStorage):
    async def get(self, key: str) -> Any:
        value = await super().get(key)
        if not value:
            raise KeyError(key)
        return value


@noticed_by("test_rich_values_come_out_as_they_went_in", "was stored, and .* came out")
class MakesListsOfTuples(DictStorage):
    async def set(self, key: str, value: Any, **params: Any) -> None:
        await super().set(key, json.loads(json.dumps(value)), **params)


@noticed_by("test_get_many_returns_the_values_that_are_there", "raised KeyError")
class GetManyRaises(DictStorage):
    async def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        return {key: await self.get(key) for key in keys}


@noticed_by("test_get_many_returns_the_values_that_are_there", "what set_many")
class SetManySetsTheFirst(DictStorage):
    async def set_many(self, values: Mapping[Any, Any], *args: Any, **params: Any) -> None:
        await super().set_many(dict(list(values.items())[:100]), *args, **params)


@noticed_by("test_a_value_that_cannot_be_stored_is_an_error_and_stores_nothing", "is a miss")
class EmptiesBeforeItPacks(PackingStorage):
    async def set(self, key: str, value: Any) -> None:
        self.values.pop(key, None)
        await super().set(key, value)


@noticed_by("test_a_large_value_is_kept_or_refused_but_not_lost", "was stored, and is a miss")
class LosesWhatIsLarge(PackingStorage):
    async def set(self, key: str, value: Any) -> None:
        if len(data := pack(value)) < 1_000_000:
            self.values[key] = data


@noticed_by("test_clear_removes_everything", "should be a miss")
class ClearsNothing(PackingStorage):
    async def clear(self) -> None:
        pass


@noticed_by("test_an_option_that_set_does_not_take_is_an_error", "an option that it does not know")
class TakesAnyOption(MemoryStorage):
    async def set(self, key: Any, value: Any, *, ttl: Any = None, no_such_option: int = 0) -> None:
        await super().set(key, value, ttl=ttl)


@noticed_by("test_unusual_keys_are_kept_apart", "should be a miss")
class CutsKeysShort(DictStorage):
    async def get(self, key: str) -> Any:
        return await super().get(key[:34])

    async def set(self, key: str, value: Any, **params: Any) -> None:
        await super().set(key[:34], value, **params)


@noticed_by("test_it_may_be_used_after_it_was_closed", "closed for good")
class ClosesForGood(DictStorage):
    closed = False

    async def set(self, key: str, value: Any, **params: Any) -> None:
        if self.closed:
            raise StorageError("closed for good")
        await super().set(key, value, **params)

    async def aclose(self) -> None:
        self.closed = True


@noticed_by("test_it_may_be_closed_twice_and_unused", "has no attribute 'close'")
class ClosesOnce(DictStorage):
    def __init__(self) -> None:
        super().__init__()
        self.connection: Any = socket.socket()

    async def aclose(self) -> None:
        self.connection.close()
        self.connection = None


@noticed_by("test_nothing_is_left_behind_when_it_is_closed", "descriptors are open")
class KeepsSockets(DictStorage):
    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []

    async def set(self, key: str, value: Any, **params: Any) -> None:
        self.sockets.append(socket.socket())
        await super().set(key, value, **params)

    def __del__(self) -> None:
        for one in self.sockets:
            one.close()


@noticed_by("test_nothing_is_left_behind_when_it_is_closed", "ResourceWarning")
class ForgetsSockets(DictStorage):
    async def set(self, key: str, value: Any, **params: Any) -> None:
        socket.socket()
        await super().set(key, value, **params)


@noticed_by("test_nothing_is_left_behind_when_it_is_closed", "threads are left")
class KeepsThreads(DictStorage):
    async def set(self, key: str, value: Any, **params: Any) -> None:
        threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
        await super().set(key, value, **params)


class OneLoop(DictStorage):
    loop: asyncio.AbstractEventLoop | None = None

    async def set(self, key: str, value: Any, **params: Any) -> None:
        self.loop = self.loop or asyncio.get_running_loop()
        if self.loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        await super().set(key, value, **params)


for _test in "one_loop_after_another_may_use_it", "two_loops_in_two_threads_may_use_it_at_once":
    noticed_by(f"test_{_test}", "attached to a different loop")(OneLoop)


@noticed_by("test_what_cannot_be_read_is_a_miss", "garbage")
class RaisesAtGarbage(PackingStorage):
    async def get(self, key: str) -> Any:
        data = self.values[key]
        try:
            return unpack(data)[0]
        except KeyError as error:
            raise ValueError("garbage") from error


@noticed_by("test_what_was_set_is_got", "was stored, and is a miss")
class GivesOnce(PackingStorage):
    async def get(self, key: str) -> Any:
        value = await super().get(key)
        await self.remove(key)
        return value


@noticed_by("test_many_may_be_none_or_the_same_twice", "min")
class SetsManyIfAny(DictStorage):
    async def set_many(self, values: Mapping[Any, Any], *args: Any, **params: Any) -> None:
        min(values)
        await super().set_many(values, *args, **params)


# --- entries --------------------------------------------------------------------------------------


@noticed_by("test_unusual_keys_are_kept_apart_when_there_are_many_at_once", "mixed up")
@noticed_by("test_unusual_keys_have_leases_of_their_own", "one token|free|answers")
class StripsKeys(MemoryStorage):
    def _key(self, key: Key) -> Key:
        return as_key(key.typed.strip()) if isinstance(key.typed, str) else key

    def read(self, key: Key) -> Entry | None:
        return super().read(self._key(key))

    def write(self, key: Key, entry: Entry) -> None:
        super().write(self._key(key), entry)

    def lease_now(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        return {key: self.lease_one(self._key(key), seconds) for key in keys}


@noticed_by("test_a_stored_value_does_not_change_with_the_object_it_was", "changed since")
class SharesTheObject(MemoryStorage):
    shared = True


@noticed_by("test_a_lease_has_one_holder", "given away twice")
@noticed_by("test_of_a_hundred_at_once_one_gets_the_lease", "100 of 100")
@noticed_by("test_a_lock_lets_one_in_at_a_time", "were in a block")
class HasTwoHolders(MemoryStorage):
    def lease_one(self, key: Key, seconds: float) -> Lease | Busy:
        return Lease(key, new_token(), self.now() + seconds)


@noticed_by("test_of_a_hundred_at_once_one_gets_the_lease", "of 100 got the lease")
class LooksBeforeItTakes(MemoryStorage):
    async def lease(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        keys = list(keys)
        free = [key for key in keys if key not in self.leases.outstanding()]
        await asyncio.sleep(0)
        self.leases.kill_all(key for key in free if key in self.leases.outstanding())
        return self.lease_now(keys, seconds)


@noticed_by("test_a_lease_has_one_holder", "Busy.token")
class HidesTheHolder(MemoryStorage):
    def lease_one(self, key: Key, seconds: float) -> Lease | Busy:
        got = super().lease_one(key, seconds)
        return Busy(key, b"", got.retry_in, got.stale) if isinstance(got, Busy) else got


@noticed_by("test_a_lease_is_no_value_and_hides_none", "should be a miss")
class TakesALeaseForAValue(MemoryStorage):
    def lease_one(self, key: Key, seconds: float) -> Lease | Busy:
        got = super().lease_one(key, seconds)
        if self.read(key) is None:
            self.write(key, Entry("lease", self.now()))
        return got


@noticed_by("test_a_lease_sees_what_is_stored_when_it_was_taken", "Lease.seen is None")
class LooksAtNothing(MemoryStorage):
    def lease_one(self, key: Key, seconds: float) -> Lease | Busy:
        return self.leases.take(key, seconds)


@noticed_by("test_a_commit_after_a_discard_stores_nothing", "accepted after its key was discarded")
@noticed_by("test_a_commit_after_a_remove_stores_nothing", "accepted after its key was removed")
@noticed_by("test_a_commit_after_a_store_changes_nothing", "accepted after another value")
@noticed_by("test_a_commit_after_a_set_changes_nothing", "accepted after another value was set")
@noticed_by("test_a_commit_after_an_expiry_stores_nothing", "accepted after its key was expired")
@noticed_by("test_a_commit_after_a_clear_stores_nothing", "accepted after the storage was cleared")
@noticed_by("test_a_lease_commits_once", "accepted twice")
@noticed_by("test_of_commits_at_once_under_one_lease_one_stores", "10 of 10")
@noticed_by("test_of_many_commits_only_the_fenced_are_not_stored", "two of four were fenced")
@noticed_by("test_a_discard_and_a_commit_at_once_leave_nothing", "should be a miss")
@noticed_by("test_a_store_and_a_commit_at_once_leave_what_was_stored", "came out")
@noticed_by("test_a_key_that_was_discarded_can_be_leased_anew_at_once", "and leased anew")
@noticed_by("test_a_stale_value_that_is_discarded_during_its_refresh_stays_away", "leased anew")
@noticed_by("test_a_commit_after_a_store_that_compared_changes_nothing", "another value was stored")
@noticed_by("test_a_lease_that_is_not_renewed_ends_and_its_holder_is_fenced", "another took it")
class CommitsWithoutFence(MemoryStorage):
    def _commit(self, lease: Lease, entry: Entry) -> bool:
        self.write(lease.key, entry)
        self.leases.give_back(lease)
        return True


@noticed_by("test_a_discard_and_a_commit_at_once_leave_nothing", "should be a miss")
class LooksBeforeItCommits(MemoryStorage):
    async def commit(self, entries: Mapping[Lease, Entry]) -> set[Key]:
        held = {lease: entry for lease, entry in entries.items() if self.leases.owns(lease)}
        await asyncio.sleep(0)
        for lease, entry in held.items():
            self.write(lease.key, entry)
            self.leases.give_back(lease)
        return {lease.key for lease in held}


@noticed_by("test_a_commit_after_a_discard_stores_nothing", "accepted after its key was discarded")
class DiscardKeepsTheLease(MemoryStorage):
    def discard_now(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        if keep_stale:
            super().discard_now(keys, keep_stale=True)
        else:
            self.evict_now(keys)


@noticed_by(
    "test_a_commit_after_a_store_changes_nothing", "accepted after another value was stored"
)
class StoreKeepsTheLease(MemoryStorage):
    def store_now(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        for key, entry in entries.items():
            self.write(key, entry)
        return set(entries)


@noticed_by("test_a_commit_after_an_expiry_stores_nothing", "accepted after its key was expired")
class ExpiryKeepsTheLease(MemoryStorage):
    def discard_now(self, keys: Iterable[Key], *, keep_stale: bool = False) -> None:
        if not keep_stale:
            super().discard_now(keys)
        for key in keys:
            self.expire(key)


@noticed_by("test_what_is_expired_is_kept_but_no_longer_fresh", "it did not stay")
class ExpiryRemoves(MemoryStorage):
    def expire(self, key: Key) -> None:
        self.erase(key)


@noticed_by("test_a_commit_after_a_clear_stores_nothing", "accepted after the storage was cleared")
class ClearKeepsTheLeases(MemoryStorage):
    def clear_now(self, owner: Owner | None = None) -> None:
        self.erase_all(owner)


@noticed_by("test_what_is_evicted_is_gone_but_its_lease_is_not", "given away twice")
class EvictionEndsTheLease(MemoryStorage):
    def evict_now(self, keys: Iterable[Key]) -> None:
        self.discard_now(keys)


@noticed_by("test_renew_returns_the_leases_that_are_still_held", "renew.. gave")
class RenewsWhatIsLost(MemoryStorage):
    def renew_now(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        return {lease.key for lease in leases}


@noticed_by("test_a_release_ends_the_lease_and_stores_nothing", "free|given away twice")
class ReleasesAnothersLease(MemoryStorage):
    def release_now(self, leases: Iterable[Lease]) -> None:
        self.leases.kill_all(lease.key for lease in leases)


@noticed_by("test_a_lease_that_is_not_renewed_ends_and_its_holder_is_fenced", "has not ended")
class LeasesForEver(MemoryStorage):
    def lease_one(self, key: Key, seconds: float) -> Lease | Busy:
        return super().lease_one(key, 1e9)


@noticed_by(
    "test_a_lease_that_is_not_renewed_ends_and_its_holder_is_fenced", "though it was renewed"
)
class RenewsNothing(MemoryStorage):
    def renew_now(self, leases: Iterable[Lease], seconds: float) -> set[Key]:
        for lease in leases:
            self.leases.give_back(lease)
        return set()


@noticed_by("test_wait_returns_when_the_lease_goes", "was not told")
@noticed_by("test_wait_returns_at_once_if_the_lease_is_gone_already", "that is gone")
class TellsNobody(MemoryStorage):
    async def wait(self, busy: Busy, timeout: float) -> None:
        await asyncio.sleep(min(timeout, 0.6))


@noticed_by("test_wait_takes_no_longer_than_its_timeout", "took")
class WaitsTooLong(MemoryStorage):
    async def wait(self, busy: Busy, timeout: float) -> None:
        await asyncio.sleep(0.6)


@noticed_by("test_a_lock_that_is_not_free_in_time_is_a_wait_timeout", "let two in")
class LocksNobodyOut(MemoryStorage):
    @asynccontextmanager
    async def leased(self, key: Any, **options: Any) -> AsyncGenerator[Any, None]:
        yield None


@noticed_by("test_store_with_expect_compares_and_sets", "something was there")
@noticed_by("test_of_many_that_compare_and_set_one_wins", "20 of 20")
class ComparesNothing(MemoryStorage):
    def store_now(
        self, entries: Mapping[Key, Entry], *, expect: Mapping[Key, bytes | None] | None = None
    ) -> set[Key]:
        return super().store_now(entries)


@noticed_by("test_an_entry_comes_out_as_it_went_in", "Entry.tags")
class LosesTags(MemoryStorage):
    def write(self, key: Key, entry: Entry) -> None:
        super().write(key, Entry(entry.value, *_times(entry), entry.cost, version=entry.version))


@noticed_by("test_what_is_no_value_is_fetched_but_not_got", "Entry.kind")
class LosesKinds(MemoryStorage):
    def write(self, key: Key, entry: Entry) -> None:
        super().write(key, Entry(entry.value, *_times(entry), entry.cost, version=entry.version))


def _times(entry: Entry) -> tuple[float, float, float]:
    return entry.created, entry.fresh_until, entry.dead_after


@noticed_by("test_a_stale_entry_is_fetched_but_not_got", "should be a miss")
@noticed_by("test_what_is_expired_is_kept_but_no_longer_fresh", "should be a miss")
class GivesWhatIsStale(MemoryStorage):
    async def get(self, key: Any, *, stale: bool = False) -> Any:
        entry = self.fetch_one(as_key(key))
        if entry is None:
            raise KeyError(key)
        return entry.value


@noticed_by("test_a_dead_entry_is_absent", "that is dead")
class FetchesTheDead(MemoryStorage):
    def fetch_now(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        found = {key: self.read(key) for key in keys}
        return {key: entry for key, entry in found.items() if entry is not None}

    def _sweep(self, most: int = 0) -> None:
        pass


@noticed_by("test_the_clock_goes_on", "now.. went")
class ClockOfMinutes(MemoryStorage):
    def now(self) -> float:
        return super().now() / 60


@noticed_by("test_versions_are_random", "one version")
class OneVersion(MemoryStorage):
    def new_entry(self, value: Any, ttl: Any = None, *, cost: float = 0.0) -> Entry:
        entry = super().new_entry(value, ttl, cost=cost)
        entry.version = b"1"
        return entry


@noticed_by("test_nothing_asked_is_nothing_done", "max..|empty")
class FailsAtNothing(MemoryStorage):
    def fetch_now(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        keys = list(keys)
        max(map(str, keys))
        return super().fetch_now(keys)


@noticed_by("test_classes_that_were_made_known_come_out_as_they_went_in", "Point")
class LearnsNothing(MemoryStorage):
    def __init__(self) -> None:
        super().__init__(isolate=True)

    def learn(self, types: Iterable[type]) -> None:
        pass


@noticed_by("test_a_commit_stores_and_ends_the_lease", "should be free")
class CommitKeepsTheLease(MemoryStorage):
    def _commit(self, lease: Lease, entry: Entry) -> bool:
        self.write(lease.key, entry)
        return True


@noticed_by("test_each_key_has_a_lease_of_its_own", "answers for each key")
class LeasesTheFirst(MemoryStorage):
    def lease_now(self, keys: Iterable[Key], seconds: float) -> dict[Key, Lease | Busy]:
        return super().lease_now(list(keys)[:1], seconds)


@noticed_by("test_a_sign_of_life", "no answer")
class GivesNoSignOfLife(MemoryStorage):
    async def ping(self) -> None:
        raise StorageError("no answer")


@noticed_by("test_a_ttl_may_be_given_in_words", "float")
class TakesNumbersOnly(MemoryStorage):
    def new_entry(self, value: Any, ttl: Any = None, *, cost: float = 0.0) -> Entry:
        return super().new_entry(value, None if ttl is None else float(ttl), cost=cost)


# --- one connection, and the replies on it --------------------------------------------------------


@noticed_by("test_an_operation_that_is_cancelled_harms_no_other", "after a cancelled")
class MixesUpReplies(MemoryStorage):
    """A caller that leaves does not read its reply; the next one takes it for its own."""

    def __init__(self) -> None:
        super().__init__()
        self.replies: asyncio.Queue[dict[Key, Entry]] = asyncio.Queue()
        self.turn = asyncio.Lock()

    async def fetch(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        keys = list(keys)
        async with self.turn:
            loop = asyncio.get_running_loop()
            loop.call_later(0.0001, self.replies.put_nowait, self.fetch_now(keys))
            return await self.replies.get()


@noticed_by("test_lookups_at_the_same_time_get_each_their_own", "belongs to another key")
@noticed_by("test_callers_at_the_same_time_get_each_their_own", "came out|is a miss|should be")
class AnswersTheLast(MemoryStorage):
    """Lookups of one tick share a round trip; all get the answer to the last."""

    asked: Key | None = None

    async def _lookup(self, key: Key) -> Entry | None:
        self.asked = key
        await asyncio.sleep(0)
        return self.fetch_one(self.asked)


@noticed_by("test_a_caller_that_leaves_takes_no_other_along", "the others got")
class LeavesTogether(MemoryStorage):
    """Lookups of one tick share a future, which the first that is cancelled cancels for all."""

    shared_future: asyncio.Future[None] | None = None

    async def _lookup(self, key: Key) -> Entry | None:
        if self.shared_future is None or self.shared_future.done():
            loop = asyncio.get_running_loop()
            self.shared_future = loop.create_future()
            loop.call_later(0.01, _wake, self.shared_future)
        await self.shared_future
        return self.fetch_one(key)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@noticed_by("test_nothing_is_left_behind_when_the_loop_ends", "descriptors are open")
@noticed_by("test_nothing_is_left_behind_when_it_is_forgotten", "ResourceWarning")
class LeavesSocketsToTheLoop(MemoryStorage):
    """One socket for each loop, closed by `aclose` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: dict[asyncio.AbstractEventLoop, socket.socket] = {}

    async def store(self, *args: Any, **options: Any) -> set[Key]:
        self.sockets.setdefault(asyncio.get_running_loop(), socket.socket())
        return await super().store(*args, **options)

    async def aclose(self) -> None:
        while self.sockets:
            self.sockets.popitem()[1].close()


@noticed_by("test_it_is_closed_at_the_end_of_a_block", "gives another object")
class EntersAnother(MemoryStorage):
    async def __aenter__(self) -> Any:
        return MemoryStorage()


@noticed_by("test_a_function_that_is_cached_loads_once", "was loaded again")
@noticed_by("test_a_plain_function_may_be_cached_in_it", "were loaded 4 times")
class ForgetsWhatIsCommitted(MemoryStorage):
    def commit_one(self, lease: Lease, entry: Entry) -> bool:
        return self.leases.give_back(lease)
