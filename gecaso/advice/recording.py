"""Recording which keys are asked for, at no cost per hit: one key in a hundred.

Whether a key is recorded is known when its entry is stored. A hit sets the entry's flag ``hot`` as
it always does; a thread looks at the flags of the recorded entries some fifty times a second, and
notes those that were set. So do the misses, which pay for it, after as many of them as there are
flags: the busier a storage is, the more happens within a fiftieth of a second. Several hits of a
key within such a while are noted once; how many requests there were in all is counted, and
`gecaso.advice.simulating` takes the others for hits.

Who records half of the keys or more wants to know exactly: then every call takes the long way, and
is noted in its turn.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from gecaso import events
from gecaso.advice import distinct, form
from gecaso.advice.sink import Sink
from gecaso.entry import SEEN, Entry
from gecaso.errors import ConfigurationError
from gecaso.keys import Key, Owner
from gecaso.keys.key import encoded

if TYPE_CHECKING:
    from pathlib import Path

    from gecaso.functions import Function
    from gecaso.storage import EntryStorage

__all__ = ["Recorder", "record"]

EXACT_FROM = 0.5
"""The part of the keys from which on nobody can mean it to cost nothing."""
FEWEST_MISSES = 32
"""Between two looks at the flags by misses, however few flags there are."""


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
        self.is_exact = sample >= EXACT_FROM
        """Whether every request is noted as it comes, at the price of the long way."""
        self._limit = form.limit_of(sample)
        self._sink = Sink(path, sample)
        self._close_sink = weakref.finalize(self, self._sink.close)  # at exit, too
        self._owners: WeakSet[Owner] = WeakSet()
        self._salts: WeakKeyDictionary[Owner, bytes] = WeakKeyDictionary()
        self._watched: dict[int, tuple[weakref.ref[Entry], bytes]] = {}
        self._sink.scan = functools.partial(_scan, self._watched)
        self._misses = 0  # since the last look
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
        self._close_sink()
        self._watched.clear()

    def flush(self) -> None:
        """Write what has come together; a thread does so by itself."""
        self._sink.flush()

    # --- what is told to it -------------------------------------------------------------------

    def follow(self, function: Function) -> None:
        """Record a function: what it has stored is watched, and its hits are counted."""
        if not self._sink.follow(function):
            return
        local = function.loading.local
        owners = function.owners()
        self._owners.update(owners)
        if local is None or not local.tells:
            return
        for owner in owners:
            for typed, entry in list(local.partition(owner).entries.items()):
                code = self._code(Key(owner, typed))
                distinct.count(self._sink.registers, code)
                if code < self._limit:
                    self._sink.facts.append(form.fact(code, None, None))
                    self._watch(code, entry)

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
        self._misses += 1
        if self._misses >= max(FEWEST_MISSES, len(self._watched)):
            self._misses = 0
            self._sink.try_look()
        code = self._code(key)
        distinct.count(self._sink.registers, code)
        if code < self._limit and entry.kind == "value":
            lifetime = entry.fresh_until - entry.created
            self._sink.facts.append(form.fact(code, weigh(entry), max(0.0, lifetime)))
            self._watch(code, entry)

    def _code(self, key: Key) -> bytes:
        if not key.owner.private:
            return form.hash_of(str(key).encode("utf-8", "surrogatepass"))
        # The keys of an instance have no text: they are recorded as of nobody else.
        salt = self._salts.get(key.owner)
        if salt is None:
            salt = self._salts[key.owner] = os.urandom(16)
        return form.hash_of(salt + encoded(key.owner, key.typed))

    def _watch(self, code: bytes, entry: Entry) -> None:
        number, watched = id(entry), self._watched

        def gone(_: object) -> None:
            watched.pop(number, None)

        entry.hot = entry.hot and SEEN  # hits of before are not for this recording
        watched[number] = (weakref.ref(entry, gone), code)


def _scan(watched: dict[int, tuple[weakref.ref[Entry], bytes]]) -> list[bytes]:
    """Return the hashes of the entries that were hit since the last scan."""
    found: list[bytes] = []
    for reference, code in list(watched.values()):
        entry = reference()
        if entry is not None and entry.hot is True:
            entry.hot = SEEN  # a policy that looks sees that it was hit
            found.append(code)
    return found


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
