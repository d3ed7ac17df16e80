"""The story of a schedule: a line for each turn of a task, a column for each task."""

from __future__ import annotations

import linecache
import re
from asyncio import Task
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

from gecaso.testing.handles import PLAIN, Ready, Timer
from gecaso.testing.places import function_place, task_place
from gecaso.testing.transports import Transport
from gecaso.testing.virtual import START, VirtualLoop

__all__ = ["Story", "Turn"]

WIDTH = 100
GUTTER = 18  # mark, step and time
NARROWEST = 48  # the text of a turn
FARTHEST = 36  # from one column to the next
LONGEST = 120  # lines
FIRST = 20  # of these, the rest is the end

UNNAMED = re.compile(r"Task-\d+")


class Turn(NamedTuple):
    """A task went on, or something else happened, as the ``step``-th callback of the run."""

    step: int
    time: float
    who: str
    place: tuple[str, int] | None  # file and line where it goes on
    text: str
    deviates: bool


class Story:
    """Listens to a loop, and tells what happened; an `Observer`."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self._labels: WeakKeyDictionary[Task[Any], str] = WeakKeyDictionary()
        self._taken: dict[str, int] = {}
        self._who = "callbacks"
        self._loop: VirtualLoop | None = None

    # --- listening ----------------------------------------------------------------------------

    def before(self, handle: Ready | Timer, deviates: bool) -> None:
        self._loop = handle._loop  # pyright: ignore[reportPrivateUsage] - handles have no public names
        owner = cast(Task[Any] | None, handle.owner)
        if isinstance(owner, Task):
            self._who = self._label(owner)
            self._tell(task_place(owner), "", deviates)
        else:
            self._who = "callbacks"
            self._callback(handle, deviates)

    def after(self, handle: Ready | Timer) -> None:
        owner = cast(Task[Any] | None, handle.owner)
        if isinstance(owner, Task) and owner.done():
            self._loop = None  # it belongs to the line before: no step, no time
            self._tell(None, _outcome(owner), False)
        self._loop = None

    def chose(self, options: int, choice: int) -> None:
        self._tell(None, f"choose({options}) is {choice}", choice > 0)

    def _callback(self, handle: Ready | Timer, deviates: bool) -> None:
        callback: Any = handle._callback  # pyright: ignore[reportPrivateUsage] - likewise
        target = getattr(callback, "__self__", None)
        name = getattr(callback, "__name__", "")
        if isinstance(target, Transport) and name == "_pump":
            self._who = "network"
            self._tell(None, target.next_piece(), deviates)
        elif isinstance(target, VirtualLoop) and name == "_run_function":
            self._who = "executor"
            self._tell(*function_place(handle._args[1]), deviates)
        elif (shown := function_place(callback))[0] is not None:
            self._tell(*shown, deviates)
        elif deviates:
            kind = "callback" if handle.owner is PLAIN else "timer"
            self._tell(None, f"a {kind} of asyncio: {shown[1]}", deviates)

    def _tell(self, place: tuple[str, int] | None, text: str, deviates: bool) -> None:
        loop = self._loop
        step, now = (loop.steps, loop.time() - START) if loop is not None else (0, 0.0)
        self.turns.append(Turn(step, now, self._who, place, text, deviates))

    def _label(self, task: Task[Any]) -> str:
        label = self._labels.get(task)
        if label is None:
            name = task.get_name()
            if UNNAMED.fullmatch(name):
                name = getattr(task.get_coro(), "__qualname__", name).rpartition(".")[2]
            number = self._taken[name] = self._taken.get(name, 0) + 1
            label = self._labels[task] = name if number == 1 else f"{name} {number}"
        return label

    # --- telling ------------------------------------------------------------------------------

    def text(self) -> str:
        """Return the story, at most 100 columns wide."""
        turns = list(_compressed(self.turns))
        columns = {who: place for place, who in enumerate(dict.fromkeys(t.who for t in turns))}
        files = {turn.place[0] for turn in turns if turn.place is not None}
        lines = [
            "A line is a turn of a task: where it goes on after its await, until it waits again.",
            "* marks what is not first come, first served. Times are virtual seconds.",
        ]
        if len(files) == 1:
            lines.append(f"The lines are those of {Path(files.pop()).name}.")
        told = [_line(turn, columns, with_file=bool(files)) for turn in turns]
        if len(told) > LONGEST:
            left_out = f"{'':{GUTTER}}… {len(told) - LONGEST} turns left out …"
            told = [*told[:FIRST], left_out, *told[FIRST - LONGEST :]]
        return "\n".join([*lines, "", *_header(columns), *told])


def _compressed(turns: list[Turn]) -> Iterator[Turn]:
    """Leave out turns of a task that follow its own at the same time: nobody came between."""
    last: Turn | None = None
    for turn in turns:
        if (
            last is not None
            and (last.who, last.time) == (turn.who, turn.time)
            and last.place is not None
            and turn.place is not None
            and not turn.deviates
        ):
            continue
        yield turn
        last = turn


def _step(columns: dict[str, int]) -> int:
    between = (WIDTH - GUTTER - NARROWEST) // max(1, len(columns) - 1)
    return max(1, min(FARTHEST, between))


def _offset(columns: dict[str, int], who: str) -> int:
    return min(columns[who] * _step(columns), WIDTH - GUTTER - NARROWEST)


def _header(columns: dict[str, int]) -> Iterator[str]:
    step = _step(columns)
    gutter = f"{'step':>6} {'time':>8}"
    if all(len(who) < step for who in columns):
        names = "".join(f"{who:{step}}" for who in columns).rstrip()
        yield f"{gutter:{GUTTER}}{names}"
        return
    for who in columns:
        yield f"{gutter:{GUTTER}}{'':{_offset(columns, who)}}{who}"[:WIDTH]
        gutter = ""


def _line(turn: Turn, columns: dict[str, int], *, with_file: bool) -> str:
    mark = "*" if turn.deviates else " "
    text = turn.text
    if turn.place is not None:
        path, number = turn.place
        source = text or linecache.getline(path, number).strip()
        where = f"{Path(path).name}:{number}" if with_file else f"{number:>3}"
        text = f"{where}  {source}"
    if turn.place is None and turn.step == 0:
        gutter = ""
    else:
        gutter = f"{mark}{turn.step:>5} {turn.time:>8.3f}"
    offset = _offset(columns, turn.who)
    room = WIDTH - GUTTER - offset
    if len(text) > room:
        text = text[: room - 1] + "…"
    return f"{gutter:{GUTTER}}{'':{offset}}{text}".rstrip()


def _outcome(task: Task[Any]) -> str:
    if task.cancelled():
        return "is cancelled"
    error: BaseException | None = task._exception
    if error is None:
        return "returns"
    return f"raises {type(error).__name__}: {error}".splitlines()[0]
