"""What one process knows of one memcached: where it is, what it takes, whether it is in trouble."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from aiomcache import ClientException

from gecaso.breaker import Breaker
from gecaso.errors import (
    ConfigurationError,
    StorageError,
    StorageTimeout,
    ValueTooLarge,
)

from ._memcached_client import Connections, Dial, NotLetIn
from ._memcached_records import ServerClock

__all__ = ["ACCEPTED", "PORT", "Address", "Options", "Server"]

logger = logging.getLogger("gecaso")

PORT = 11211
ACCEPTED = (
    'MemcachedStorage takes "host:port" or "memcached://host:port" of a server, a list of those or '
    'a function that returns one, "memcacheds://…" for TLS, or "elasticache://host:port"'
)
NO_WORD = (
    "the server closed the connection before it had said a word; if it runs with -S (SASL), it "
    "speaks another protocol: start it with -Y instead"
)


class Address(NamedTuple):
    """One memcached: its name in the pool, and where it listens.

    ``name`` says which keys it has, so it stays the same when the address changes. ``checked_as``
    is what its certificate must be for, if not for ``host``.
    """

    name: str
    host: str
    port: int
    checked_as: str = ""

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, host: str, port: int) -> Address:
        return cls(_joined(host, port), host, port)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port`` or ``memcached://host:port``; the port is 11211 if it is left out."""
        try:
            parts = urlsplit(text if "://" in text else f"memcached://{text}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigurationError(f"{ACCEPTED}; not {text!r}: {error}") from None
        more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme != "memcached" or not host or more or port == 0:
            raise ConfigurationError(f"{ACCEPTED}; not {text!r}")
        return cls.of(host, port or PORT)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for the connections to every server of a storage."""

    size: int
    timeout: float
    connect_timeout: float
    prefix: bytes
    most_bytes: int
    tls: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None


class Server:
    """One server of a storage, in all event loops of this process."""

    def __init__(self, address: Address, options: Options, clock: ServerClock) -> None:
        self.address = address
        self.timeout = options.timeout
        self.connect_timeout = options.connect_timeout
        self.breaker = Breaker()
        self.is_alone = True
        """Whether there is no other one: then its trouble is that of the whole storage."""
        self._options = options
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Server {self.address}, {self.breaker!r}>"

    def __str__(self) -> str:
        return f"memcached at {self.address}"

    async def connect(self) -> Connections:
        """Open the connections of one event loop, and ask the server for its settings."""
        options, address = self._options, self.address
        dial = Dial(address.host, address.port, options.tls, address.checked_as, options.login)
        client = await Connections.open(
            dial,
            options.size,
            options.connect_timeout,
            prefix=options.prefix,
            most_bytes=options.most_bytes,
        )
        try:
            await self._meet(client)
        except BaseException:
            client.lose(ConnectionAbortedError("the connections were given up"))
            raise
        return client

    async def _meet(self, client: Connections) -> None:
        try:
            general = await client.facts()
        except (ConnectionResetError, BrokenPipeError) as error:
            raise ConnectionResetError(NO_WORD) from error
        settings = await client.facts(b"settings")
        for line in client.lines:
            line.hurry(self.timeout)
        if b"time" in general:
            self._clock.measure(int(general[b"time"]), alone=self.is_alone)
        client.item_size_max = int(settings.get(b"item_size_max", client.item_size_max))
        if settings.get(b"cas_enabled") == b"no":
            raise StorageError(f"{self} runs with -C; leases need cas: start it without -C")

    # --- trouble --------------------------------------------------------------------------------

    @property
    def is_left_alone(self) -> bool:
        """Whether reads must do without this server now; then somebody may have to probe it."""
        return self.breaker.is_open and not self.is_alone

    def left_alone(self) -> StorageError:
        error = StorageError(f"{self} is left alone for a while after failures")
        error.part = self.address.name
        return error

    def failed(self, error: StorageError) -> None:
        """An operation has failed; after some in a row the server is left alone for a while."""
        if self.is_alone:
            return  # there is nothing of the storage to go on with: that is for the cache to see
        error.part = self.address.name
        was_open = self.breaker.is_open
        self.breaker.failed()
        if self.breaker.is_open and not was_open:
            logger.warning("%s of a pool is left alone for a while: %s", self, error)

    def as_ours(self, error: Exception, limit: float) -> Exception:
        """Return what the storage raises for an exception that came instead of a reply.

        What has nothing to do with the server, a defect say, stays what it is.
        """
        ours = self._as_ours(error, limit)
        if ours is not error:
            ours.__cause__ = error
        return ours

    def _as_ours(self, error: Exception, limit: float) -> Exception:
        match error:
            case TimeoutError():
                return StorageTimeout(
                    f"{self} did not answer within {limit} s; see whether it is overloaded, or "
                    "give it more with timeout= and connect_timeout="
                )
            case NotLetIn():
                return StorageError(f"{self} does not let us in: {error}")
            case ClientException() if "object too large" in str(error):
                return ValueTooLarge(
                    f"{self} refuses the value as too large; start it with a larger -I, or store "
                    "less"
                )
            case ClientException() if "unauthenticated" in str(error):
                return StorageError(f"{self} wants a login; give it with username= and password=")
            case ClientException():
                return StorageError(f"{self} answered what it should not: {error}")
            case ssl.SSLError():
                return StorageError(f"{self} and we do not agree on TLS: {error!r}")
            case OSError() | EOFError() | ValueError() | LookupError():
                return StorageError(f"{self} is out of reach; see whether it runs there: {error!r}")
            case _:
                return error
