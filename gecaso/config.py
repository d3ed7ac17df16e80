"""Storages from URLs, as they stand in a settings file or an environment variable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from gecaso import storages
from gecaso.durations import seconds
from gecaso.errors import ConfigurationError, UnknownOption
from gecaso.policy import nearest_name
from gecaso.storage import BaseStorage, EntryStorage

__all__ = ["GROUP", "register_storage", "storage_from_url"]

GROUP = "gecaso.storages"
"""The entry points that name storages of other packages, by their schemes."""

Factory = Callable[..., BaseStorage]

# The class, and whether the URL is for a client library, which has options of its own.
REDIS = ("RedisStorage", True)
POSTGRES = ("PostgresStorage", True)
MEMCACHED = ("MemcachedStorage", False)
SCHEMES: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "memory": ("MemoryStorage", False),
        "lru": ("LRUStorage", False),
        "null": ("NullStorage", False),
        "sqlite": ("SQLiteStorage", False),
        **dict.fromkeys(("memcached", "memcacheds", "elasticache", "elasticaches"), MEMCACHED),
        **dict.fromkeys(("postgres", "postgresql"), POSTGRES),
        **dict.fromkeys(("redis", "rediss", "unix", "valkey", "valkeys"), REDIS),
        **dict.fromkeys(("redis+sentinel", "rediss+sentinel"), REDIS),
        **dict.fromkeys(("redis+cluster", "rediss+cluster"), REDIS),
        **dict.fromkeys(("valkey+sentinel", "valkeys+sentinel"), REDIS),
        **dict.fromkeys(("valkey+cluster", "valkeys+cluster"), REDIS),
    }
)
NO_PLACE = ("memory", "lru", "null")

registered: dict[str, Factory] = {}
"""What `register_storage` was given, by scheme."""


def storage_from_url(url: str, **options: Any) -> BaseStorage:
    """Return a storage of the kind that the scheme of ``url`` names; it connects to nothing yet.

    ``memory://``, ``lru://``, ``null://``, ``sqlite:///a/file``, ``redis://``, ``rediss://``,
    ``unix://``, ``redis+sentinel://``, ``redis+cluster://`` (and ``valkey…`` for each),
    ``memcached://host:port,host:port``, ``elasticache://``, ``postgresql://``, and the schemes
    that other packages have named by entry points ``gecaso.storages``.

    The query holds the options of the storage: ``?namespace=shop&timeout=250ms``, and ``ttl``, how
    long a value is kept when neither `set` nor `cached` says. ``options`` are options that a URL
    cannot hold, such as ``types=[…]``, or should not, such as ``secret=``.

    Raises `ConfigurationError` that tells which part of the URL is wrong, without its password, and
    `UnknownOption` for one of the ``options`` that the storage does not take.

    >>> storage_from_url("memory://?maxsize=1000&ttl=5m")
    <MemoryStorage: 0 of 1000 entries, 0 leases>
    """
    parts, scheme = _split(url)
    factory = registered.get(scheme)
    if factory is None and scheme not in SCHEMES:
        factory = _plugin(scheme)
    if factory is not None:
        return factory(url, **options)
    name, is_clients = SCHEMES[scheme]
    cls: Factory = getattr(storages, name)
    options_of = _parameters(cls, has_place=scheme not in NO_PLACE)
    given, rest = _read_query(parts, options_of, is_clients=is_clients)
    given |= _beside(options, options_of)
    ttl = given.pop("ttl", None)
    storage = cls(*_place(parts, scheme, rest), **given)
    if ttl is not None:
        assert isinstance(storage, EntryStorage)
        storage.default_ttl = ttl
    return storage


def register_storage(scheme: str, factory: Factory) -> None:
    """Let `storage_from_url` call ``factory(url, **options)`` for URLs of this scheme.

    A package does the same without being imported by an entry point of the group
    ``gecaso.storages``, named as the scheme. Raises `ConfigurationError` for a scheme of ours.
    """
    if scheme in SCHEMES:
        raise ConfigurationError(f"{scheme}:// is taken by gecaso itself; choose another scheme")
    registered[scheme] = factory


def _plugin(scheme: str) -> Factory:
    found = {point.name: point for point in entry_points(group=GROUP)}
    if scheme in found:
        factory: Factory = found[scheme].load()
        return getattr(factory, "from_url", factory)
    known = {*SCHEMES, *found, *registered}
    raise ConfigurationError(
        f"the scheme of the URL, {scheme}://, is that of no storage."
        f"{_meant(scheme, known)} There are {', '.join(sorted(known))}"
    )


# --- the parts of a URL -----------------------------------------------------------------------


def _split(url: str) -> tuple[SplitResult, str]:
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users may not check types
        raise TypeError(f"storage_from_url takes a text such as memory://, not {url!r}")
    scheme, colon, _ = url.partition(":")
    if not colon:
        raise ConfigurationError("the URL has no scheme; write it as scheme://…, e.g. memory://")
    try:
        return urlsplit(url), scheme.lower()
    except ValueError as error:
        raise ConfigurationError(
            f"the host of the {scheme}:// URL cannot be read: {error}"
        ) from error


def _place(parts: SplitResult, scheme: str, rest: list[tuple[str, str]]) -> tuple[Any, ...]:
    """Return what the storage's class takes as its place."""
    if parts.fragment:
        raise ConfigurationError(
            f"the {scheme}:// URL ends at its #; write a # that is meant as %23"
        )
    if scheme in NO_PLACE:
        if parts.netloc or parts.path.strip("/"):
            raise ConfigurationError(f"a {scheme}:// URL has neither host nor path")
        return ()
    if scheme == "sqlite":
        path = unquote(parts.netloc + parts.path)
        if not path:
            raise ConfigurationError("the path of the sqlite:// URL is missing: sqlite:///a/file")
        return (path,)
    if SCHEMES[scheme] is MEMCACHED and not parts.netloc:
        raise ConfigurationError(f"the host of the {scheme}:// URL is missing")
    query = f"?{urlencode(rest)}" if rest else ""
    return (f"{scheme}://{parts.netloc}{parts.path}{query}",)  # `geturl` makes unix:/path


