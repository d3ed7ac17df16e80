"""Recording which keys are asked for, at next to no cost: one key in a hundred, all its requests.

Whether a key is recorded is known when its entry is stored. Such an entry is *marked*: it becomes
one of a class whose ``hot``, which every hit sets, notes the hit as well. Entries of other keys,
and the path of a hit, are as they were.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from gecaso import events
from gecaso.advice import distinct, form
from gecaso.advice.sink import Sink
from gecaso.entry import Entry, set_hot
from gecaso.errors import ConfigurationError
from gecaso.keys import Key, Owner
from gecaso.keys.key import encoded

if TYPE_CHECKING:
    from pathlib import Path

    from gecaso.functions import Function
    from gecaso.storage import EntryStorage

__all__ = ["Recorder", "record"]


class Recorder:
    """Notes the requests of a storage's keys in a file; made by ``storage.recording(path)``.

    ``sample`` is the part of the keys, above 0 and at most 1. ``path`` is the file that is written:
    where the one asked for was there already, one beside it. With ``is_partial`` it notes the
    functions with ``record=`` alone.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, sample: float = 0.01, is_partial: bool = False
    ) -> None:
        if isinstance(sample, bool) or not 0 < sample <= 1:
            raise ValueError(
                f"sample= is a part of the keys, above 0 and at most 1, not {sample!r}"
            )
        self.sample = sample
        self.is_partial = is_partial
        self._limit = form.limit_of(sample)
        self._sink = Sink(path, sample)
        self._close_sink = weakref.finalize(self, self._sink.close)  # at exit, too
        self._owners: WeakSet[Owner] = WeakSet()
        self._salts: WeakKeyDictionary[Owner, bytes] = WeakKeyDictionary()
        self._codes: dict[int, bytes] = {}
        self._marks: dict[int, weakref.ref[Entry]] = {}
        self._marked = _class_of_marked(self._codes, self._sink.items.append)
        self._storage: weakref.ref[EntryStorage] | None = None

    def __repr__(self) -> str:
        return f"<Recorder of {self.sample:.3%} of the keys, into {self.path}>"

    @property
    def path(self) -> Path:
        """The file of this process."""
        return self._sink.path

    @property
    def pattern(self) -> str:
        """The path as it was given."""
        return self._sink.pattern

    def begin(self, storage: EntryStorage) -> None:
        """Record what is asked of a storage from now on."""
        if storage.recorder is not None:
            self.close()
            raise ConfigurationError(
                f"{storage!r} is being recorded into {storage.recorder.pattern} already; "
                "one recording at a time, into one file"
            )
        self._storage = weakref.ref(storage)
        storage.recorder = self
        events.changed()

    def close(self) -> None:
        """End the recording, and write what is left of it."""
        storage = None if self._storage is None else self._storage()
        if storage is not None and storage.recorder is self:
            storage.recorder = None
            events.changed()
        for mark in list(self._marks.values()):
            if (entry := mark()) is not None:
                entry.__class__ = Entry
        self._marks.clear()  # but not the codes: a hit in another thread may be about to look
        self._close_sink()

    def flush(self) -> None:
        """Write what has come together; a thread does so four times a second."""
        self._sink.flush()

    # --- what is told to it -------------------------------------------------------------------

    def follow(self, function: Function) -> None:
        """Record a function: what it has stored is marked, and its hits are counted."""
        if not self._sink.follow(function):
            return
        local = function.loading.local
        owners = function.owners()
        self._owners.update(owners)
        if local is None or not local.marks:
            return
        for owner in owners:
            for typed, entry in list(local.partition(owner).entries.items()):
                code = self._code(Key(owner, typed))
                distinct.count(self._sink.registers, code)
                if code < self._limit:
                    self._sink.facts.append(form.fact(code, None, None))
                    self._mark(code, entry)

    def asked(self, key: Key) -> None:
        """Note a request that does not go the shortest path."""
        self._sink.long += 1
        code = self._code(key)
        distinct.count(self._sink.registers, code)
        if code < self._limit:
            self._sink.items.append(code)
        if key.owner not in self._owners:
            self._owners.add(key.owner)

    def noting(
        self, make_key: Callable[[Any, tuple[Any, ...]], Key], miss: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return ``miss``, a function's way on where the shortest path ends, with a note."""
        asked = self.asked

        def noted(typed_key: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            asked(make_key(typed_key, args))
            return miss(typed_key, args, kwargs)

        return noted

    def looked_up(self, key: Key) -> None:
        """Note a request that no function made."""
        if not self.is_partial or key.owner in self._owners:
            self.asked(key)

    def stored(self, key: Key, entry: Entry, weigh: Callable[[Entry], int | None]) -> None:
        """Note what was stored in this process; ``weigh(entry)`` gives bytes."""
        if self.is_partial and key.owner not in self._owners:
            return
        code = self._code(key)
        distinct.count(self._sink.registers, code)
        if code < self._limit and entry.kind == "value":
            lifetime = entry.fresh_until - entry.created
            self._sink.facts.append(form.fact(code, weigh(entry), max(0.0, lifetime)))
            self._mark(code, entry)

    def _code(self, key: Key) -> bytes:
        if not key.owner.private:
            return form.hash_of(str(key).encode("utf-8", "surrogatepass"))
        # The keys of an instance have no text: they are recorded as of nobody else.
        salt = self._salts.get(key.owner)
        if salt is None:
            salt = self._salts[key.owner] = os.urandom(16)
        return form.hash_of(salt + encoded(key.owner, key.typed))

    def _mark(self, code: bytes, entry: Entry) -> None:
        if type(entry) is not Entry:
            return
        number, codes, marks = id(entry), self._codes, self._marks

        def gone(_: object) -> None:
            codes.pop(number, None)
            marks.pop(number, None)

        codes[number] = code
        marks[number] = weakref.ref(entry, gone)
        entry.__class__ = self._marked


def _class_of_marked(codes: dict[int, bytes], append: Callable[[bytes], None]) -> type[Entry]:
    """Return a class of entries that note each hit; it adds no attribute, so that any may join."""
    get_hot = Entry.__dict__["hot"].__get__

    def noted(entry: Entry, hot: bool) -> None:
        set_hot(entry, hot)
        if hot:
            append(codes[id(entry)])

    def unmarked(entry: Entry) -> Entry:
        copy: Entry = Entry.__new__(Entry)
        for name in COPIED:
            setattr(copy, name, getattr(entry, name))
        set_hot(copy, entry.hot)
        return copy

    names: dict[str, Any] = {
        "__slots__": (),
        "__copy__": unmarked,
        "hot": property(get_hot, noted),
    }
    return type("Entry", (Entry,), names)


COPIED = [name for name in Entry.__slots__ if name not in ("__weakref__", "hot")]


def record(storage: EntryStorage, path: str | os.PathLike[str]) -> None:
    """Record the functions of a storage with ``record=path``, from now on."""
    recorder = storage.recorder
    if recorder is None:
        Recorder(path, is_partial=True).begin(storage)
    elif recorder.pattern != os.fspath(path):
        raise ConfigurationError(
            f"{storage!r} is being recorded into {recorder.pattern} already; give functions that "
            "share a storage the same record="
        )
