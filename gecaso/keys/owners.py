"""What a key belongs to: a function, one instance of a class, or nobody."""

from __future__ import annotations

import functools
import os
import re
import threading
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Final, final
from weakref import WeakKeyDictionary, WeakValueDictionary

from gecaso.errors import UnkeyableArgument
from gecaso.keys.canonical import encode
from gecaso.keys.digests import digest
from gecaso.keys.names import module_name
from gecaso.keys.quoting import quote

__all__ = [
    "DIRECT",
    "Owner",
    "identity",
    "owner_of",
    "owner_of_instance",
    "prefix",
]


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
        return f"<{kind}owner {self.label}, arity {self.arity}>"


DIRECT: Final = Owner("", label="direct", hashed=False)


# --- the identity of a function -------------------------------------------------------------------


def identity(function: Callable[..., object]) -> str:
    """Return the name of ``function`` that is the same in every process.

    It is ``module.qualname``; in ``__main__`` the name of the module or script that was run. Of a
    `functools.partial` and of an instance with ``__cache_key__`` it also has a digest of what they
    hold. Raises `UnkeyableArgument` for a callable that has no such name.

    >>> import json
    >>> identity(json.dumps), identity(functools.partial(json.dumps, indent=1))
    ('json.dumps', 'json.dumps#182460102639ed591560d05cc4cd383f')
    """
    if isinstance(function, functools.partial):
        return _holding(identity(function.func), (function.args, function.keywords))
    bound: object = getattr(function, "__self__", None)
    qualname = getattr(function, "__qualname__", None)
    if isinstance(qualname, str) and (bound is None or isinstance(bound, types.ModuleType)):
        return f"{module_name(str(function.__module__))}.{qualname}"
    if bound is None:
        return _holding(_dotted(type(function)) + ".__call__", function)
    if isinstance(bound, type):
        return f"{_dotted(bound)}.{function.__name__}"
    return _holding(f"{_dotted(type(bound))}.{function.__name__}", bound)


def _holding(name: str, held: object) -> str:
    return f"{name}#{digest(encode(held, name=name))}"


def _dotted(kind: type[object]) -> str:
    return f"{module_name(kind.__module__)}.{kind.__qualname__}"


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
        text = ":".join(re.sub(_LIKE_VERSION, "%76", part) for part in parts) + ":"
    if version is not None:
        text += f"v{version}:" if isinstance(version, int) else f"v={quote(version)}:"
    return text


_LIKE_VERSION: Final = r"^v(?=[-=\d])"


_owners: WeakKeyDictionary[Any, WeakValueDictionary[Hashable, Owner]] = WeakKeyDictionary()
_instances: dict[int, tuple[weakref.ref[Any], WeakKeyDictionary[Owner, Owner]]] = {}
_lock = threading.Lock()


def _remake_lock() -> None:
    global _lock
    _lock = threading.Lock()


# In the parent, another thread may have held it.
os.register_at_fork(after_in_child=_remake_lock)


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
        try:
            owners = _owners.setdefault(function, WeakValueDictionary())
        except TypeError:  # cannot be hashed, or not be referenced weakly
            return _new_owner(function, *spec)
        owner = owners.get(spec)
        if owner is None:
            owner = owners[spec] = _new_owner(function, *spec)
        return owner


def _new_owner(
    function: Callable[..., Any], start: str, ignore: tuple[str, ...], hash_key: bool, arity: int
) -> Owner:
    try:
        text = start + identity(function)
    except UnkeyableArgument as error:
        label = type(function).__qualname__
        return Owner(str(error), arity=arity, label=label, private=True)
    # Else f ignoring its first argument and f ignoring its second would share entries.
    text += "".join(f"-{name}" for name in sorted(ignore))
    return Owner(text, arity=arity, hashed=hash_key)


def owner_of_instance(owner: Owner, instance: object) -> Owner:
    """Return the owner of the keys that a method has for one ``instance``, in this process only.

    It is private: ``str(key)`` raises `UnkeyableArgument`. It is forgotten with the instance.
    Raises `UnkeyableArgument` for an instance that cannot be referenced weakly.
    """
    kind = type(instance).__qualname__
    with _lock:
        owners = _owners_of_instance(instance)
        mine = owners.get(owner)
        if mine is None:
            reason = f"self, of {kind}, has no stable encoding, so {owner.label} has no keys that "
            reason += f"mean anything outside this process. {_SELF_REMEDIES}"
            mine = Owner(reason, arity=owner.arity, label=owner.label, private=True)
            owners[owner] = mine
        return mine


_SELF_REMEDIES: Final = (
    "Give the class a __cache_key__() that returns what identifies an instance, "
    'or drop self with ignore=("self",).'
)


def _owners_of_instance(instance: object) -> WeakKeyDictionary[Owner, Owner]:
    kind, number = type(instance).__qualname__, id(instance)
    found = _instances.get(number)
    if found is not None and found[0]() is instance:
        return found[1]

    def gone(reference: weakref.ref[Any]) -> None:
        # By the time this runs, the number may already be that of another instance.
        if (found := _instances.get(number)) is not None and found[0] is reference:
            del _instances[number]

    try:
        reference = weakref.ref(instance, gone)
    except TypeError:
        raise UnkeyableArgument(
            f"self, of {kind}, cannot be referenced weakly, so it cannot own "
            f"entries. Add '__weakref__' to its __slots__, or: {_SELF_REMEDIES}",
            argument="self",
        ) from None
    owners: WeakKeyDictionary[Owner, Owner] = WeakKeyDictionary()
    _instances[number] = (reference, owners)
    return owners
