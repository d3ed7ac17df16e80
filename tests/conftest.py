"""Fixtures and rules for all tests: real servers, event loops, and what runs when."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import pytest
from hypothesis import settings

from tests.postgres import PgBouncer, PostgresServer
from tests.redis_cluster import RedisCluster
from tests.redis_sentinel import RedisSentinels
from tests.servers import MemcachedServer, MissingServer, RedisServer

Backend = tuple[str, dict[str, Any]]

LONG = os.environ.get("GECASO_TEST") == "long"
CI = bool(os.environ.get("CI"))

# A busy machine is no bug: time limits are those of pytest. The same examples in each run of CI.
settings.register_profile("gecaso", deadline=None, derandomize=CI, print_blob=True)
settings.load_profile("gecaso")


# -- event loops ---------------------------------------------------------------------------------


def eager_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose tasks start to run within ``create_task`` (Python 3.12)."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - not in 3.11
    return loop


def every_loop() -> list[Any]:
    """The kinds of event loop of tests marked ``every_loop``, as parameters."""
    loops: dict[str, dict[str, Any]] = {"asyncio": {}}
    if sys.platform != "win32":
        loops["uvloop"] = {"use_uvloop": True}
    if sys.version_info >= (3, 12):
        loops["eager"] = {"loop_factory": eager_loop}
    return [pytest.param(("asyncio", options), id=name) for name, options in loops.items()]


@pytest.fixture
def anyio_backend() -> Backend:
    """The event loop of an async test: asyncio's own, unless it is marked ``every_loop``."""
    return ("asyncio", {})


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> None:
    """Run every ``async def test_*`` by anyio's plugin, without a mark on each."""
    if name.startswith("test"):
        inner = getattr(getattr(obj, "hypothesis", None), "inner_test", obj)
        if inspect.iscoroutinefunction(inner):
            pytest.mark.usefixtures("anyio_backend")(obj)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("every_loop"):
        metafunc.parametrize("anyio_backend", every_loop())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not LONG:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: runs with GECASO_TEST=long"))


# -- servers -------------------------------------------------------------------------------------


class Startable(Protocol):
    """A server, or several."""

    def start(self) -> None: ...

    def close(self) -> None: ...


S = TypeVar("S", bound=Startable)


def running(server: S) -> Iterator[S]:
    """Yield the started server; a program that is not installed skips the test, or fails CI."""
    try:
        server.start()
    except MissingServer as missing:
        server.close()
        if CI:
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
    except BaseException:
        server.close()
        raise
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis that tests share, with TLS and a unix socket; do not stop, pause or kill it."""
    yield from running(RedisServer(tls=True))


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """The Redis Cluster that tests share; do not stop, pause or kill its nodes."""
    yield from running(RedisCluster(node_timeout=10_000))  # a busy machine kills no node


@pytest.fixture(scope="session")
def redis_sentinels() -> Iterator[RedisSentinels]:
    """The master with a replica and Sentinels that tests share; do not stop, pause or kill it."""
    yield from running(RedisSentinels())


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[MemcachedServer]:
    """The memcached that tests share; do not stop, pause or kill it."""
    yield from running(MemcachedServer())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL that tests share; do not stop, pause or kill it."""
    yield from running(PostgresServer())


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the shared Redis, which is empty when the test starts."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def valkey_url(redis_url: str) -> str:
    """The URL of the shared Redis, as that of a Valkey, which speaks the same."""
    return redis_url.replace("redis://", "valkey://")


@pytest.fixture
def redis_cluster_url(redis_cluster: RedisCluster) -> str:
    """The URL of the shared Redis Cluster, which is empty when the test starts."""
    redis_cluster.flush()
    return redis_cluster.url


@pytest.fixture
def redis_sentinel_url(redis_sentinels: RedisSentinels) -> str:
    """The URL of the shared master with Sentinels, which is empty when the test starts."""
    redis_sentinels.flush()
    return redis_sentinels.url


@pytest.fixture
def memcached_url(memcached_server: MemcachedServer) -> str:
    """The URL of the shared memcached, which is empty when the test starts."""
    memcached_server.flush()
    return memcached_server.url


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of the shared PostgreSQL, which has no tables when the test starts."""
    postgres_server.flush()
    return postgres_server.url


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, to stop, pause, kill and restart."""
    yield from running(PostgresServer())


@pytest.fixture
def pgbouncer_url(postgres_url: str, postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a PgBouncer in transaction mode before the shared PostgreSQL."""
    for pooler in running(PgBouncer(postgres_server)):
        yield pooler.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis of the test's own, to stop, pause, kill and restart."""
    yield from running(RedisServer())


def several(count: int, make: Callable[[], S]) -> Iterator[list[S]]:
    """Yield that many started servers."""
    if count == 0:
        yield []
        return
    for server in running(make()):
        for others in several(count - 1, make):
            yield [server, *others]


@pytest.fixture(scope="session")
def memcached_servers() -> Iterator[list[MemcachedServer]]:
    """Three that tests share; do not stop, pause or kill them."""
    yield from several(3, MemcachedServer)


@pytest.fixture
def memcached_pool(memcached_servers: list[MemcachedServer]) -> list[str]:
    """The URLs of three shared memcached, which are empty when the test starts."""
    for server in memcached_servers:
        server.flush()
    return [server.url for server in memcached_servers]


@pytest.fixture
def own_memcached_pool() -> Iterator[list[MemcachedServer]]:
    """Three of the test's own, to stop, pause, kill and restart."""
    yield from several(3, MemcachedServer)


@pytest.fixture
def own_redis_cluster() -> Iterator[RedisCluster]:
    """A Redis Cluster of the test's own, with a replica of each master."""
    yield from running(RedisCluster(replicas=1))


@pytest.fixture
def own_redis_sentinels() -> Iterator[RedisSentinels]:
    """A master with a replica and Sentinels, of the test's own."""
    yield from running(RedisSentinels())


@pytest.fixture
def own_memcached() -> Iterator[MemcachedServer]:
    """A memcached of the test's own, to stop, pause, kill and restart."""
    yield from running(MemcachedServer())


# What the text of a page or docstring says, and the fixture that stands for it; the longest first.
USUAL_PLACES = {
    "redis+sentinel://localhost:26379,localhost:26380/mymaster/0": "redis_sentinel_url",
    "redis+cluster://localhost:7000,localhost:7001": "redis_cluster_url",
    "valkey://localhost:6379/0": "valkey_url",
    "redis://localhost:6379/0": "redis_url",
    "memcached://localhost:11211": "memcached_url",
    "localhost:11211": "memcached_address",
    "postgresql://localhost/app": "postgres_url",
}


@pytest.fixture
def memcached_address(memcached_url: str) -> str:
    """``host:port`` of the shared memcached, which is empty when the test starts."""
    return memcached_url.partition("://")[2]


@pytest.fixture
def on_test_servers(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Replace the usual URLs in a text by those of the servers of the tests."""

    def replace(text: str) -> str:
        for usual, fixture in USUAL_PLACES.items():
            if usual in text:
                text = text.replace(usual, request.getfixturevalue(fixture))
        return text

    return replace
