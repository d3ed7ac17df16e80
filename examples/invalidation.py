"""An invalidation during a load: nobody who asks after it gets the old value.

The writer changes a price while a slow load has already read the old one. Without a fence the load
would store the old price after the invalidation, and it would be served until the ttl ends.
"""

from __future__ import annotations

import asyncio

import gecaso

prices = {"apple": 100}
has_read = asyncio.Event()
may_return = asyncio.Event()


@gecaso.cached(gecaso.MemoryStorage(), ttl=3600)
async def price(item: str) -> int:
    found = prices[item]
    has_read.set()
    await may_return.wait()
    return found


async def main() -> None:
    early = asyncio.create_task(price("apple"))
    await has_read.wait()  # the load has the old price in its hands …

    prices["apple"] = 80
    await price.invalidate("apple")
    late = asyncio.create_task(price("apple"))
    await asyncio.sleep(0)
    may_return.set()  # … and only now returns it

    print(f"asked before the invalidation: {await early}")
    print(f"asked after it:                {await late}")
    print(f"what is cached:                {await price.peek('apple')}")
    assert (await early, await late, await price.peek("apple")) == (100, 80, 80)
    assert price.stats.loads == 2

    await price.put(75, "apple")  # a writer who knows the new value can store it at once
    assert await price("apple") == 75
    print(f"after put:                     {await price('apple')}")


if __name__ == "__main__":
    asyncio.run(main())
