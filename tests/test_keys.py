"""Keys: what they belong to, when they are equal, and the text other processes know them by."""

from __future__ import annotations

import copy
import datetime as dt
import functools
import gc
import inspect
import json
import pathlib
import pickle
import re
import subprocess
import sys
import types
import uuid
import warnings
import weakref
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gecaso.canonical import typed
from gecaso.errors import AmbiguousFunction, ConfigurationError, UnkeyableArgument
from gecaso.keys import (
    DIRECT,
    Key,
    Template,
    as_key,
    check_ambiguous,
    identity,
    owner_of,
    owner_of_instance,
    prefix,
    prefixed_key,
    warn_if_shared,
    wire_text,
)
from gecaso.quoting import quote
from tests import keyed_values as kv


class Storage:
    """Stands for a shared storage: something that can be referenced weakly."""


def f(x: int, y: int = 2) -> None: ...


def g(x: int, y: int = 2) -> None: ...


def key(*elements: object, function: Callable[..., Any] = f, **options: Any) -> Key:
    owner = owner_of(function, arity=len(elements), **options)
    parts = tuple(typed(element) for element in elements)
    return Key(owner, parts[0] if len(parts) == 1 else parts)


# --- equality ---------------------------------------------------------------------------------


def test_bound_calls_that_mean_the_same_have_one_key() -> None:
    signature = inspect.signature(f)
    keys: set[Key] = set()
    for bound in (
        signature.bind(1),
        signature.bind(x=1),
        signature.bind(1, y=2),
        signature.bind(1, 2),
    ):
        bound.apply_defaults()
        keys.add(key(*bound.arguments.values()))
    assert keys == {key(1, 2)}
    assert len({str(k) for k in keys}) == 1


def test_one_one_point_nought_true_and_text_are_four_keys_nested_too() -> None:
    for wrap in kv.WRAPS:
        keys = [key(wrap(value)) for value in (1, 1.0, True, "1")]
        assert len(set(keys)) == len({str(k) for k in keys}) == 4


def test_text_with_and_without_a_space_differs() -> None:
    assert key("a b") != key("ab")
    assert key("a", "b") != key("ab", "") != key("", "ab")
    texts = {str(k) for k in (key("a b"), key("ab"), key("a", "b"), key("ab", ""), key("", "ab"))}
    assert len(texts) == 5


def test_a_key_is_no_other_kind_of_thing() -> None:
    assert as_key("a") != "a"
    assert as_key("a") == as_key(as_key("a"))


scalars = st.integers() | st.text(max_size=4) | st.binary(max_size=4) | st.floats() | st.none()
elements = st.lists(scalars, max_size=4)


@given(elements, elements, st.booleans())
def test_keys_are_equal_exactly_when_their_texts_are(one: Any, other: Any, hash_key: bool) -> None:
    if len(one) != len(other):
        return
    first, second = key(*one, hash_key=hash_key), key(*other, hash_key=hash_key)
    assert (first == second) == (str(first) == str(second))


@given(elements, elements)
def test_calls_with_other_numbers_of_arguments_have_other_texts(one: Any, other: Any) -> None:
    if len(one) != len(other):
        assert str(key(*one)) != str(key(*other))


# --- text -------------------------------------------------------------------------------------


def test_the_text_is_65_characters_for_every_number_of_arguments() -> None:
    for arguments in ((), (1,), ("x" * 10_000,), (1, "a", 2.0), ([1], {"a": 1})):
        assert re.fullmatch("[0-9a-f]{32}_[0-9a-f]{32}", str(key(*arguments)))


def test_the_text_of_a_call_has_not_changed() -> None:
    # A change here empties everybody's shared caches: it needs a line in the changelog.
    assert (
        str(key(7, "a", function=json.dumps))
        == "eb4a2a8aa9a920c8bf79dc47022b232d_3153b4e3ae1221422a480bc232a0ed7b"
    )
    assert (
        str(key(7, function=json.dumps, namespace="app", version=2))
        == "68aed7f383e06348a4877fbe65498089_a140891bc3be51f138d3236662fd0665"
    )
    assert (
        str(as_key((1, "a"))) == "bbf7769fea5c8d41a9068bd6edbb2c13_24986ab9e7f1d064a4b4d9ce4644a6c9"
    )


