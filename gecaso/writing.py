"""Putting values and invalidating them: what kills loads that are under way.

Each first detaches the flights of its keys, so that later callers start new ones, and then tells
the storage, which kills the leases.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from gecaso import events
from gecaso.colours import Colour
from gecaso.entry import Entry, new_token
from gecaso.freshness import quick_until, times_of
from gecaso.keys import Key, Owner
from gecaso.loading import Loading
from gecaso.policy import Policy

__all__ = ["Writing"]


class Writing:
    """The writes of one cache."""

    def __init__(self, loading: Loading) -> None:
        self._loading = loading
        self._storage = loading.storage

    async def put(self, key: Key, value: Any, policy: Policy, colour: Colour) -> None:
        """Store a value that the caller has; a load that is under way will not be stored."""
        now = self._storage.now()
        fresh_until, dead_after = times_of(policy, policy.ttl_of(value), now, self._loading.draw)
        if policy.dump is not None:
            value = policy.dump(value)
        entry = Entry(
            value, now, fresh_until, dead_after, params=policy.params, version=new_token()
        )
        entry.quick_until = quick_until(policy, entry)

        async def apply() -> None:
            await self._storage.store({key: entry})

        await self._apply((key,), apply, policy, colour, is_put=True)

    async def invalidate(
        self, keys: Iterable[Key], policy: Policy, colour: Colour, *, keep_stale: bool = False
    ) -> None:
        """Remove the values of keys; loads that are under way will not be stored.

        With ``keep_stale`` the values are no longer fresh, and may be served where a load fails.
        """
        keys = tuple(keys)

        async def apply() -> None:
            await self._storage.discard(keys, keep_stale=keep_stale)

        await self._apply(keys, apply, policy, colour, is_put=False)

    async def _apply(
        self,
        keys: tuple[Key, ...],
        apply: Callable[[], Awaitable[None]],
        policy: Policy,
        colour: Colour,
        *,
        is_put: bool,
    ) -> None:
        guard = self._loading.guard
        self._loading.forget_failure(keys)
        if guard is None:
            self._loading.flights.detach(keys)
            await apply()  # an in-process storage neither fails nor waits
            self._tell(keys)
            return
        for flights in guard.flights:
            flights.detach(keys)

        async def invalidate() -> None:
            await guard.invalidate(
                keys,
                apply,
                timeout=policy.invalidate_timeout,
                journal=policy.on_invalidate_error == "journal",
                is_put=is_put,
            )

        await colour.do(invalidate)

    def _tell(self, keys: tuple[Key, ...]) -> None:
        if events.hooks:
            events.emit(events.Invalidated(storage=self._storage, keys=keys, confirmed=True))

    def clear_now(self, owner: Owner, is_own: Callable[[Any], bool] | None = None) -> None:
        """Invalidate the keys of an owner, on an in-process storage.

        With ``is_own`` only those whose typed key it is true of.
        """
        assert self._loading.local is not None

        def concerns(key: Any) -> bool:
            plain = _plain(key)
            return plain.owner is owner and (is_own is None or is_own(plain.typed))

        self._loading.flights.detach_where(concerns)
        if is_own is None:
            self._loading.local.clear_now(owner)
        else:
            local = self._loading.local
            with local.leases.lock:
                keys = [*local.leases.outstanding(), *local.keys_now(owner)]
                local.discard_now([key for key in keys if concerns(key)])


def _plain(key: Any) -> Key:
    # The flight of a refresh is kept under a pair, see `loading`.
    plain: Key = key if isinstance(key, Key) else key[0]
    return plain
