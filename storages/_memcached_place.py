"""What users write to say where their memcached is -> what tells the servers, and how to get in."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import unquote

from gecaso.errors import ConfigurationError

from ._memcached_client import Dial
from ._memcached_server import ACCEPTED, Address
from ._memcached_sources import Asked, Cluster, Named, Servers, Source, texts_of

__all__ = ["Place"]

ONE_CLUSTER = "elasticache:// is the configuration endpoint of one cluster, not of several"
SCHEMES = ("memcached", "memcacheds", "elasticache", "elasticaches")


@dataclass(frozen=True)
class Place:
    """Where the servers of a storage are, TLS and login included."""

    addresses: tuple[Address, ...] = ()
    function: Servers | None = None
    is_cluster: bool = False
    tls: ssl.SSLContext | None = None
    login: tuple[str, str] | None = None

    @classmethod
    def of(cls, servers: str | Iterable[str] | Servers) -> Place:
        """Read a URL, a list of them, or take a function; raise `ConfigurationError`."""
        if isinstance(servers, str):
            return cls._of_text(servers)
        if callable(servers):
            return cls(function=servers)
        places = [cls._of_text(text) for text in texts_of(servers)]
        return cls._joined(places)

    @classmethod
    def _joined(cls, places: list[Place]) -> Place:
        first = places[0]
        same = {(place.is_cluster, place.tls is None, place.login) for place in places}
        if first.is_cluster and len(places) > 1:
            raise ConfigurationError(ONE_CLUSTER)
        if len(same) > 1:
            raise ConfigurationError(
                "the servers of a pool are reached alike: all with memcacheds:// or none, and with "
                "one login"
            )
        addresses = tuple(address for place in places for address in place.addresses)
        return replace(first, addresses=addresses)

    @classmethod
    def _of_text(cls, text: str) -> Place:
        scheme, mark, rest = text.partition("://")
        if not mark:
            scheme, rest = "memcached", text
        if scheme not in SCHEMES:
            raise ConfigurationError(f"{ACCEPTED}; not {_shown(text)!r}")
        words, at, hosts = rest.rpartition("@")
        addresses = tuple(Address.parse(host) for host in hosts.removesuffix("/").split(","))
        place = cls(addresses, is_cluster=scheme.startswith("elasticache"))
        if place.is_cluster and len(addresses) > 1:
            raise ConfigurationError(ONE_CLUSTER)
        if at:
            user, _, password = words.partition(":")
            place = place.with_login(unquote(user), unquote(password))
        return place.with_tls(True if scheme.endswith("s") else None)

    def with_login(self, username: str | None, password: str | None) -> Place:
        """Return the place with a login, if there is one."""
        if username is None and password is None:
            return self
        words = f"{username}{password}"
        is_one = len(words) <= 200 and words.isprintable() and " " not in words
        if not (username and password and is_one):
            raise ConfigurationError(
                "a login is a name and a password without spaces, 200 characters at most: give "
                "both username= and password=, or memcached://user:password@host:port"
            )
        return replace(self, login=(username, password))

    def with_tls(self, context: ssl.SSLContext | bool | None) -> Place:
        """Return the place with TLS: a context, True for the usual one, None to leave it."""
        if context is None:
            return self
        if context is False:
            return replace(self, tls=None)
        if context is True:
            return replace(self, tls=ssl.create_default_context())
        return replace(self, tls=context)

    def source(self, timeout: float) -> Source:
        """Return what tells the servers."""
        if self.function is not None:
            return Asked(self.function)
        if self.is_cluster:
            _, host, port, _ = self.addresses[0]
            return Cluster(Dial(host, port, self.tls, login=self.login), timeout)
        return Named(self.addresses)


def _shown(text: str) -> str:
    """Return a URL without the login in it."""
    scheme, mark, rest = text.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
