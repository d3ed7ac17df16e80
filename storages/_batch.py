"""Many awaited operations in one tick of an event loop -> one round trip.

Whoever wants something adds an item and awaits the future he gets. At the end of the tick all items
are sent together; equal items are sent once. An item may be shared only until it is sent, never
after: what a reply says was true after everybody who gets it had asked.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from gecaso.errors import StorageError

__all__ = ["Batch", "Calls", "Outbox", "awaiting", "copy_of", "fail", "settle"]

Item = TypeVar("Item", bound=Hashable)
Reply = TypeVar("Reply")

# An item -> the futures of those who asked for it.
Calls = dict[Item, list["Future[Reply]"]]

MOST = 512  # items in one round trip
HEAVIEST = 1 << 20  # bytes of items in one round trip


class Batch(Generic[Item, Reply]):
    """What is asked for in one tick of the running loop, sent together. Belongs to that loop.

    ``send(calls)`` is called at the end of the tick, or as soon as there are ``most`` items; it
    does not wait, and sees to it that every future is settled. A slow reply holds up nothing:
    the next batch is sent meanwhile. ``weigh(item)`` tells the bytes of an item; a batch heavier
    than ``heaviest`` is sent in parts.
    """

    __slots__ = ("_calls", "_heaviest", "_loop", "_most", "_send", "_weigh")

    def __init__(
        self,
        send: Callable[[Calls[Item, Reply]], None],
        *,
        most: int = MOST,
        weigh: Callable[[Item], int] | None = None,
        heaviest: int = HEAVIEST,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._most = most
        self._weigh = weigh
        self._heaviest = heaviest
        self._calls: Calls[Item, Reply] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return f"<Batch: {len(self)} items to send>"

    def add(self, item: Item) -> Future[Reply]:
        """Return a future of the caller's own; cancelling it harms nobody else."""
        future: Future[Reply] = self._loop.create_future()
        calls = self._calls
        asked = calls.get(item)
        if asked is not None:
            asked.append(future)
            return future
        if not calls:
            self._loop.call_soon(self.flush)
        calls[item] = [future]
        if len(calls) >= self._most:
            self.flush()
        return future

    def flush(self) -> None:
        """Send what has been added so far."""
        calls = self._calls
        if not calls:
            return
        self._calls = {}
        for part in self._parts(calls) if len(calls) > 1 else (calls,):
            try:
                self._send(part)
            except Exception as error:  # noqa: BLE001 - it is raised in those who wait
                fail(part, error)

    def _parts(self, calls: Calls[Item, Reply]) -> Iterator[Calls[Item, Reply]]:
        weigh = self._weigh
        if weigh is None or sum(map(weigh, calls)) <= self._heaviest:
            yield calls
            return
        part: Calls[Item, Reply] = {}
        weight = 0
        for item, futures in calls.items():
            weight += weigh(item)
            if part and weight > self._heaviest:
                yield part
                part, weight = {}, weigh(item)
            part[item] = futures
        yield part


class Outbox:
    """What is to be written in one tick of the running loop, as one write. Belongs to that loop.

    ``write(data)`` is called at the end of the tick, with more than ``heaviest`` bytes at once.
    """

    __slots__ = ("_heaviest", "_loop", "_parts", "_weight", "_write")

    def __init__(self, write: Callable[[bytes], object], *, heaviest: int = HEAVIEST) -> None:
        self._loop = asyncio.get_running_loop()
        self._write = write
        self._heaviest = heaviest
        self._parts: list[bytes] = []
        self._weight = 0

    def __len__(self) -> int:
        return len(self._parts)

    def __repr__(self) -> str:
        return f"<Outbox: {self._weight} bytes to write>"

    def add(self, data: bytes, *, at_once: bool = False) -> None:
        """Write ``data`` after what was added before: at the end of this tick, or now."""
        parts = self._parts
        if not parts:
            if at_once:
                self._write(data)
                return
            self._loop.call_soon(self.flush)
        parts.append(data)
        self._weight += len(data)
        if at_once or self._weight > self._heaviest:
            self.flush()

    def flush(self) -> None:
        """Write what has been added so far."""
        parts = self._parts
        if parts:
            self._parts, self._weight = [], 0
            self._write(parts[0] if len(parts) == 1 else b"".join(parts))

    def drop(self) -> None:
        """Forget what has not been written."""
        self._parts, self._weight = [], 0


def settle(futures: Iterable[Future[Reply]], reply: Reply) -> None:
    """Give the reply to those who still wait."""
    for future in futures:
        if not future.done():
            future.set_result(reply)


def fail(calls: Mapping[Any, Iterable[Future[Any]]], error: Exception) -> None:
    """Fail those who still wait, each with an error of his own: a raised one grows a traceback."""
    for futures in calls.values():
        for future in futures:
            if not future.done():
                future.set_exception(copy_of(error))


def copy_of(error: Exception) -> Exception:
    """Return an error like this one, caused by the same, with no traceback yet."""
    try:
        copy = type(error)(*error.args)
    except Exception:  # noqa: BLE001 - its constructor takes something else
        return error
    copy.__cause__ = error.__cause__
    copy.__dict__.update(error.__dict__)
    return copy


def awaiting(
    run: Callable[[list[Item]], Coroutine[Any, Any, Mapping[Item, Reply]]],
) -> Callable[[Calls[Item, Reply | None]], None]:
    """Return a ``send`` for `Batch` that runs a coroutine function: one task for each batch.

    ``run(items)`` returns the replies it has; the other items get None. It keeps its own time:
    one timer for the batch, not one for each caller. Cancelling callers never cancels it.
    """
    running: set[asyncio.Task[None]] = set()

    async def answer(calls: Calls[Item, Reply | None]) -> None:
        try:
            replies = await run(list(calls))
        except asyncio.CancelledError:  # by the end of the loop: the callers were not cancelled
            fail(calls, StorageError("the event loop was closed during the operation"))
            raise
        except Exception as error:  # noqa: BLE001 - it is raised in those who wait
            fail(calls, error)
            return
        for item, futures in calls.items():
            settle(futures, replies.get(item))

    def send(calls: Calls[Item, Reply | None]) -> None:
        task = asyncio.get_running_loop().create_task(answer(calls))
        running.add(task)
        task.add_done_callback(running.discard)

    return send
