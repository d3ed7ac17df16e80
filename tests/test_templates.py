"""Keys written out."""

from __future__ import annotations

import datetime as dt
import gc
import inspect
import uuid
import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gecaso.errors import ConfigurationError, UnkeyableArgument
from gecaso.keys import as_key, prefix
from gecaso.keys.templates import Template, warn_if_shared
from tests import keyed_values as kv
from tests.test_keys import Storage, f, g


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
