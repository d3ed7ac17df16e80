"""Whatever comes in from outside, what comes out is a result or an error of gecaso's own.

Random mutations of packed data are in `tests/packing/test_packing_mutations.py`, texts as URLs in
`tests/test_config.py`, pairs of values as keys in `tests/test_canonical.py`.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gecaso
from gecaso import (
    ConfigurationError,
    EntryStorage,
    MemoryStorage,
    StorageError,
    UnkeyableArgument,
    UnpackError,
    config,
    storage_from_url,
)
from gecaso.entry import Entry
from gecaso.keys import as_key
from gecaso.packing import Packer
from gecaso.policy import Policy
from gecaso.storages import MemcachedStorage, PostgresStorage, RedisStorage
from tests.conftest import LONG
from tests.hostile import headed

MORE = 50 if LONG else 1
few = settings(max_examples=150 * MORE, suppress_health_check=[HealthCheck.too_slow])

# --- packed data ----------------------------------------------------------------------------------

PACKER = Packer(max_bytes=100_000)
SECOND = 1.0  # far more than reading any of these takes, on a busy machine even

scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.decimals()
    | st.datetimes()
    | st.uuids()
    | st.complex_numbers()
)
nested: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


def read(data: bytes) -> None:
    """Unpack data in both ways: a value or a miss, soon."""
    for unpack in (PACKER.unpack, PACKER.unpack_entry):
        started = time.process_time()
        with suppress(UnpackError):
            unpack(data)
        assert time.process_time() - started < SECOND


@given(nested, st.data())
@few
def test_packed_data_with_a_part_replaced_is_a_value_or_a_miss(
    value: Any, data: st.DataObject
) -> None:
    packed = (
        PACKER.pack_entry(Entry(value, 1.0)) if data.draw(st.booleans()) else PACKER.pack(value)
    )
    start = data.draw(st.integers(0, len(packed)))
    stop = data.draw(st.integers(start, min(len(packed), start + 8)))
    changed = packed[:start] + data.draw(st.binary(max_size=8)) + packed[stop:]
    read(changed)
    read(changed[:-4] + zlib.crc32(changed[:-4]).to_bytes(4, "little"))


@given(st.integers(0, 2**16 - 1), st.binary(max_size=40))
@few
def test_any_flags_before_any_bytes_are_a_value_or_a_miss(flags: int, body: bytes) -> None:
    read(headed(flags, body))


@pytest.mark.parametrize("start", [0x91, 0x81, 0xDD, 0xDF, 0xC9, 0xC7, 0xD8, 0xC6, 0xDB])
@pytest.mark.parametrize("depth", [1, 100, 90_000])
def test_nesting_and_lengths_that_are_not_there_are_misses(start: int, depth: int) -> None:
    read(headed(0, bytes([start]) * depth))
    read(headed(0, bytes([start, 255, 255, 255, 255]) * min(depth, 20_000)))


# --- URLs and options -----------------------------------------------------------------------------


def error_of(act: Callable[[], object], *kinds: type[Exception]) -> Exception | None:
    """Return the error of one of these kinds that something raises, if it does."""
    try:
        act()
    except kinds as error:
        return error
    return None


words = st.sampled_from(
    [
        "",
        "0",
        "1",
        "-1",
        "nan",
        "inf",
        "1e999",
        "5m",
        "1GB",
        "²",
        "x",
        "%",
        "%zz",
        "\0",
        "a b",
        "[::1",
    ]
) | st.text(max_size=6)


def url_of(scheme: str, where: str, options: list[tuple[str, str]]) -> str:
    return f"{scheme}://{where}?" + "&".join(f"{name}={text}" for name, text in options)


urls = st.builds(
    url_of,
    st.sampled_from(sorted(config.SCHEMES)),
    st.sampled_from(["", "h", "h:1", "h:1,i:2", "u:p@h:1/0", "h:x", "[::1]:1", "h/0/1", "/a/b"])
    | words,
    st.lists(
        st.tuples(
            st.sampled_from([*sorted(config.READERS), "servers", "types", "ssl"]) | words, words
        ),
        max_size=3,
    ),
)


@given(urls)
@few
def test_a_url_of_any_parts_is_a_storage_or_a_configuration_error(url: str) -> None:
    error = error_of(lambda: storage_from_url(url), ConfigurationError)
    assert error is None or len(str(error)) > 10


WRITES = {"record"}  # names a file: nothing that a fuzzer should make up
JUNK: list[Any] = [
    None,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "5m",
    "x",
    True,
    b"",
    [],
    {},
    object,
    print,
]
junk = st.sampled_from(JUNK)
options: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(
        [
            *sorted({*Policy._fields} - WRITES),
            "tags",
            "key",
            "namespace",
            "version",
            "ignore",
            "tll",
            "_loop",
        ]
    ),
    junk,
    min_size=1,
    max_size=3,
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@given(options)
@few
def test_any_options_of_cached_are_taken_or_refused_with_a_reason(given: dict[str, Any]) -> None:
    async def function(x: int) -> int:
        return x

    error = error_of(  # UnknownOption is a TypeError
        lambda: gecaso.cached(MemoryStorage(), **given)(function),
        *(ConfigurationError, TypeError, ValueError),
    )
    assert error is None or any(name in str(error) for name in given), (given, error)


# --- keys -----------------------------------------------------------------------------------------


class Plain:
    """Has no encoding but its address."""


oddities: st.SearchStrategy[Any] = (
    st.builds(Plain) | st.just(print) | st.just(Plain) | st.builds(iter, st.just([]))
)
arguments: st.SearchStrategy[Any] = st.recursive(
    scalars | oddities | st.fractions() | st.dates() | st.just(...),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
        | st.frozensets(st.integers() | st.text(max_size=2), max_size=3)
    ),
    max_leaves=8,
)
ADDRESS = re.compile("0x[0-9a-f]{6,}")


@given(arguments)
@few
def test_any_argument_is_text_of_65_characters_or_refused(value: Any) -> None:
    error = error_of(lambda: str(as_key((value,))), UnkeyableArgument)
    if error is not None:
        assert len(str(error)) > 10
        return
    key = as_key((value,))
    text = str(key)
    assert len(text) == 65
    assert text == str(as_key((value,)))
    assert ADDRESS.search(text) is None
    assert " object at " not in repr(key)


# --- servers that talk rubbish --------------------------------------------------------------------

OPENINGS = [
    *(b"", b"+OK\r\n", b"-ERR no\r\n", b":1\r\n", b"$5\r\nabc", b"$-2\r\n", b"*3\r\n", b"*-5\r\n"),
    *(b"*99999999\r\n", b"$99999999999\r\n", b"%2\r\n", b"_\r\n", b">1\r\n$1\r\nx\r\n", b"(12\r\n"),
    *(b"VALUE ", b"VALUE a 0 99999999999 1\r\n", b"VALUE a 0 3 1\r\nabc\r\nEND\r\n", b"END\r\n"),
    *(b"STORED\r\n", b"SERVER_ERROR out\r\n", b"STAT pid\r\n", b"VERSION 1\r\n", b"ERROR\r\n"),
    *(
        b"N",
        b"S",
        b"R\0\0\0\x08\0\0\0\0",
        b"R\0\0\0\x08\0\0\0\x05",
        b"E\xff\xff\xff\xff",
        b"Z\0\0\0\5I",
    ),
]
OPEN: dict[str, Callable[[int, float], EntryStorage]] = {
    "redis": lambda port, limit: RedisStorage(
        f"redis://127.0.0.1:{port}/0", timeout=limit, connect_timeout=limit
    ),
    "memcached": lambda port, limit: MemcachedStorage(
        f"memcached://127.0.0.1:{port}", timeout=limit, connect_timeout=limit
    ),
    "postgres": lambda port, limit: PostgresStorage(
        f"postgresql://u@127.0.0.1:{port}/d", timeout=limit, connect_timeout=limit
    ),
}


@asynccontextmanager
async def babbling(choose: random.Random) -> AsyncGenerator[int]:
    """Listen, answer whatever is said with rubbish, and hang up at times; give the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(10_000):
                parts = choose.choices(OPENINGS, k=choose.randrange(1, 4))
                parts += [choose.randbytes(choose.randrange(8))] * choose.randrange(2)
                writer.write(b"".join(parts))
                if choose.random() < 0.2:
                    break
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("kind", OPEN)
async def test_a_server_that_talks_rubbish_is_trouble_of_the_storage_and_holds_up_nobody(
    kind: str,
) -> None:
    limit, key = 0.1, as_key("a")
    loop = asyncio.get_running_loop()
    choose = random.Random(f"fuzz {kind}")
    async with babbling(choose) as port, OPEN[kind](port, limit) as storage:
        for _ in range(25 * MORE):
            operation: Any = choose.choice(
                [
                    lambda: storage.fetch([key]),
                    lambda: storage.lookup(key),
                    lambda: storage.lease([key], 5),
                    lambda: storage.set("a", 1),
                    lambda: storage.remove("a", "b"),
                    storage.ping,
                ]
            )
            started = loop.time()
            with suppress(StorageError):
                await operation()
            assert loop.time() - started < 2 * limit + 3.0  # and what a busy machine adds
