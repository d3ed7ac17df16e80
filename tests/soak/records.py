"""What the workers did, in files: 28 bytes for each operation, which outlive a worker's SIGKILL.

The order of operations in different processes is that of `time.monotonic`: one clock for all
processes of a machine, which never goes back. An operation was before another if it ended before
the other began; otherwise they overlap.

A *round* is a stretch of time with keys of its own, so that the files of a round can be judged and
thrown away when it is over.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from math import inf
from pathlib import Path
from typing import NamedTuple

__all__ = ["KEYS", "Flag", "Log", "Record", "Sort", "logs_of", "make_token", "maker_of", "name_of"]

KEYS = 24
"""Keys of a place in each round."""
_FORM = struct.Struct("<BBHddQ")


class Sort(IntEnum):
    """What an operation was."""

    READ = 0
    LOAD = 1
    PUT = 2
    INVALIDATE = 3
    FOREIGN = 4
    """A read that returned another key's value, or one that nobody made."""
    FAILED = 5
    """A read that raised what it must not."""
    LOST = 6
    """A load that lost its lease, because its process was too busy to renew it."""
    EXPIRE = 7
    """An invalidation that leaves the old value to who may be served one: it forbids nothing."""


class Flag(IntFlag):
    """What else there is to say of it."""

    NONE = 0
    FAILED = 1
    """It raised, or was cancelled: a put or invalidation may have taken effect or not."""
    RUNNING = 2
    """It had not ended yet when this was written."""
    ERROR = 4
    """What was read or loaded is an exception."""
    IN_TROUBLE = 8
    """The load began while its process had trouble with the storage, so it may have no lease."""


class Record(NamedTuple):
    """One operation; ``token`` names the load or put that made what was read (0: nothing)."""

    sort: Sort
    flag: Flag
    key: int
    begin: float
    end: float
    token: int
    worker: int


class Log:
    """Where one process writes down what it does: a file for each round."""

    def __init__(self, folder: Path, worker: int, start: float, seconds: float) -> None:
        self._folder = folder
        self._worker = worker
        self._start = start
        self._seconds = seconds
        self._files: dict[int, int] = {}

    def round(self, now: float) -> int:
        return int((now - self._start) / self._seconds)

    def write(
        self,
        number: int,
        sort: Sort,
        key: int,
        begin: float,
        end: float = inf,
        token: int = 0,
        flag: Flag = Flag.NONE,
    ) -> None:
        """Write an operation of a round. It is in the kernel's hands when this returns."""
        if number not in self._files:
            path = self._folder / f"{number:05}-{self._worker:05}.log"
            self._files[number] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            if len(self._files) > 3:  # what began two rounds ago has ended
                os.close(self._files.pop(min(self._files)))
        os.write(self._files[number], _FORM.pack(sort, flag, key, begin, end, token))

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])


def logs_of(folder: Path, number: int) -> list[Path]:
    """Return the files of a round."""
    return sorted(folder.glob(f"{number:05}-*.log"))


def read_log(path: Path) -> Iterator[Record]:
    """Return the operations of a file; of one that was written twice the end."""
    worker = int(path.stem.partition("-")[2])
    running: dict[int, Record] = {}
    data = path.read_bytes()
    for sort, flag, key, begin, end, token in _FORM.iter_unpack(data[: len(data) // 28 * 28]):
        record = Record(Sort(sort), Flag(flag), key, begin, end, token, worker)
        if record.flag & Flag.RUNNING:
            running[token] = record
            continue
        if record.sort in (Sort.LOAD, Sort.PUT):
            running.pop(token, None)
        yield record
    yield from running.values()  # the process was killed meanwhile


# --- names ----------------------------------------------------------------------------------------


def make_token(worker: int, number: int) -> int:
    """Return what names the value of one load or put among all there are."""
    return worker << 32 | number


def maker_of(token: int) -> int:
    """Return which worker made a value."""
    return token >> 32


def name_of(place: int, number: int, index: int) -> str:
    """Return the name of a key: of a place, in a round."""
    return f"{place}.{number}.{index}"
