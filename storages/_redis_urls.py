"""A URL or a redis-py client -> where the servers are, and how to connect to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.asyncio
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.sentinel import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from gecaso.errors import ConfigurationError

from ._redis_dial import Dial
from ._redis_sentinel import SentinelDial

__all__ = ["ClusterPlace", "place_of"]

SCHEMES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")
SHAPES = ("redis+sentinel://", "redis+cluster://")
PLAIN = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
FOR_SENTINELS = "sentinel_"  # what the options of a URL that are for the Sentinels begin with

MANAGED: dict[type[Any], type[Any]] = {
    SentinelManagedConnection: Connection,
    SentinelManagedSSLConnection: SSLConnection,
}

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ClusterPlace:
    """Some nodes of a cluster, that know the others; how to reach an address they give."""

    seeds: tuple[Dial, ...]
    remap: Callable[[Address], Address] | None = None

    @property
    def where(self) -> str:
        return "cluster " + ",".join(seed.where for seed in self.seeds)


def place_of(given: object, timeout: float, connect_timeout: float) -> Dial | ClusterPlace:
    """Return how to connect. Raises `ConfigurationError` for what cannot work."""
    times = timeout, connect_timeout
    if isinstance(given, str):
        return _of_url(given, *times)
    if isinstance(given, redis.asyncio.RedisCluster):
        return _of_cluster_client(given, *times)
    pool = given.connection_pool if isinstance(given, redis.asyncio.Redis) else given
    if isinstance(pool, SentinelConnectionPool):
        return _of_sentinel_pool(pool, *times)
    if isinstance(pool, redis.asyncio.ConnectionPool):
        if issubclass(pool.connection_class, SentinelManagedConnection):
            raise ConfigurationError(
                "connections managed by Sentinel come from redis.asyncio.Sentinel(…).master_for(…)"
            )
        return Dial.of(pool.connection_class, pool.connection_kwargs, *times)
    if isinstance(given, (redis.Redis, redis.RedisCluster)):
        raise ConfigurationError(
            f"RedisStorage needs redis.asyncio.{type(given).__name__}, not the synchronous "
            f"redis.{type(given).__name__}; or give it the URL"
        )
    raise ConfigurationError(
        f"RedisStorage takes a URL ({', '.join((*SCHEMES, *SHAPES))}), a redis.asyncio.Redis or a "
        f"redis.asyncio.RedisCluster, not {type(given).__name__}"
    )


# --- clients --------------------------------------------------------------------------------------


def _of_cluster_client(client: redis.asyncio.RedisCluster, *times: float) -> ClusterPlace:
    nodes: list[Any] = list(client.nodes_manager.startup_nodes.values())
    seeds: list[Dial] = []
    for node in nodes:
        # With read_from_replicas=True the client has a hook here that needs the client.
        options = {**node.connection_kwargs, "host": node.host, "port": node.port}
        options.pop("redis_connect_func", None)
        seeds.append(Dial.of(node.connection_class, options, *times))
    return ClusterPlace(tuple(seeds), client.nodes_manager.address_remap)


def _of_sentinel_pool(pool: Any, *times: float) -> SentinelDial:  # redis-py gives it no types
    if not pool.is_master:
        raise ConfigurationError(
            "RedisStorage writes, and so needs Sentinel(…).master_for(…), not slave_for(…); "
            "read_from_replicas=True lets it read from replicas"
        )
    kind: type[Any] = MANAGED.get(pool.connection_class) or pool.connection_class
    clients: list[redis.asyncio.Redis] = pool.sentinel_manager.sentinels
    sentinels = [
        Dial.of(
            client.connection_pool.connection_class,
            client.connection_pool.connection_kwargs,
            *times,
        )
        for client in clients
    ]
    return _sentinel(Dial.of(kind, pool.connection_kwargs, *times), pool.service_name, sentinels)


def _sentinel(dial: Dial, service: str, sentinels: list[Dial]) -> SentinelDial:
    places = ",".join(sentinel.where.partition("/")[0] for sentinel in sentinels)
    return SentinelDial(
        dial.connection_class,
        dial.options,
        f"{service}/{dial.options.get('db', 0)} of the Sentinels {places}",
        dial.timeout,
        dial.connect_timeout,
        service,
        tuple(sentinels),
    )


# --- URLs -----------------------------------------------------------------------------------------


def _of_url(url: str, *times: float) -> Dial | ClusterPlace:
    scheme = url.split("://", 1)[0] if "://" in url else ""
    base, _, shape = scheme.partition("+")
    if scheme == "unix":
        if not urlsplit(url).path:
            raise ConfigurationError("the path of the socket is missing: unix:///path/to/socket")
        return _dial(url, scheme, *times)
    if base in PLAIN and shape in ("", "sentinel", "cluster"):
        parts = urlsplit(url)
        login, at, places = parts.netloc.rpartition("@")
        start = f"{PLAIN[base]}://{login}{at}"
        if shape == "sentinel":
            return _of_sentinel_url(scheme, start, places, parts.path, parts.query, *times)
        if shape == "cluster":
            return _of_cluster_url(scheme, start, places, parts.path, parts.query, *times)
        _check_database(scheme, parts.path.strip("/"))
        return _dial(f"{start}{places}{parts.path}?{parts.query}", scheme, *times)
    raise ConfigurationError(
        f"RedisStorage takes URLs that start with {', '.join((*SCHEMES, *SHAPES))}; "
        + (f"this one starts with {scheme}://" if scheme else "this one has no scheme")
    )


def _of_sentinel_url(
    scheme: str, start: str, places: str, path: str, query: str, *times: float
) -> SentinelDial:
    service, _, database = path.strip("/").partition("/")
    if not service:
        raise ConfigurationError(
            f"the URL of a master that Sentinel knows names it: {scheme}://host:26379/mymaster"
        )
    _check_database(scheme, database)
    options = dict(parse_qsl(query, keep_blank_values=True))
    ours = {name: value for name, value in options.items() if not name.startswith(FOR_SENTINELS)}
    theirs = {
        name: value
        for name, value in options.items()
        if name.startswith("ssl_") and f"{FOR_SENTINELS}{name}" not in options
    }
    theirs |= {
        name.removeprefix(FOR_SENTINELS): value
        for name, value in options.items()
        if name.startswith(FOR_SENTINELS)
    }
    tls = start.partition("://")[0]
    sentinels = [
        _dial(f"{tls}://{place}?{urlencode(theirs)}", scheme, *times)
        for place in _each(scheme, places, 26379)
    ]
    # The address is a stand-in: each connecting asks for it anew.
    dial = _dial(f"{start}master:6379/{database}?{urlencode(ours)}", scheme, *times)
    return _sentinel(dial, unquote(service), sentinels)


def _of_cluster_url(
    scheme: str, start: str, places: str, path: str, query: str, *times: float
) -> ClusterPlace:
    if path.strip("/") not in ("", "0"):
        raise ConfigurationError(f"a Redis Cluster has only database 0, not {path.strip('/')!r}")
    nodes = _each(scheme, places, 6379)
    return ClusterPlace(tuple(_dial(f"{start}{place}?{query}", scheme, *times) for place in nodes))


def _each(scheme: str, places: str, port: int) -> list[str]:
    """Return each ``host:port`` of a list with commas."""
    hosts = places.split(",")
    if not all(host.partition(":")[0] for host in hosts):
        raise ConfigurationError(
            f"a host of the {scheme}:// URL is missing: {scheme}://host:{port},host2:{port}"
        )
    return [
        place if place.rpartition("]")[2].find(":") >= 0 else f"{place}:{port}" for place in hosts
    ]


def _check_database(scheme: str, database: str) -> None:
    if database and not database.isdecimal():  # redis-py would take database 0
        raise ConfigurationError(
            f"the database of a URL is a number: {scheme}://host:port/0, not {database!r}"
        )


def _dial(url: str, scheme: str, *times: float) -> Dial:
    try:
        pool = redis.asyncio.ConnectionPool.from_url(url)  # pyright: ignore[reportUnknownMemberType] - redis-py does not say what it takes
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"this {scheme}:// URL cannot be read: {error}") from error
    return Dial.of(pool.connection_class, pool.connection_kwargs, *times)
