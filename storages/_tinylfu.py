"""Lazy W-TinyLFU: who leaves when memory is full, decided on the path of a miss alone.

An entry comes into the *window*, a FIFO. What leaves it contends with the victim that *main*
offers, and stays only if it was asked for more often: so neither a loop nor a scan flushes the
cache (TinyLFU: Einziger, Friedman, Manes, ACM ToS 2017). Main is a FIFO with a *hand* that passes
over what was hit since it last came by (SIEVE: Zhang et al., NSDI 2024). The window's share of the
room follows its part of the reuse. A hit does nothing but set a flag.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from ._sketch import Sketch

if TYPE_CHECKING:
    from ._eviction import Evictable

__all__ = ["TinyLFU"]

OUT, WINDOW, MAIN, CONTENDER = range(4)  # the marks on an item

SMALLEST, LARGEST, FIRST = 0.01, 0.8, 0.05
"""The window's share: its limits, and where it begins."""
UP, DOWN, DRIFT = 0.25, 0.5, 0.001
"""How far the share moves, in entries: for reuse in the window, in main, and at each miss."""
PATIENCE = 128
"""So many refusals and the hand passes its victim: one with a lucky count must not bar the door."""
SLACK = 16

T = TypeVar("T", bound="Evictable")


class TinyLFU(Generic[T]):
    """An adaptive policy for items with a weight, within a bound on their number or weight.

    `insert` an item when it is stored; then ask for a `victim` until the rest fits; `remove` what
    leaves otherwise. Needs no storage: an item is any object with the attributes of `Evictable`.
    Not safe to use from several threads at once, but for ``item.hot = True``.

    >>> class Item:
    ...     def __init__(self, hash: int) -> None:
    ...         self.hash, self.weight, self.hot, self.mark = hash, 1, False, 0
    >>> policy = TinyLFU[Item](maxsize=10)
    >>> for number in range(11):
    ...     policy.insert(Item(number))
    >>> policy.victim().hash < 10, len(policy)
    (True, 10)
    """

    name = "tinylfu"

    def __init__(self, maxsize: int | None = None, maxweight: int | None = None) -> None:
        if maxsize is None and maxweight is None:
            raise ValueError("give a bound: maxsize, maxweight, or both")
        self.maxsize = maxsize
        self.maxweight = maxweight
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.share = FIRST
        """The window's share of the room."""
        self._sketch = Sketch(self.maxsize)
        self._window: deque[T] = deque()
        self._window_count = self._window_weight = 0
        self._ahead: deque[T] = deque()  # of the hand; it points at the first
        self._behind: deque[T] = deque()
        self._main_count = 0
        self._contender: T | None = None
        self._newest: T | None = None
        self._refusals = 0
        self._most = 0
        self._step = 0.0

    def __len__(self) -> int:
        return self._window_count + self._main_count + (self._contender is not None)

    def __repr__(self) -> str:
        return f"<TinyLFU: {self._window_count} in the window, {self._main_count} in main>"

    # --- the interface of a policy ------------------------------------------------------------

    def insert(self, item: T) -> None:
        """Take note of an item that is stored."""
        if self._contender is not None:
            self._into_main(self._contender)
            self._contender = None
        while self._is_window_over():
            self._into_main(self._leave_window())
        item.mark = WINDOW
        self._window.append(item)
        self._window_count += 1
        self._window_weight += item.weight
        self._newest = item
        live = self._window_count + self._main_count
        if live > self._most:
            self._grow(live)
        self._sketch.count(item.hash)
        share = self.share + DRIFT * self._step
        self.share = min(LARGEST, share)

    def remove(self, item: T) -> None:
        """Forget an item that has left, or is about to; one that is not there is fine."""
        mark, item.mark = item.mark, OUT
        if mark == WINDOW:
            self._window_count -= 1
            self._window_weight -= item.weight
            if len(self._window) > 2 * self._window_count + SLACK:
                self._window = deque(one for one in self._window if one.mark == WINDOW)
        elif mark == MAIN:
            self._main_count -= 1
            if len(self._ahead) + len(self._behind) > 2 * self._main_count + SLACK:
                self._ahead = deque(one for one in self._ahead if one.mark == MAIN)
                self._behind = deque(one for one in self._behind if one.mark == MAIN)
        elif mark == CONTENDER:
            self._contender = None

    def victim(self) -> T:
        """Take out the item that is to leave, and return it. Never the newest, if there are two.

        Raises `LookupError` when there is none.
        """
        candidate = self._contender
        if candidate is None:
            if self._main_count and not self._is_window_over():
                return self._leave_main()
            if not self._window_count:
                raise LookupError("nothing is left that could leave")
            candidate = self._leave_window()
        return self._contend(candidate)

    def _grow(self, live: int) -> None:
        """Take note that there are more items than ever before."""
        self._most = live
        self._sketch.fit(live)
        # How many fit in a bound on the weight shows only as they come.
        room = self.maxsize if self.maxsize is not None and self.maxweight is None else live
        self._step = 1.0 / room  # of the share, for one entry

    # --- the window ---------------------------------------------------------------------------

    def _is_window_over(self) -> bool:
        count = self._window_count
        if count < 2:  # the newest stays, however small the window's room
            return False
        return (self.maxsize is not None and count > self.share * self.maxsize) or (
            self.maxweight is not None and self._window_weight > self.share * self.maxweight
        )

    def _leave_window(self) -> T:
        """Take out the first that was not hit; those that were go round once more."""
        window, alone = self._window, self._window_count == 1
        while True:
            item = window.popleft()
            if item.mark != WINDOW:
                continue
            if item.hot:
                item.hot = False
                self._sketch.count(item.hash)
                up = UP * (1.0 - self.share) * self._step
                self.share = min(LARGEST, self.share + up)
            elif item is not self._newest or alone:
                self._window_count -= 1
                self._window_weight -= item.weight
                return item
            window.append(item)

    # --- main ---------------------------------------------------------------------------------

    def _into_main(self, item: T) -> None:
        item.mark = MAIN
        self._ahead.append(item)
        self._main_count += 1

    def _contend(self, candidate: T) -> T:
        """Return who leaves: main's victim or the candidate, who then takes on the next one."""
        if self._main_count:
            rival = self._at_hand()
            if self._sketch.is_more(candidate.hash, rival.hash):
                candidate.mark = CONTENDER
                self._contender = candidate
                return self._leave_main()
            self._refusals += 1
            if self._refusals % PATIENCE == 0:
                self._behind.append(self._ahead.popleft())
        candidate.mark = OUT
        self._contender = None
        return candidate

    def _leave_main(self) -> T:
        item = self._at_hand()
        self._ahead.popleft()
        self._main_count -= 1
        item.mark = OUT
        return item

    def _at_hand(self) -> T:
        """Return what the hand points at, when it has passed over what was hit."""
        while True:
            if not self._ahead:
                self._ahead, self._behind = self._behind, self._ahead
            item = self._ahead[0]
            if item.mark != MAIN:
                self._ahead.popleft()
            elif item.hot:
                item.hot = False
                self._sketch.count(item.hash)
                self.share = max(SMALLEST, self.share - DOWN * self.share * self._step)
                self._behind.append(self._ahead.popleft())
            else:
                return item
