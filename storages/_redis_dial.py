"""How to make a connection; redis-py makes it, we keep it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import redis

from gecaso.errors import ConfigurationError

from ._redis_errors import mapped

__all__ = ["Dial", "take_streams"]

# Timeouts, retries, health checks and what a pool shares with its connections are not for us: we
# have our own, and speak RESP2, in which a server sends nothing but replies.
NOT_OURS = ("maint_notifications", "maintenance_", "oss_cluster_", "orig_", "himport_", "retry")
NOT_OURS_EITHER = (
    "connection_pool",
    "event_dispatcher",
    "health_check_interval",
    "parser_class",
    "timeout",
)


@dataclass(frozen=True, slots=True, eq=False)
class Dial:
    """How to connect; times in seconds. ``where`` is the address without user and password."""

    connection_class: type[Any]
    options: dict[str, Any]
    where: str
    timeout: float
    connect_timeout: float

    @classmethod
    def of(
        cls,
        connection_class: type[Any],
        options: Mapping[str, Any],
        timeout: float,
        connect_timeout: float,
    ) -> Dial:
        """Return how to connect as redis-py would. Raises `ConfigurationError`."""
        if options.get("decode_responses"):
            raise ConfigurationError(
                "RedisStorage stores bytes and cannot use a client with decode_responses=True; "
                "give it the URL, or a client made without decode_responses"
            )
        own = _own(options)
        own |= {"protocol": 2, "socket_timeout": None, "socket_connect_timeout": connect_timeout}
        try:
            connection = connection_class(**own)
        except (TypeError, ValueError, redis.RedisError) as error:
            raise ConfigurationError(f"redis-py does not take these options: {error}") from error
        return cls(connection_class, own, _where(connection), timeout, connect_timeout)

    @property
    def is_for_masters(self) -> bool:
        """Whether what is found there must be a master, and no connection is kept to another."""
        return False

    def at(self, host: str, port: int) -> Dial:
        """Return how to connect to another server in the same way."""
        options = {**self.options, "host": host, "port": port}
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return Dial(self.connection_class, options, place, self.timeout, self.connect_timeout)

    def within(self, share: float) -> Dial:
        """Return how to connect in a share of the time."""
        return replace(self, connect_timeout=self.connect_timeout * share)

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.StreamWriter:
        """Connect within ``connect_timeout`` and hand the transport over to ``protocol``.

        redis-py does the name look-up, TLS, authentication and the choice of the database.
        """
        with mapped(self.where):
            async with asyncio.timeout(self.connect_timeout):
                connection = self.connection_class(**await self.found())
                try:
                    await connection.connect()
                except BaseException:
                    writer = take_streams(connection)
                    if writer is not None:
                        writer.transport.abort()
                    raise
        writer = take_streams(connection)
        assert writer is not None
        writer.transport.set_protocol(protocol)
        return writer

    async def found(self) -> dict[str, Any]:
        """Return the options of the connection to make now."""
        return self.options


def take_streams(connection: Any) -> asyncio.StreamWriter | None:
    """Take the socket out of a redis-py connection, which then looks like a closed one.

    These two attributes are the only private ones of redis-py in use: its connections can neither
    be dropped without waiting nor be left behind in a fork or a closed loop.
    """
    writer: asyncio.StreamWriter | None = connection._writer
    connection._writer = connection._reader = None
    return writer


def _own(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in options.items()
        if not name.startswith(NOT_OURS) and name not in NOT_OURS_EITHER
    }


def _where(connection: Any) -> str:
    pieces = dict(connection.repr_pieces())
    place = pieces.get("path") or f"{pieces.get('host')}:{pieces.get('port')}"
    return f"{place}/{pieces.get('db', 0)}"
