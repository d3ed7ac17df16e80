"""Whether code leaves anything behind: tasks, threads, sockets, descriptors, warnings."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import stat
import sys
import threading
import time
import warnings
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self, TypeVar
from weakref import WeakSet

__all__ = ["Leaked", "NoLeaks", "assert_no_leaks"]

T = TypeVar("T")

TOLD = ("was never retrieved", "was destroyed but it is pending")
"""What asyncio says of tasks and futures that nobody looked after."""


class Leaked(AssertionError):
    """Something was left behind; ``leaks`` has a line of text for each thing."""

    def __init__(self, leaks: tuple[str, ...]) -> None:
        super().__init__("\n".join([f"{len(leaks)} left behind:", *(f"  {one}" for one in leaks)]))
        self.leaks = leaks


def assert_no_leaks(*, settle: float = 1.0) -> NoLeaks:
    """Check that a ``with`` or ``async with`` block leaves nothing behind; raise `Leaked` if not.

    Looked for, after the garbage was collected: tasks (of the running loop, or of every loop if
    none runs), threads, sockets and file descriptors that are new and still there; and, during
    the block, a `ResourceWarning`, an exception that nobody retrieved, and one that could not be
    raised. ``settle`` is how many seconds things may take to end by themselves: in an
    ``async with`` the loop goes on meanwhile; a plain ``with`` within a loop stops it, so that no
    task ends. A block that raises is not looked at.

    >>> async def main() -> None:
    ...     asyncio.create_task(asyncio.sleep(3600), name="a nap")
    ...     await asyncio.sleep(0)
    >>> async with assert_no_leaks(settle=0.01):
    ...     await main()
    Traceback (most recent call last):
    gecaso.testing.leaks.Leaked: 1 left behind:
      task 'a nap': sleep() at ...
    """
    return NoLeaks(settle)


class NoLeaks:
    """The block of `assert_no_leaks`."""

    def __init__(self, settle: float) -> None:
        self._settle = settle
        self._said: list[str] = []

    def __enter__(self) -> Self:
        gc.collect()
        self._listening = contextlib.ExitStack()
        self._loop = asyncio._get_running_loop()
        self._tasks = WeakSet(self._living_tasks())
        self._sockets = WeakSet(_open_sockets())
        self._threads = set(threading.enumerate())
        self._descriptors = _descriptors()
        self._listen()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        with self._listening:
            if kind is None:
                for pause in self._pauses(time.monotonic):
                    time.sleep(pause)
        self._raise(kind)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        with self._listening:
            if kind is None:
                for pause in self._pauses(asyncio.get_running_loop().time):
                    await asyncio.sleep(pause)
        self._raise(kind)

    def _pauses(self, clock: Callable[[], float]) -> Iterator[float]:
        """Return pauses as long as there is something left behind, and time."""
        give_up = clock() + self._settle
        pause = 0.0
        while True:
            gc.collect()
            self._left = list(self._left_behind())
            if not self._left or clock() >= give_up:
                return
            yield min(pause, give_up - clock())
            pause = min(0.1, 2 * pause + 0.001)

    def _raise(self, kind: type[BaseException] | None) -> None:
        if kind is None and (self._left or self._said):
            raise Leaked((*self._left, *self._said))

    # --- what is left behind ------------------------------------------------------------------

    def _left_behind(self) -> Iterator[str]:
        for task in self._living_tasks():
            if task not in self._tasks:
                yield _task_text(task)
        for thread in threading.enumerate():
            if thread not in self._threads:
                yield _thread_text(thread)
        numbers = set[int]()
        for one in _open_sockets():
            if one not in self._sockets:
                numbers.add(one.fileno())
                yield _socket_text(one)
        for number, what in _descriptors().items():
            if self._descriptors.get(number) != what and number not in numbers:
                yield f"descriptor {number}: {what}"

    def _living_tasks(self) -> list[asyncio.Task[Any]]:
        if self._loop is not None:
            return list(asyncio.all_tasks(self._loop))
        tasks: list[asyncio.Task[Any]] = _all_of(asyncio.Task)
        return [task for task in tasks if not task.done()]

    # --- what is said -------------------------------------------------------------------------

    def _listen(self) -> None:
        """Hear of warnings and errors until `_listening` ends."""
        stack = self._listening
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", ResourceWarning)
        warnings.showwarning = self._on_warning(warnings.showwarning)
        stack.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        sys.unraisablehook = self._on_unraisable
        handler = _Ear(self._on_log)
        logger = logging.getLogger("asyncio")
        logger.addHandler(handler)
        stack.callback(logger.removeHandler, handler)
        if self._loop is not None:
            before = self._loop.get_exception_handler()
            stack.callback(self._loop.set_exception_handler, before)
            self._loop.set_exception_handler(self._on_loop_error(before))

    def _on_warning(self, before: Callable[..., None]) -> Callable[..., None]:
        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, ResourceWarning):
                self._said.append(f"ResourceWarning: {message}")
            else:
                before(message, category, *where, **more)

        return show

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        # As text: whoever keeps the objects may bring them back to life.
        what = f"{unraisable.exc_value!r}"
        self._said.append(f"{unraisable.err_msg or 'ignored in'} {unraisable.object!r}: {what}")

    def _on_log(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if any(told in text for told in TOLD):
            error = record.exc_info[1] if record.exc_info else None
            self._said.append(text.splitlines()[0] + ("" if error is None else f": {error!r}"))

    def _on_loop_error(
        self, before: Callable[[AbstractEventLoop, dict[str, Any]], object] | None
    ) -> Callable[[AbstractEventLoop, dict[str, Any]], None]:
        def handle(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
            text = context.get("message", "")
            if before is None or any(told in text for told in TOLD):
                loop.default_exception_handler(context)  # which logs it: see `_on_log`
            else:
                before(loop, context)

        return handle


class _Ear(logging.Handler):
    def __init__(self, heard: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard(record)


# --- what there is --------------------------------------------------------------------------------


def _all_of(kind: type[T]) -> list[T]:
    # By `type`, since `isinstance` asks the object itself, which may be a proxy of anything.
    kinds = {kind}
    new = [kind]
    while new:
        new = [below for one in new for below in one.__subclasses__()]
        kinds.update(new)
    return [one for one in gc.get_objects() if type(one) in kinds]


def _open_sockets() -> list[socket.socket]:
    return [one for one in _all_of(socket.socket) if one.fileno() != -1]


def _descriptors() -> dict[int, str]:
    """Return what is open: numbers, and what each stands for."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # not Linux
        numbers = list(range(1024))
    found: dict[int, str] = {}
    for number in numbers:
        with contextlib.suppress(OSError):  # not open, or that of the listing itself
            found[number] = _what(number)
    return found


