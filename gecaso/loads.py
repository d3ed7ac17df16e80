"""One run of the user's function: in its time, with what it says of itself, and what it makes.

`Loads` runs a load and makes the entry of its result. Who shares it is in `gecaso.loading`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from math import inf
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from gecaso import events
from gecaso.calls import Call
from gecaso.colours import Colour
from gecaso.current import running_call
from gecaso.entry import Entry, new_token
from gecaso.error_values import ttl_of_error
from gecaso.errors import LoadTimeout
from gecaso.freshness import quick_until, times_of
from gecaso.keys import Key
from gecaso.storage import EntryStorage

__all__ = ["Loads"]

USED_UP = frozenset({AsyncGeneratorType, CoroutineType, GeneratorType})
"""Types of results that have nothing left for a second caller."""
UNCACHEABLE_SECONDS = 1.0
"""How long callers of a key whose value was not stored load side by side."""
MANY_FAILURES = 1000
"""Keys whose loads failed, before those are forgotten that may be tried again."""


class Loads:
    """The loads of one storage's values, one run at a time."""

    def __init__(self, storage: EntryStorage) -> None:
        self.storage = storage
        self.draw = _draw
        self._retry_at: dict[Key, float] = {}

    async def _load(self, call: Call, colour: Colour) -> tuple[Any, float]:
        """Run the user's function; return its value and how many seconds it took."""
        counters = call.counters
        counters.loads += 1
        started = time.perf_counter()
        running = running_call.set(call)
        try:
            value = call.load() if not _is_limited(call) else self._limited(call, colour)
            if colour.awaits:
                value = await value
            if type(value) in USED_UP:
                raise _used_up(call, value)
        except BaseException as error:
            counters.errors += 1
            self._note_load(call, time.perf_counter() - started, error)
            raise
        finally:
            if not colour.awaits:  # a flight's task has a context of its own
                running_call.reset(running)
        cost = time.perf_counter() - started
        self._note_load(call, cost, None)
        return value, cost

    def _limited(self, call: Call, colour: Colour) -> Any:
        """Run a load that has a time limit, or that nobody waits for."""
        if colour.awaits:
            return self._run_limited(call)
        scope = call.policy.scope if call.is_behind else None
        with contextlib.nullcontext() if scope is None else scope():
            return call.load()

    async def _run_limited(self, call: Call) -> Any:
        policy = call.policy
        limit = policy.max_load_time if call.is_behind else policy.timeout
        scope = policy.scope if call.is_behind else None
        option = "max_load_time" if call.is_behind else "timeout"
        clock = asyncio.timeout(limit)
        try:
            async with clock, contextlib.nullcontext() if scope is None else scope():
                return await call.load()
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise LoadTimeout(
                f"the load of {call.key} took longer than {option}={limit:g}"
            ) from error

    def _note_load(self, call: Call, cost: float, error: BaseException | None) -> None:
        if error is None and cost > call.counters.longest:
            call.counters.longest = cost
        events.logger.debug("%s: loaded in %.3f s (%r)", call.key, cost, error)
        if isinstance(error, Exception):
            self._note_failure(call, error)
        on_load = call.policy.on_load
        if events.hooks or on_load is not None:
            event = events.Load(storage=self.storage, key=call.key, seconds=cost, error=error)
            events.emit(event)
            if on_load is not None:
                events.tell(on_load, event)

    def _note_failure(self, call: Call, error: BaseException) -> None:
        """A load has failed: who has an old value is served it for a while, without a new try."""
        policy = call.policy
        if not (policy.serves_old or policy.refresh_after is not None):
            return
        now = self.storage.now()
        if len(self._retry_at) >= MANY_FAILURES:
            self._retry_at = {key: at for key, at in self._retry_at.items() if at > now}
        self._retry_at[call.key] = now + policy.retry_after
        if call.is_behind:
            self._note_refresh_failed(call, error)

    def _note_refresh_failed(self, call: Call, error: BaseException) -> None:
        if events.hooks:
            events.emit(events.RefreshFailed(storage=self.storage, key=call.key, error=error))
        self._warn_once(call, "refresh", f"a load in the background failed: {error!r}")

    def _entry(self, call: Call, value: Any, cost: float) -> Entry:
        """Return the entry to commit for a value: itself, or a mark that it is not stored."""
        policy, notes = call.policy, call.notes
        if notes is not None and notes.is_skipped:
            return self._mark(call, "the load called skip()")
        if policy.condition is not None and not policy.condition(value):
            return self._mark(call, "the condition does not hold")
        now = self.storage.now()
        ttl = policy.ttl_of(value) if notes is None or notes.ttl is None else _finite(notes.ttl)
        fresh_until, dead_after = times_of(policy, ttl, now, self.draw)
        if notes is not None and notes.is_unmodified and call.old is not None:
            value = call.old.value
        elif policy.dump is not None:
            value = policy.dump(value)
        entry = Entry(value, now, fresh_until, dead_after, cost, params=policy.params)
        if policy.refresh_after is not None:
            entry.quick_until = quick_until(policy, entry)
        if notes is not None:
            entry.etag = notes.etag
            entry.tags = notes.tags
        return entry

    def _error_entry(self, call: Call, error: Exception, stored: Any) -> Entry | None:
        """Return the entry of an error that is to be cached, as ``stored``; None for any other."""
        ttl = ttl_of_error(error, call.policy.error_ttl)
        if ttl is None:
            return None
        now = self.storage.now()
        return Entry(stored, now, -inf, now + ttl, kind="error", version=new_token())

    def _mark(self, call: Call, reason: str) -> Entry:
        call.counters.uncacheable += 1
        if events.hooks:
            events.emit(events.Uncacheable(storage=self.storage, key=call.key, reason=reason))
        now = self.storage.now()
        return Entry(
            None, now, -inf, now + UNCACHEABLE_SECONDS, kind="uncacheable", version=new_token()
        )

    def _note_commit(self, call: Call, key: Key, *, is_stored: bool) -> None:
        if not is_stored:
            call.counters.fenced += 1
        if events.hooks:
            kind = events.Commit if is_stored else events.Fenced
            events.emit(kind(storage=self.storage, key=key))

    def _note_unstorable(self, call: Call, error: Exception) -> Entry:
        self._warn_once(call, "pack", f"a value was returned and not stored: {error}")
        return self._mark(call, str(error))

    def _warn_once(self, call: Call, kind: str, message: str) -> None:
        if kind not in call.counters.warned:
            call.counters.warned.add(kind)
            events.logger.warning("%s: %s", call.key.owner.label, message)


def _is_limited(call: Call) -> bool:
    return call.is_behind or call.policy.timeout is not None


def _finite(ttl: float) -> float | None:
    return None if ttl == inf else ttl


def _used_up(call: Call, value: Any) -> TypeError:
    kind = type(value).__name__
    if not isinstance(value, AsyncGeneratorType):
        value.close()  # or Python warns of a coroutine that nobody awaited
    return TypeError(
        f"{call.key.owner.label} returned a {kind}, which its first caller would use up; "
        "make the function an `async def` that awaits, or return a list or a tuple"
    )


def _draw() -> float:
    from random import random  # few policies draw

    return random()
