"""The options of a cached function or a cache, checked once, at decoration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from gecaso.durations import Duration, seconds
from gecaso.errors import ConfigurationError, UnknownOption

__all__ = ["Policy", "Ttl", "nearest_name", "unknown_option"]

Ttl = Duration | Callable[[Any], Duration | None] | None
"""A length of time, None for ever, or a function of the value that gives either."""

NO_PARAMS: Mapping[str, Any] = MappingProxyType({})


class Policy(NamedTuple):
    """How values are loaded, kept and given up. Times are in seconds."""

    ttl: Ttl = None
    condition: Callable[[Any], object] | None = None
    lease_seconds: float = 10.0
    wait_timeout: float | None = None
    on_storage_error: Literal["load", "raise"] = "load"
    on_invalidate_error: Literal["raise", "journal"] = "raise"
    invalidate_timeout: float = 2.0
    params: Mapping[str, Any] = NO_PARAMS

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
        if ttl is not None and not callable(ttl):
            ttl = seconds(ttl)
        if self.condition is not None and not callable(self.condition):
            raise TypeError(f"condition must be a function of the value, not {self.condition!r}")
        _check_choice("on_storage_error", self.on_storage_error, ("load", "raise"))
        _check_choice("on_invalidate_error", self.on_invalidate_error, ("raise", "journal"))
        wait = self.wait_timeout
        return self._replace(
            ttl=ttl,
            lease_seconds=seconds(self.lease_seconds, option="lease_seconds"),
            wait_timeout=None if wait is None else seconds(wait, option="wait_timeout"),
            invalidate_timeout=seconds(self.invalidate_timeout, option="invalidate_timeout"),
            params=MappingProxyType(dict(self.params)),
        )

    def ttl_of(self, value: Any) -> float | None:
        """Return how many seconds ``value`` is to be kept; None for ever."""
        ttl = self.ttl
        if callable(ttl):
            ttl = ttl(value)
        if ttl is None or type(ttl) is float:
            return ttl
        return seconds(ttl)


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
