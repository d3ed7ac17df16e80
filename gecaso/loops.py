"""Event loops, threads and forks: what belongs to one loop, and the bridge for plain callers.

A storage made at import time is used in whichever loops, threads and forked children come later.
What is bound to a loop (connections, readers, batches) therefore hangs in a `PerLoop`; plain
callers reach a loop through a `Bridge`; a coroutine that never waits needs neither (`run_now`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from asyncio import AbstractEventLoop
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, TypeVarTuple

from gecaso.errors import GecasoError

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

__all__ = [
    "Bridge",
    "LoopBridge",
    "PerLoop",
    "PortalBridge",
    "close_descriptor",
    "run_now",
    "start_soon",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


STOPPED = ("coroutine raised StopIteration",)


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result.

    >>> async def answer() -> int:
    ...     return 42
    >>> run_now(answer())
    42
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    except RuntimeError as error:
        # No StopIteration leaves a coroutine; the one that a plain function raised is its cause.
        if isinstance(error.__cause__, StopIteration) and error.args == STOPPED:
            raise error.__cause__ from None
        raise
    coroutine.close()
    raise GecasoError("a coroutine that must not wait has waited; this is a defect of gecaso")


# --- one resource per loop ------------------------------------------------------------------------


class PerLoop(Generic[T]):
    """One resource per event loop: made at its first use there, closed when the loop ends.

    ``make()`` makes the resource inside the loop. ``close(resource)`` closes it inside its loop.
    ``abandon(resource)`` closes it without a loop, and must not touch the loop: it is called when
    the loop is found closed, and in a forked child, where the descriptors are shared with the
    parent and so must be closed without a goodbye.
    """

    def __init__(
        self,
        make: Callable[[], T],
        close: Callable[[T], Awaitable[None]],
        abandon: Callable[[T], None],
    ) -> None:
        self._make = make
        self._close = close
        self._abandon = abandon
        self._lock = threading.Lock()
        self._held: weakref.WeakKeyDictionary[AbstractEventLoop, _Held[T]] = (
            weakref.WeakKeyDictionary()
        )
        self._recent: _Held[T] | None = None
        _all_per_loop.add(self)

    def __repr__(self) -> str:
        return f"<PerLoop of {len(self._held)} loops>"

    def get(self) -> T:
        """Return the resource of the running loop; make it if there is none."""
        loop = asyncio.get_running_loop()
        recent = self._recent  # one loop is the rule: no lock, no weak dictionary
        if recent is not None and recent.loop() is loop:
            return recent.resource
        return self._get(loop)

    def resources(self) -> list[T]:
        """Return the resources of all loops."""
        with self._lock:
            return [held.resource for held in self._held.values()]

    def _get(self, loop: AbstractEventLoop) -> T:
        with self._lock:
            gone = self._take_closed()
            held = self._held.get(loop)
            if held is None:
                held = self._held[loop] = _Held(weakref.ref(loop), self._make())
                held.hang(self)
            self._recent = held
        for other in gone:
            self._abandon(other.resource)
        return held.resource

    def _take_closed(self) -> list[_Held[T]]:
        closed = [loop for loop in self._held if loop.is_closed()]
        return [self._held.pop(loop) for loop in closed]

    async def close_here(self) -> None:
        """Close the resource of the running loop, if there is one."""
        with self._lock:
            held = self._held.pop(asyncio.get_running_loop(), None)
            if self._recent is held:
                self._recent = None
        if held is not None:
            await self._close(held.resource)
            await held.drop()

    async def aclose(self) -> None:
        """Close the resources of all loops; those of other running loops by their own loop."""
        here = asyncio.get_running_loop()
        await self.close_here()
        with self._lock:
            gone = self._take_closed()
            others = list(self._held)
        for held in gone:
            self._abandon(held.resource)
        for loop in others:
            if loop is not here:
                self._close_there(loop)

    def _close_there(self, loop: AbstractEventLoop) -> None:
        if loop.is_running():
            with contextlib.suppress(RuntimeError):  # the loop has just closed
                asyncio.run_coroutine_threadsafe(self.close_here(), loop)

    def _forget(self, held: _Held[T]) -> None:
        with self._lock:
            loop = held.loop()
            if loop is not None and self._held.get(loop) is held:
                del self._held[loop]
            if self._recent is held:
                self._recent = None

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        inherited = list(self._held.values())
        self._held = weakref.WeakKeyDictionary()
        self._recent = None
        for held in inherited:
            self._abandon(held.resource)
            _inherited.append(held)


class _Held(Generic[T]):
    """A resource and the async generator that ends with its loop.

    ``asyncio.run`` and its like close, at their end, every async generator that was first advanced
    in the loop: the only hook that all loops have.
    """

    def __init__(self, loop: weakref.ref[AbstractEventLoop], resource: T) -> None:
        self.loop = loop
        self.resource = resource
        self._life: AsyncGenerator[None, None] | None = None

    def hang(self, owner: PerLoop[T]) -> None:
        self._life = _life(weakref.ref(owner), weakref.ref(self))
        # The first step of the generator does not wait, so that no task is needed to take it.
        with contextlib.suppress(StopIteration):
            self._life.__anext__().__await__().__next__()

    async def drop(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            await life.aclose()


async def _life(
    owner: weakref.ref[PerLoop[T]], held: weakref.ref[_Held[T]]
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        per_loop, own = owner(), held()
        if per_loop is not None and own is not None and own._life is not None:  # pyright: ignore[reportPrivateUsage] - the generator is a part of _Held
            per_loop._forget(own)  # pyright: ignore[reportPrivateUsage] - and of PerLoop
            await per_loop._close(own.resource)  # pyright: ignore[reportPrivateUsage] - likewise


_all_per_loop: weakref.WeakSet[PerLoop[Any]] = weakref.WeakSet()
# What a child inherits is kept until it ends: finalising a transport would close, by number, a
# descriptor that is somebody else's by then.
_inherited: list[object] = []


def close_descriptor(transport: asyncio.BaseTransport | None) -> None:
    """Close the descriptor of a transport without telling its loop or its peer.

    Unregistering it would change the parent's epoll set from a forked child, and a loop that is
    closed cannot be told.
    """
    sock: Any = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return
    inner = getattr(sock, "_sock", sock)
    with contextlib.suppress(OSError):  # closed already
        try:
            descriptor = inner.detach()
        except (AttributeError, TypeError):  # one of uvloop, which cannot be detached
            if not _in_new_child:
                return  # uvloop has closed it with its loop, and the number is another's by now
            descriptor = inner.fileno()
        os.close(descriptor)


def close_without_loop(transport: asyncio.BaseTransport) -> None:
    """Have a transport of a closed loop note that it is closed, so that it does not warn later."""
    tls: Any = getattr(transport, "_ssl_protocol", None)
    inner: Any = transport if tls is None else getattr(tls, "_transport", None)
    if getattr(inner, "_sock", None) is None:
        return  # it is closed already, or one of uvloop, which closes them itself
    with contextlib.suppress(RuntimeError):  # it cannot tell its loop
        inner.abort()
    with contextlib.suppress(RuntimeError):
        inner._call_connection_lost(None)


# --- the bridge for plain callers -----------------------------------------------------------------


class Bridge(Protocol):
    """Runs coroutine functions for callers that have no event loop."""

    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run ``function(*args)`` in the bridge's loop; return its result or raise its error."""
        ...


