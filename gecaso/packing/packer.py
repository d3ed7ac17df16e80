"""Values and what belongs to them, to bytes and back."""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Literal, TypeVar
from zlib import crc32

from ormsgpack import unpackb

from gecaso.entry import NOTHING, Entry, Kind
from gecaso.errors import ConfigurationError, PackError, UnpackError, ValueTooLarge
from gecaso.keys.key import Key, whole_key
from gecaso.packing import compression
from gecaso.packing.codec import READ_OPTION, Codec, unreadable
from gecaso.packing.forms import FORMS
from gecaso.packing.framing import (
    CUSTOM,
    ENTRY,
    FORMAT,
    INTACT,
    JSON,
    METHOD,
    MSGPACK,
    PICKLE,
    PLAIN_ENTRY,
    WHOLE_ENTRY,
    Frame,
    entry_head,
    framed,
    read_whole_entry,
    unframed,
    whole_entry,
)
from gecaso.packing.known_types import types_in
from gecaso.packing.serializers import ExactJSON, Serializer, chosen
from gecaso.packing.signing import Secret, Signer

__all__ = ["Packer", "Serializer", "current_packer", "pack", "unpack", "using"]

Buffer = bytes | bytearray | memoryview
T = TypeVar("T", bytes, bytes | memoryview)

MAX_BYTES = 64 * 1024 * 1024
COMPRESS_FROM = 1024  # bytes; below, there is little to gain

_NATIVE = frozenset({type(None), bool, int, float, str, bytes, list, dict})
_KINDS = ("value", "error", "uncacheable")


