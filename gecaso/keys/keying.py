"""How the calls of one function become keys: the options of `cached` that concern keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from inspect import Signature
from typing import TYPE_CHECKING, Any, Literal

from gecaso.errors import ConfigurationError, UnkeyableArgument
from gecaso.keys import (
    DIRECT,
    Key,
    Owner,
    owner_of,
    owner_of_instance,
    prefix,
    prefixed_key,
)
from gecaso.keys.canonical import typed

if TYPE_CHECKING:
    from gecaso.keys.templates import Template

__all__ = ["KeyOptions", "Keying"]


class KeyOptions:
    """The options that concern keys, as given to `cached`."""

    __slots__ = ("hash_key", "ignore", "key", "namespace", "on_key_error", "version")

    def __init__(
        self,
        *,
        key: str | Callable[..., Any] | None = None,
        ignore: tuple[str, ...] = (),
        namespace: str | None = None,
        version: str | int | None = None,
        hash_key: bool = True,
        on_key_error: Literal["raise", "call"] = "raise",
    ) -> None:
        if isinstance(ignore, str):
            raise TypeError(f'ignore must be a tuple of names: ignore=("{ignore}",)')
        _check_types(ignore, namespace, version)
        if on_key_error not in ("raise", "call"):
            raise ConfigurationError(
                f"on_key_error must be 'raise' or 'call', not {on_key_error!r}"
            )
        if not (key is None or isinstance(key, str) or callable(key)):
            raise TypeError(f"key must be a template or a function, not {key!r}")
        self.key = key
        self.ignore = tuple(ignore)
        self.namespace = namespace
        self.version = version
        self.hash_key = hash_key
        self.on_key_error = on_key_error


def _check_types(ignore: Any, namespace: Any, version: Any) -> None:
    """Users may not check types: tell them what is wrong before it shows far away."""
    if not (isinstance(ignore, tuple | list) and all(isinstance(each, str) for each in ignore)):  # pyright: ignore[reportUnknownVariableType] - that is asked here
        raise TypeError(f"ignore must be a tuple of names of parameters, not {ignore!r}")
    if not isinstance(namespace, str | None):
        raise TypeError(f"namespace must be a text, not {namespace!r}")
    if not isinstance(version, str | int | None):
        raise TypeError(f"version must be a text or a whole number, not {version!r}")


class Keying:
    """The keys of one function.

    ``keyed`` names the parameters that make the key; ``key_of``, if there is one, makes the typed
    key of a call instead. In a method (``is_method``) the first argument owns the key: through
    its ``__cache_key__``, as a class, or by identity.
    """

    def __init__(
        self, function: Callable[..., Any], signature: Signature, options: KeyOptions
    ) -> None:
        self.function = function
        self.signature = signature
        self.options = options
        self.is_method = False
        self.keyed: tuple[str, ...] = ()
        self.key_of: Callable[..., Hashable] | None = None
        self.template: Template | None = None
        self.owner = self.instance_owner = DIRECT

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
            from gecaso.keys.templates import Template  # few functions have one

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

    def keys_of(self, instance: object) -> tuple[Owner, Callable[[Any], bool]]:
        """Return the owner of an instance's keys here, and which of its keys are the instance's."""
        if not hasattr(instance.__class__, "__cache_key__"):
            return owner_of_instance(self.owner, instance), _every
        element = typed(instance, "self")
        if not self.keyed:
            return self.instance_owner, lambda typed_key: bool(typed_key == element)
        return self.instance_owner, lambda typed_key: bool(typed_key[0] == element)

    def _with(self, element: Hashable, typed_key: Any) -> Hashable:
        if not self.keyed:
            return element
        return (element, typed_key) if len(self.keyed) == 1 else (element, *typed_key)


def _every(typed_key: object) -> bool:
    return True
