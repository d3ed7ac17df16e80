"""A plain function stays plain: thirty threads and an event loop share one load."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import gecaso

storage = gecaso.MemoryStorage(maxsize=1000)
ran_in: list[str] = []


@gecaso.cached(storage, ttl="5m")
def prime_factors(number: int) -> tuple[int, ...]:
    ran_in.append(threading.current_thread().name)
    time.sleep(0.1)  # so that the others have to wait
    factors: list[int] = []
    divisor = 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return tuple(factors)


async def in_a_loop() -> tuple[int, ...]:
    # In an event loop a plain function would block it, cached or not: give it a thread.
    return await asyncio.to_thread(prime_factors, 600_851_475_143)


def main() -> None:
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(prime_factors, [600_851_475_143] * 30))
    print(f"{len(answers)} threads, {prime_factors.stats.loads} load: {answers[0]}")
    assert set(answers) == {(71, 839, 1471, 6857)}
    assert len(ran_in) == prime_factors.stats.loads == 1

    assert asyncio.run(in_a_loop()) == answers[0]
    print(f"and from an event loop: {prime_factors.stats.hits} hit")

    future = prime_factors.future(97)
    print(f"a future of it: {future.result()}")

    prime_factors.invalidate(97)
    try:
        prime_factors.peek(97)
    except KeyError:
        print("97 is not cached any more")


if __name__ == "__main__":
    main()
