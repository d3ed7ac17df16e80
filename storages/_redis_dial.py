"""A URL or a redis-py client -> how to make a connection; redis-py makes it, we keep it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.sentinel import SentinelManagedConnection

from gecaso.errors import ConfigurationError

from ._redis_errors import mapped

__all__ = ["Dial", "dial_of"]

SCHEMES = ("redis://", "rediss://", "unix://")

# Timeouts, retries, health checks and what a pool shares with its connections are not for us: we
# have our own, and speak RESP2, in which a server sends nothing but replies.
NOT_OURS = ("maint_notifications", "maintenance_", "oss_cluster_", "orig_", "himport_", "retry")
NOT_OURS_EITHER = ("event_dispatcher", "health_check_interval", "parser_class", "timeout")


@dataclass(frozen=True, slots=True, eq=False)
class Dial:
    """How to connect; times in seconds. ``where`` is the address without user and password."""

    connection_class: type[Any]
    options: dict[str, Any]
    where: str
    timeout: float
    connect_timeout: float

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.StreamWriter:
        """Connect within ``connect_timeout`` and hand the transport over to ``protocol``.

        redis-py does the name look-up, TLS, authentication and the choice of the database.
        """
        connection = self.connection_class(**self.options)
        with mapped(self.where):
            try:
                async with asyncio.timeout(self.connect_timeout):
                    await connection.connect()
            except BaseException:
                writer = _take_streams(connection)
                if writer is not None:
                    writer.transport.abort()
                raise
        writer = _take_streams(connection)
        assert writer is not None
        writer.transport.set_protocol(protocol)
        return writer


def _take_streams(connection: Any) -> asyncio.StreamWriter | None:
    """Take the socket out of a redis-py connection, which then looks like a closed one.

    These two attributes are the only private ones of redis-py in use: its connections can neither
    be dropped without waiting nor be left behind in a fork or a closed loop.
    """
    writer: asyncio.StreamWriter | None = connection._writer
    connection._writer = connection._reader = None
    return writer


def dial_of(url_or_client: object, timeout: float, connect_timeout: float) -> Dial:
    """Return how to connect. Raises `ConfigurationError` for what cannot work."""
    for name, value in (("timeout", timeout), ("connect_timeout", connect_timeout)):
        if not value > 0:
            raise ConfigurationError(f"{name}={value!r}: give a number of seconds above 0")
    pool = _pool_of(url_or_client)
    options = _own(pool.connection_kwargs)
    options |= {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": connect_timeout}
    connection_class = pool.connection_class
    if issubclass(connection_class, SentinelManagedConnection):
        raise ConfigurationError(
            "RedisStorage cannot follow a Sentinel yet; give it the URL of the master"
        )
    if options.get("decode_responses"):
        raise ConfigurationError(
            "RedisStorage stores bytes and cannot use a client with decode_responses=True; "
            "give it the URL, or a client made without decode_responses"
        )
    try:
        connection = connection_class(**options)
    except (TypeError, ValueError, redis.RedisError) as error:
        raise ConfigurationError(f"redis-py does not take these options: {error}") from error
    return Dial(connection_class, options, _where(connection), timeout, connect_timeout)


def _own(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in options.items()
        if not name.startswith(NOT_OURS) and name not in NOT_OURS_EITHER
    }


def _where(connection: Any) -> str:
    pieces = dict(connection.repr_pieces())
    place = pieces.get("path") or f"{pieces.get('host')}:{pieces.get('port')}"
    return f"{place}/{pieces.get('db', 0)}"


def _pool_of(given: object) -> redis.asyncio.ConnectionPool:
    if isinstance(given, str):
        return _pool_of_url(given)
    if isinstance(given, redis.asyncio.Redis):
        return given.connection_pool
    if isinstance(given, redis.asyncio.ConnectionPool):
        return given
    if isinstance(given, (redis.asyncio.RedisCluster, redis.RedisCluster)):
        raise ConfigurationError(
            "RedisStorage does not speak to a Redis Cluster yet; give it a single server"
        )
    if isinstance(given, redis.Redis):
        raise ConfigurationError(
            "RedisStorage needs redis.asyncio.Redis, not the synchronous redis.Redis; "
            "or give it the URL"
        )
    raise ConfigurationError(
        f"RedisStorage takes a URL ({', '.join(SCHEMES)}) or a redis.asyncio.Redis, "
        f"not {type(given).__name__}"
    )


def _pool_of_url(url: str) -> redis.asyncio.ConnectionPool:
    scheme = url.split("://", 1)[0] if "://" in url else ""
    if not url.startswith(SCHEMES):
        raise ConfigurationError(
            f"RedisStorage takes URLs that start with {', '.join(SCHEMES)}; "
            + (f"this one starts with {scheme}://" if scheme else "this one has no scheme")
        )
    database = "" if scheme == "unix" else urlsplit(url).path.strip("/")
    if database and not database.isdecimal():  # redis-py would take database 0
        raise ConfigurationError(
            f"the database of a URL is a number: {scheme}://host:port/0, not {database!r}"
        )
    try:
        return redis.asyncio.ConnectionPool.from_url(url)  # pyright: ignore[reportUnknownMemberType] - redis-py does not say what it takes
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"this {scheme}:// URL cannot be read: {error}") from error
