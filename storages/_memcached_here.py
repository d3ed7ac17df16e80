"""What a storage has in one event loop: connections to each server, and what is asked this tick."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Future
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from gecaso.entry import Entry
from gecaso.errors import GecasoError, StorageError

from ._batch import Batch, Calls, fail, settle
from ._memcached_client import Connections
from ._memcached_leases import Leasing
from ._memcached_link import Link, Work
from ._memcached_parts import Head
from ._memcached_pool import Pool, View
from ._memcached_server import Server
from ._memcached_wire import Found

__all__ = ["IN_ONE_GO", "Here", "Outcomes"]

logger = logging.getLogger("gecaso")

Job = TypeVar("Job")
Result = TypeVar("Result")

AT_ONCE = 200  # keys in one operation on one server, which has its own time
IN_ONE_GO = 1000  # the same, where all of them are one or two commands
MOST = 500  # names in one command
HEAVIEST = 64 * 1024  # bytes of names in one command


@dataclass
class Outcomes(Generic[Job, Result]):
    """What came of some work on several servers: results, and what failed with which jobs."""

    results: list[Result]
    failures: list[tuple[list[Job], Exception]]

    def some(self) -> list[Result]:
        """Return the results there are; raise the first error if there are none."""
        if self.failures and not self.results:
            raise self.failures[0][1]
        return self.results

    def all(self) -> list[Result]:
        """Return the results; raise the first error, which says which keys it is about."""
        if not self.failures:
            return self.results
        error = self.failures[0][1]
        if self.results and isinstance(error, StorageError):
            error.keys = tuple(_key_of(job) for jobs, _ in self.failures for job in jobs)
        raise error


class Here:
    """The way to every server of a pool, in one event loop."""

    def __init__(self, pool: Pool, leasing: Leasing) -> None:
        self.pool = pool
        self._leasing = leasing
        self._loop = asyncio.get_running_loop()
        self._links: dict[Server, Link] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._asking: asyncio.Task[None] | None = None
        self._seen: View | None = None
        self._is_closed = False
        self._lookups: Batch[bytes, Entry | None] = Batch(
            self._send, most=MOST, weigh=len, heaviest=HEAVIEST
        )
        self._under_way = 0
        self._was_alone = False

    def __repr__(self) -> str:
        return f"<Here: {list(self._links.values())}>"

    @property
    def connections(self) -> int:
        return sum(link.connections for link in self._links.values())

    # --- servers --------------------------------------------------------------------------------

    def link(self, server: Server) -> Link:
        """Return the way to a server."""
        link = self._links.get(server)
        if link is None:
            link = self._links[server] = Link(server)
            link.is_closed = self._is_closed
        return link

    def view(self) -> View | None:
        """Return who the servers are, if that is known; find out in the background if it is due."""
        pool = self.pool
        if not self._is_closed and pool.take_turn():
            self._asking = self._spawn(pool.ask())
        view = pool.view
        if view is not self._seen and view is not None:
            if self._seen is not None:
                self._spawn(self._let_go(view))
            self._seen = view
        return view

    async def ready(self) -> View:
        """Return who the servers are, as soon as that is known."""
        if self._is_closed:
            raise StorageError("the storage was closed during the operation")
        view = self.view()
        if view is not None:
            return view
        if self._asking is None or self._asking.done():
            self._asking = self._spawn(self.pool.ask())
        asking = self._asking
        await asyncio.wait((asking,))
        if asking.cancelled():
            raise StorageError("the storage was closed during the operation")
        asking.result()
        assert self.pool.view is not None
        return self.pool.view

    async def _let_go(self, view: View) -> None:
        """Close the ways to servers that have left, once nobody looks for keys there."""
        await asyncio.sleep(max(0.0, view.settled_at - time.monotonic()))
        if view is not self.pool.view:
            return  # the one who follows that will do it
        for server in self._links.keys() - view.servers.values():
            await self._links.pop(server).aclose()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # told to those who waited, if there were any

    # --- operations -----------------------------------------------------------------------------

    async def run(
        self,
        jobs: Mapping[Job, bytes],
        begin: Callable[[list[Job]], Work[Result]],
        *,
        urgent: bool = False,
        everywhere: bool = False,
        at_once: int = AT_ONCE,
        started: Callable[[list[Job], Link, asyncio.Task[Result]], None] | None = None,
    ) -> Outcomes[Job, Result]:
        """Run ``begin(jobs)(client)`` on each server, for the jobs whose names are its own.

        What ``begin`` takes, such as packing, is our time, and only the rest the server's.

        What is ``urgent`` is tried on servers that are left alone, too; what goes ``everywhere``
        also where other processes may still look for a key that has moved. Of more jobs than
        ``at_once`` the rest wait for their turn. ``started`` is told of each task; no task is
        cancelled with us.
        """
        view = self.view() or await self.ready()
        if view.only is not None and not (everywhere and view.has_moved):
            groups = {view.only: list(jobs)}
        else:
            groups = _grouped(view, jobs, everywhere=everywhere)
        outcomes = Outcomes[Job, Result]([], [])
        while groups:
            later: dict[Server, list[Job]] = {}
            tasks: dict[Server, tuple[list[Job], asyncio.Task[Result]]] = {}
            for server, wanted in groups.items():
                some, rest = wanted[:at_once], wanted[at_once:]
                if not self._is_to_be_asked(server, view, urgent=urgent):
                    if server in view.servers.values():
                        outcomes.failures.append((wanted, server.left_alone()))
                    continue
                try:
                    work = begin(some)
                except GecasoError as error:  # what cannot be packed is no trouble of the server
                    outcomes.failures.append((wanted, error))
                    continue
                link = self.link(server)
                task = link.start(work)
                tasks[server] = wanted, task
                if rest:
                    later[server] = rest
                if started is not None:
                    started(some, link, task)
            await self._gather(tasks, view, outcomes, later)
            groups = later
        return outcomes

    def _is_to_be_asked(self, server: Server, view: View, *, urgent: bool) -> bool:
        if not server.is_left_alone:
            return True
        if server.breaker.take_probe():
            self.link(server).probe()
        return urgent and server in view.servers.values()

    @staticmethod
    async def _gather(
        tasks: dict[Server, tuple[list[Job], asyncio.Task[Result]]],
        view: View,
        outcomes: Outcomes[Job, Result],
        later: dict[Server, list[Job]],
    ) -> None:
        """Wait for tasks; what fails on a server is not gone on with there."""
        if tasks:
            await asyncio.wait([task for _, task in tasks.values()])
        for server, (jobs, task) in tasks.items():
            error = task.exception()
            if error is None:
                outcomes.results.append(task.result())
                continue
            later.pop(server, None)
            if not isinstance(error, Exception):
                raise error
            if server in view.servers.values():
                outcomes.failures.append((jobs, error))
            else:  # it has left the pool; whoever still looks there cannot reach it either
                logger.debug("an invalidation did not reach %s, which has left: %s", server, error)

    # --- lookups --------------------------------------------------------------------------------

    def lookup(self, name: bytes) -> Future[Entry | None]:
        """Return a future of the entry under a name; lookups of one tick share a command.

        But where one caller asks after the other, nobody joins him by the end of the tick, and
        waiting for it would take as long as the rest of a hit: the first is sent at once.
        """
        if not self._was_alone or self._under_way or self._lookups:
            return self._lookups.add(name)
        future: Future[Entry | None] = self._loop.create_future()
        self._send({name: [future]})
        return future

    def _send(self, calls: Calls[bytes, Entry | None]) -> None:
        view = self.view()
        if view is None:
            self._spawn(self._send_when_ready(calls))
        elif view.only is not None and not view.has_moved:
            self._look(view.only, calls)
        else:
            self._send_to_each(view, calls)

    async def _send_when_ready(self, calls: Calls[bytes, Entry | None]) -> None:
        try:
            await self.ready()
        except StorageError as error:
            fail(calls, error)
        except asyncio.CancelledError:
            fail(calls, StorageError("the storage was closed during the operation"))
            raise
        else:
            self._send(calls)

    def _send_to_each(self, view: View, calls: Calls[bytes, Entry | None]) -> None:
        now = time.monotonic()
        groups: dict[Server, Calls[bytes, Entry | None]] = {}
        for name, futures in calls.items():
            if view.is_settled(name, now):
                groups.setdefault(view.server(name), {})[name] = futures
            else:
                settle(futures, None)
        for server, some in groups.items():
            self._look(server, some)

    def _look(self, server: Server, calls: Calls[bytes, Entry | None]) -> None:
        link = self.link(server)
        if server.is_left_alone:
            if server.breaker.take_probe():
                link.probe()
            fail(calls, server.left_alone())
            return
        self._was_alone = len(calls) == 1
        self._under_way += 1
        link.look(calls, partial(self._answer_first, link, calls))

    def _answer_first(
        self,
        link: Link,
        calls: Calls[bytes, Entry | None],
        outcome: dict[bytes, Found] | Exception,
    ) -> None:
        self._under_way -= 1
        self._answer(link, calls, outcome)

    def _answer(
        self,
        link: Link,
        calls: Calls[bytes, Entry | None],
        outcome: dict[bytes, Found] | Exception,
        *,
        is_whole: bool = False,
    ) -> None:
        if isinstance(outcome, Exception):
            fail(calls, outcome)
            return
        read, now, heads = self._leasing.read, self._leasing.now(), dict[bytes, Found]()
        for name, futures in calls.items():
            found = outcome.get(name)
            try:
                entry = None if found is None else read(name, found[0])
            except Exception as fault:  # noqa: BLE001 - it is raised in those who wait
                fail({name: futures}, fault)
                continue
            if entry is not None and not now < entry.dead_after:
                entry = None
            elif entry is None and found is not None and not is_whole and Head.unpack(found[0]):
                heads[name] = found
                continue
            for future in futures:
                if not future.done():
                    future.set_result(entry)
        if heads:
            some = {name: calls[name] for name in heads}
            task = link.start(partial(Connections.made_whole, found=heads))
            task.add_done_callback(partial(self._answer_whole, link, some))

    def _answer_whole(
        self,
        link: Link,
        calls: Calls[bytes, Entry | None],
        task: asyncio.Task[dict[bytes, Found]],
    ) -> None:
        if task.cancelled():
            fail(calls, StorageError("the event loop was closed during the operation"))
            return
        error = task.exception()
        if error is None or isinstance(error, Exception):
            self._answer(link, calls, error or task.result(), is_whole=True)

    # --- its end --------------------------------------------------------------------------------

    async def aclose(self) -> None:
        self._is_closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for link in list(self._links.values()):
            await link.aclose()
        if tasks:
            await asyncio.wait(tasks)
        self._lookups.flush()

    def abandon(self) -> None:
        for link in self._links.values():
            link.abandon()


def _grouped(view: View, jobs: Mapping[Job, bytes], *, everywhere: bool) -> dict[Server, list[Job]]:
    now = time.monotonic()
    groups: dict[Server, list[Job]] = {}
    for job, name in jobs.items():
        groups.setdefault(view.server(name), []).append(job)
        if everywhere:
            for server in view.former_servers(name, now):
                groups.setdefault(server, []).append(job)
    return groups


def _key_of(job: Any) -> Any:
    return getattr(job, "key", job)