class Packer:
    """Turns values into bytes and back: equal, with the same types at every depth, or an error.

    ``secret``: bytes or text of at least 16 bytes, or several of them. Everything is signed with
    the first and accepted from all; only what is signed is read; what gecaso does not know is
    pickled. Without it nothing is ever unpickled.
    ``types``: classes that may be in the values: dataclasses, attrs classes, pydantic models,
    msgspec structs, named tuples, enums. Those named by their fields are known too.
    ``serializer``: ``"msgpack"``, ``"json"`` (only what JSON keeps exactly), or an object with
    ``dumps`` and ``loads``.
    ``compress``: True, False (or None), or from how many bytes on a payload is compressed.
    ``max_bytes``: the largest packed value, and the largest payload before compression.
    ``verify_key``: in a storage, whether to keep the key beside the value, and check it.

    >>> from datetime import date
    >>> packer = Packer(secret="at least sixteen bytes of it")
    >>> data = packer.pack({"since": date(1815, 12, 10)}, ttl=60)
    >>> packer.unpack(data)
    ({'since': datetime.date(1815, 12, 10)}, {'ttl': 60})
    >>> Packer().unpack(data)
    Traceback (most recent call last):
        ...
    gecaso.errors.UnpackError: the data is signed, and there is no secret here to check it with
    """

    def __init__(
        self,
        *,
        secret: Secret | None = None,
        types: Iterable[type] = (),
        serializer: Serializer | Literal["msgpack", "json"] = "msgpack",
        compress: bool | int | None = True,
        max_bytes: int = MAX_BYTES,
        verify_key: bool = False,
    ) -> None:
        if max_bytes < 1 or (compress is not False and compress is not None and compress < 1):
            raise ConfigurationError("max_bytes= and compress= are numbers of bytes, at least 1")
        self.max_bytes = max_bytes
        self._compress_from = _threshold(compress)
        self._signer = None if secret is None else Signer(secret)
        self._keeps_keys = verify_key
        self._serializer = chosen(serializer, signed=secret is not None)
        self._format = _format(self._serializer)
        self._use(Codec(_known(types)))

    def _use(self, codec: Codec) -> None:
        self._codec = codec
        self._hook = codec.hook
        simple = self._signer is None and self._serializer is None
        self._expected = PLAIN_ENTRY if simple else -1

    @property
    def verifies(self) -> bool:
        """Whether entries come with a proof of their key, see `gecaso.verifying`."""
        return self._keeps_keys or self._signer is not None

    def proof_of(self, key: Key) -> bytes:
        """Return what to keep beside a value: its key, or a keyed digest of it."""
        whole = whole_key(key)
        if self._keeps_keys or self._signer is None:
            return whole
        return self._signer.sign(b"key", whole)

    def proves(self, proof: bytes, key: Key) -> bool:
        """Return whether a value with this proof is that of ``key``."""
        whole = whole_key(key)
        if proof == whole:
            return True
        return self._signer is not None and self._signer.accepts(proof, b"key", whole)

    @property
    def types(self) -> frozenset[type]:
        """The classes that may be in a value."""
        return self._codec.types

    def also(self, types: Iterable[type]) -> Packer:
        """Return a packer like this one that knows ``types``, and those inside them, as well."""
        known = self.types | _known(types)
        if known == self.types:
            return self
        other = copy.copy(self)
        other._use(Codec(known))
        return other

    def pack(self, value: object, /, **params: object) -> bytes:
        """Return ``value`` and ``params`` as bytes.

        Raises PackError, with the ``path`` to the part that cannot be packed, or ValueTooLarge.
        """
        return self.dumps(value, {"params": params} if params else {})

    def unpack(self, data: Buffer, /) -> tuple[Any, dict[str, Any]]:
        """Return the value and the params that were packed; raise UnpackError if there are none."""
        value, header = self.loads(data)
        return value, _names(header.get("params", {}))

    def dumps(self, value: object, header: Mapping[str, object], *, key: bytes = b"") -> bytes:
        """Return ``value`` and ``header`` as bytes; a signature holds for ``key`` alone."""
        return self._seal(*self._payload(value), 0, b"", header, key)

    def loads(self, data: Buffer, *, key: bytes = b"") -> tuple[Any, dict[str, Any]]:
        """Return the value and the header that ``dumps`` packed under ``key``."""
        _, fields, value = self._open(data, key)
        return value, fields

    def pack_entry(self, entry: Entry, *, key: bytes = b"") -> bytes:
        """Return ``entry`` as bytes; a signature holds for ``key``, where it will be stored."""
        fields = _fields(entry)
        form, payload = self._payload(entry.value)
        if self._expected == PLAIN_ENTRY and not fields and len(payload) < self._compress_from:
            data = whole_entry(entry, payload)  # as most of them, in one go
            self._check_size(len(data))
            return data
        return self._seal(form, payload, ENTRY, entry_head(entry), fields, key)

    def unpack_entry(self, data: Buffer, *, key: bytes = b"") -> Entry:
        """Return the entry that was packed under ``key``; raise UnpackError if there is none."""
        if type(data) is bytes and len(data) <= self.max_bytes:
            # A hit over a network: no signature, no fields, nothing compressed.
            try:
                word, created, fresh, dead, cost, size = read_whole_entry(data)
                if word == self._expected and crc32(data) == INTACT:
                    start = WHOLE_ENTRY + size
                    value = unpackb(data[start:-4], ext_hook=self._hook, option=READ_OPTION)
                    ours = data[WHOLE_ENTRY:start]
                    return Entry(value, created, fresh, dead, cost, "value", NOTHING, NOTHING, ours)
            except struct.error:
                pass  # too short, or an error message of a server: told below
            except ValueError as error:
                raise unreadable(error) from error
        frame, fields, value = self._open(data, key)
        if frame.times is None:
            raise UnpackError("the data is a packed value, but not an entry")
        entry = Entry(value, *frame.times, *_described(fields), frame.version)
        entry.etag = _etag(fields)
        entry.proof = _proof(fields)
        return entry

    def _seal(
        self,
        form: int,
        payload: bytes,
        flags: int,
        head: bytes,
        fields: Mapping[str, object],
        key: bytes,
    ) -> bytes:
        self._check_size(len(payload))
        method = compression.PLAIN
        if len(payload) >= self._compress_from:
            method, payload = compression.compress(payload)
        flags |= method << METHOD | form << FORMAT
        packed = self._codec.dumps(dict(fields)) if fields else b""
        data = framed(flags, head, packed, payload, self._signer, key)
        self._check_size(len(data))
        return data

    def _payload(self, value: object) -> tuple[int, bytes]:
        try:
            if self._serializer is None:
                return MSGPACK, self._codec.dumps(value)
            data = self._serializer.dumps(value)
        except PackError as error:
            if self._signer is None:
                raise
            return PICKLE, _pickled(value, error)
        return self._format, data if isinstance(data, bytes) else data.encode()

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            raise ValueTooLarge(
                f"value has {size} bytes when it is packed; max_bytes is {self.max_bytes}",
                size=size,
                limit=self.max_bytes,
            )

    def _open(self, data: Buffer, key: bytes) -> tuple[Frame, dict[str, Any], Any]:
        """Return what was around the payload, the fields and the value."""
        whole = _as_buffer(data)
        if len(whole) > self.max_bytes:
            raise UnpackError(f"the data has more than {self.max_bytes} bytes")
        frame = unframed(whole, self._signer, key)
        fields = _names(self._codec.loads(frame.fields)) if frame.fields else {}
        payload = compression.decompress(frame.method, frame.payload, self.max_bytes)
        return frame, fields, self._value(frame.format, payload)

    def _value(self, form: int, payload: bytes | memoryview) -> Any:
        if form == PICKLE and self._signer is not None:
            import pickle

            return _read(pickle.loads, payload)
        if form != self._format:
            raise UnpackError("the data was packed by another serializer")
        if self._serializer is None:
            return self._codec.loads(payload)
        return _read(self._serializer.loads, bytes(payload))

    def __repr__(self) -> str:
        signed = "signed" if self._signer else "unsigned"
        return f"<Packer {signed}, {len(self.types)} types, max_bytes={self.max_bytes}>"