def test_processes_with_other_hash_seeds_agree_on_the_text() -> None:
    code = "from tests.test_keys import key; print(key({'a', 'b', 'c'}, {'x': 1.5, 'y': None}))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            cwd=pathlib.Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert texts == {str(key({"c", "b", "a"}, {"y": None, "x": 1.5}))}


def test_a_readable_key_shows_the_function_and_its_arguments() -> None:
    text = str(key(7, "it's", 1.0, True, None, b"\x00", -0.0, hash_key=False))
    assert text == "tests.test_keys.f(7,'it%27s',1.0,True,None,b'00',-0.0)"
    assert re.fullmatch(r"tests\.test_keys\.f\(#[0-9a-f]{32}\)", str(key([1], hash_key=False)))
    assert str(key(hash_key=False)) == "tests.test_keys.f()"


def test_text_given_directly_is_the_key_and_anything_else_has_a_digest() -> None:
    assert str(as_key("user:7")) == "user:7"
    assert re.fullmatch("[0-9a-f]{32}_[0-9a-f]{32}", str(as_key(7)))
    assert len({str(as_key(value)) for value in (1, "1", 1.0, True, b"1", (1,))}) == 6


def test_a_key_without_an_encoding_is_refused() -> None:
    with pytest.raises(UnkeyableArgument) as caught:
        as_key(object())
    assert caught.value.argument == "key"


def test_what_a_key_callable_returns_is_prefixed() -> None:
    assert str(prefixed_key("a", "app:")) == "app:a"
    assert prefixed_key("a") == as_key("a")
    assert prefixed_key((1,), "app:") == prefixed_key((1,), "app:") != prefixed_key((1,))
    assert prefixed_key(as_key(1), "app:") is not None
    assert prefixed_key(key(1), "app:") == key(1)


def test_the_repr_shows_owner_and_arguments() -> None:
    assert repr(key(7, "a")) == "<Key tests.test_keys.f(7,'a')>"
    assert repr(as_key("a")) == "<Key direct('a')>"
    assert repr(owner_of(f, arity=2)) == "<owner tests.test_keys.f, arity 2>"
    assert "private" in repr(owner_of_instance(owner_of(f), Storage()))


def test_a_direct_key_travels_and_the_key_of_a_function_says_why_not() -> None:
    for value in ("a", 1, None, (1, "a"), {"a": 1.0}):
        there = pickle.loads(pickle.dumps(as_key(value)))
        assert there == as_key(value)
        assert str(there) == str(as_key(value))
    assert copy.copy(key(1)) == copy.deepcopy(key(1)) == key(1)
    with pytest.raises(TypeError, match="str\\(key\\)"):
        pickle.dumps(key(1))


# --- owners -----------------------------------------------------------------------------------


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


# --- one instance -----------------------------------------------------------------------------


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
    from gecaso import owners

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


# --- namespace and version --------------------------------------------------------------------


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


# --- ambiguous functions ----------------------------------------------------------------------


def made(source: str, **closure: object) -> Any:
    """Return a function called ``same`` of the module ``shop``, made from ``source``."""
    scope: dict[str, Any] = {"__name__": "shop", **closure}
    exec(source, scope)
    return scope["same"]


def check(function: Any, storage: object) -> None:
    check_ambiguous(function, owner_of(function), storage)


def test_a_lambda_is_refused_on_a_shared_storage() -> None:
    with pytest.raises(AmbiguousFunction) as caught:
        check(lambda: 0, Storage())
    assert "key=" in str(caught.value)
    assert "namespace=" in str(caught.value)


ONE = "def same(x, y=1):\n    return [x + 1 for _ in (0,)]"


