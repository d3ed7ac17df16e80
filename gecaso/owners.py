"""What a key belongs to: a function, one instance of a class, or nobody."""

from __future__ import annotations

import functools
import re
import threading
import types
import weakref
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Any, Final, final
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from gecaso.canonical import encode, module_name
from gecaso.errors import AmbiguousFunction, UnkeyableArgument
from gecaso.quoting import quote

__all__ = [
    "DIRECT",
    "Owner",
    "check_ambiguous",
    "digest",
    "identity",
    "owner_of",
    "owner_of_instance",
    "prefix",
]


def digest(data: bytes) -> str:
    """Return 32 hexadecimal digits that name ``data``."""
    return blake2b(data, digest_size=16).hexdigest()


@final
class Owner:
    """What a key belongs to. Compared by identity; `owner_of` gives one function one owner.

    ``text`` is its identity to be read, ``digest`` the same in 32 hexadecimal digits, ``arity`` the
    number of elements in a typed key, ``hashed`` whether the text of a key is of a fixed size. A
    ``private`` owner is known in this process only: its keys have no text.
    """

    __slots__ = ("__weakref__", "_text", "arity", "digest", "hashed", "label", "private", "start")

    def __init__(
        self,
        text: str,
        *,
        arity: int = 1,
        hashed: bool = True,
        label: str | None = None,
        private: bool = False,
    ) -> None:
        self._text = text
        self.arity = arity
        self.hashed = hashed and not private  # the text of a private key is refused, not hashed
        self.label = label or text
        self.private = private
        self.digest = digest(encode(text))
        self.start = self.digest + "_"

    @property
    def text(self) -> str:
        """The identity, with namespace and version. Raises `UnkeyableArgument` when private."""
        if self.private:
            raise UnkeyableArgument(self._text, argument="self")
        return self._text

    def __repr__(self) -> str:
        kind = "private " if self.private else ""
        return f"<{kind}owner {self.label}, {self.arity} elements>"


DIRECT: Final = Owner("", label="direct")


# --- the identity of a function -------------------------------------------------------------------


def identity(function: Callable[..., Any]) -> str:
    """Return the name of ``function`` that is the same in every process.

    It is ``module.qualname``; in ``__main__`` the name of the module or script that was run. Of a
    `functools.partial` and of an instance with ``__cache_key__`` it also has a digest of what they
    hold. Raises `UnkeyableArgument` for a callable that has no such name.

    >>> import json
    >>> identity(json.dumps), identity(functools.partial(json.dumps, indent=1))
    ('json.dumps', 'json.dumps#23b76ca0a8c5f6f6b1b2a8b8b1d0a0f5')
    """
    if isinstance(function, functools.partial):
        held = encode((function.args, function.keywords), name="partial")
        return f"{identity(function.func)}#{digest(held)}"
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, types.ModuleType):
        if isinstance(qualname := getattr(function, "__qualname__", None), str):
            return f"{module_name(function.__module__)}.{qualname}"
        kind = type(function)
        name = f"{module_name(kind.__module__)}.{kind.__qualname__}.__call__"
        return f"{name}#{digest(encode(function, name='callable'))}"
    name = getattr(function, "__name__", "?")
    if isinstance(owner, type):
        return f"{module_name(owner.__module__)}.{owner.__qualname__}.{name}"
    kind = type(owner)
    held = encode(owner, name="self")
    return f"{module_name(kind.__module__)}.{kind.__qualname__}.{name}#{digest(held)}"


def prefix(namespace: str | None = None, version: str | int | None = None) -> str:
    """Return what ``namespace`` and ``version`` put before a text: ``namespace:v1:``.

    A version that is text is written ``v=text:``. So that no namespace reads as a version, one
    that starts like one is escaped. ``namespace=""`` is none at all.

    >>> prefix("app", 2), prefix("app"), prefix(None, "a b"), prefix("v2"), prefix("", None)
    ('app:v2:', 'app:', 'v=a%20b:', '%762:', '')
    """
    text = ""
    if namespace:
        parts = [quote(part) for part in namespace.split(":")]
        text = ":".join(_LIKE_VERSION.sub("%76", part) for part in parts) + ":"
    if version is not None:
        text += f"v{version}:" if isinstance(version, int) else f"v={quote(version)}:"
    return text


_LIKE_VERSION: Final = re.compile(r"^v(?=[-=\d])")


_owners: WeakKeyDictionary[Any, WeakValueDictionary[Hashable, Owner]] = WeakKeyDictionary()
_lock = threading.Lock()


def owner_of(
    function: Callable[..., Any],
    *,
    namespace: str | None = None,
    version: str | int | None = None,
    ignore: tuple[str, ...] = (),
    hash_key: bool = True,
    arity: int = 1,
) -> Owner:
    """Return the owner of the keys of ``function`` under these options.

    The same function object with the same options has one owner; two function objects have two,
    even of the same name. The owner does not keep the function alive. A callable without a stable
    name gets a private owner.
    """
    start = prefix(namespace, version)
    spec = (start, ignore, hash_key, arity)
    with _lock:
        owners = _owners.setdefault(function, WeakValueDictionary())
        owner = owners.get(spec)
        if owner is None:
            owner = owners[spec] = _new_owner(function, start, ignore, hash_key, arity)
        return owner