def _what(number: int) -> str:
    status = os.fstat(number)
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{number}")
    kinds = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "pipe", stat.S_IFREG: "file"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "device or other")
    return f"{kind} [{status.st_ino}]"


def _task_text(task: asyncio.Task[Any]) -> str:
    coroutine = getattr(task.get_coro(), "__qualname__", repr(task.get_coro()))
    stack = task.get_stack(limit=1)
    text = f"task {task.get_name()!r}: {coroutine}()"
    if stack:
        text += f" at {_place(stack[-1])}"
    # Only loops in debug mode note where a task was made.
    made = getattr(task, "_source_traceback", None)
    if made:
        ours = [one for one in made if os.sep + "asyncio" + os.sep not in one.filename]
        text += f", made at {ours[-1].filename}:{ours[-1].lineno}" if ours else ""
    return text


def _thread_text(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)  # pyright: ignore[reportPrivateUsage] - documented
    while frame is not None and frame.f_code.co_filename == threading.__file__:
        frame = frame.f_back
    where = "" if frame is None else f" at {_place(frame)}"
    return f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}{where}"


def _socket_text(one: socket.socket) -> str:
    peer: object = None
    with contextlib.suppress(OSError):
        peer = one.getpeername()
    here: object = None
    with contextlib.suppress(OSError):
        here = one.getsockname()
    to = f"to {peer!r} " if peer else ""
    return f"socket {to}from {here!r}, descriptor {one.fileno()}"


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
