"""An event loop with virtual time, in which somebody else chooses what runs next.

Time does not pass by itself: when nothing is ready, it jumps to the next timer. So a scenario of an
hour takes microseconds, and nothing depends on how busy the machine is.

What is ready at the same time may run in any order, but for what asyncio promises and programs
lean on:

* **Plain callbacks** (`call_soon`, the done callbacks of futures) run in the order in which they
  were registered, among each other.
* **What one callback registers after a plain callback** does not overtake it. So a done callback
  that was added to a future before somebody awaited it runs before that waiter goes on.
* **Steps of tasks** may run at any time after they have become ready, in any order; so may timers
  that are due together, functions in an executor, and what comes in over a connection. Each
  connection delivers what was written in its order, and connection_made before it,
  connection_lost after it.

asyncio itself runs all that is ready first come, first served; but what becomes ready first is up
to the network and the clock. The freedom of tasks stands for that. It is a little more than can
happen in a real loop: a task that was made first, or woken first, runs first there. A program
that needs this (`create_task(f())`, then `sleep(0)` to let ``f`` begin) is not correct here.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
import weakref
from asyncio import Future, Task
from collections.abc import AsyncGenerator, Callable
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from gecaso.testing.failures import CannotExplore, Deadlock, Livelock
from gecaso.testing.handles import PLAIN, Chooser, Fifo, Observer, Ready, Timer
from gecaso.testing.network_loop import NetworkLoop

__all__ = ["START", "VirtualLoop", "choose"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START = 1000.0  # seconds; a real loop's time is never 0 either
STEP_NAMES = frozenset({None, "task_wakeup", "__step", "__wakeup"})
"""How asyncio names the callbacks that take a task's next step; those in C have no name."""

NO_THREADS = (
    "Threads cannot be explored: what they do depends on the machine. Use loop.run_in_executor() "
    "or asyncio.to_thread(), which run functions in the loop's own thread here"
)


