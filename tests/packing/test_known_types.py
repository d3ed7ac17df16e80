"""The types that a function's return annotation names are those that its values may have."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    Optional,
    TypedDict,
    TypeVar,
)

import attrs
import pytest

from gecaso.packing.known_types import known_types_of, types_in
from tests.packed_values import Address, Colour, Derived, Level, Mode, Point, Slotted, Tag

if TYPE_CHECKING:
    from decimal import Decimal as Missing  # which is not there at run time


class Plain:
    pass


class Typed(TypedDict, total=False):
    colour: Colour


T = TypeVar("T", bound=Level)


@dataclass
class Node(Generic[T]):
    next: Node[T] | None
    typed: Typed
    level: T
    unknown: Missing | Tag


TagId = NewType("TagId", Tag)


def plain() -> Annotated[Awaitable[list[Point] | Plain | None], Address, "Slotted"]:
    raise NotImplementedError


def literal() -> Literal[Mode.READ, 3, "Tag"]:
    raise NotImplementedError


def partly() -> dict[str, Missing] | Node[Level]:
    raise NotImplementedError


def unreadable() -> Missing[Tag]:  # type: ignore[type-arg]  # pyright: ignore[reportInvalidTypeArguments] - it is no generic
    raise NotImplementedError


def old_style() -> Any:
    raise NotImplementedError


old_style.__annotations__["return"] = Optional["Callable[[Colour], Slotted]"]  # as in older code


def nothing():  # type: ignore[no-untyped-def] # as users do
    raise NotImplementedError


class Service:
    def method(self) -> Colour:
        raise NotImplementedError


CASES: list[tuple[Callable[..., Any], set[type]]] = [
    (plain, {Point}),
    (literal, {Mode}),
    (partly, {Node, Colour, Level, Tag}),
    (unreadable, set()),
    (old_style, {Slotted}),
    (nothing, set()),
    (functools.partial(functools.lru_cache(literal)), {Mode}),
    (Service().method, {Colour}),
    (len, set()),
    (Service, set()),
]


@pytest.mark.smoke
@pytest.mark.parametrize(("function", "types"), CASES)
def test_the_types_that_a_return_annotation_names_are_known(
    function: Callable[..., Any], types: set[type]
) -> None:
    assert known_types_of(function) == types


def test_the_types_of_fields_are_known_too() -> None:
    assert types_in(Derived) == {Derived, Address, Tag, Colour}
    by_argument: Any = attrs.make_class("ByArgument", {"a": attrs.field(type=Tag)})
    assert types_in(by_argument) == {by_argument, Tag}
    assert types_in(TagId) == {Tag}


def test_one_name_is_looked_up_where_it_stands() -> None:
    here: Any = type("Here", (Address,), {"__annotations__": {"x": "Tag"}, "__module__": __name__})
    assert Tag in types_in(list[here])
    assert types_in(tuple["Tag", list["Tag"]], names={"Tag": Point}) == {Point}


@pytest.mark.parametrize("annotation", [int, None, "not python(", "x", 5, "1 / 0", ...])
def test_what_names_no_class_is_left_out(annotation: object) -> None:
    assert types_in(annotation, names={"x": "x"}) == frozenset()
