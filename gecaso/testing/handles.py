"""What is ready to run in a loop with virtual time, and who chooses and watches."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gecaso.testing.virtual import VirtualLoop

__all__ = ["PLAIN", "Chooser", "Fifo", "Observer", "Plain", "Ready", "Timer"]


class Ready(asyncio.Handle):
    """A callback that is ready to run, or will be when its time has come.

    ``owner`` is the task whose step it is, `PLAIN` for a plain callback, or None. It may run when
    the loop's count of plain callbacks has reached ``turn``. It is ready ``since`` that time, and
    ``timed`` if it had to wait for it.
    """

    __slots__ = ("owner", "since", "timed", "turn")

    _loop: VirtualLoop
    _callback: Callable[..., object]

    def __init__(
        self,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        # As asyncio.Handle does, without asking whether to keep a traceback.
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self.owner: object = None
        self.turn = 0
        self.since = 0.0
        self.timed = False


class Timer(asyncio.TimerHandle):
    """The same for a callback that waits for its time; two of them are never equal."""

    __slots__ = ("owner", "since", "timed", "turn")

    _loop: VirtualLoop
    _callback: Callable[..., object]
    owner: object
    timed: bool
    turn: int

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: Sequence[Any],
        loop: VirtualLoop,
        context: Context | None,
    ) -> None:
        Ready.__init__(self, callback, args, loop, context)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the same slots
        self._when = when
        self._scheduled = False
        self.since = when


class Plain:
    """The owner of plain callbacks."""

    def __repr__(self) -> str:
        return "callbacks"


PLAIN = Plain()


class Chooser(Protocol):
    """Chooses what runs next."""

    def pick(self, ready: Sequence[Ready | Timer], options: int) -> int:
        """Return an index of ``ready``, or len(ready) if ``options`` allows it: let time pass."""
        ...

    def draw(self, options: int) -> int:
        """Return a number from 0 to ``options`` - 1, for the scenario itself."""
        ...


class Observer(Protocol):
    """Is told of each step, to tell the story of a schedule."""

    def before(self, handle: Ready | Timer, deviates: bool) -> None: ...
    def after(self, handle: Ready | Timer) -> None: ...
    def chose(self, options: int, choice: int) -> None: ...


class Fifo:
    """First come, first served."""

    def pick(self, ready: Sequence[Ready | Timer], options: int) -> int:
        return 0

    def draw(self, options: int) -> int:
        return 0
