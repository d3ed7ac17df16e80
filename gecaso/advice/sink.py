"""The file of a recording, and the thread that writes it: who asks never waits for a disk."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from gecaso.advice import distinct, form

if TYPE_CHECKING:
    from gecaso.functions import Function

__all__ = ["PAUSE", "Sink"]

logger = logging.getLogger("gecaso")

PAUSE = 0.02
"""Seconds between two scans, at least. Requests in between are taken to be evenly spread."""
SHARE = 0.003
"""Of the time, that scans may take at most: with many entries there are fewer scans."""
WRITE_EVERY = 1.0
"""Seconds between two writes."""
KEYS_EVERY = 10
"""Writes, between two blocks of up to 16 KiB that say how many different keys there were."""


class Sink:
    """Takes what is recorded, and writes it every now and then.

    ``items`` and ``facts`` are lists to append to, from any thread: hashes of keys as they were
    asked for, and `form.fact`. ``long`` is the number of requests that did not go the shortest
    path; those that did are counted by their functions (`follow`). ``registers`` count the keys.
    """

    def __init__(self, path: str | os.PathLike[str], sample: float) -> None:
        self.pattern = os.fspath(path)
        self.sample = sample
        self.items: list[bytes] = []
        self.facts: list[bytes] = []
        self.long = 0
        self.registers = distinct.registers()
        self.scan: Callable[[], list[bytes]] = list
        self._followed: dict[int, tuple[weakref.ref[Function], int]] = {}
        self._open()
        _sinks.add(self)

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._begin = time.monotonic()
        self._last = 0.0
        self._quick = 0
        self._writes = 0
        self._data = b""
        self._file: FileIO | None = _new_file(self.pattern)
        self.path = Path(str(self._file.name))
        self._file.write(form.header(self.sample, time.time()))
        me = weakref.ref(self)
        threading.Thread(
            target=_run, args=(me, self._stop), name="gecaso-recording", daemon=True
        ).start()

    def follow(self, function: Function) -> bool:
        """Count the hits of a function that only itself knows of; return whether it is new."""
        known = self._followed.get(id(function))
        if known is not None and known[0]() is function:
            return False
        self._followed[id(function)] = (weakref.ref(function), function.compiled.hits(False))
        return True

    def _count(self) -> int:
        for number, (reference, before) in list(self._followed.items()):
            function = reference()
            if function is None:
                self._followed.pop(number, None)
                continue
            hits = function.compiled.hits(False)
            self._quick += hits - before if hits >= before else hits  # or it was set to zero
            self._followed[number] = (reference, hits)
        return self.long + self._quick

    def look(self) -> None:
        """Take what has come together since the last look."""
        with self._lock:
            self._look()

    def try_look(self) -> None:
        """Do so, unless another thread is at it or writes."""
        if self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()

    def _look(self) -> None:
        before, self._last = self._last, time.monotonic() - self._begin
        items = _taken(self.items) + self.scan()
        if items:
            self._data += form.requests(items, before, self._last)

    def flush(self) -> None:
        """Look, and write what there is."""
        with self._lock:
            self._look()
            if facts := _taken(self.facts):
                self._data += form.block(form.FACTS, b"".join(facts))
            data, self._data = self._data, b""
            if self._file is None or not data:
                return
            data += form.total(self._count())
            if self._writes % KEYS_EVERY == 0:
                data += form.keys(bytes(self.registers))
            self._writes += 1
            self._write(data)

    def _write(self, data: bytes) -> None:
        file = self._file
        assert file is not None
        try:
            if file.write(data) < len(data):
                raise OSError("there is no more room")
        except OSError as error:  # what was written before is good
            logger.warning("recording into %s ends: it cannot be written: %s", self.path, error)
            self._file = None
            file.close()

    def close(self) -> None:
        """Write the rest, and end."""
        self._stop.set()
        self.flush()
        with self._lock:
            if self._file is not None:
                self._write(form.total(self._count()) + form.keys(bytes(self.registers)))
            if self._file is not None:
                self._file.close()
                self._file = None

    def after_fork(self) -> None:
        """Go on into a file of this process's own."""
        was_open, self._file = self._file is not None, None
        self._lock = threading.Lock()
        self.items.clear()
        self.facts.clear()
        self.long = 0
        self.registers[:] = distinct.registers()
        for number, (reference, _) in list(self._followed.items()):
            if (function := reference()) is not None:
                self._followed[number] = (reference, function.compiled.hits(False))
        if not was_open:
            return
        try:
            self._open()
        except OSError as error:
            logger.warning("this process records nothing: %s", error)


def _taken(things: list[bytes]) -> list[bytes]:
    # Others append meanwhile.
    count = len(things)
    taken = things[:count]
    del things[:count]
    return taken


def _run(me: weakref.ref[Sink], stop: threading.Event) -> None:
    pause, last = PAUSE, time.monotonic()
    while not stop.wait(pause):
        sink = me()
        if sink is None:
            return
        if time.monotonic() - last > WRITE_EVERY:
            sink.flush()
            last = time.monotonic()
        else:
            before = time.thread_time()
            sink.look()
            pause = max(PAUSE, (time.thread_time() - before) / SHARE)
        del sink


def _new_file(pattern: str) -> FileIO:
    """Open a file that was not there: that of the pattern, else one named after the process."""
    first = Path(pattern.replace("{pid}", str(os.getpid())))
    candidates = [first, first.with_name(f"{first.stem}.{os.getpid()}{first.suffix}")]
    number = 1
    while True:
        for path in candidates:
            try:
                return path.open("xb", buffering=0)
            except FileExistsError:
                pass
        number += 1
        candidates = [first.with_name(f"{first.stem}.{os.getpid()}-{number}{first.suffix}")]


_sinks: weakref.WeakSet[Sink] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for sink in list(_sinks):
        sink.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
