"""What a key belongs to: a function, one instance, under a namespace and a version."""

from __future__ import annotations

import functools
import gc
import pathlib
import subprocess
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gecaso.errors import UnkeyableArgument
from gecaso.keys import (
    Key,
    identity,
    owner_of,
    owner_of_instance,
    prefix,
)
from tests import keyed_values as kv
from tests.test_keys import Storage, f, g, key


def test_one_function_and_its_options_have_one_owner() -> None:
    assert owner_of(f, arity=2) is owner_of(f, arity=2)
    different = [
        owner_of(f),
        owner_of(g),
        owner_of(f, namespace="a"),
        owner_of(f, version=1),
        owner_of(f, ignore=("x",)),
        owner_of(f, ignore=("y",)),
    ]
    assert len({owner.text for owner in different}) == len({o.digest for o in different}) == 6


def test_two_function_objects_of_one_name_have_two_owners_of_one_text() -> None:
    def make() -> Callable[[], None]:
        def inner() -> None: ...

        return inner

    one, other = make(), make()
    assert owner_of(one) is not owner_of(other)
    assert owner_of(one).text == owner_of(other).text
    assert key(1, function=one) != key(1, function=other)
    assert str(key(1, function=one)) == str(key(1, function=other))


def test_functions_of_one_name_in_two_modules_differ() -> None:
    code = "def same(): ..."
    modules = [types.ModuleType("one"), types.ModuleType("two")]
    for module in modules:
        exec(code, module.__dict__)
    one, other = (owner_of(module.same) for module in modules)
    assert (one.text, other.text) == ("one.same", "two.same")
    assert one.digest != other.digest


def test_an_owner_does_not_keep_its_function_alive() -> None:
    def short_lived() -> None: ...

    owner = owner_of(short_lived)
    reference = weakref.ref(short_lived)
    del short_lived
    gc.collect()
    assert reference() is None
    assert owner.text.endswith("short_lived")


def test_methods_are_named_by_their_class() -> None:
    assert identity(kv.Keyed.__cache_key__) == "tests.keyed_values.Keyed.__cache_key__"
    assert identity(kv.Point) == "tests.keyed_values.Point"
    assert identity(dict.fromkeys) == "builtins.dict.fromkeys"
    assert identity(len) == "builtins.len"


def test_a_partial_is_named_by_what_it_holds() -> None:
    names = {identity(functools.partial(f, x)) for x in (1, True, 2)}
    assert len(names) == 3
    assert all(name.startswith("tests.test_keys.f#") for name in names)
    with pytest.raises(UnkeyableArgument):
        identity(functools.partial(kv.takes, object()))


def test_a_bound_method_counts_its_instance_by_its_cache_key() -> None:
    assert identity(kv.Keyed(1).__cache_key__) == identity(kv.Keyed(1).__cache_key__)
    assert identity(kv.Keyed(1).__cache_key__) != identity(kv.Keyed(2).__cache_key__)


def test_a_callable_without_a_name_is_known_in_this_process_only() -> None:
    class Adder:
        def __call__(self, x: int) -> int:
            return x

    owner = owner_of(Adder())
    assert owner.private
    with pytest.raises(UnkeyableArgument, match="__cache_key__"):
        str(Key(owner, 1))


SCRIPT = """
from gecaso.keys import identity
def user(): ...
if __name__ == "__main__":
    print(identity(user))
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(identity, (user,)))
"""


@pytest.mark.parametrize("how", ["script", "module"])
def test_the_main_module_is_named_by_what_was_run(how: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "shop.py").write_text(SCRIPT)
    command = ["shop.py"] if how == "script" else ["-m", "shop"]
    done = subprocess.run(
        [sys.executable, *command],
        env={"PYTHONPATH": ":".join([str(pathlib.Path(__file__).parent.parent), *sys.path])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["shop.user", "shop.user"]


# --- one instance ---------------------------------------------------------------------------------


def test_an_instance_owns_its_keys_and_takes_them_along() -> None:
    owner = owner_of(f)
    one, other = Storage(), Storage()
    mine = owner_of_instance(owner, one)
    assert mine is owner_of_instance(owner, one)
    assert mine is not owner_of_instance(owner, other)
    assert mine is not owner_of_instance(owner_of(g), one)
    assert Key(mine, 1) != Key(owner_of_instance(owner, other), 1)


def test_an_instance_at_the_address_of_a_dead_one_owns_none_of_its_keys() -> None:
    owner = owner_of(f)
    kept = [owner_of_instance(owner, Storage()) for _ in range(50)]  # most at one address
    assert len(set(map(id, kept))) == 50


def test_the_registry_of_instances_shrinks_again() -> None:
    from gecaso.keys import owners

    gc.collect()
    before = len(owners._instances)  # pyright: ignore[reportPrivateUsage] - what must not grow
    instances = [Storage() for _ in range(10)]
    kept = [owner_of_instance(owner_of(f), instance) for instance in instances]
    del instances
    gc.collect()
    assert len(owners._instances) == before  # pyright: ignore[reportPrivateUsage] - as above
    assert len(kept) == 10


def test_the_key_of_an_instance_has_no_text_and_says_why() -> None:
    with pytest.raises(UnkeyableArgument) as caught:
        str(Key(owner_of_instance(owner_of(f), Storage()), 1))
    assert "__cache_key__" in str(caught.value)
    assert 'ignore=("self",)' in str(caught.value)
    assert "0x" not in str(caught.value)


def test_an_instance_that_cannot_be_referenced_weakly_is_refused() -> None:
    class Slotted:
        __slots__ = ()

    with pytest.raises(UnkeyableArgument, match="__weakref__"):
        owner_of_instance(owner_of(f), Slotted())


# --- namespace and version ------------------------------------------------------------------------


def test_namespace_and_version_are_prefixes() -> None:
    assert owner_of(f, namespace="app", version=2).text == "app:v2:tests.test_keys.f"
    assert owner_of(f, namespace="").text == owner_of(f).text == "tests.test_keys.f"
    assert prefix("app:prod") == "app:prod:"


names = st.text(alphabet="ab:v12=% {é-", min_size=1, max_size=5)
versions = st.none() | st.integers() | st.text(alphabet="ab:v12=% ", max_size=4)


@given(st.none() | names, versions, st.none() | names, versions)
@example("v2", None, None, 2)
@example("a:v2", None, "a", 2)
@example("v=b", None, None, "b")
@example(None, 1, None, "1")
def test_prefixes_are_one_only_if_namespace_and_version_are(
    one: str | None, version: Any, other: str | None, other_version: Any
) -> None:
    same = (one, version) == (other, other_version)
    assert (prefix(one, version) == prefix(other, other_version)) == same
