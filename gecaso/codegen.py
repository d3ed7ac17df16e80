"""The path of a hit, compiled at decoration with the user's own signature.

As `dataclasses` do: the text of a function is put together and executed, so that a call binds its
arguments at C speed and a hit is one dict lookup, one comparison and one count. What the function
reads of its surroundings are cells that `Compiled.bind` fills.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from inspect import Parameter, Signature
from types import MappingProxyType
from typing import Any

from gecaso.entry import Entry
from gecaso.errors import StorageError
from gecaso.keys.canonical import typed

__all__ = ["Compiled", "Seek", "compile_path"]

NO_KEYWORDS: Mapping[str, Any] = MappingProxyType({})
BUILTINS = (Exception, KeyError, StorageError, id, int, str, type)

Clock = Callable[[], float]
OnHit = Callable[[Entry], object]
Seek = Callable[..., Awaitable[Entry | None] | None]


class Compiled:
    """A compiled function with its handles.

    ``function`` is the path of a hit with the user's signature; ``typed_key(*args, **kwargs)``
    gives the typed key of a call, ``split(*args, **kwargs)`` the arguments as the user's function
    takes them; ``hits(reset)`` reads the counter. ``bind(entries, now, on_hit, miss)`` tells the
    path where the entries are (None: nowhere near), the clock, whom to tell of a hit (or None), and
    the way on.

    ``bind_far(now, seek, found, miss)`` is for coroutines whose entries are looked up elsewhere:
    ``seek(typed key)``, in a method ``seek(typed key, instance)``, returns an awaitable of the
    entry, or None where the call must take the way of a ``miss``. An entry that is not fresh, no
    entry, or a `StorageError` goes to ``found(it, typed key, args, kwargs)``, a coroutine function.
    """

    __slots__ = ("bind", "bind_far", "function", "hits", "split", "typed_key")

    def __init__(
        self,
        function: Callable[..., Any],
        typed_key: Callable[..., Hashable],
        split: Callable[..., tuple[tuple[Any, ...], Mapping[str, Any]]],
        bind: Callable[[Mapping[Any, Entry] | None, Clock, OnHit | None, Callable[..., Any]], None],
        bind_far: Callable[[Clock, Seek, Callable[..., Any], Callable[..., Any]], None],
        hits: Callable[[bool], int],
    ) -> None:
        self.function = function
        self.typed_key = typed_key
        self.split = split
        self.bind = bind
        self.bind_far = bind_far
        self.hits = hits


def compile_path(
    function: Callable[..., Any],
    signature: Signature,
    *,
    is_async: bool,
    keyed: tuple[str, ...],
    key_of: Callable[..., Hashable] | None = None,
    on_key_error: Callable[[BaseException], object] | None = None,
    instances: Mapping[int, Mapping[Any, Entry]] | None = None,
) -> Compiled:
    """Compile the path of a hit for ``function``.

    ``keyed`` names the parameters that make the key; with ``key_of(*args, **kwargs)`` that makes
    the typed key instead. ``on_key_error(error)`` is told of a call whose key cannot be made,
    which then goes to the function uncached. With ``instances`` it is a method whose first
    argument owns its entries: the table has, by the ``id`` of the instance, what elsewhere is
    given to `Compiled.bind`.
    """
    text = _Text(signature, is_async=is_async)
    names: dict[str, Any] = {
        **text.defaults,
        text.name("typed"): typed,
        text.name("user"): function,
        text.name("key_of"): key_of,
        text.name("failed"): on_key_error,
        text.name("none"): NO_KEYWORDS,
        text.name("instances"): instances,
        # A parameter may have the name of one of these.
        **{text.name(one.__name__): one for one in BUILTINS},
    }
    source = text.source(
        keyed,
        has_key_of=key_of is not None,
        on_error=on_key_error is not None,
        is_method=instances is not None,
    )
    exec(compile(source, f"<gecaso path of {function!r}>", "exec"), names)
    return Compiled(*names[text.name("make")]())


class _Text:
    """The source text; names of ours start with a prefix that no parameter starts with."""

    def __init__(self, signature: Signature, *, is_async: bool) -> None:
        self._parameters = list(signature.parameters.values())
        self._is_async = is_async
        self._prefix = "_gecaso_"
        while any(one.name.startswith(self._prefix) for one in self._parameters):
            self._prefix += "_"
        self.defaults = {
            self.name(f"default_{one.name}"): one.default
            for one in self._parameters
            if one.default is not Parameter.empty
        }

    def name(self, name: str) -> str:
        return self._prefix + name

    def source(
        self, keyed: tuple[str, ...], *, has_key_of: bool, on_error: bool, is_method: bool
    ) -> str:
        signature, forward = self._signature(), self._forward()
        key = f"{self.name('key_of')}({forward})" if has_key_of else self._tuple(keyed)
        split = self._split()
        lines = [
            "def @make():",
            "    @entries = @now = @on_hit = @miss = @seek = @found = None",
            "    @hits = 0",
            f"    {'async ' if self._is_async else ''}def @path({signature}):",
            "        nonlocal @hits",
            *self._key_lines(key, forward, on_error=on_error),
            # None where every call takes the long way: a miss by KeyError would be dearer.
            "        if @entries is not None:",
            "            try:",
            f"                @entry = {self._entry(is_method=is_method)}",
            "                if @now() < @entry.quick_until:",
            "                    @hits += 1",
            "                    @entry.hot = True",
            "                    if @on_hit is not None:",
            "                        @on_hit(@entry)",
            "                    return @entry.value",
            "            except @KeyError:",  # not there; or, for an LRU, just gone
            "                pass",
            *(self._far_lines(split, is_method=is_method) if self._is_async else ()),
            f"        return {'await ' if self._is_async else ''}@miss(@key, {split})",
            f"    def @typed_key({signature}):",
            f"        return {key}",
            f"    def @split({signature}):",
            f"        return {split}",
            "    def @bind(entries, now, on_hit, miss):",
            "        nonlocal @entries, @now, @on_hit, @miss, @seek",
            "        @entries, @now, @on_hit, @miss = entries, now, on_hit, miss",
            "        @seek = None",
            "    def @bind_far(now, seek, found, miss):",
            "        nonlocal @entries, @now, @seek, @found, @miss",
            "        @entries, @now, @seek, @found, @miss = None, now, seek, found, miss",
            "    def @read(reset):",
            "        nonlocal @hits",
            "        count = @hits",
            "        if reset:",
            "            @hits = 0",
            "        return count",
            "    return @path, @typed_key, @split, @bind, @bind_far, @read",
        ]
        return "\n".join(lines).replace("@", self._prefix)

    def _entry(self, *, is_method: bool) -> str:
        if not is_method:
            return "@entries[@key]"
        return f"@instances[@id({self._parameters[0].name})][@key]"

    def _far_lines(self, split: str, *, is_method: bool) -> list[str]:
        seek = f"@seek(@key, {self._parameters[0].name})" if is_method else "@seek(@key)"
        return [
            "        elif @seek is not None:",
            "            try:",
            f"                if (@asked := {seek}) is not None:",
            "                    @entry = await @asked",
            "                    if @entry is not None and @now() < @entry.fresh_until:",
            "                        @hits += 1",
            "                        return @entry.value",
            f"                    @asked = @found(@entry, @key, {split})",
            "            except @StorageError as @error:",
            # Not kept here: its traceback leads to this frame, and that would be a circle.
            f"                @asked = @found(@error, @key, {split})",
            "            if @asked is not None:",
            "                return await @asked",
        ]

    def _key_lines(self, key: str, forward: str, *, on_error: bool) -> list[str]:
        if not on_error:
            return [f"        @key = {key}"]
        call = f"{'await ' if self._is_async else ''}@user({forward})"
        return [
            "        try:",
            f"            @key = {key}",
            "        except @Exception as @error:",
            "            @failed(@error)",
            f"            return {call}",
        ]

    def _tuple(self, keyed: tuple[str, ...]) -> str:
        elements = [self._element(name) for name in keyed]
        if len(elements) == 1:
            return elements[0]
        return f"({', '.join(elements)})"

    def _element(self, name: str) -> str:
        # The two exact types that key as themselves; `type` cannot be lied to, `__class__` can.
        plain = f"@type({name}) is @int or @type({name}) is @str"
        return f"({name} if {plain} else @typed({name}, {name!r}))"

    def _signature(self) -> str:
        parts: list[str] = []
        kinds = [one.kind for one in self._parameters]
        for number, one in enumerate(self._parameters):
            if one.kind is Parameter.KEYWORD_ONLY and not (
                {Parameter.VAR_POSITIONAL, Parameter.KEYWORD_ONLY} & set(kinds[:number])
            ):
                parts.append("*")
            parts.append(self._parameter(one))
            if one.kind is Parameter.POSITIONAL_ONLY and (
                number + 1 == len(kinds) or kinds[number + 1] is not Parameter.POSITIONAL_ONLY
            ):
                parts.append("/")
        return ", ".join(parts)

    def _parameter(self, one: Parameter) -> str:
        star = ""
        if one.kind is Parameter.VAR_POSITIONAL:
            star = "*"
        elif one.kind is Parameter.VAR_KEYWORD:
            star = "**"
        default = "" if one.default is Parameter.empty else f"=@default_{one.name}"
        return f"{star}{one.name}{default}"

    def _split(self) -> str:
        """The arguments as a tuple and a dict."""
        positional: list[str] = []
        keywords: list[str] = []
        for one in self._parameters:
            if one.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
                positional.append(f"{one.name},")
            elif one.kind is Parameter.VAR_POSITIONAL:
                positional.append(f"*{one.name},")
            elif one.kind is Parameter.KEYWORD_ONLY:
                keywords.append(f"{one.name!r}: {one.name}")
            else:
                keywords.append(f"**{one.name}")
        named = "{" + ", ".join(keywords) + "}" if keywords else "@none"
        return f"({' '.join(positional)}), {named}"

    def _forward(self) -> str:
        """The arguments written as those of another call."""
        parts: list[str] = []
        for one in self._parameters:
            if one.kind is Parameter.VAR_POSITIONAL:
                parts.append(f"*{one.name}")
            elif one.kind is Parameter.VAR_KEYWORD:
                parts.append(f"**{one.name}")
            elif one.kind is Parameter.KEYWORD_ONLY:
                parts.append(f"{one.name}={one.name}")
            else:
                parts.append(one.name)
        return ", ".join(parts)
