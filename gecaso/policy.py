"""The options of a cached function or a cache, checked once, at decoration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from math import inf
from os import PathLike, fspath
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from gecaso.durations import Duration, seconds, until
from gecaso.errors import ConfigurationError, UnknownOption
from gecaso.freshness import XFetch

__all__ = ["Policy", "Ttl", "nearest_name", "unknown_option"]

Ttl = Duration | datetime | Callable[[Any], Duration | datetime | None] | None
"""A length of time, the moment of its end, None for ever, or a function of the value that gives it.

A moment without a time zone is one of local time. After it a value is not fresh for any time.
"""

NO_PARAMS: Mapping[str, Any] = MappingProxyType({})
NO_ERRORS: Mapping[type[Exception], float] = MappingProxyType({})

DURATIONS = ("lease_seconds", "invalidate_timeout", "retry_after", "max_load_time")
MAYBE_DURATIONS = ("wait_timeout", "soft_timeout", "timeout")
WINDOWS = ("stale_while_revalidate", "stale_if_error")
FUNCTIONS = {
    "bypass": "the arguments",
    "condition": "the value",
    "dump": "the value",
    "load": "what is stored",
    "on_evict": "the event",
    "on_load": "the event",
    "on_promote": "the event",
    "scope": "nothing",
}
"""The options that are functions, and of what."""


class Policy(NamedTuple):
    """How values are loaded, kept and given up. Times are in seconds."""

    ttl: Ttl = None
    condition: Callable[[Any], object] | None = None
    lease_seconds: float = 10.0
    wait: bool = True
    wait_timeout: float | None = None
    on_storage_error: Literal["load", "raise"] = "load"
    on_invalidate_error: Literal["raise", "journal"] = "raise"
    invalidate_timeout: float = 2.0
    params: Mapping[str, Any] = NO_PARAMS
    # --- freshness ----------------------------------------------------------------------------
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    retry_after: float = 30.0
    refresh_after: float | XFetch | None = None
    jitter: float = 0.0
    soft_timeout: float | None = None
    timeout: float | None = None
    error_ttl: Mapping[type[Exception], float] = NO_ERRORS
    # --- the load itself ----------------------------------------------------------------------
    max_load_time: float = 300.0
    scope: Callable[[], Any] | None = None
    overload: Literal["wait", "stale", "raise"] = "wait"
    bypass: Callable[..., object] | None = None
    placeholder: Any = None
    dump: Callable[[Any], Any] | None = None
    load: Callable[[Any], Any] | None = None
    on_load: Callable[[Any], object] | None = None
    on_promote: Callable[[Any], object] | None = None
    on_evict: Callable[[Any], object] | None = None
    record: str | PathLike[str] | None = None

    @classmethod
    def make(cls, base: Self | None = None, /, **options: Any) -> Self:
        """Return a policy of these options, the others as in ``base``; raise on a bad one."""
        for name in options:
            if name not in cls._fields:
                raise unknown_option(name, cls._fields)
        policy = cls(**options) if base is None else base._replace(**options)
        return policy._checked()

    def _checked(self) -> Self:
        ttl = self.ttl
        if not (ttl is None or callable(ttl) or isinstance(ttl, datetime)):
            ttl = seconds(ttl)
        for name in FUNCTIONS:
            _check_function(name, getattr(self, name))
        _check_choice("on_storage_error", self.on_storage_error, ("load", "raise"))
        _check_choice("on_invalidate_error", self.on_invalidate_error, ("raise", "journal"))
        _check_choice("overload", self.overload, ("wait", "stale", "raise"))
        jitter: Any = self.jitter
        if not (isinstance(jitter, int | float) and 0 <= jitter < 1):
            raise ValueError(
                f"jitter is a fraction of the ttl from 0 to below 1, not {self.jitter!r}"
            )
        if self.record is not None:
            fspath(self.record)  # raises for what is no path
        refresh_after: Any = self.refresh_after
        if refresh_after is not None and not isinstance(refresh_after, XFetch):
            refresh_after = seconds(refresh_after, option="refresh_after")
        times: dict[str, Any] = {
            name: seconds(getattr(self, name), option=name) for name in DURATIONS
        }
        for name in MAYBE_DURATIONS:
            value = getattr(self, name)
            times[name] = None if value is None else seconds(value, option=name)
        for name in WINDOWS:
            times[name] = _window(name, getattr(self, name))
        made = self._replace(
            ttl=ttl,
            refresh_after=refresh_after,
            error_ttl=_error_ttl(self.error_ttl),
            params=MappingProxyType(dict(self.params)),
            **times,
        )
        made._check_together()
        return made

    def _check_together(self) -> None:
        if self.soft_timeout is not None and not self.stale_if_error:
            raise ConfigurationError(
                "soft_timeout= serves the old value while a load is slow, and without "
                "stale_if_error= no old value is kept; give both"
            )
        ttl = self.ttl
        if (
            isinstance(ttl, float)
            and isinstance(self.refresh_after, float)
            and self.refresh_after >= ttl
        ):
            raise ConfigurationError(
                f"refresh_after={self.refresh_after:g} never comes before the end of ttl={ttl:g}; "
                "it must be shorter"
            )

    @property
    def patience(self) -> float:
        """Return how many seconds to wait for another process's load."""
        if not self.wait:
            return 0.0
        return inf if self.wait_timeout is None else self.wait_timeout

    @property
    def serves_old(self) -> bool:
        """Whether an old value may be served."""
        return bool(self.stale_while_revalidate or self.stale_if_error)

    @property
    def needs_times(self) -> bool:
        """Whether a storage must know when a value was stored and how long it lives."""
        return bool(
            self.stale_while_revalidate
            or self.stale_if_error
            or self.refresh_after
            or self.error_ttl
        )

    def ttl_of(self, value: Any) -> float | None:
        """Return how many seconds ``value`` is to be kept; None for ever."""
        ttl = self.ttl
        if callable(ttl):
            ttl = ttl(value)
        if ttl is None or type(ttl) is float:
            return ttl
        return until(ttl) if isinstance(ttl, datetime) else seconds(ttl)


def _window(name: str, value: Any) -> float:
    return 0.0 if value is None or value == 0 else seconds(value, option=name)


def _error_ttl(given: Any) -> Mapping[type[Exception], float]:
    if not isinstance(given, Mapping):
        raise TypeError(
            f"error_ttl= maps classes of exceptions to times, as {{KeyError: 10}}, not {given!r}"
        )
    ttls: Mapping[Any, Any] = given  # pyright: ignore[reportUnknownVariableType] - of any kinds
    for kind in ttls:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigurationError(
                "error_ttl= maps classes of exceptions to times, such as {KeyError: 10}; "
                f"{kind!r} is no class of exceptions"
            )
    return MappingProxyType({kind: seconds(ttl, option="error_ttl") for kind, ttl in ttls.items()})


def _check_function(option: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{option} must be a function of {FUNCTIONS[option]}, not {value!r}")


def _check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"{option} must be one of {choices}, not {value!r}")


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the name that was probably meant, if there is one."""
    from difflib import get_close_matches  # only an error needs it

    return next(iter(get_close_matches(name, sorted(known), 1)), None)


def unknown_option(name: str, known: Iterable[str]) -> UnknownOption:
    """Return the error for an option that nobody takes; it names the nearest one."""
    nearest = nearest_name(name, known)
    meant = f" Did you mean {nearest}?" if nearest else ""
    return UnknownOption(
        f"there is no option {name!r}.{meant} What is for the storage goes in params={{...}}.",
        option=name,
        nearest=nearest,
    )