def _new_owner(
    function: Callable[..., Any], start: str, ignore: tuple[str, ...], hash_key: bool, arity: int
) -> Owner:
    try:
        text = start + identity(function)
    except UnkeyableArgument as error:
        return Owner(str(error), arity=arity, label=repr(function), private=True)
    # Without this, f ignoring its first argument and f ignoring its second would share entries.
    text += "".join(f"-{name}" for name in ignore)
    return Owner(text, arity=arity, hashed=hash_key)


_instances: dict[int, tuple[weakref.ref[Any], WeakKeyDictionary[Owner, Owner]]] = {}


def owner_of_instance(owner: Owner, instance: object) -> Owner:
    """Return the owner of the keys that a method has for one ``instance``, in this process only.

    It is private: ``str(key)`` raises `UnkeyableArgument`. It is forgotten with the instance.
    Raises `UnkeyableArgument` for an instance that cannot be referenced weakly.
    """
    number = id(instance)
    found = _instances.get(number)
    if found is None or found[0]() is not instance:
        found = _instances[number] = (_reference(instance, number), WeakKeyDictionary())
    owners = found[1]
    with _lock:
        mine = owners.get(owner)
        if mine is None:
            mine = owners[owner] = _instance_owner(owner, type(instance).__qualname__)
        return mine


def _reference(instance: object, number: int) -> weakref.ref[Any]:
    def gone(reference: weakref.ref[Any]) -> None:
        # By the time this runs, the id may already belong to another instance.
        if (found := _instances.get(number)) is not None and found[0] is reference:
            del _instances[number]

    try:
        return weakref.ref(instance, gone)
    except TypeError:
        raise UnkeyableArgument(
            f"{type(instance).__qualname__} instances cannot be referenced weakly, so self cannot "
            "own entries. Add '__weakref__' to its __slots__, give the class a __cache_key__(), "
            'or drop self with ignore=("self",).',
            argument="self",
        ) from None


def _instance_owner(owner: Owner, kind: str) -> Owner:
    reason = (
        f"{owner.label}: self has no stable encoding, so its keys mean nothing outside this "
        f"process. Give {kind} a __cache_key__() that returns what identifies an instance, "
        'or drop self with ignore=("self",).'
    )
    return Owner(reason, arity=owner.arity, label=owner.label, private=True)


# --- two functions of one name ------------------------------------------------------------------

_functions: WeakKeyDictionary[object, dict[str, WeakSet[Any]]] = WeakKeyDictionary()


def check_ambiguous(function: Callable[..., Any], owner: Owner, storage: object) -> None:
    """Refuse ``function`` on a shared ``storage`` if another one has entries of the same name there.

    Raises `AmbiguousFunction` for a lambda, and for a second live function of the same name with
    other code, defaults or closure values; `UnkeyableArgument` for a function without a name.
    """
    if getattr(function, "__name__", "") == "<lambda>":
        raise AmbiguousFunction(
            f"{owner.text} is a lambda: all lambdas of a place have one name, so on a shared storage "
            f"one would read the entries of another. {_REMEDIES}"
        )
    with _lock:
        same_name = _functions.setdefault(storage, {}).setdefault(owner.text, WeakSet())
        for other in same_name:
            if not _same_function(other, function, set()):
                raise AmbiguousFunction(
                    f"there are two functions called {owner.text} on one shared storage, with "
                    f"different code or closure values; one would read the entries of the other. "
                    f"{_REMEDIES}"
                )
        same_name.add(function)


_REMEDIES: Final = "Give it its own name with key= or namespace=."


def _same_function(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if one is other or (id(one), id(other)) in seen:
        return True
    if not (isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType)):
        return False
    seen.add((id(one), id(other)))
    return (
        _same_code(one.__code__, other.__code__)
        and _same_value(one.__defaults__, other.__defaults__, seen)
        and _same_value(one.__kwdefaults__, other.__kwdefaults__, seen)
        and all(
            map(functools.partial(_same_cell, seen), one.__closure__ or (), other.__closure__ or ())
        )
    )


def _same_code(one: types.CodeType, other: types.CodeType) -> bool:
    """Compare what two pieces of code do, wherever they were written."""
    return _does(one) == _does(other)


def _does(code: types.CodeType) -> tuple[object, ...]:
    constants = tuple(
        _does(item) if isinstance(item, types.CodeType) else (type(item), repr(item))
        for item in code.co_consts
    )
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return (code.co_code, code.co_exceptiontable, constants, names, counts)


def _same_cell(seen: set[tuple[int, int]], one: types.CellType, other: types.CellType) -> bool:
    try:
        return _same_value(one.cell_contents, other.cell_contents, seen)
    except ValueError:  # one is empty as yet: the function's own name, in a factory
        return True


def _same_value(one: Any, other: Any, seen: set[tuple[int, int]]) -> bool:
    if one is other:
        return True
    if isinstance(one, types.FunctionType):
        return _same_function(one, other, seen)
    try:
        return encode(one) == encode(other)
    except UnkeyableArgument:  # nothing is known of them but that they are two
        return False
