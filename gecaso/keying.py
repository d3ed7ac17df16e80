"""How the calls of one function become keys: the options of `cached` that concern keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from inspect import Signature
from typing import Any, Literal

from gecaso.canonical import typed
from gecaso.errors import ConfigurationError, UnkeyableArgument
from gecaso.keys import (
    DIRECT,
    Key,
    Owner,
    Template,
    owner_of,
    owner_of_instance,
    prefix,
    prefixed_key,
)

__all__ = ["KeyOptions", "Keying"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions:
    """The options that concern keys, as given to `cached`."""

    key: str | Callable[..., Any] | None = None
    ignore: tuple[str, ...] = ()
    namespace: str | None = None
    version: str | int | None = None
    hash_key: bool = True
    on_key_error: Literal["raise", "call"] = "raise"

    def __post_init__(self) -> None:
        if isinstance(self.ignore, str):
            raise TypeError(f'ignore must be a tuple of names: ignore=("{self.ignore}",)')
        if self.on_key_error not in ("raise", "call"):
            raise ConfigurationError(
                f"on_key_error must be 'raise' or 'call', not {self.on_key_error!r}"
            )
        if not (self.key is None or isinstance(self.key, str) or callable(self.key)):
            raise TypeError(f"key must be a template or a function, not {self.key!r}")


@dataclass(slots=True)
class Keying:
    """The keys of one function.

    ``keyed`` names the parameters that make the key; ``key_of``, if there is one, makes the typed
    key of a call instead. In a method (``is_method``) the first argument owns the key: through
    its ``__cache_key__``, as a class, or by identity.
    """

    function: Callable[..., Any]
    signature: Signature
    options: KeyOptions
    is_method: bool = False
    keyed: tuple[str, ...] = ()
    key_of: Callable[..., Hashable] | None = None
    template: Template | None = None
    owner: Owner = DIRECT
    instance_owner: Owner = DIRECT

    @classmethod
    def make(cls, function: Callable[..., Any], options: KeyOptions, *, is_method: bool) -> Keying:
        signature = inspect.signature(function)
        names = tuple(signature.parameters)
        for name in options.ignore:
            if name not in names:
                raise ConfigurationError(
                    f"ignore names {name!r}, which is no parameter of {function!r}: {names}"
                )
        is_method = is_method and bool(names) and names[0] not in options.ignore
        self = cls(function, signature, options)
        if options.key is not None:
            self._use_key(options.key)
            return self
        self.keyed = tuple(name for name in names if name not in options.ignore)
        self.instance_owner = self._owner(len(self.keyed))
        if is_method:
            self.is_method = True
            self.keyed = self.keyed[1:]
        self.owner = self._owner(len(self.keyed)) if is_method else self.instance_owner
        return self

    def _owner(self, arity: int) -> Owner:
        options = self.options
        return owner_of(
            self.function,
            namespace=options.namespace,
            version=options.version,
            ignore=options.ignore,
            hash_key=options.hash_key,
            arity=arity,
        )

    def _use_key(self, key: str | Callable[..., Any]) -> None:
        start = prefix(self.options.namespace, self.options.version)
        if isinstance(key, str):
            template = self.template = Template(key, self.signature, start=start)
            signature = self.signature

            def render(*args: Any, **kwargs: Any) -> Hashable:
                bound = signature.bind(*args, **kwargs)
                bound.apply_defaults()
                return template.render(bound.arguments)

            self.key_of = render
        else:
            function = key

            def call(*args: Any, **kwargs: Any) -> Hashable:
                return prefixed_key(function(*args, **kwargs), start).typed

            self.key_of = call

    def key(self, typed_key: Hashable, args: tuple[Any, ...], *, local: bool) -> Key:
        """Return the key of a call; ``args`` are its positional arguments.

        ``local`` tells that the storage is in this process, so that an instance may be its own
        key. Raises `UnkeyableArgument` for an instance that cannot be one.
        """
        if not self.is_method:
            return Key(self.owner, typed_key)
        instance: Any = args[0]
        kind: type[Any] = instance.__class__
        if hasattr(kind, "__cache_key__"):
            return Key(self.instance_owner, self._with(typed(instance, "self"), typed_key))
        if local:
            return Key(owner_of_instance(self.owner, instance), typed_key)
        if not inspect.isclass(instance):
            raise UnkeyableArgument(
                f"{self.owner.label}: self has no __cache_key__, and a storage that other "
                f"processes share cannot keep entries by an object's identity. Give "
                f"{type(instance).__qualname__} a __cache_key__() that returns what identifies an "
                'instance, or drop self with ignore=("self",).',
                argument="self",
            )
        return Key(self.instance_owner, self._with(typed(instance, "cls"), typed_key))

    def _with(self, element: Hashable, typed_key: Any) -> Hashable:
        if not self.keyed:
            return element
        return (element, typed_key) if len(self.keyed) == 1 else (element, *typed_key)
