"""The options of `cached` that concern keys."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import gecaso
from gecaso import BaseStorage, Cache, Key, MemoryStorage, cached
from gecaso.errors import (
    AmbiguousFunction,
    ConfigurationError,
    UnkeyableArgument,
)
from tests.doubles import DictStorage, Loads


def same(x: Any) -> Any:
    return x


def key_of_page(path: str, **options: str) -> Any:
    return path.lower(), sorted(options)


# Not typed, for options of any kind.
decorate: Any = cached


class Opaque:
    """Has no stable encoding."""


def test_a_key_is_of_the_function_and_its_canonical_arguments() -> None:
    @cached
    def f(x: int, y: int = 2) -> int:
        return x + y

    assert type(f.key(7)) is Key
    assert f.key(7) == f.key(x=7) == f.key(7, 2) == f.key(y=2, x=7)
    assert hash(f.key(7)) == hash(f.key(x=7))
    keys: list[Any] = [f.key(7), f.key(7, 3)]
    unchecked: Any = f
    keys += [unchecked.key(7.0), unchecked.key("7")]
    assert len({str(key) for key in keys}) == len(set(keys)) == 4
    assert {len(str(key)) for key in keys} == {65}
    assert f.stats.loads == 0


async def test_the_key_of_a_call_works_on_the_storage() -> None:
    storages: list[BaseStorage] = [
        MemoryStorage(),
        MemoryStorage(maxsize=3),
        MemoryStorage(isolate=True),
        gecaso.LRUStorage(maxsize=3),
        gecaso.LRUStorage(MemoryStorage(), maxsize=3),
        gecaso.LRUStorage(DictStorage(), maxsize=3),
    ]
    for storage in storages:

        @cached(storage)
        async def f(x: int) -> str:
            return f"value {x}"

        with pytest.raises(KeyError):
            await storage.get(f.key(7))
        await f(7)
        assert await storage.get(f.key(7)) == "value 7"
        await storage.set(f.key(7), "other")
        assert await f(7) == "other"
        await storage.remove(f.key(7))
        assert await f(7) == "value 7"
        assert f.stats.loads == 2


async def test_a_template_is_the_whole_key() -> None:
    storage = MemoryStorage()

    @cached(storage, key="user:{id}:{lang}")
    async def user(id: int, lang: str = "en", verbose: bool = False) -> str:
        return f"{id}/{lang}/{verbose}"

    assert await user(7) == "7/en/False"
    assert await storage.get("user:7:en") == "7/en/False"
    assert await user(7, verbose=True) == "7/en/False"
    assert str(user.key(7, "a:b {}")) == "user:7:a%3Ab%20%7B%7D"
    await storage.set("user:8:en", "set elsewhere")
    assert await user(8) == "set elsewhere"
    await Cache(storage).invalidate("user:8:en")
    assert await user(8) == "8/en/False"


async def test_a_constant_is_a_key() -> None:
    storage = MemoryStorage()
    loads = Loads()

    @cached(storage, key="home")
    async def home(visitor: str) -> object:
        return loads(visitor)

    assert await home("a") == await home("b") == await storage.get("home") == "a"


def test_a_template_that_names_no_parameter_is_refused_at_decoration() -> None:
    with pytest.raises(ConfigurationError, match="name"):
        cached(MemoryStorage(), key="user:{name}")(same)


@pytest.mark.parametrize("argument", [1.5, None, [1], Opaque()])
def test_a_template_refuses_what_has_no_one_text(argument: object) -> None:
    @cached(MemoryStorage(), key="user:{id}")
    def user(id: object) -> None: ...

    with pytest.raises(UnkeyableArgument, match="id"):
        user(argument)


async def test_two_functions_of_one_template_on_one_storage_are_warned_of() -> None:
    storage = MemoryStorage()

    def one(id: int) -> int:
        return 1

    def two(id: int) -> int:
        return 2

    first = cached(storage, key="it:{id}")(one)
    with pytest.warns(UserWarning, match="it:{id}"):
        second = cached(storage, key="it:{id}")(two)
    assert first(1) == second(1) == 1  # which is what the warning is for


async def test_a_key_function_gives_any_value_with_an_encoding() -> None:
    storage = MemoryStorage()
    loads = Loads()

    @cached(storage, key=key_of_page)
    async def page(path: str, **options: str) -> object:
        return loads(path)

    assert await page("/A", b="1", a="2") == await page("/a", a="3", b="4") == "/A"
    assert await storage.get(("/a", ["a", "b"])) == "/A"
    assert page.key("/A") != page.key("/A", a="1")


def test_a_key_function_that_fails_raises_or_calls() -> None:
    def bad(x: int) -> Any:
        raise LookupError("no key today")

    @cached(key=bad)
    def strict(x: int) -> int:
        return x

    @cached(key=bad, on_key_error="call")
    def lenient(x: int) -> int:
        return x

    with pytest.raises(LookupError, match="no key today"):
        strict(1)
    assert lenient(1) == lenient(1) == 1
    assert lenient.cache_info().currsize == 0


def test_an_argument_without_an_encoding_is_refused_with_remedies() -> None:
    @cached
    def f(x: int, query: object) -> None: ...

    with pytest.raises(UnkeyableArgument) as caught:
        f(1, {"a": [Opaque()]})
    assert caught.value.argument == 'query["a"][0]'
    for remedy in ("ignore=", "key=", "__cache_key__"):
        assert remedy in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_argument_without_an_encoding_may_be_passed_by(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    loads = Loads()

    async def coroutine(x: object) -> Any:
        return loads(x)

    def plain(x: object) -> Any:
        return loads(x)

    function: Any = coroutine if is_async else plain
    f = decorate(MemoryStorage(), on_key_error="call")(function)

    async def call(x: object) -> Any:
        result = f(x)
        return await result if is_async else result

    thing = Opaque()
    with caplog.at_level(logging.WARNING, "gecaso"):
        assert await call(thing) is await call(thing) is thing
        assert await call(1) == await call(1) == 1
    assert len(loads) == 3
    assert len(caplog.records) == 1
    with pytest.raises(UnkeyableArgument):
        f.key(thing)


def test_ignored_arguments_are_no_part_of_the_key() -> None:
    loads = Loads()

    @cached(ignore=("session", "debug"))
    def f(session: object, x: int, *, debug: bool = False) -> object:
        return loads(x)

    assert f(Opaque(), 1) == f(Opaque(), 1, debug=True) == f(Opaque(), x=1) == 1
    assert f(Opaque(), 2) == 2
    assert len(loads) == 2


def test_what_is_ignored_must_be_there() -> None:
    with pytest.raises(ConfigurationError, match="'sesion'"):
        cached(ignore=("sesion",))(same)
    with pytest.raises(TypeError, match=r'ignore=\("session",\)'):
        cached(ignore="session")(same)  # type: ignore[call-overload]  # pyright: ignore - meant to be wrong


@pytest.mark.parametrize("option", [{"key": 7}, {"on_key_error": "ignore"}])
def test_options_of_keys_are_checked(option: Any) -> None:
    with pytest.raises((TypeError, ConfigurationError)):
        cached(**option)(lambda: None)


def test_namespace_and_version_keep_entries_apart() -> None:
    storage = MemoryStorage()
    loads = Loads()

    def f(x: int) -> Any:
        return loads(x)

    variants: list[Any] = [
        decorate(storage, **options)(f)
        for options in (
            {},
            {"namespace": "a"},
            {"version": 1},
            {"version": "1"},
            {"namespace": "b"},
        )
    ]
    for function in variants * 2:
        function(1)
    assert len(loads) == len(variants)
    assert len({str(function.key(1)) for function in variants}) == len(variants)
    same: Any = cached(storage, namespace="")(f)
    assert same.key(1) == variants[0].key(1)
    templated = cached(storage, namespace="app", version=2, key="it:{x}")(f)
    assert str(templated.key(1)) == "app:v2:it:1"


def test_keys_may_be_readable() -> None:
    def f(x: int, name: str = "a") -> None: ...

    plain, hashed = cached(hash_key=False)(f), cached()(f)
    text = str(plain.key(7))
    assert text.endswith("(7,'a')")
    assert f.__qualname__.rpartition(".")[2] in text
    assert len(str(hashed.key(7))) == 65


@pytest.mark.parametrize(("old", "new"), [("_hash_key", "hash_key"), ("_loop", "loop")])
def test_the_names_of_old_still_work(old: str, new: str) -> None:
    def f(x: int) -> int:
        return x

    value: Any = {"_hash_key": False, "_loop": None}[old]
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}") as caught:
        decorate: Any = cached(MemoryStorage(), **{old: value})
    assert caught[0].filename == __file__
    function = decorate(f)
    assert function(1) == 1
    assert (len(str(function.key(1))) == 65) is (old == "_loop")


# -- functions that could be taken for each other ------------------------------------------------


def test_a_lambda_is_refused_where_others_could_read_its_entries() -> None:
    with pytest.raises(AmbiguousFunction, match="key= or namespace="):
        cached(DictStorage())(lambda x: x)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] - any function
    cached(DictStorage(), key="it:{x}")(lambda x: x)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] - any function
    cached(MemoryStorage())(lambda x: x)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] - any function


def test_a_second_function_of_a_name_is_refused_on_a_shared_storage() -> None:
    storage = DictStorage()

    def make(factor: int) -> Any:
        def f(x: int) -> int:
            return x * factor

        return f

    first = decorate(storage)(make(2))
    with pytest.raises(AmbiguousFunction, match="namespace="):
        cached(storage)(make(3))
    second = decorate(storage, namespace="three")(make(3))
    assert (first(1), second(1)) == (2, 3)
    again = decorate(storage)(make(2))
    assert again(1) == 2
    assert again.stats.loads == 0  # the same function in all that counts
    del first, again
    assert cached(MemoryStorage())(make(3))(1) == 3
