"""The public names."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

import gecaso
import gecaso.storages
from gecaso import errors


@pytest.mark.smoke
def test_every_public_error_is_a_name_of_the_package() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)
        assert getattr(gecaso, name) is error
        assert issubclass(error, gecaso.GecasoError)
        assert error.__doc__
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException)
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("ConfigurationError", ValueError),
        ("UnknownOption", TypeError),
        ("UnknownOption", gecaso.ConfigurationError),
        ("UnkeyableArgument", TypeError),
        ("AmbiguousFunction", TypeError),
        ("PackError", TypeError),
        ("ValueTooLarge", ValueError),
        ("ValueTooLarge", gecaso.PackError),
        ("UnpackError", KeyError),
        ("Unsupported", NotImplementedError),
        ("RecursiveLoad", RuntimeError),
        ("WaitTimeout", TimeoutError),
        ("StorageTimeout", TimeoutError),
        ("StorageTimeout", gecaso.StorageError),
        ("InvalidationFailed", gecaso.StorageError),
    ],
)
def test_errors_are_caught_by_what_one_would_write(name: str, base: type[Exception]) -> None:
    error: type[gecaso.GecasoError] = getattr(gecaso, name)
    with pytest.raises(base, match="what to do"):
        raise error("what to do")
    assert str(error("what to do")) == "what to do"
    assert f"── {error.__name__} " in (errors.__doc__ or "")
    assert not issubclass(gecaso.StorageError, KeyError)


@pytest.mark.smoke
def test_the_public_names_are_there_sorted_and_no_more() -> None:
    def order(name: str) -> tuple[bool, bool, str]:
        return not name.isupper(), not name[0].isupper(), name

    for module in (gecaso, gecaso.storages):
        names: list[str] = list(module.__all__)
        assert names == sorted(names, key=order)
        assert all(getattr(module, name) is not None for name in names)
    public = {name for name, value in vars(gecaso).items() if _is_public(name, value)}
    assert public - {"annotations"} == set(gecaso.__all__)


def _is_public(name: str, value: Any) -> bool:
    return not (name.startswith("_") or inspect.ismodule(value))


def test_the_names_of_0_4_are_here() -> None:
    for name in ("cached", "BaseStorage", "MemoryStorage", "LRUStorage", "pack", "unpack"):
        assert name in gecaso.__all__


def test_no_module_is_named_like_a_public_function() -> None:
    for name in gecaso.__all__:
        assert not inspect.ismodule(getattr(gecaso, name))


@pytest.mark.smoke
def test_network_storages_are_imported_at_their_first_use() -> None:
    assert {"RedisStorage", "MemcachedStorage"} <= set(dir(gecaso.storages))
    with pytest.raises(AttributeError, match="has no attribute 'NoStorage'"):
        getattr(gecaso.storages, "NoStorage")  # noqa: B009 - no checker knows it
    code = (
        "import sys, gecaso, gecaso.storages\n"
        "from gecaso import *\n"
        "assert not {'redis', 'aiomcache'} & set(sys.modules)\n"
        "from gecaso.storages import RedisStorage\n"
        "assert 'redis' in sys.modules and 'aiomcache' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_three_methods_are_all_that_a_storage_needs() -> None:
    assert gecaso.BaseStorage.__abstractmethods__ == {"get", "set", "remove"}
    assert issubclass(gecaso.EntryStorage, gecaso.BaseStorage)
    assert issubclass(gecaso.LocalStorage, gecaso.EntryStorage)
    for name in ("MemoryStorage", "LRUStorage", "NullStorage"):
        assert getattr(gecaso, name) is getattr(gecaso.storages, name)
        assert issubclass(getattr(gecaso, name), gecaso.EntryStorage)


def test_options_are_keyword_only() -> None:
    for function in (gecaso.cached, gecaso.Cache, gecaso.Cache.cached, gecaso.Packer):
        kinds = [one.kind for one in inspect.signature(function).parameters.values()]
        assert inspect.Parameter.POSITIONAL_OR_KEYWORD not in kinds[2:]
    with pytest.raises(TypeError):
        gecaso.cached(gecaso.MemoryStorage(), 60)  # type: ignore[call-overload]  # pyright: ignore - meant to be wrong
