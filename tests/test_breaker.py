"""When to leave a storage alone, and when to try it again."""

from __future__ import annotations

import pytest

from gecaso.breaker import Breaker
from tests.doubles import FakeClock


def broken(clock: FakeClock, *, chance: float = 1.0) -> Breaker:
    breaker = Breaker(failures=3, clock=clock, random=lambda: chance)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(failures=3, clock=FakeClock())
    breaker.failed()
    breaker.failed()
    assert not breaker.is_open
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    assert not breaker.is_open
    breaker.failed()
    assert breaker.is_open
    assert repr(breaker) == "<Breaker: open, 3 failures>"


def test_one_caller_probes_at_a_time_and_not_at_once() -> None:
    clock = FakeClock()
    breaker = broken(clock)
    assert not breaker.take_probe()
    clock.advance(0.1)
    assert breaker.take_probe()
    assert not breaker.take_probe()
    breaker.probed(False)
    assert not breaker.take_probe()
    clock.advance(0.2)
    assert breaker.take_probe()


def test_it_closes_when_a_probe_or_an_operation_succeeds() -> None:
    clock = FakeClock()
    breaker = broken(clock)
    clock.advance(1)
    assert breaker.take_probe()
    breaker.probed(True)
    assert (breaker.is_open, breaker.failures) == (False, 0)
    breaker = broken(clock)
    breaker.succeeded()
    assert (breaker.is_open, breaker.failures) == (False, 0)


def test_a_closed_breaker_asks_for_no_probe() -> None:
    assert not Breaker(clock=FakeClock()).take_probe()


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_the_time_between_probes_grows_to_a_second_and_no_further(chance: float) -> None:
    clock = FakeClock()
    breaker = broken(clock, chance=chance)
    pauses: list[float] = []
    for _ in range(8):
        started = clock.now
        while not breaker.take_probe():
            clock.advance(0.01)
        pauses.append(clock.now - started)
        breaker.probed(False)
    share = 0.6 + 0.4 * chance
    for pause, wanted in zip(pauses, [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0], strict=True):
        assert pause == pytest.approx(wanted * share, abs=0.011)


def test_failures_while_open_do_not_put_the_probe_off() -> None:
    clock = FakeClock()
    breaker = broken(clock)
    for _ in range(10):
        clock.advance(0.01)
        breaker.failed()
    clock.advance(0.001)
    assert breaker.take_probe()


def test_after_a_reset_it_starts_over() -> None:
    clock = FakeClock()
    breaker = broken(clock)
    clock.advance(1)
    assert breaker.take_probe()
    breaker.reset()
    assert not breaker.is_open
    for _ in range(3):
        breaker.failed()
    clock.advance(0.1)
    assert breaker.take_probe()
