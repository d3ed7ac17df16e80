"""The connections of a loop to memcached are shared in the order of asking."""

from __future__ import annotations

import asyncio

from gecaso.storages._memcached_wire import Connections


async def test_who_waits_for_a_connection_gets_it_before_who_comes_later(
    memcached_address: str,
) -> None:
    host, _, port = memcached_address.partition(":")
    pool = Connections(host, int(port), size=1).pool
    await pool.open()
    order: list[str] = []

    async def use(name: str) -> None:
        connection = await pool.acquire()
        order.append(name)
        pool.release(connection)

    connection = await pool.acquire()
    waiting = asyncio.create_task(use("waits"))
    await asyncio.sleep(0)
    pool.release(connection)
    await use("comes later")
    await waiting
    assert order == ["waits", "comes later"]
    await pool.clear()
    await asyncio.sleep(0)


async def test_who_waits_for_a_connection_that_is_lost_is_told(memcached_address: str) -> None:
    host, _, port = memcached_address.partition(":")
    pool = Connections(host, int(port), size=1).pool
    await pool.open()
    await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    pool.lose(ConnectionAbortedError("lost"))
    (error,) = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(error, ConnectionResetError)
    await asyncio.sleep(0)
