"""What tests run in processes of their own: ``python -m tests.workers NAME URL``.

Each says ``ready`` and waits for a line before it does its work; what it prints then is for the
test. Nothing may be left on the standard error: warnings are errors in these processes. `Worker`
is the test's end of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from gecaso import Cache, MemoryStorage
from tests.scenes import Storage, opened

CALLERS = 250
ROOT = Path(__file__).parent.parent


class Worker:
    """A process that runs one of the functions below, as the test sees it; use it with ``with``."""

    def __init__(self, name: str, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.workers", name, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that its forked children can be killed with it
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.communicate()

    def wait_for(self, word: str) -> None:
        """Wait until it says that word."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        if said != word:
            self.kill()
            raise AssertionError(f"said {said!r}, not {word!r}:\n{self._process.communicate()[1]}")

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> str:
        """Wait for its end, which must be a good one, and return what it printed."""
        out, errors = self._process.communicate(timeout=30)
        assert (self._process.returncode, errors) == (0, "")
        return out

    def kill(self) -> None:
        """End it, and the children that it forked, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def storage_at(url: str) -> Storage:
    return MemoryStorage() if url == "memory" else opened(url)


def ready() -> None:
    """Tell the test, and wait until it says go."""
    print("ready", flush=True)
    sys.stdin.readline()


# -- one key, many processes -----------------------------------------------------------------------


def stampede(url: str) -> None:
    """Ask 250 times at once for one cold key; print the loads and the longest wait in seconds."""
    cache = Cache(storage_at(url), ttl=60)
    loads = 0

    @cache.cached(key="cold")
    async def cold() -> str:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0.1)
        return "value"

    async def timed() -> float:
        started = time.perf_counter()
        assert await cold() == "value"
        return time.perf_counter() - started

    async def main() -> None:
        await cache.get_or_create(f"warm {os.getpid()}", lambda: 1)
        await asyncio.to_thread(ready)
        waits = await asyncio.gather(*[timed() for _ in range(CALLERS)])
        print(loads, max(waits), flush=True)

    asyncio.run(main())


def hang(url: str) -> None:
    """Begin a load that never ends, with a lease of a second; the test kills this process."""
    cache = Cache(storage_at(url), ttl=60, lease_seconds=1)

    @cache.cached(key="cold")
    async def cold() -> str:
        print("loading", flush=True)
        await asyncio.get_running_loop().create_future()
        return "never"

    ready()
    asyncio.run(cold())


REFRESHED_TTL = 0.4
REFRESHING_FOR = 3.0


def refreshing(url: str) -> None:
    """Ask for one key for some seconds, while it is refreshed behind its callers.

    Prints a line of JSON: when loads began and ended, and when calls began and ended; in seconds
    of the machine's monotonic clock.
    """
    import json

    cache = Cache(storage_at(url), ttl=REFRESHED_TTL, stale_while_revalidate=30)
    loads: list[tuple[float, float]] = []
    calls: list[tuple[float, float]] = []

    @cache.cached(key="warm")
    async def warm() -> float:
        began = time.monotonic()
        await asyncio.sleep(0.1)
        loads.append((began, time.monotonic()))
        return began

    async def ask(until: float) -> None:
        while (began := time.monotonic()) < until:
            await warm()
            calls.append((began, time.monotonic()))
            await asyncio.sleep(0.005)

    async def main() -> None:
        await warm()
        loads.clear()
        await asyncio.to_thread(ready)
        until = time.monotonic() + REFRESHING_FOR
        await asyncio.gather(*[ask(until) for _ in range(10)])
        await cache.aclose()
        print(json.dumps({"loads": loads, "calls": calls}), flush=True)

    asyncio.run(main())


# -- forks -----------------------------------------------------------------------------------------

KEYS = 60


def in_child(check: Callable[[], None]) -> None:
    """Run ``check()`` in a forked child, which ends here; 0 for all well, like any process."""
    code = 1
    try:
        check()
        gc.collect()
        code = 0
    except BaseException as error:  # noqa: BLE001 - it is shown, and the exit code tells
        traceback.print_exception(error)
    finally:
        sys.stderr.flush()
        os._exit(code)


def fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: that is the point
        return os.fork()


def parents_end(child: int) -> None:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child failed"


def descriptors() -> set[str]:
    """Return what sockets this process holds."""
    held = set[str]()
    for each in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(each)
        except OSError:
            continue
        if target.startswith("socket:"):
            held.add(target)
    return held


def fork_coroutines(url: str) -> None:
    """Fork inside a load, with loads, lookups and waiting callers under way."""
    cache = Cache(storage_at(url), ttl=60)
    child = -1
    held = set[str]()

    @cache.cached(key="value:{i}")
    async def value(i: int) -> str:
        nonlocal child, held
        await asyncio.sleep(0.001 * (i % 7))
        if i == KEYS // 2 and child == -1:
            held = descriptors()
            child = fork()
            if child == 0:
                in_child(anew)
        return f"value {i} " + "x" * (i * 50)

    async def check() -> None:
        for _ in range(3):
            calls = [value(i) for i in range(KEYS) for _ in range(3)]
            values = await asyncio.gather(*calls)
            assert [v.split()[1] for v in values] == [str(i) for i in range(KEYS) for _ in range(3)]
            await asyncio.gather(*[value.invalidate(i) for i in range(0, KEYS, 5)])

    def anew() -> None:
        inherited = descriptors()
        assert (inherited < held) == (url != "memory")  # the connections are the parent's alone
        asyncio.run(check())
        assert descriptors() <= inherited

    async def parent() -> None:
        await check()
        await asyncio.to_thread(parents_end, child)
        await check()

    ready()
    asyncio.run(parent())
    gc.collect()
    assert child > 0
    print("well", flush=True)


def fork_plain(url: str) -> None:
    """Fork inside a plain load, with other threads calling."""
    cache = Cache(storage_at(url), ttl=60)
    children = list[int]()

    def load(i: int) -> str:
        time.sleep(0.001 * (i % 7))
        if i == KEYS // 2 and not children:
            children.append(fork())
            if children[0] == 0:
                in_child(check)
        return f"value {i}"

    plain = cache.cached(key="value:{i}")(load)

    def check() -> None:
        for _ in range(2):
            with ThreadPoolExecutor(8) as pool:
                values = list(pool.map(plain, [i % KEYS for i in range(3 * KEYS)]))
            assert values == [f"value {i % KEYS}" for i in range(3 * KEYS)]
            for i in range(0, KEYS, 10):
                plain.invalidate(i)

    ready()
    check()
    parents_end(children[0])
    check()
    gc.collect()
    print("well", flush=True)


def fork_around(url: str) -> None:
    """Fork in the main thread while another thread loads, and a child of the child as well."""
    cache = Cache(storage_at(url), ttl=60, lease_seconds=3)
    begun, go = threading.Event(), threading.Event()

    def load(i: int) -> str:
        if i == 0 and os.getpid() == parent:
            begun.set()
            assert go.wait(10)
        return f"value {i}"

    parent = os.getpid()
    plain = cache.cached(key="value:{i}")(load)

    def grandchild() -> None:
        assert [plain(i) for i in range(1, 20)] == [f"value {i}" for i in range(1, 20)]

    def child() -> None:
        grandchild()
        second = fork()
        if second == 0:
            in_child(grandchild)
        parents_end(second)
        if url == "memory":  # the loads of the parent are none of the child's
            assert plain(0) == "value 0"

    ready()
    assert plain(1) == "value 1"
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(plain, 0)
        assert begun.wait(10)
        first = fork()
        if first == 0:
            in_child(child)
        parents_end(first)
        go.set()
        assert loading.result(10) == "value 0"
    grandchild()
    gc.collect()
    print("well", flush=True)


WORKERS = {
    worker.__name__: worker
    for worker in (stampede, hang, refreshing, fork_coroutines, fork_plain, fork_around)
}

if __name__ == "__main__":
    WORKERS[sys.argv[1]](sys.argv[2])
