"""Large values: files in a folder beside the database, read where they lie.

A file is written whole under a temporary name and renamed before its row is stored, so that no row
refers to half a file; it never changes afterwards. What crashes leave behind is swept.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["Files"]

ABANDONED: Final = 600.0  # seconds after which a file without a row has none coming
UNFINISHED: Final = ".new"


class Files:
    """The files beside one database."""

    def __init__(self, path: str) -> None:
        self.folder = Path(f"{path}-values")

    def __repr__(self) -> str:
        return f"<Files in {self.folder}>"

    def write(self, data: bytes) -> str:
        """Write a new file; return its name."""
        name = secrets.token_hex(16)
        path = self._path(name)
        unfinished = path.with_suffix(UNFINISHED)
        try:
            self._write(unfinished, data)
            unfinished.rename(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        return name

    def _write(self, path: Path, data: bytes) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]

    def map(self, name: str) -> memoryview | None:
        """Return what is in a file, not copied; None if there is no such file.

        The pages are the system's, shared by all processes that read them.
        """
        try:
            with open(self._path(name), "rb", buffering=0) as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (FileNotFoundError, ValueError):  # a ValueError: it is empty, or no name
            return None

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError, ValueError):  # it is swept later
                self._path(name).unlink(missing_ok=True)

    def sweep(self, is_used: Callable[[str], bool]) -> None:
        """Remove the files that no row refers to, and none will."""
        oldest = time.time() - ABANDONED
        for path in self._old(oldest):
            if path.suffix == UNFINISHED or not is_used(path.name):
                path.unlink(missing_ok=True)

    def _old(self, oldest: float) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as found:
            for each in found:
                if each.is_file(follow_symlinks=False) and each.stat().st_mtime < oldest:
                    yield Path(each.path)

    def _path(self, name: str) -> Path:
        """Return where a file is; refuse a name that leads elsewhere, whoever wrote it."""
        if not (isinstance(name, str) and len(name) == 32 and name.isalnum()):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from the file
            raise ValueError("no name of a file of values")
        return self.folder / name
