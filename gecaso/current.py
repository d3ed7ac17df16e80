"""The load that is running: what it may ask, and what it may say of its result."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime
from math import inf
from typing import Any, Never

from gecaso.calls import Call
from gecaso.durations import Duration, seconds, until
from gecaso.errors import LoadFailed
from gecaso.keys import Key

__all__ = ["CurrentLoad", "current_load", "running_call"]

running_call: ContextVar[Call | None] = ContextVar("gecaso_call", default=None)


class CurrentLoad:
    """One load, as the user's function sees it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._old = call.old if call.old is not None and call.old.kind == "value" else None
        self.is_skipped = False
        self.is_unmodified = False
        self.tags: dict[str, bytes] = {}
        self.ttl: float | None = None
        """Seconds: what `set_ttl` was given; None: nothing, infinity: for ever."""
        self.etag: str | None = None if self._old is None else self._old.etag
        """The version of the source that the result is of; kept with it, and there next time."""

    def __repr__(self) -> str:
        return f"<load of {self.key}>"

    @property
    def key(self) -> Key:
        """The key whose value is being loaded."""
        return self._call.key

    @property
    def has_stale_value(self) -> bool:
        """Whether there is an old value."""
        return self._old is not None

    @property
    def stale_value(self) -> Any:
        """The old value that is stored, or None; see ``has_stale_value`` where None is a value."""
        return None if self._old is None else _loaded(self._call, self._old.value)

    def set_ttl(self, ttl: Duration | datetime | None) -> None:
        """Keep the result for ``ttl``: seconds, a timedelta, ``"5m"``, or until a `datetime`.

        None: for ever.
        """
        if isinstance(ttl, datetime):
            self.ttl = until(ttl)
        else:
            self.ttl = inf if ttl is None else seconds(ttl)

    def skip(self) -> None:
        """Return the result to its callers and do not store it.

        For a second, other callers of the key load side by side instead of waiting for each other.
        """
        self.is_skipped = True

    def add_tags(self, *tags: str) -> None:
        """Keep these tags with the result: ``(await f.entry(…)).tags`` has them."""
        for tag in tags:
            if not isinstance(tag, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users may not check types
                raise TypeError(f"a tag is a text, not {tag!r}")
            self.tags[tag] = b""

    def not_modified(self) -> Any:
        """Keep the old value and renew its life; return it, so that the function can return it.

        Raises `LoadFailed` if there is no old value.
        """
        if self._old is None:
            raise LoadFailed(f"not_modified(): no old value of {self.key} is stored")
        self.is_unmodified = True
        return self.stale_value

    def fail(self, reason: str = "the load called fail()") -> Never:
        """Give up: who has the old value is served it, as `stale_if_error` says.

        Raises `LoadFailed`, which callers see if there is no old value.
        """
        raise LoadFailed(f"{self.key}: {reason}")


def _loaded(call: Call, value: Any) -> Any:
    return value if call.policy.load is None else call.policy.load(value)


def current_load() -> CurrentLoad:
    """Return the load that runs here: inside a cached function that is being loaded.

    Raises `LookupError` elsewhere, also when the function is called ``.uncached``.

    >>> import gecaso
    >>> @gecaso.cached(gecaso.MemoryStorage(), ttl=60)
    ... def price(item: str) -> float:
    ...     if item == "gold":
    ...         gecaso.current_load().set_ttl("1s")
    ...     return 1.5
    >>> price("gold"), round(price.ttl("gold"))
    (1.5, 1)
    """
    call = running_call.get()
    if call is None:
        raise LookupError(
            "no load is running here: current_load() works inside a cached function, while it loads"
        )
    if call.notes is None:
        call.notes = CurrentLoad(call)
    return call.notes
