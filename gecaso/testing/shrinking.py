"""A failing list of choices -> a short one with few choices that are not 0, which fails as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator

__all__ = ["shrink"]

Fails = Callable[[list[int]], list[int] | None]
"""Runs choices; returns those that were made indeed if they fail, and None if they do not."""


def shrink(choices: list[int], fails: Fails, budget: Callable[[], bool]) -> list[int]:
    """Return the simplest failing choices found while ``budget()`` is true.

    Simpler: fewer that are not 0, then shorter, then smaller ones. After its end every choice is
    0. This is delta debugging (Zeller, Hildebrandt: "Simplifying and isolating failure-inducing
    input", 2002) over truncated, zeroed, shortened and lowered lists.

    >>> wrong = lambda tried: tried if sum(tried) >= 3 else None
    >>> shrink([0, 4, 0, 1, 2, 0], wrong, lambda: True)
    [3]
    """
    best = _stripped(choices)
    while True:
        before = best
        for candidates in (_truncated, _zeroed, _shortened, _lowered):
            best = _improved(best, candidates, fails, budget)
        if best == before or not budget():
            return best


def _improved(
    best: list[int],
    candidates: Callable[[list[int]], Iterator[list[int]]],
    fails: Fails,
    budget: Callable[[], bool],
) -> list[int]:
    """Try candidates made from the best, and begin anew with each that is better."""
    tried: set[tuple[int, ...]] = set()
    is_better = True
    while is_better:
        is_better = False
        for candidate in candidates(best):
            if tuple(candidate) in tried or _size(candidate) >= _size(best):
                continue
            if not budget():
                return best
            tried.add(tuple(candidate))
            made = fails(candidate)
            if made is not None and _size(made := _stripped(made)) < _size(best):
                best, is_better = made, True
                break
    return best


def _size(choices: list[int]) -> tuple[int, int, int]:
    return sum(1 for choice in choices if choice), len(choices), sum(choices)


def _stripped(choices: list[int]) -> list[int]:
    length = len(choices)
    while length and not choices[length - 1]:
        length -= 1
    return choices[:length]


def _chunks(length: int) -> Iterator[tuple[int, int]]:
    """Cut a length into halves, quarters and so on: where each part begins and ends."""
    size = length
    while size:
        yield from ((start, min(start + size, length)) for start in range(0, length, size))
        size //= 2


def _truncated(choices: list[int]) -> Iterator[list[int]]:
    length = 0
    while length < len(choices):
        yield _stripped(choices[:length])
        length = 2 * length or 1
    yield _stripped(choices[:-1])


def _zeroed(choices: list[int]) -> Iterator[list[int]]:
    places = [place for place, choice in enumerate(choices) if choice]
    for start, end in _chunks(len(places)):
        candidate = list(choices)
        for place in places[start:end]:
            candidate[place] = 0
        yield _stripped(candidate)


def _shortened(choices: list[int]) -> Iterator[list[int]]:
    for start, end in _chunks(len(choices)):
        yield _stripped(choices[:start] + choices[end:])


def _lowered(choices: list[int]) -> Iterator[list[int]]:
    for place, choice in enumerate(choices):
        for lower in (1, choice // 2, choice - 1):
            if 0 < lower < choice:
                yield [*choices[:place], lower, *choices[place + 1 :]]
