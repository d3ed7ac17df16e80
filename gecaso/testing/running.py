"""One schedule: a scenario in a loop of its own, from its start until nothing of it is left."""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gecaso.testing.failures import CannotExplore, Deadlock, Unhandled
from gecaso.testing.handles import Chooser, Fifo, Observer
from gecaso.testing.places import task_place
from gecaso.testing.virtual import VirtualLoop

__all__ = ["Runner", "Scenario", "Schedule"]

Scenario = Callable[[], Awaitable[object]]

YOUNG_UP_TO = 64  # schedules between collections of the middle generation


class Schedule:
    """How one schedule went: the choices made, and what it failed with, if it did."""

    __slots__ = ("choices", "error", "steps")

    def __init__(self, choices: list[int], steps: int, error: BaseException | None) -> None:
        self.choices = choices
        self.steps = steps
        self.error = error

    def fails_like(self, other: Schedule) -> bool:
        """Return whether both fail with the same kind of error."""
        return self.error is not None and self._kind() == other._kind()

    def _kind(self) -> tuple[type, type]:
        return type(self.error), type(self.error and self.error.__cause__)


class Runner:
    """Runs schedules of one scenario.

    Within ``with`` garbage is collected only between schedules, so that it always happens at the
    same points, and the module `random` begins each schedule in the same state.
    """

    def __init__(self, scenario: Scenario, *, lag: float, max_steps: int) -> None:
        self._scenario = scenario
        self._lag = lag
        self._max_steps = max_steps
        self._is_plain = inspect.iscoroutinefunction(scenario)
        self._runs = 0

    def __enter__(self) -> Runner:
        self._had_gc = gc.isenabled()
        self._random = random.getstate()
        gc.disable()
        return self

    def __exit__(self, *_: object) -> None:
        random.setstate(self._random)
        if self._had_gc:
            gc.enable()

    def run(self, chooser: Chooser, observer: Observer | None = None) -> Schedule:
        """Run one schedule."""
        random.seed(0)
        loop = VirtualLoop(chooser, lag=self._lag, max_steps=self._max_steps)
        loop.observer = observer
        reports = _Reports()
        loop.set_exception_handler(reports.take)
        try:
            error = self._run_in(loop, reports)
            choices, steps = loop.choices[:], loop.steps
            loop.observer = None
            reports.is_ending = True
            left = _ended(loop)
        finally:
            loop.close()
        self._collect()
        error = left if error is None else error
        # What is reported was wrong before anything that came of it.
        if reports.contexts and (error is None or isinstance(error, Deadlock)):
            error = reports.error()
        if isinstance(error, CannotExplore):
            raise error
        return Schedule(choices, steps, error)

    def _run_in(self, loop: VirtualLoop, reports: _Reports) -> BaseException | None:
        main = loop.create_task(self._scenario() if self._is_plain else _awaited(self._scenario))
        try:
            loop.run_until_complete(main)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the schedule fails with it
            if reports.contexts and not main.done():
                return reports.error()
            return _with_waiting(error, loop) if isinstance(error, Deadlock) else error
        return None

    def _collect(self) -> None:
        # All that the schedule has made is young: this is cheap, and finds the exceptions that
        # nobody has retrieved.
        self._runs += 1
        if self._runs % YOUNG_UP_TO:
            gc.collect(0)
        else:
            gc.collect(2 if self._runs % YOUNG_UP_TO**2 == 0 else 1)


class _Reports:
    """What is reported to a loop. The first report ends the run, but not the cleaning up."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []
        self.is_ending = False

    def take(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.contexts.append(context)
        if not self.is_ending:
            loop.stop()

    def error(self) -> Unhandled:
        context = self.contexts[0]
        cause = context.get("exception")
        what = "" if cause is None else f": {cause!r}"
        error = Unhandled(f"{context['message']}{what}")
        error.__cause__ = cause
        return error


def _with_waiting(error: Deadlock, loop: VirtualLoop) -> Deadlock:
    """Name those who wait, and where."""
    waiting: list[str] = []
    for task in loop.pending_tasks():
        path, line = task_place(task) or ("?", 0)
        waiting.append(f"    {task.get_name()} waits at {Path(path).name}:{line}")
    return Deadlock("\n".join([str(error), *waiting]))


async def _awaited(scenario: Scenario) -> None:
    await scenario()


def _ended(loop: VirtualLoop) -> BaseException | None:
    """End what is left, as `asyncio.run` does; return what goes wrong with it."""
    try:
        loop.drain()
        tasks = loop.pending_tasks()
        if tasks or loop.has_generators():
            loop.chooser = Fifo()
            loop.steps = 0
            loop.run_until_complete(_end(loop, tasks))
            loop.drain()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the schedule fails with it
        # Tasks that will not end need not be told of.
        for task in loop.pending_tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # as asyncio.gather does
        return error
    return None


async def _end(loop: VirtualLoop, tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            message = f"{task.get_name()} failed while it was cancelled at the end"
            loop.call_exception_handler({"message": message, "exception": error})
    await loop.shutdown_asyncgens()