class PortalBridge:
    """The background loop of this process, in a thread of its own, started at the first call."""

    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        future = _bridge.portal().start_task_soon(function, *args)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # interrupted: nobody will hold what it brings
            raise


def start_soon(function: Callable[[], Awaitable[T]]) -> Future[T]:
    """Run ``function()`` in a background loop for such calls; return a future of its result."""
    return _futures.portal().start_task_soon(function)


class LoopBridge:
    """A loop that the user gave.

    Running in another thread, it is used from there. Stopped, it runs until the call is done.
    Running in this very thread it cannot be used: waiting for it would stop it.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        async def call() -> T:
            return await function(*args)

        if not self._loop.is_running():
            return self._loop.run_until_complete(call())
        if asyncio._get_running_loop() is self._loop:
            raise RuntimeError(
                "a plain cached function was called inside the very loop it was given as loop=; "
                "leave loop= out, or make the function a coroutine function and await it"
            )
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()


class _Background:
    """An event loop in a thread of its own, started at its first use; one per process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.forget()

    def forget(self) -> None:
        """Drop what there is: in a forked child it is the parent's."""
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._thread: threading.Thread | None = None

    def portal(self) -> BlockingPortal:
        if self._portal is not None:
            return self._portal
        with self._lock:
            return self._portal or self._start()

    def _start(self) -> BlockingPortal:
        import anyio  # most programs never need it
        from anyio.from_thread import BlockingPortal

        started: Future[BlockingPortal] = Future()

        async def main() -> None:
            async with BlockingPortal() as portal:
                started.set_result(portal)
                await portal.sleep_until_stopped()

        # A daemon, because the interpreter joins all others before it runs the atexit hook below.
        self._thread = threading.Thread(
            target=anyio.run, args=(main,), name=self._name, daemon=True
        )
        self._thread.start()
        self._portal = started.result()
        return self._portal

    def stop(self) -> None:
        portal, thread = self._portal, self._thread
        self._portal = self._thread = None
        if portal is not None and thread is not None:
            with contextlib.suppress(RuntimeError):  # the portal has ended by itself
                portal.call(portal.stop, True)
            thread.join(timeout=5.0)

    def leave_to_parent(self) -> None:
        """In a forked child: keep what is the parent's from being finalised, and forget it."""
        if self._portal is not None:
            _inherited.append(self._portal)
        self.forget()


_bridge = _Background("gecaso")
# The user's functions run in a loop apart: one that waits for the bridge would stop it otherwise.
_futures = _Background("gecaso futures")


@atexit.register
def _stop_background_loops() -> None:
    _futures.stop()
    _bridge.stop()


_in_new_child = False


def _after_fork_in_child() -> None:
    global _in_new_child
    _futures.leave_to_parent()
    _bridge.leave_to_parent()
    _in_new_child = True
    for per_loop in list(_all_per_loop):
        per_loop._after_fork()  # pyright: ignore[reportPrivateUsage] - the hook is a part of PerLoop
    _in_new_child = False


os.register_at_fork(after_in_child=_after_fork_in_child)