def _threshold(compress: bool | int | None) -> float:
    if not compress:
        return math.inf
    return COMPRESS_FROM if compress is True else compress


def _format(serializer: Serializer | None) -> int:
    if serializer is None:
        return MSGPACK
    return JSON if isinstance(serializer, ExactJSON) else CUSTOM


def _known(types: Iterable[object]) -> frozenset[type]:
    """Return ``types`` and the classes inside them; refuse what gecaso cannot take apart."""
    given = list(types)
    known = frozenset[type]().union(*map(types_in, given))
    for one in given:
        if isinstance(one, type) and one not in known and one not in FORMS and one not in _NATIVE:
            raise ConfigurationError(
                f"types= does not take {one!r}: gecaso takes apart dataclasses, attrs classes, "
                "pydantic models, msgspec structs, named tuples and enums"
            )
    return known


def _pickled(value: object, reason: PackError) -> bytes:
    import pickle  # most programs never need it

    try:
        return pickle.dumps(value, protocol=5)
    except Exception as error:  # any class may raise anything when it is pickled
        message = f"{reason}. Nor can it be pickled: {error}"
        raise PackError(message, path=reason.path) from error


def _read(loads: Callable[[T], Any], payload: T) -> Any:
    try:
        return loads(payload)
    except Exception as error:  # a serializer of the user's, or a class that has changed
        raise UnpackError(f"the payload cannot be read: {error}") from error


def _as_buffer(data: object) -> bytes | memoryview:
    """Return ``data`` as it is if possible: a large file that is mapped is not copied."""
    if isinstance(data, memoryview):
        return data.cast("B") if data.c_contiguous else data.tobytes()
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    raise TypeError(f"packed data is bytes or like bytes, not {type(data).__name__}")


def _names(fields: dict[Any, Any]) -> dict[str, Any]:
    if type(fields) is not dict:
        raise UnpackError("the data is damaged: its fields have no names")
    if not all(type(name) is str for name in fields):
        raise UnpackError("the data is damaged: its fields have no names")
    return fields


def _fields(entry: Entry) -> dict[str, object]:
    """Return what few entries have."""
    fields: dict[str, object] = {}
    if entry.kind != "value":
        fields["kind"] = entry.kind
    if entry.tags:
        fields["tags"] = dict(entry.tags)
    if entry.params:
        fields["params"] = dict(entry.params)
    if entry.etag is not None:
        fields["etag"] = entry.etag
    if entry.proof:
        fields["proof"] = entry.proof
    return fields


def _etag(fields: Mapping[str, Any]) -> str | None:
    etag = fields.get("etag")
    if not (etag is None or type(etag) is str):
        raise UnpackError("the data is damaged: its etag is no text")
    return etag


def _proof(fields: Mapping[str, Any]) -> bytes:
    proof = fields.get("proof", b"")
    if type(proof) is not bytes:
        raise UnpackError("the data is damaged: the proof of its key is no bytes")
    return proof


def _described(fields: Mapping[str, Any]) -> tuple[Kind, Mapping[str, bytes], Mapping[str, Any]]:
    """Return the kind, the tags and the params of an entry."""
    kind, tags = fields.get("kind", "value"), _names(fields.get("tags", {}))
    if kind not in _KINDS or not all(type(version) is bytes for version in tags.values()):
        raise UnpackError("the data is damaged: an entry of no known kind, or with odd tags")
    return kind, tags, _names(fields.get("params", {}))


current_packer: ContextVar[Packer] = ContextVar("gecaso.current_packer", default=Packer())  # noqa: B039 # never changed


def pack(value: object, /, **params: object) -> bytes:
    """Return ``value`` and ``params`` as bytes, by the current packer.

    Inside a three-method storage that is the packer of the function whose call is under way: it
    knows the function's types and secret. Elsewhere it is ``Packer()``.

    >>> unpack(pack({(1, 2): {3.0}}, ttl=60))
    ({(1, 2): {3.0}}, {'ttl': 60})
    """
    return current_packer.get().pack(value, **params)


def unpack(data: Buffer, /) -> tuple[Any, dict[str, Any]]:
    """Return the value and the params in ``data``, by the current packer.

    Raises UnpackError, a KeyError: inside the ``get`` of a storage, data that is damaged, foreign
    or wrongly signed is a miss.
    """
    return current_packer.get().unpack(data)


class using:  # noqa: N801 # used like a function
    """Make ``packer`` the current one within a ``with`` block, for this task or thread alone.

    >>> with using(Packer(compress=False)):
    ...     data = pack("a" * 5000)
    >>> len(data) > 5000 > len(pack("a" * 5000))
    True
    """

    __slots__ = ("_packer", "_token")

    def __init__(self, packer: Packer) -> None:
        self._packer = packer

    def __enter__(self) -> Packer:
        self._token = current_packer.set(self._packer)
        return self._packer

    def __exit__(self, *_: object) -> None:
        current_packer.reset(self._token)
