"""A cached function where it stands: outside a class a real function, inside one a descriptor."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from gecaso.calls import Stats
from gecaso.functions import Function
from gecaso.operations import (
    COLOURLESS,
    OF_A_CALL,
    OPERATIONS,
    AsyncOperations,
    PlainOperations,
)

__all__ = ["Method", "as_function", "is_in_class_body"]


def is_in_class_body(function: Callable[..., Any]) -> bool:
    """Return whether a function was defined directly in the body of a class."""
    if inspect.ismethod(function):  # it is of an instance already
        return False
    outer = getattr(function, "__qualname__", "").rpartition(".")[0]
    return bool(outer) and not outer.endswith("<locals>")


def as_function(function: Function) -> Callable[..., Any]:
    """Return the path of a hit, dressed as the user's function, with the operations on it."""
    path = functools.update_wrapper(function.path, function.uncached)
    face = (AsyncOperations if function.is_async else PlainOperations)(function)
    attributes = vars(path)
    for name in OPERATIONS:
        attributes[name] = getattr(face, name)
    for name in COLOURLESS:
        if name != "stats":
            attributes[name] = getattr(function, name)
    attributes["stats"] = Live(function)
    attributes["gecaso_function"] = function
    return path


class Live(Stats):
    """The statistics of a function: each number is read when it is asked for."""

    def __init__(self, function: Function) -> None:
        object.__setattr__(self, "_function", function)

    def __getattribute__(self, name: str) -> Any:
        if name in Stats.__dataclass_fields__:
            function: Function = object.__getattribute__(self, "_function")
            return getattr(function.stats, name)
        return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        return repr(Stats(**asdict(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stats) and asdict(self) == asdict(other)

    __hash__ = None  # type: ignore[assignment]  # compared by values that change


class Method:
    """A cached function in a class body: `obj.method.invalidate(1)` means what it says.

    ``make(is_method)`` makes the function: whether the first argument is the instance shows when
    the class is made (``__set_name__`` is not called for what `staticmethod` or `classmethod`
    wraps). ``to_class`` binds it to the class, whatever it is looked up on.
    """

    def __init__(
        self, make: Callable[[bool], Function], *, is_method: bool, to_class: bool = False
    ) -> None:
        self._make = make
        self._to_class = to_class
        self._is_method = is_method
        self._path = as_function(make(is_method))
        # What to bind to an instance, once it is known that an instance is what it is bound to.
        self._method = self._path if is_method and not to_class else None
        functools.update_wrapper(self, self._path, updated=())

    def __set_name__(self, owner: type, name: str) -> None:
        if _takes_position(self._path):
            self._become_method()

    def _become_method(self) -> None:
        if not self._is_method:
            self._is_method = True
            self._path = self._method = as_function(self._make(True))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is not None and self._method is not None:
            return Bound(self._method, instance)
        bound_to = owner if self._to_class else instance
        if bound_to is None:
            return self._path
        if not self._is_method:  # `classmethod` binds without telling the name
            self._become_method()
        return Bound(self._path, bound_to)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._path(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # All that makes a function, __code__ included: so `inspect` sees one, of its colour.
        if name == "_path":  # not there yet: no endless recursion
            raise AttributeError(name)
        if self._method is not None and name in OPERATIONS:
            # Python 3.13's `classmethod` does not say which class it was looked up on.
            raise AttributeError(
                f"{name} cannot know the class: write @cached(...) above @classmethod, not below"
            )
        return getattr(self._path, name)

    def __repr__(self) -> str:
        return repr(self._path)


def _takes_position(function: Callable[..., Any]) -> bool:
    for one in inspect.signature(function).parameters.values():
        return one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    return False


class Bound(functools.partial[Any]):
    """A cached method of one instance: a partial, since one is made at each access."""

    __slots__ = ()

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]  # that of the user's function
        return self.func.__doc__

    @property
    def __self__(self) -> Any:
        return self.args[0]

    @property
    def __func__(self) -> Callable[..., Any]:
        return self.func

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.uncached

    @property
    def uncached(self) -> Callable[..., Any]:
        function: Function = vars(self.func)["gecaso_function"]
        return functools.partial(function.uncached, *self.args)

    def put(self, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        return vars(self.func)["put"](value, *self.args, *args, **kwargs)

    def clear(self) -> Any:
        return vars(self.func)["clear"](*self.args)

    def keys(self) -> Any:
        return vars(self.func)["keys"](*self.args)

    def map(self, *iterables: Iterable[Any]) -> Any:
        bound = [itertools.repeat(one) for one in self.args]
        return vars(self.func)["map"](*bound, *iterables)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.func, name)
        if name in OF_A_CALL:
            return functools.partial(value, *self.args)
        return value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bound):
            return NotImplemented
        return self.func is other.func and self.args[0] is other.args[0]

    def __hash__(self) -> int:
        return hash((id(self.func), id(self.args[0])))

    def __repr__(self) -> str:
        return f"<bound {self.func!r} of {self.args[0]!r}>"