class VirtualLoop(NetworkLoop):
    """An event loop of this thread alone, in virtual time; see the text of its module.

    ``chooser`` chooses what runs next, by default first come, first served. While something has
    been ready for less than ``lag`` seconds, time may pass all the same. More than ``max_steps``
    callbacks are a `Livelock`.

    >>> loop = VirtualLoop()
    >>> loop.run_until_complete(asyncio.sleep(3600, "an hour later"))
    'an hour later'
    >>> loop.time() - 1000.0
    3600.0
    >>> loop.close()
    """

    _stopping: bool
    _closed: bool
    _thread_id: int | None
    _asyncgens_shutdown_called: bool
    _task_factory: object

    def __init__(
        self, chooser: Chooser | None = None, *, lag: float = 0.0, max_steps: int = 100_000
    ) -> None:
        super().__init__()
        self.chooser: Chooser = chooser or Fifo()
        self.choices: list[int] = []
        self.steps = 0
        self.observer: Observer | None = None
        self.foreign: CannotExplore | None = None
        self._lag = lag
        self._max_steps = max_steps
        self._now = START
        self._timers: list[tuple[float, int, Timer]] = []
        self._timers_made = 0
        self._threads = threading.active_count()
        self._due = 0  # timers among what is ready
        self._ready: list[Ready | Timer] = []
        self._plain = 0  # how many plain callbacks were registered
        self._turn = 1  # and whose turn it is
        self._after = 0  # the turn of what the running callback registers now
        self._tasks: list[weakref.ref[Task[Any]]] = []
        self._generators: list[weakref.ref[AsyncGenerator[Any, Any]]] = []

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    # --- what becomes ready -------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        handle = Ready(callback, args, self, context)
        handle.since = self._now
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, Task) and getattr(callback, "__name__", None) in STEP_NAMES:
            handle.owner = owner
            handle.turn = self._after
        else:
            handle.owner = PLAIN
            handle.turn = self._plain = self._plain + 1
            self._after = handle.turn + 1
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if self._thread_id not in (None, threading.get_ident()):
            self.foreign = CannotExplore(f"another thread has called this loop. {NO_THREADS}")
            raise self.foreign
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        if self._closed:
            raise RuntimeError("Event loop is closed")
        timer = Timer(when, callback, args, self, context)
        if when <= self._now:
            timer.since = self._now
            timer.turn = self._after
            self._ready.append(timer)
        else:
            self._timers_made += 1
            heapq.heappush(self._timers, (when, self._timers_made, timer))
            timer.timed = True
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is left out when its time comes."""

    def arrive(self, callback: Callable[[*Ts], object], *args: *Ts) -> asyncio.TimerHandle:
        """Call back soon, as something that comes from outside: in any order with all else."""
        return self.call_at(self._now, callback, *args)

    # --- what runs ----------------------------------------------------------------------------

    def _run_once(self) -> None:
        """Run callbacks until the loop is stopped; `run_forever` calls this."""
        ready, choices = self._ready, self.choices
        limit = self._max_steps
        while not self._stopping:
            if not ready:
                self._jump()
            options = len(ready)
            if self._timers and self._lag and self._may_pass():
                options += 1
            index = 0
            if options > 1:
                index = self._pick(options)
                choices.append(index)
                if index == len(ready):
                    index = self._pass()
            handle = ready.pop(index)
            owner = handle.owner
            if owner is PLAIN:
                self._turn += 1
            elif handle.timed:
                self._due -= 1
            if handle._cancelled:
                continue
            self.steps += 1
            if self.steps > limit:
                raise Livelock(
                    f"it has not ended after {limit:,} callbacks; see what goes round in the "
                    "story, or allow more with max_steps="
                )
            self._after = 0
            if self.observer is None:
                handle._run()
            else:
                self._run_observed(handle, bool(choices) and options > 1 and choices[-1] > 0)

    def _pick(self, options: int) -> int:
        ready = self._ready
        index = self.chooser.pick(ready, options)
        if index < len(ready) and ready[index].turn > self._turn:
            # It has to wait for a plain callback: that one is next in its place.
            turn = self._turn
            return next(place for place, other in enumerate(ready) if other.turn == turn)
        return index

    def _run_observed(self, handle: Ready | Timer, deviates: bool) -> None:
        assert self.observer is not None
        self.observer.before(handle, deviates)
        handle._run()
        self.observer.after(handle)

    def _jump(self) -> None:
        """Nothing is ready: go to the next timer."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            if self.foreign is None and threading.active_count() > self._threads:
                raise CannotExplore(f"the scenario waits, perhaps for a thread. {NO_THREADS}")
            raise self.foreign or Deadlock(
                "nothing is ready, no timer is set, and the scenario has not ended"
            )
        self._advance()

    def _advance(self) -> None:
        """Go to the time of the next timer, and make ready all that is due then."""
        timers = self._timers
        self._now = now = timers[0][0]
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                self._ready.append(timer)
                self._due += 1

    def _may_pass(self) -> bool:
        """Return whether time may pass now: nothing has to wait longer than ``lag`` seconds.

        A timer that is due goes before all later ones, as in asyncio.
        """
        if self._due:
            return False
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        return bool(timers) and timers[0][0] <= self._ready[0].since + self._lag

    def _pass(self) -> int:
        """Let time pass; return the place of the timer that is due by then."""
        place = len(self._ready)
        self._advance()
        return place

    def drain(self) -> None:
        """Run what is ready at the end of a run, and no more; first come, first served."""
        if not self._ready:
            return
        self.chooser = Fifo()
        # What comes from outside comes last of all.
        self.call_soon(self.stop)
        self.run_forever()

    def choice(self, options: int) -> int:
        """Choose for the scenario; see `choose`."""
        drawn = self.chooser.draw(options)
        self.choices.append(drawn)
        if self.observer is not None:
            self.observer.chose(options, drawn)
        return drawn

    # --- tasks, generators, functions in threads ----------------------------------------------

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None, **options: Any
    ) -> Task[Any]:
        """Make a task. Those without a name are numbered in each loop anew: runs are alike."""
        if name is None:
            name = f"Task-{len(self._tasks) + 1}"
        if self._task_factory is None and not options:
            task: Task[Any] = Task(coro, loop=self, name=str(name), context=context)
        else:
            task = super().create_task(coro, name=name, context=context, **options)
        self._tasks.append(weakref.ref(task))
        return task

    def pending_tasks(self) -> list[Task[Any]]:
        """Return the tasks that are not done, in the order in which they were made."""
        made = [task for ref in self._tasks if (task := ref()) is not None and not task.done()]
        known = set(made)
        return made + [task for task in asyncio.all_tasks(self) if task not in known]

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        self._generators.append(weakref.ref(agen))
        super()._asyncgen_firstiter_hook(agen)  # type: ignore[misc]  # typeshed leaves the hook out

    def has_generators(self) -> bool:
        """Return whether `shutdown_asyncgens` has something to do."""
        return any(ref() is not None for ref in self._generators)

    async def shutdown_asyncgens(self) -> None:
        """Close the async generators that are still open, the oldest first."""
        self._asyncgens_shutdown_called = True
        for ref in self._generators:
            generator = ref()
            if generator is None:
                continue
            try:
                await generator.aclose()
            except Exception as error:  # noqa: BLE001 - it is told, as asyncio does
                message = f"an error occurred during closing of {generator!r}"
                self.call_exception_handler({"message": message, "exception": error})
        self._generators.clear()

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> Future[T]:
        """Run a function at some later point of the schedule, in this thread, at one go."""
        future: Future[T] = self.create_future()
        self.arrive(self._run_function, future, func, args)
        return future

    def _run_function(
        self, future: Future[T], func: Callable[..., T], args: tuple[Any, ...]
    ) -> None:
        if future.cancelled():
            return
        asyncio._set_running_loop(None)  # a thread of an executor has none
        try:
            result = func(*args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised in those who wait
            self.arrive(_fail, future, error)
        else:
            self.arrive(_settle, future, result)
        finally:
            asyncio._set_running_loop(self)

    def _write_to_self(self) -> None:
        """Nobody has to be woken: the loop never sleeps."""


def _settle(future: Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def choose(n: int) -> int:
    """Return a number from 0 to n - 1: a choice of the scenario that is a part of the schedule.

    It is found, shrunk, replayed and printed like the others; so let 0 stand for what is tame.
    To be called within a scenario of `explore`; anywhere else it raises `RuntimeError`.

    >>> from gecaso.testing import explore
    >>> async def scenario() -> None:
    ...     assert choose(6) + 1 != 6, "a six"
    >>> explore(scenario)
    Traceback (most recent call last):
    gecaso.testing.failures.ScheduleFailed: AssertionError: a six
    ...
    """
    loop = asyncio._get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise RuntimeError(
            "choose() is for scenarios: call it in what gecaso.testing.explore() runs, "
            "and a random number generator of your own elsewhere"
        )
    if n < 1:
        raise ValueError(f"choose({n!r}): give the number of options, 1 or more")
    return loop.choice(n) if n > 1 else 0
