"""A call -> its `Key`; a `Key` -> text of a fixed size.

A key has an *owner*, what it belongs to (a function, or nobody: `DIRECT`), and the *typed form* of
what was asked for. In process a key is compared by these two; elsewhere by its text.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, TypeVar, final

from gecaso.keys.canonical import encode_typed, frame, typed
from gecaso.keys.digests import blake2b, digest
from gecaso.keys.owners import DIRECT, Owner
from gecaso.keys.quoting import quote, quoting

__all__ = ["Key", "as_key", "encoded", "naming", "prefixed_key", "whole_key"]

T = TypeVar("T")


@final
class Key:
    """What a value is kept under: an owner and a typed form.

    Two keys are equal if their owners are the same and their typed forms are equal. ``str(key)``
    is its text, the same in every process: 65 characters ``<function>_<arguments>``, or readable,
    see `docs/keys.md`. Keys given directly can be pickled; those of functions cannot, since the
    function itself owns them: ask it for the key again with ``f.key(...)``.
    """

    __slots__ = ("_hash", "_text", "name", "owner", "typed")

    def __init__(self, owner: Owner, typed: Hashable) -> None:
        self.owner = owner
        self.typed = typed
        self._hash = hash((owner, typed))  # a miss asks for it ten times
        self._text: str | None = None
        self.name: tuple[object, Any] | None = None
        """What a storage called it last, and which one; see `naming`."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not Key:
            return NotImplemented
        return self.owner is other.owner and self.typed == other.typed

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        if self._text is None:
            self._text = _text_of(self.owner, self.typed)
        return self._text

    def __repr__(self) -> str:
        return f"<Key {_readable(self.owner.label, _elements(self.owner, self.typed))}>"

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, memo: object) -> Key:
        return self

    def __reduce__(self) -> tuple[Callable[[Hashable], Key], tuple[Hashable]]:
        if self.owner is not DIRECT:
            raise TypeError(
                f"{self!r} belongs to a function of this process and cannot be pickled. "
                "Send str(key), or the arguments, and call f.key(...) there."
            )
        return (_direct, (self.typed,))


def _direct(typed: Hashable) -> Key:
    return Key(DIRECT, typed)


def naming(make: Callable[[Key], T]) -> Callable[[Key], T]:
    """Return a function that names keys as ``make`` does; each key remembers its last name.

    A key is asked for its name several times on its way through a storage, and one that a function
    keeps, at every hit.
    """
    mine = object()

    def name_of(key: Key) -> T:
        known = key.name
        if known is not None and known[0] is mine:
            name: T = known[1]
        else:
            name = make(key)
            key.name = mine, name
        return name

    return name_of


def as_key(value: object) -> Key:
    """Return the key of a value given directly; a `Key` is itself.

    Raises `UnkeyableArgument` for a value without a stable encoding.

    >>> str(as_key("user:7"))
    'user:7'
    >>> as_key((1, "a")) == as_key((1, "a")), as_key(1) == as_key(True)
    (True, False)
    """
    return value if type(value) is Key else Key(DIRECT, typed(value, "key"))


def prefixed_key(value: object, start: str = "") -> Key:
    """Return the key of what a ``key=`` callable gave, with the prefix ``start``, see `prefix`.

    Text stays readable text. A `Key` is itself.
    """
    if isinstance(value, str):
        return as_key(start + value)
    return as_key((start, value) if start and not isinstance(value, Key) else value)


# --- the text of a key ----------------------------------------------------------------------------


def _text_of(owner: Owner, typed: Any) -> str:
    if owner.hashed:
        # The commonest key of all without one more call.
        common = owner.arity == 1 and type(typed) is int
        data = b"i%x" % typed if common else encoded(owner, typed)
        return owner.start + blake2b(data, digest_size=16).hexdigest()
    if owner is not DIRECT:
        return _readable(owner.text, _elements(owner, typed))
    return typed if type(typed) is str else owner.start + digest(encode_typed(typed))


def encoded(owner: Owner, typed: Any) -> bytes:
    """Return the canonical bytes of what an owner was asked for: equal keys, equal bytes."""
    if owner.arity != 1:
        return _joined(typed)
    return encode_typed(typed)


def whole_key(key: Key) -> bytes:
    """Return the canonical bytes of a key as a whole: no two keys have the same."""
    if key.owner is DIRECT:
        return encode_typed(key.typed)
    return frame(key.owner.text.encode()) + encoded(key.owner, key.typed)


def _joined(elements: tuple[Any, ...]) -> bytes:
    """Join encodings so that no other elements give the same bytes."""
    # An integer ends with a semicolon, which is quicker than a frame, and no frame begins with i.
    return b"".join([b"i%x;" % e if type(e) is int else frame(encode_typed(e)) for e in elements])


def _elements(owner: Owner, typed: Any) -> tuple[Hashable, ...]:
    return (typed,) if owner.arity == 1 else typed


def _readable(text: str, elements: Iterable[Hashable]) -> str:
    return f"{text}({','.join(map(_readable_element, elements))})"


def _readable_element(element: Any) -> str:
    if isinstance(element, str):
        return f"'{quote(element, quoting(_QUOTED))}'"
    if isinstance(element, int):
        return str(element)
    return "#" + digest(element[0]) if len(element) == 1 else _readable_scalar(*element)


_QUOTED: Final = "'(),"


def _readable_scalar(kind: type, value: Any) -> str:
    if kind is bytes:
        return f"b'{value.hex()}'"
    if kind is float and isinstance(value, str):
        return str(float.fromhex(value))
    return str(value)