@pytest.mark.parametrize(
    "other",
    [
        "def same(x, y=1):\n    return [x + 2 for _ in (0,)]",
        "def same(x, y=1):\n    return [x - 1 for _ in (0,)]",
        "def same(x, y=1):\n    return [x + 1.0 for _ in (0,)]",
        "def same(x, y=2):\n    return [x + 1 for _ in (0,)]",
        "def same(x, *, y=1):\n    return [x + 1 for _ in (0,)]",
        "async def same(x, y=1):\n    return [x + 1 for _ in (0,)]",
        "def same(x, y=1):\n    return [z + 1 for _ in (0,)]",
    ],
)
def test_two_live_functions_of_one_name_and_other_code_are_refused(other: str) -> None:
    storage = Storage()
    first, second = made(ONE), made(other)
    check(first, storage)
    with pytest.raises(AmbiguousFunction, match=r"shop\.same"):
        check(second, storage)
    check(second, Storage())
    del first
    gc.collect()
    check(second, storage)


def test_the_same_code_elsewhere_in_the_file_is_no_second_function() -> None:
    storage = Storage()
    first, second = made(ONE), made("\n\n" + ONE)
    check(first, storage)
    check(first, storage)
    check(second, storage)


def counter(start: Any) -> Callable[[], Any]:
    def same() -> Any:
        return start, helper()

    def helper() -> Any:
        return start, same

    return same


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (1, 1, True),
        ([1], [1], True),
        (1, 1.0, False),
        (1, 2, False),
        (kv.Opaque(), kv.Opaque(), False),
        (counter(1), counter(1), True),
        (counter(1), counter(2), False),
    ],
)
def test_closure_values_tell_two_functions_apart(one: Any, other: Any, alike: bool) -> None:
    storage = Storage()
    first, second = counter(one), counter(other)
    check(first, storage)
    if alike:
        check(second, storage)
    else:
        with pytest.raises(AmbiguousFunction):
            check(second, storage)


# --- templates --------------------------------------------------------------------------------


def template(text: str, *names: str, start: str = "") -> Template:
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    return Template(text, inspect.Signature(parameters), start=start)


def rendered(text: str, **arguments: object) -> str:
    return template(text, *arguments).render(arguments)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (-7, "-7"),
        ("a b:c%{d}\n", "a%20b%3Ac%25%7Bd%7D%0A"),
        ("é-_/.", "é-_/."),
        ("", ""),
        (kv.Text("a"), "a"),
        (kv.Number(3), "3"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (kv.Colour.RED, "1"),
        (dt.date(2024, 6, 1), "2024-06-01"),
        (dt.datetime(2024, 6, 1, 12), "2024-06-01T12:00:00"),
    ],
)
def test_a_template_shows_its_arguments(value: object, text: str) -> None:
    assert rendered("user:{id}", id=value) == "user:" + text


def test_a_template_is_the_whole_key() -> None:
    made_by_template = template("user:{id}", "id", start=prefix("app", 1)).render({"id": 7})
    assert as_key(made_by_template) == as_key("app:v1:user:7")
    assert template("home").render({}) == "home"
    assert template("{{{id}}}", "id").render({"id": 1}) == "{1}"


@pytest.mark.parametrize(
    "value", [None, True, 1.5, b"a", [1], {"a": 1}, object(), kv.Point(1), int]
)
def test_what_has_no_one_text_is_refused_by_a_template(value: object) -> None:
    with pytest.raises(UnkeyableArgument) as caught:
        rendered("user:{id}", id=value)
    assert caught.value.argument == "id"
    assert "0x" not in str(caught.value)


def test_attributes_and_items_of_arguments() -> None:
    assert rendered("{p.x}:{q[a]}", p=kv.Point(3), q={"a": "b c"}) == "3:b%20c"
    with pytest.raises(UnkeyableArgument, match=r"p\.z"):
        rendered("{p.z}", p=kv.Point(3))
    with pytest.raises(UnkeyableArgument, match=r"q\[b\]"):
        rendered("{q[b]}", q={"a": 1})