def _read_query(
    parts: SplitResult, parameters: set[str], *, is_clients: bool
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return our options of the query, and what is left for the client library."""
    ours: dict[str, Any] = {}
    rest: list[tuple[str, str]] = []
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        read = READERS.get(name)
        if name in ours:
            raise ConfigurationError(f"the option {name} stands twice in the URL")
        if read is not None and (name in parameters or name == "ttl"):
            ours[name] = _read(name, text, read)
        elif name in parameters:
            raise ConfigurationError(
                f"the option {name} cannot be written in a URL: storage_from_url(url, {name}=…)"
            )
        elif is_clients and not (meant := _meant(name, {*parameters, "ttl"})):
            rest.append((name, text))
        else:
            meant = _meant(name, {*parameters, "ttl"})
            raise ConfigurationError(f"the URL has an option that nobody takes: {name}.{meant}")
    return ours, rest


def _beside(options: Mapping[str, Any], parameters: set[str]) -> dict[str, Any]:
    """Return the options that were given beside the URL, which are those that may stand in it."""
    for name in options:
        if name not in parameters and name != "ttl":
            nearest = nearest_name(name, {*parameters, "ttl"})
            raise UnknownOption(
                f"the storage has no option {name!r}.{_meant(name, {*parameters, 'ttl'})}",
                option=name,
                nearest=nearest,
            )
    ttl = options.get("ttl")
    return dict(options) if ttl is None else {**options, "ttl": seconds(ttl)}


def _read(name: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except ValueError as error:
        shown = "…" if name in ("password", "secret") else text
        raise ConfigurationError(f"the option {name}={shown} of the URL: {error}") from error


def _meant(name: str, known: set[str]) -> str:
    nearest = nearest_name(name, known)
    return f" Did you mean {nearest}?" if nearest else ""


def _parameters(cls: Factory, *, has_place: bool) -> set[str]:
    """Return the names of the options of a storage's class, those for its packing among them."""
    parameters = list(inspect.signature(cls).parameters.values())
    options = parameters[1:] if has_place else parameters
    names = {each.name for each in options if each.kind is not each.VAR_KEYWORD}
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        from gecaso.packing import Packer  # much to import, and not every storage packs

        names |= set(inspect.signature(Packer).parameters)
    return names


# --- options as text --------------------------------------------------------------------------


def _duration(text: str) -> float:
    try:
        return seconds(float(text))
    except ValueError:
        return seconds(text, option="it")


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError("a whole number above zero is needed")
    return int(text)


_SIZES = {"kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def _size(text: str) -> int:
    number = text.lower()
    for unit, factor in _SIZES.items():
        if number.endswith(unit) and number.removesuffix(unit).isdecimal():
            return _number(number.removesuffix(unit)) * factor
    if not text.isdecimal():
        raise ValueError("a number of bytes is needed, such as 500000, 64MiB or 1GB")
    return _number(text)


def _truth(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in values:
        raise ValueError("true or false is needed")
    return values[text.lower()]


def _compress(text: str) -> bool | int:
    return _size(text) if text[:1].isdecimal() and text not in ("0", "1") else _truth(text)


READERS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {
        **dict.fromkeys(("ttl", "timeout", "connect_timeout", "resolve_every"), _duration),
        **dict.fromkeys(("maxsize", "pool_size", "wait_replicas"), _number),
        **dict.fromkeys(("large", "maxbytes", "max_bytes", "max_value_bytes"), _size),
        **dict.fromkeys(("isolate", "verify_key", "read_from_replicas"), _truth),
        **dict.fromkeys(("namespace", "policy", "secret", "serializer", "table"), str),
        **dict.fromkeys(("listen_url", "password", "username"), str),
        "compress": _compress,
    }
)
