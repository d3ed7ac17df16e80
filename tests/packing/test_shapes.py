"""Instances come back as they were, whatever their class does when it makes them."""

from __future__ import annotations

import enum
import functools
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from gecaso.errors import PackError, UnpackError
from gecaso.packing import Packer
from gecaso.packing.shapes import shape_of
from tests.packed_values import KNOWN, Attr, AttrWithDict, Base, Bits, Slotted

PACKER = Packer(types=KNOWN)


def there_and_back(value: Any, packer: Packer = PACKER) -> Any:
    return packer.unpack(packer.pack(value))[0]


@pytest.mark.parametrize("cls", [Base, Slotted, AttrWithDict])
def test_a_field_that_was_never_set_is_not_set_afterwards(cls: type) -> None:
    back = there_and_back(object.__new__(cls))
    assert type(back) is cls
    assert not any(hasattr(back, name) for name in ("a", "x", "y", "hidden"))


def test_attributes_that_are_no_fields_come_back_and_computed_ones_are_computed_anew() -> None:
    value: Any = Base(1)
    assert value.derived
    value.later = (1,)
    back = there_and_back(value)
    assert vars(back) == {"a": 1, "hidden": 3, "_more": [3], "later": (1,)}
    assert back.derived is not value.derived


@dataclass
class Counted:
    a: list[int]

    def __post_init__(self) -> None:
        self.a.append(0)


def test_no_constructor_runs() -> None:
    assert there_and_back(Counted([1]), Packer(types=[Counted])).a == [1, 0]


def test_a_hash_that_attrs_keeps_is_not_packed() -> None:
    value = Attr(1)
    hash(value)
    data = PACKER.pack({value: 1})
    assert PACKER.pack({Attr(1): 1}) == data
    assert PACKER.unpack(data)[0][Attr(1)] == 1


class Split:
    """State that no shape would see: it is in the part of a builtin base."""


@dataclass
class Failure(Exception):
    code: int


def test_classes_whose_state_is_out_of_reach_have_no_shape() -> None:
    for cls in (Split, Failure, dict, object, tuple, Exception, list[int], None, "Base"):
        assert shape_of(cls) is None


def test_a_combination_of_flags_that_the_class_does_not_name_is_refused() -> None:
    with pytest.raises(PackError):
        PACKER.pack(Bits(64))


class Named(NamedTuple):
    a: int


class WithDict(Named):
    pass


def test_a_named_tuple_with_attributes_of_its_own_is_refused() -> None:
    packer = Packer(types=[WithDict])
    value: Any = WithDict(1)
    assert type(there_and_back(value, packer)) is WithDict
    value.more = 1
    with pytest.raises(PackError, match="attributes of its own"):
        packer.pack(value)


# -- deploys -------------------------------------------------------------------------------------


def orders(kind: str, fields: list[str]) -> Any:
    """A class ``shop:Order`` with these fields, as code before or after a deploy has it."""
    create_model: Any = pydantic.create_model
    makers: dict[str, Callable[[], Any]] = {
        "dataclass": lambda: make_dataclass("Order", fields),
        "attrs": lambda: attrs.make_class("Order", fields),
        "namedtuple": lambda: namedtuple("Order", fields, defaults=[1]),  # pyright: ignore[reportUntypedNamedTuple] - as they come
        "msgspec": lambda: msgspec.defstruct("Order", fields),
        "pydantic": lambda: create_model("Order", **dict.fromkeys(fields, Any)),
        "enum": lambda: enum.Enum("Order", fields),
    }
    made = makers[kind]()
    made.__module__, made.__qualname__ = "shop", "Order"
    return made


@pytest.mark.parametrize("kind", ["dataclass", "attrs", "namedtuple", "msgspec", "pydantic"])
def test_an_old_shape_after_a_deploy_is_a_miss(kind: str) -> None:
    before, after = orders(kind, ["a"]), orders(kind, ["a", "b"])
    old, new = Packer(types=[before]), Packer(types=[after])
    data = old.pack([before(a=1)])
    assert type(old.unpack(data)[0][0]) is before
    with pytest.raises(UnpackError, match="have changed"):
        new.unpack(data)


def test_a_member_that_an_enum_has_no_more_is_a_miss() -> None:
    before, after = orders("enum", ["A", "B"]), orders("enum", ["A"])
    data = Packer(types=[before]).pack(before.B)
    with pytest.raises(UnpackError):
        Packer(types=[after]).unpack(data)


# -- pydantic and msgspec ------------------------------------------------------------------------

validated: list[str] = []


class Inner(pydantic.BaseModel, frozen=True):
    a: int


class Model(pydantic.BaseModel, extra="allow"):
    b: tuple[int, ...] = ()
    c: Inner | None = None
    _secret: set[int] = pydantic.PrivateAttr(default_factory=set[int])
    _unset: int = pydantic.PrivateAttr()

    @functools.cached_property
    def computed(self) -> Any:
        return threading.Lock()  # nothing that could be packed

    @pydantic.field_validator("b")
    @classmethod
    def validate_b(cls, value: Any) -> Any:
        validated.append("b")
        return value


class Numbers(pydantic.RootModel[list[int]]):
    pass


MODELS = Packer(types=[Model, Numbers])


def models() -> list[pydantic.BaseModel]:
    full: Any = Model.model_validate({"b": (1, 2), "c": Inner(a=1), "more": bytearray(b"x")})
    assert full.computed
    full._secret.add(3)
    unchecked = Model.model_construct(b="wrong")
    return [full, unchecked, Model(), Numbers([1, 2]), Inner(a=2)]


def test_a_model_comes_back_with_everything_that_makes_it_equal() -> None:
    for model in models():
        validated.clear()
        back = there_and_back(model, MODELS)
        assert type(back) is type(model)
        assert back == model
        assert back.model_fields_set == model.model_fields_set
        assert back.__pydantic_private__ == model.__pydantic_private__
        assert repr(back) == repr(model)
        assert validated == []


def test_a_model_can_be_a_key_and_keeps_the_types_in_it() -> None:
    back = there_and_back({Inner(a=1): Model(b=(1, 2))}, MODELS)
    assert type(back[Inner(a=1)].b) is tuple


def test_a_part_of_a_model_that_cannot_be_packed_is_named() -> None:
    with pytest.raises(PackError) as caught:
        MODELS.pack([Model.model_validate({"more": [object()]})])
    assert caught.value.path == "value[0].more[0]"


T = TypeVar("T")


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


def test_a_generic_model_and_its_arguments_are_known() -> None:
    packer = Packer(types=[Page[Slotted]])
    value = Page[Slotted](items=[Slotted(1)])
    assert there_and_back(value, packer) == value


class Leaf(msgspec.Struct, frozen=True, tag=True):
    a: Any


class Struct(msgspec.Struct, kw_only=True, rename="camel", dict=True):
    some_name: Leaf
    b: list[int] = []  # msgspec copies it

    def __post_init__(self) -> None:
        self.b = [*self.b, 0]


STRUCTS = Packer(types=[Struct])


def test_a_struct_comes_back_as_it_was() -> None:
    value: Any = Struct(some_name=Leaf(1), b=[1])
    value.later = (1,)
    back = there_and_back({Leaf(2): value}, STRUCTS)[Leaf(2)]
    assert back == value
    assert (type(back), back.b, vars(back)) == (Struct, [1, 0], {"later": (1,)})


def test_a_part_of_a_struct_that_cannot_be_packed_is_named() -> None:
    with pytest.raises(PackError) as caught:
        STRUCTS.pack([Struct(some_name=Leaf(object()))])
    assert caught.value.path == "value[0].some_name.a"