def test_formats_are_for_numbers_and_dates() -> None:
    assert rendered("{n:05d}:{x:.2f}", n=7, x=1.234) == "00007:1.23"
    assert rendered("{day:%Y-%m}", day=dt.date(2024, 6, 1)) == "2024-06"
    for value in ("a", True, None):
        with pytest.raises(UnkeyableArgument):
            rendered("{n:>5}", n=value)
    with pytest.raises(UnkeyableArgument):
        rendered("{n:.2f}:{m:d}", n=1, m=1.5)


@pytest.mark.parametrize(
    "text", ["{idd}", "{0}", "{}", "{id!r}", "{id:{id}}", "{id", "{id}{name}", "{id}x{name}"]
)
def test_a_template_that_cannot_work_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        template(text, "id", "name")
    assert text in str(caught.value)


def test_an_unknown_name_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(ConfigurationError, match="id, name"):
        template("{idd}", "id", "name")


words = st.text(alphabet="ab:-_/%{} 3A", max_size=6)


@given(st.tuples(words, words), st.tuples(words, words), st.sampled_from(":-_/"))
@example(("a-b", ""), ("a", "b-"), "-")
@example(("a_", "b"), ("a", "_b"), "_")
def test_a_template_gives_different_arguments_different_keys(
    one: tuple[str, str], other: tuple[str, str], separator: str
) -> None:
    both = template("x_{a}" + separator + "{b}", "a", "b")
    first, second = (both.render({"a": a, "b": b}) for a, b in (one, other))
    assert (first == second) == (one == other)


def test_two_functions_with_one_template_on_one_storage_warn() -> None:
    storage = Storage()
    warn_if_shared("user:{id}", storage, f)
    warn_if_shared("user:{id}", storage, f)
    warn_if_shared("user:{id}", Storage(), g)
    with pytest.warns(UserWarning, match=r"g and f both use key='user:\{id\}'"):
        warn_if_shared("user:{id}", storage, g)


def test_a_function_that_is_gone_shares_no_template() -> None:
    def short_lived() -> None: ...

    storage = Storage()
    warn_if_shared("a", storage, short_lived)
    del short_lived
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_shared("a", storage, f)


# --- on the wire ------------------------------------------------------------------------------


def unquoted(text: str) -> str:
    """Undo `wire_text`, which says how it can be undone."""

    def undo(match: re.Match[str]) -> str:
        escaped = match[0]
        if escaped.startswith("%25"):
            return "%" + escaped[3:]
        return bytes.fromhex(escaped.replace("%", "")).decode("utf-8", "surrogatepass")

    codes = "%25(?:25)*(?:[01][0-9A-Fa-f]|7[BDFbdf]|[Ee][Dd])|%ED%..%..|%(?:[01][0-9A-F]|7[BDF])"
    return re.sub(codes, undo, text)


pieces = ["%", "25", "7B", "7b", "{", "}", "\n", "\x00", "20", "0A", "a", "ED", "%A0", "%80", "�"]
tricky = st.lists(st.sampled_from(pieces) | st.characters(), max_size=12).map("".join)


@given(tricky)
@example("%257B")
@example("%25257B")
@example("%7B")
def test_the_wire_text_can_be_undone(text: str) -> None:
    on_the_wire = wire_text(text)
    assert unquoted(on_the_wire) == text
    assert not re.search("[{}\x00-\x1f\x7f\ud800-\udfff]", on_the_wire)


def test_the_wire_text_of_quoted_text_stays_readable() -> None:
    assert wire_text("user:" + quote("a b:é")) == "user:a%20b%3Aé"
    assert wire_text(as_key("{user}\n")) == "%7Buser%7D%0A"
    assert len({wire_text(text) for text in ("{", "%7B", "%257B", "%25257B", "%")}) == 5


def test_the_public_records_have_types() -> None:
    assert get_type_hints(as_key)["return"] is Key
    assert DIRECT.arity == 1
