"""Every error that gecaso raises on purpose.

::

    GecasoError (Exception)
    ├── ConfigurationError (ValueError)     an option, URL or combination that cannot work
    │   └── UnknownOption (TypeError)       an option nobody takes; names the nearest one
    ├── UnkeyableArgument (TypeError)       an argument has no stable encoding
    ├── AmbiguousFunction (TypeError)       two functions would share one identity
    ├── PackError (TypeError)               a value the codec does not know
    │   └── ValueTooLarge (ValueError)      a value beyond a bound
    ├── UnpackError (KeyError)              damaged, foreign or unsigned data: a miss
    ├── Unsupported (NotImplementedError)   the storage has no such operation
    ├── RecursiveLoad (RuntimeError)        a load that waits for itself
    ├── WaitTimeout (TimeoutError)          a lease was not free in time
    ├── LoadTimeout (TimeoutError)          a load took longer than timeout=
    ├── LoadFailed (RuntimeError)           a load asked for the old value, and there is none
    ├── Overloaded (RuntimeError)           max_loads= loads run already
    └── StorageError                        the storage is in trouble
        ├── StorageTimeout (TimeoutError)   … it did not answer in time
        └── InvalidationFailed              … an invalidation may not have reached it
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = [
    "AmbiguousFunction",
    "ConfigurationError",
    "GecasoError",
    "InvalidationFailed",
    "LoadFailed",
    "LoadTimeout",
    "Overloaded",
    "PackError",
    "RecursiveLoad",
    "StorageError",
    "StorageTimeout",
    "UnkeyableArgument",
    "UnknownOption",
    "UnpackError",
    "Unsupported",
    "ValueTooLarge",
    "WaitTimeout",
]


class GecasoError(Exception):
    """The root of all errors that gecaso raises on purpose."""


class ConfigurationError(GecasoError, ValueError):
    """An option, a URL or a combination of them that cannot work."""


class UnknownOption(ConfigurationError, TypeError):
    """An option that neither gecaso nor the storage takes.

    ``option`` is the name as given; ``nearest`` is the name that was probably meant, or None.
    """

    def __init__(self, message: str, *, option: str = "", nearest: str | None = None) -> None:
        super().__init__(message)
        self.option = option
        self.nearest = nearest


class UnkeyableArgument(GecasoError, TypeError):
    """An argument has no encoding that is the same in every process.

    ``argument`` is the name of the parameter, with the path to the part that cannot be encoded.
    """

    def __init__(self, message: str, *, argument: str = "") -> None:
        super().__init__(message)
        self.argument = argument


class AmbiguousFunction(GecasoError, TypeError):
    """Two functions would read each other's entries on a shared storage."""


class PackError(GecasoError, TypeError):
    """A value cannot be packed. ``path`` leads to the part that cannot: ``value["a"][3].b``."""

    def __init__(self, message: str, *, path: str = "value") -> None:
        super().__init__(message)
        self.path = path


class ValueTooLarge(PackError, ValueError):
    """A value is larger than a bound. ``size`` and ``limit`` are in bytes."""

    def __init__(self, message: str, *, size: int = 0, limit: int = 0, path: str = "value") -> None:
        super().__init__(message, path=path)
        self.size = size
        self.limit = limit


class UnpackError(GecasoError, KeyError):
    """Data is damaged, foreign, unsigned or wrongly signed. In a storage that is a miss."""

    def __str__(self) -> str:  # KeyError shows the repr of its argument; this is a sentence
        return Exception.__str__(self)


class Unsupported(GecasoError, NotImplementedError):
    """The storage has no such operation; the message says which method to add."""


class RecursiveLoad(GecasoError, RuntimeError):
    """A load waits, directly or through others, for itself."""


class WaitTimeout(GecasoError, TimeoutError):
    """A lease held by somebody else was not free in time."""


class LoadTimeout(GecasoError, TimeoutError):
    """A load took longer than the caller's ``timeout``; it was cancelled if nobody else waits."""


class LoadFailed(GecasoError, RuntimeError):
    """A load gave up with `gecaso.current_load().fail()`, and there is no old value to serve."""


class Overloaded(GecasoError, RuntimeError):
    """``max_loads`` loads of this cache run already, and ``overload="raise"`` was chosen."""


class StorageError(GecasoError):
    """The storage is down, full, or answers what it should not.

    ``part`` names the server that is in trouble, where a storage has several and goes on with the
    others; None: it is the whole storage. ``keys`` are those that an operation on many keys could
    not do, if it did the others.
    """

    part: str | None = None
    keys: tuple[Any, ...] = ()


class StorageTimeout(StorageError, TimeoutError):
    """The storage did not answer in time."""


class InvalidationFailed(StorageError):
    """An invalidation may not have reached the storage.

    ``keys`` are the keys concerned. ``maybe_applied`` is True when the storage may have done it,
    or may still do it later. Until a retry in the background succeeds, this process does not read
    these keys from the storage.
    """

    def __init__(
        self, message: str, *, keys: Iterable[Any] = (), maybe_applied: bool = True
    ) -> None:
        super().__init__(message)
        self.keys = tuple(keys)
        self.maybe_applied = maybe_applied
