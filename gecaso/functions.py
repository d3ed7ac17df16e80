"""A cached function: what stands behind its path of a hit, and the operations on it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, Any

from gecaso import events, switch
from gecaso.calls import CacheInfo, Call, Counters, Stats, load_of
from gecaso.codegen import compile_path
from gecaso.colours import ASYNC, Colour, Plain
from gecaso.entry import Entry
from gecaso.errors import ConfigurationError, UnkeyableArgument, Unsupported
from gecaso.keys import (
    DIRECT,
    Key,
    Owner,
)
from gecaso.keys.kept import keeping
from gecaso.keys.keying import Keying, KeyOptions
from gecaso.loading import Loading
from gecaso.loops import Bridge, run_now
from gecaso.policy import Policy
from gecaso.writing import Writing

if TYPE_CHECKING:
    from gecaso.advice.recording import Recorder
    from gecaso.local import Partition
    from gecaso.network_loading import NetworkLoading

__all__ = ["Function"]


class Function:
    """What stands behind one cached function, of either colour."""

    def __init__(
        self,
        function: Callable[..., Any],
        loading: Loading,
        policy: Policy,
        options: KeyOptions,
        *,
        is_async: bool,
        bridge: Bridge,
        is_method: bool,
    ) -> None:
        self.uncached = function
        self.policy = policy
        self.options: dict[str, Any] = {}
        """What the decorator was given, for when its cache is configured anew."""
        self.is_async = is_async
        self.counters = Counters()
        self.keying = Keying.make(function, options, is_method=is_method)
        self._kept = keeping(self.keying.owner)
        self.colour: Colour = ASYNC if is_async else Plain(bridge)
        self._bridge = bridge
        self._instances: dict[int, Mapping[Any, Entry]] = {}
        self._owners: dict[int, tuple[weakref.ref[Any], Owner]] = {}
        self.compiled = compile_path(
            function,
            self.keying.signature,
            is_async=is_async,
            keyed=self.keying.keyed,
            key_of=self.keying.key_of,
            on_key_error=self._key_failed if options.on_key_error == "call" else None,
            instances=self._instances if self.keying.is_method else None,
        )
        self.path = self.compiled.function
        self.attach(loading)

    def __repr__(self) -> str:
        return f"<cached {self.keying.owner.label} over {self.loading.storage!r}>"

    # --- what the path of a hit reads ---------------------------------------------------------

    def attach(self, loading: Loading) -> None:
        """Use this loading, and so its storage, from now on."""
        self.loading = loading
        self.writing = Writing(loading)
        storage, owner, function = loading.storage, self.keying.owner, self.uncached
        if self.keying.template is not None:
            from gecaso.keys.templates import warn_if_shared  # few functions have one

            warn_if_shared(self.keying.template.text, storage, function)
        elif storage.shared and owner is not DIRECT:
            from gecaso.keys.ambiguity import check_ambiguous  # in one process nothing is

            check_ambiguous(function, owner, storage)
        storage.learn(_known_types_of(function))
        if self.policy.on_evict is not None:
            self._watch(self.policy.on_evict)
        if self.policy.record is not None:
            from gecaso.advice.recording import record  # most programs never record

            record(storage, self.policy.record)
        self.bind()

    def bind(self) -> None:
        """Fill the cells of the path of a hit: at decoration, and whenever that changes."""
        local = self.loading.local
        self._instances.clear()
        partition = None
        if local is not None and not (events.hooks or self._asks_first()):
            partition = local.partition(self.keying.owner)
            local.used_by(self)
        miss = self._way_on(partition)
        if (recorder := self.recorder) is not None:
            recorder.follow(self)
            miss = recorder.noting(self._key, miss)
        if self.keying.is_method and self.keying.options.on_key_error == "call":
            miss = functools.partial(self._miss_or_call, miss)
        if self.policy.bypass is not None:
            miss = functools.partial(self._miss_unless, self.policy.bypass, miss)
        if switch.is_off():
            miss = self._uncached_miss
        if partition is None and self._is_quick_far():
            self._bind_far(miss)
        elif local is None or partition is None:
            # Every call takes the long way: to tell the hooks, or from a thread over a network.
            self.compiled.bind(None, _no_time, None, miss)
        else:
            self.compiled.bind(partition.entries, local.clock, partition.on_hit, miss)

    def _way_on(self, partition: Partition | None) -> Callable[..., Any]:
        """Return what a call goes through that is no hit on the shortest path."""
        miss = self._miss
        if partition is not None and partition.is_whole and not self.keying.is_method:
            miss = self._whole_miss(partition.entries)
        return miss if self.is_async else functools.partial(_run_plain, miss)

    def _is_quick_far(self) -> bool:
        """Whether a hit over a network needs nothing but a lookup in this coroutine."""
        if self.loading.local is not None or not self.is_async or self.policy.refresh_after:
            return False
        if self.keying.is_method and self.keying.options.on_key_error == "call":
            return False
        return not (events.hooks or self.recorder is not None or self._asks_first())

    def _bind_far(self, miss: Callable[..., Any]) -> None:
        if TYPE_CHECKING:
            assert isinstance(self.loading, NetworkLoading)
        loading, make_call = self.loading, self._call

        def found(it: Any, *call: Any) -> Coroutine[Any, Any, Any]:
            return loading.go_on(it, make_call(*call))

        def key_of(typed_key: Hashable, instance: object) -> Key:
            return self._key(typed_key, (instance,))

        seek = loading.seeker(key_of if self.keying.is_method else self._kept)
        self.compiled.bind_far(loading.storage.now, seek, found, miss)

    def _call(
        self,
        typed_key: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        is_refresh: bool = False,
    ) -> Call:
        return Call(
            self._key(typed_key, args),
            load_of(self.uncached, args, kwargs),
            self.policy,
            self.counters,
            is_refresh=is_refresh,
        )

    def _miss(
        self, typed_key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        return self.loading.obtain(self._call(typed_key, args, kwargs), self.colour)

    def _miss_or_call(
        self,
        miss: Callable[..., Any],
        typed_key: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Call the function uncached for an instance that can be no part of a key."""
        try:
            self._key(typed_key, args)
        except UnkeyableArgument as error:
            self._key_failed(error)
            return self.uncached(*args, **kwargs)
        return miss(typed_key, args, kwargs)

    def _watch(self, hook: events.Hook) -> None:
        local = self.loading.local
        if local is None or self.keying.owner is DIRECT:
            raise ConfigurationError(
                f"{self!r}: on_evict= is told by storages in this process, of functions whose keys "
                "are their own: without key="
            )
        for owner in {self.keying.owner, self.keying.instance_owner}:
            local.watch(owner, hook)

    def _asks_first(self) -> bool:
        """Whether a hit, too, takes the long way."""
        recorder, local = self.recorder, self.loading.local
        if recorder is not None and (recorder.is_exact or not getattr(local, "tells", True)):
            return True
        return bool(self.policy.bypass or self.policy.load or switch.is_off())

    @property
    def recorder(self) -> Recorder | None:
        """Who notes the calls, if they are recorded."""
        recorder = self.loading.storage.recorder
        if recorder is None or (recorder.is_partial and self.policy.record is None):
            return None
        return recorder

    def _miss_unless(
        self,
        bypass: Callable[..., object],
        miss: Callable[..., Any],
        typed_key: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        if bypass(*args, **kwargs):
            return self.uncached(*args, **kwargs)
        return miss(typed_key, args, kwargs)

    def _uncached_miss(
        self, typed_key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        return self.uncached(*args, **kwargs)

    def _whole_miss(self, entries: Mapping[Any, Entry]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return the way on where the path of a hit has seen all there is: no second look."""
        loading, colour, owner = self.loading, self.colour, self.keying.owner
        function, policy, counters = self.uncached, self.policy, self.counters
        local = loading.local
        assert local is not None

        def miss(
            typed_key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
        ) -> Coroutine[Any, Any, Any]:
            load = load_of(function, args, kwargs)
            call = Call(Key(owner, typed_key), load, policy, counters)
            if typed_key in entries:  # one that is old, or no value
                return loading.obtain(call, colour)
            local.missed()
            return loading.obtain_after(call, colour, None)

        return miss

    def _key(self, typed_key: Any, args: tuple[Any, ...]) -> Key:
        keying = self.keying
        if not keying.is_method:
            return Key(keying.owner, typed_key)
        local = self.loading.local
        key = keying.key(typed_key, args, local=local is not None)
        if local is not None and key.owner.private:
            self._keep_instance(args[0], key.owner)
        return key

    def _keep_instance(self, instance: object, owner: Owner) -> None:
        """Let the path of a hit find the entries of this instance, as long as it lives."""
        number = id(instance)
        if number in self._instances or self.loading.local is None:
            return

        def gone(reference: weakref.ref[Any]) -> None:
            held = self._owners.get(number)
            if held is not None and held[0] is reference:
                del self._owners[number]
                self._instances.pop(number, None)

        partition = self.loading.local.partition(owner)
        if self.policy.on_evict is not None:
            self.loading.local.watch(owner, self.policy.on_evict)
        self._owners[number] = (weakref.ref(instance, gone), owner)
        if not (events.hooks or self._asks_first()):
            self._instances[number] = partition.entries

    def _key_failed(self, error: BaseException) -> None:
        self.counters.errors += 1
        if "key" not in self.counters.warned:
            self.counters.warned.add("key")
            events.logger.warning("%r: called uncached, for want of a key: %s", self, error)

    # --- operations that need no colour -------------------------------------------------------

    def owners(self) -> set[Owner]:
        """Return what its keys belong to, in this process."""
        instances = [owner for _, owner in list(self._owners.values())]
        return {self.keying.owner, self.keying.instance_owner, *instances}

    def key(self, /, *args: Any, **kwargs: Any) -> Key:
        """Return the key of a call with these arguments."""
        typed_key = self.compiled.typed_key(*args, **kwargs)
        if not self.keying.is_method:
            return self._kept(typed_key)
        positional, _ = self.compiled.split(*args, **kwargs)
        return self._key(typed_key, positional)

    @property
    def stats(self) -> Stats:
        counters = self.counters
        return Stats(
            hits=counters.hits + self.compiled.hits(False),
            misses=counters.misses,
            loads=counters.loads,
            joined=counters.joined,
            errors=counters.errors,
            fenced=counters.fenced,
            lost=counters.lost,
            uncacheable=counters.uncacheable,
            storage_errors=counters.storage_errors,
            stale=counters.stale,
            refreshes=counters.refreshes,
        )

    def cache_info(self) -> CacheInfo:
        """Return hits and misses, and the size and bound of an in-process storage."""
        stats, storage = self.stats, self.loading.storage
        maxsize = getattr(storage, "maxsize", None)
        size = 0
        if (local := self.loading.local) is not None:
            size = sum(local.count_now(owner) for owner in self.owners())
        return CacheInfo(stats.hits, stats.misses, maxsize, size)

    def cache_parameters(self) -> dict[str, Any]:
        """Return the options that `functools.lru_cache` knows, and ``ttl``."""
        maxsize = getattr(self.loading.storage, "maxsize", None)
        return {"maxsize": maxsize, "typed": True, "ttl": self.policy.ttl}

    def cache_clear(self) -> None:
        """Forget all entries of this function, and its statistics. In-process storages only."""
        self.clear_now()
        self.counters.reset()
        hits = self.compiled.hits(True)
        if self.loading.local is not None:
            self.loading.local.hits += hits

    def clear_now(self, instance: object = None) -> None:
        keying = self.keying
        if self.loading.local is None or keying.owner is DIRECT:
            raise Unsupported(
                f"{self!r} cannot be cleared: "
                + (
                    "its keys are its own only by their text; invalidate them one by one"
                    if keying.owner is DIRECT
                    else "its storage is shared; invalidate its keys one by one"
                )
            )
        if instance is not None and keying.is_method:
            owner, is_own = keying.keys_of(instance)
            self.writing.clear_now(owner, is_own)
            return
        for owner in self.owners():
            self.writing.clear_now(owner)

    def keys_now(self, instance: object = None) -> list[Key]:
        """Return the keys that are stored, of one instance or of all."""
        keying, local = self.keying, self.loading.local
        if local is None or keying.owner is DIRECT:
            raise Unsupported(
                f"{self!r} cannot list its keys: "
                + (
                    "they are its own only by their text"
                    if keying.owner is DIRECT
                    else "its storage is shared, and cannot tell whose keys it holds"
                )
            )
        if instance is not None and keying.is_method:
            owner, is_own = keying.keys_of(instance)
            return [key for key in local.keys_now(owner) if is_own(key.typed)]
        return [key for owner in self.owners() for key in local.keys_now(owner)]

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, refresh: bool) -> Call:
        positional, named = self.compiled.split(*args, **kwargs)
        typed_key = self.compiled.typed_key(*args, **kwargs)
        return self._call(typed_key, positional, named, is_refresh=refresh)


def _known_types_of(function: Callable[..., Any]) -> Iterator[type]:
    from gecaso.packing.known_types import known_types_of  # asked by storages that pack

    yield from known_types_of(function)


def _run_plain(miss: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any) -> Any:
    return run_now(miss(*args))


def _no_time() -> float:
    return inf  # nothing is fresh then
