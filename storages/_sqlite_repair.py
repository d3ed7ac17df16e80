"""A damaged file is set aside, whole, and a new one takes its place."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
from collections.abc import Generator
from datetime import datetime
from pathlib import Path
from typing import Final

from ._sqlite_schema import Identity

__all__ = ["set_aside"]

logger = logging.getLogger("gecaso")

KEPT: Final = 3  # files set aside, so that a disk that breaks all files is not filled with them


def set_aside(path: str, damaged: Identity | None, reason: object) -> str | None:
    """Rename the file and what belongs to it; return its new name.

    Returns None when another process has done so already: what is there is not the file that was
    found ``damaged``. Raises `OSError`.
    """
    with _alone(Path(path).parent):
        try:
            there = os.stat(path)
        except FileNotFoundError:
            return None
        if damaged != (there.st_dev, there.st_ino):
            return None
        aside = f"{path}.damaged-{datetime.now():%Y%m%d-%H%M%S-%f}"
        # The log goes first: SQLite must never find it beside another database.
        for part in ("-wal", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(path + part, aside + part)
        Path(f"{path}-shm").unlink(missing_ok=True)
        _forget_oldest(path)
    logger.warning("%s was damaged (%s) and is now %s; it starts empty", path, reason, aside)
    return aside


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Keep other processes from doing the same. The lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _forget_oldest(path: str) -> None:
    found = [name for name in glob.glob(f"{glob.escape(path)}.damaged-*") if name[-4:] != "-wal"]
    for name in sorted(found)[:-KEPT]:
        for part in ("-wal", ""):
            Path(name + part).unlink(missing_ok=True)
