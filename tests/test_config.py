"""Storages from URLs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import gecaso
from gecaso import (
    ConfigurationError,
    GecasoError,
    UnknownOption,
    config,
    storage_from_url,
    storages,
)
from gecaso.keys import as_key
from gecaso.packing import Packer
from tests.doubles import DictStorage

CANNOT_BE_TEXT = {"types", "clock", "weigh", "ssl", "servers", "replicas"}


def test_each_scheme_makes_its_kind_of_storage(tmp_path: Path) -> None:
    urls = {
        "memory://": "MemoryStorage",
        "lru://?maxsize=10": "LRUStorage",
        "null://": "NullStorage",
        f"sqlite://{tmp_path}/cache.db": "SQLiteStorage",
        "redis://localhost:1/0": "RedisStorage",
        "rediss://localhost:1/0": "RedisStorage",
        "unix:///run/redis.sock": "RedisStorage",
        "valkey://localhost:1/0": "RedisStorage",
        "valkeys://localhost:1/0": "RedisStorage",
        "redis+sentinel://localhost:1/main": "RedisStorage",
        "redis+cluster://localhost:1": "RedisStorage",
        "memcached://localhost:1": "MemcachedStorage",
        "memcached://localhost:1,localhost:2": "MemcachedStorage",
        "memcacheds://localhost:1": "MemcachedStorage",
        "elasticache://localhost:1": "MemcachedStorage",
        "postgresql://localhost:1/app": "PostgresStorage",
    }
    for url, name in urls.items():
        assert isinstance(storage_from_url(url), getattr(storages, name)), url


def test_every_scheme_names_a_class_that_exists() -> None:
    for name, _ in config.SCHEMES.values():
        assert inspect.isclass(getattr(storages, name))


def test_every_option_of_every_storage_is_read_or_known_to_be_no_text() -> None:
    names = {name for name, _ in config.SCHEMES.values()}
    options: set[str] = {"maxsize"}
    for name in names:
        parameters = list(inspect.signature(getattr(storages, name)).parameters.values())[1:]
        options |= {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
    options |= set(inspect.signature(Packer).parameters)
    assert options - set(config.READERS) - CANNOT_BE_TEXT == set()


def test_options_are_read_with_their_units() -> None:
    url = "redis://localhost:1/0?namespace=a%20b&timeout=100ms&connect_timeout=2&compress=1KiB"
    storage: Any = storage_from_url(url + "&max_bytes=5MB&serializer=json")
    assert (storage.namespace, storage.timeout) == ("a b", 0.1)
    assert storage.packer.max_bytes == 5_000_000
    bounded: Any = storage_from_url("memory://?maxsize=5&maxbytes=1MiB")
    assert (bounded.maxsize, bounded.maxbytes) == (5, 1 << 20)


def test_what_is_no_text_is_given_beside_the_url() -> None:
    @dataclass
    class Thing:
        size: int

    storage: Any = storage_from_url("redis://localhost:1/0", types=[Thing], secret=b"s" * 16)
    assert Thing in storage.packer.types


@pytest.mark.parametrize("url", ["redis://h", "memcached://h", "sqlite:///x", "postgresql://h/d"])
def test_a_ttl_may_be_given_beside_the_url_and_counts_more(url: str) -> None:
    for beside, ttl in ((60, 60), ("5m", 300), (None, None)):
        for place in (url, f"{url}?ttl=9"):
            storage: Any = storage_from_url(place, ttl=beside)
            assert storage.default_ttl == ttl
    with pytest.raises(ConfigurationError, match="soon"):
        storage_from_url(url, ttl="soon")


@pytest.mark.parametrize("url", ["memory://", "redis://h", "memcached://h", "postgresql://h/d"])
def test_an_option_beside_the_url_that_nobody_takes_is_named(url: str) -> None:
    with pytest.raises(UnknownOption, match="Did you mean ttl") as raised:
        storage_from_url(url, tttl=5)
    assert (raised.value.option, raised.value.nearest) == ("tttl", "ttl")


def test_a_pool_of_memcached_may_have_a_login() -> None:
    assert "a:1, b:2" in repr(storage_from_url("memcached://user:password@a:1,b:2"))


def test_options_of_the_client_library_stay_in_the_url() -> None:
    storage: Any = storage_from_url("redis://localhost:1?db=3&namespace=x&health_check_interval=5")
    assert repr(storage).startswith("<RedisStorage localhost:1/3, namespace 'x'")


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("memory", "no scheme"),
        ("", "no scheme"),
        ("rediss3://h", "scheme of the URL, rediss3://"),
        ("memori://", "Did you mean memory?"),
        ("memory://somewhere", "neither host nor path"),
        ("memory://?maxsiz=3", "maxsiz. Did you mean maxsize?"),
        ("memory://?colour=red", "an option that nobody takes: colour"),
        ("memory://?maxsize=many", "the option maxsize=many"),
        ("memory://?maxsize=0", "above zero"),
        ("memory://?maxsize=3&maxsize=4", "twice"),
        ("memory://?maxbytes=3pints", "a number of bytes"),
        ("memory://?isolate=perhaps", "true or false"),
        ("memory://?ttl=soon", "ttl=soon"),
        ("memory://?ttl=-1", "ttl=-1"),
        ("memory://?policy=lfu", "policy must be 'tinylfu', 'lru'"),
        ("memory://?clock=x", r"storage_from_url\(url, clock=…\)"),
        ("sqlite://", "path"),
        ("redis://localhost:1/0?namespce=x", "Did you mean namespace?"),
        ("redis://localhost:port/0", "redis"),
        ("redis://[::1/0", "host"),
        ("redis://localhost/zero", "database"),
        ("memcached://", "host"),
        ("memcached://a,,b", "host:port"),
        ("redis+sentinel:///mymaster", "a host of the redis.sentinel:// URL is missing"),
        ("redis+sentinel://a,,b/mymaster", "a host of the redis.sentinel:// URL is missing"),
        ("redis+cluster://", "a host of the redis.cluster:// URL is missing"),
        ("redis+cluster://a,,b", "a host of the redis.cluster:// URL is missing"),
        ("redis+cluster://u:p@:7000", "a host of the redis.cluster:// URL is missing"),
        ("unix://", "path"),
        ("redis://h/0#1", "%23"),
        ("sqlite:///a#b.db", "%23"),
    ],
)
def test_a_bad_url_says_which_part(url: str, part: str) -> None:
    with pytest.raises(ConfigurationError, match=part.replace("?", r"\?")):
        storage_from_url(url)


@pytest.mark.parametrize("url", ["redis://u:hunter2@h:x/0", "redis://h?secret=hunter2"])
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(GecasoError) as raised:
        storage_from_url(url)
    assert "hunter2" not in str(raised.value)


@given(st.text(max_size=60))
@example("memory://?ttl=" + "9" * 400)
@example("memory://?maxsize=²")
@example("memory://?ttl=nan")
def test_any_text_is_a_storage_or_a_configuration_error(text: str) -> None:
    for url in (text, f"memory://?{text}", f"redis://{text}", f"memcached://{text}"):
        try:
            storage_from_url(url)
        except ConfigurationError:
            pass


# -- ttl -------------------------------------------------------------------------------------------


async def test_the_ttl_of_a_url_holds_where_nobody_says_another() -> None:
    storage = storage_from_url("memory://?ttl=60")
    assert isinstance(storage, gecaso.EntryStorage)

    @gecaso.cached(storage)
    async def plain(x: int) -> int:
        return x

    @gecaso.cached(storage, ttl=5)
    async def short(x: int) -> int:
        return x

    @gecaso.cached(storage, ttl=None)
    async def ever(x: int) -> int:
        return x

    await storage.set("a", 1)
    await storage.set("b", 1, ttl=None)
    await storage.set_many({"c": 1})
    for function in (plain, short, ever):
        await function(1)
    keys = [as_key(name) for name in "abc"]
    entries = await storage.fetch([*keys, plain.key(1), short.key(1), ever.key(1)])
    ages = [entry.fresh_until - entry.created for entry in entries.values()]
    assert ages == pytest.approx([60, float("inf"), 60, 60, 5, float("inf")])


# -- storages of others ----------------------------------------------------------------------------


def test_a_registered_scheme_gets_the_url_and_the_options() -> None:
    seen: list[Any] = []

    def factory(url: str, **options: Any) -> DictStorage:
        seen.append((url, options))
        return DictStorage()

    gecaso.register_storage("dict", factory)
    try:
        assert isinstance(storage_from_url("dict://here?x=1", size=2), DictStorage)
    finally:
        config.registered.pop("dict")
    assert seen == [("dict://here?x=1", {"size": 2})]


def test_a_scheme_of_gecaso_cannot_be_registered() -> None:
    with pytest.raises(ConfigurationError, match="redis://"):
        gecaso.register_storage("redis", DictStorage)


class FromUrl(DictStorage):
    """What an entry point of another package names."""

    @classmethod
    def from_url(cls, url: str) -> FromUrl:
        made = cls()
        made.values["url"] = url
        return made


def test_an_entry_point_names_a_storage_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("special", f"{__name__}:FromUrl", config.GROUP)

    def load(_: EntryPoint) -> type[FromUrl]:  # what it names is no module that can be imported
        return FromUrl

    def found(**_: str) -> list[EntryPoint]:
        return [point]

    monkeypatch.setattr(EntryPoint, "load", load)
    monkeypatch.setattr(config, "entry_points", found)
    storage: Any = storage_from_url("special://a/b")
    assert storage.values == {"url": "special://a/b"}


PLACES: list[tuple[Any, str]] = [
    (storages.RedisStorage, "redis://localhost:1/0"),
    (storages.MemcachedStorage, "localhost:1"),
    (storages.PostgresStorage, "postgresql://localhost:1/x"),
    (storages.SQLiteStorage, "never-opened.db"),
]


@pytest.mark.parametrize(("cls", "place"), PLACES)
def test_a_timeout_is_a_length_of_time_as_a_ttl_is(cls: Any, place: str) -> None:
    for timeout in ("250ms", timedelta(milliseconds=250), 0.25):
        assert cls(place, timeout=timeout).timeout == 0.25
    with pytest.raises(ConfigurationError, match="timeout must be above zero"):
        cls(place, timeout=0)
    with pytest.raises(TypeError, match="timeout must be seconds"):
        cls(place, timeout=None)
