"""The options of a decorator, held against the function and the storage they are for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from gecaso.errors import ConfigurationError, UnknownOption
from gecaso.policy import Policy, unknown_option
from gecaso.storage import EntryStorage

__all__ = ["KEY_OPTIONS", "check_ttl", "is_coroutine_function", "make_policy"]

KEY_OPTIONS = ("key", "ignore", "namespace", "version", "hash_key", "on_key_error")


def is_coroutine_function(function: Any) -> bool:
    """Return whether it is a coroutine function; refuse what cannot be cached."""
    if not callable(function):
        raise TypeError(f"{function!r} is no function; write @cached(...) above a def")
    target: Any = function
    while isinstance(target, functools.partial):
        target = target.func
    if not (inspect.isfunction(target) or inspect.ismethod(target) or inspect.isbuiltin(target)):
        cls: type[Any] = target.__class__
        call: Any = getattr(cls, "__call__", None)  # noqa: B004 - the method, not whether
        if not inspect.isclass(target) and inspect.isfunction(call):
            target = call
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        kind = "an async generator" if inspect.isasyncgenfunction(target) else "a generator"
        raise TypeError(
            f"{function!r} is {kind} function: what it yields is used up by the first caller. "
            "Return a list or a tuple instead"
        )
    return inspect.iscoroutinefunction(target)


def make_policy(storage: EntryStorage, base: Policy | None, options: dict[str, Any]) -> Policy:
    """Return the policy of these options; what it does not know is for ``storage.set``."""
    known = set(Policy._fields)
    own = {name: value for name, value in options.items() if name in known}
    params = {name: value for name, value in options.items() if name not in known}
    names, any_name = _parameters(storage)
    for name in params:
        if name in names:
            continue
        if name in KEY_OPTIONS or name == "loop":
            raise UnknownOption(
                f"{name}= is for a function: cache.cached({name}=…)", option=name, nearest=name
            )
        error = unknown_option(name, known | names | {*KEY_OPTIONS, "loop"})
        if not any_name or error.nearest is not None:
            raise error
    more: Any = own.pop("params", {})
    if not isinstance(more, Mapping):
        raise TypeError(f"params= maps names to what the storage's `set` is given, not {more!r}")
    given: dict[str, Any] = {**params, **more}
    if base is not None:
        given = {**base.params, **given}
    for name in given:
        if name not in names and not any_name:
            raise unknown_option(name, names)
    if base is None:
        own.setdefault("ttl", storage.default_ttl)
    policy = Policy.make(base, **own, params=given)
    check_ttl(storage, policy)
    _check_times(storage, policy)
    return policy


def check_ttl(storage: EntryStorage, policy: Policy) -> None:
    """Raise `ConfigurationError` for a ``ttl`` that the storage cannot keep."""
    if policy.ttl is None:
        return
    names, any_name = _parameters(storage)
    if "ttl" not in names and not any_name:
        raise ConfigurationError(
            f"ttl= was given, but {storage.takes.__qualname__} takes no ttl; write it as "
            "`async def set(self, key, value, *, ttl=None)`, or make it an EntryStorage"
        )


def _check_times(storage: EntryStorage, policy: Policy) -> None:
    if policy.needs_times and not storage.keeps_times:
        raise ConfigurationError(
            f"{storage!r} does not know when a value was stored, which old values, cached errors "
            "and refreshes need; make it an EntryStorage, with the methods now, fetch, lease, "
            "renew, commit, release, store, discard and evict"
        )


def _parameters(storage: EntryStorage) -> tuple[set[str], bool]:
    """Return the names of the parameters that a value may come with, and whether any other."""
    names: set[str] = set()
    for one in list(inspect.signature(storage.takes).parameters.values())[2:]:
        if one.kind is one.VAR_KEYWORD:
            return names, True
        names.add(one.name)
    return names, False
