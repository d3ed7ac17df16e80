"""Replies of memcached are read however they arrive, and by who asked for them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiomcache import ClientException
from hypothesis import given
from hypothesis import strategies as st

from gecaso.storages._memcached_client import Connections, Dial
from gecaso.storages._memcached_wire import Facts, Lines, Values

Got = list[Any]


@pytest.fixture
async def client(memcached_address: str) -> AsyncIterator[Connections]:
    host, _, port = memcached_address.partition(":")
    client = await Connections.open(Dial(host, int(port)), 2, 5.0)
    yield client
    client.lose(ConnectionAbortedError("the test is over"))
    await asyncio.sleep(0)


def fed(client: Connections, *pieces: bytes) -> None:
    for piece in pieces:
        client.lines[0].data_received(piece)


def asked(client: Connections) -> tuple[Got, Got, Got]:
    """Let three commands wait for replies that the test makes up."""
    values: Got = []
    stored: Got = []
    facts: Got = []
    line = client.lines[0]
    line.ask(b"", Values({b"a", b"b", b"c", b"e"}, values.append))
    line.ask(b"", Lines(2, {b"STORED", b"EXISTS"}, stored.append))
    line.ask(b"", Facts(facts.append))
    return values, stored, facts


VALUES = {b"a": b"", b"b": b"END\r\n", b"c": b"VALUE d 0 1 1\r\n", b"e": b"x" * 20}
REPLY = (
    b"".join(b"VALUE %b 7 %d 9\r\n%b\r\n" % (n, len(v), v) for n, v in VALUES.items())
    + b"END\r\nSTORED\r\nSERVER_ERROR out of memory\r\nSTAT a b c\r\nEND\r\n"
)


@pytest.mark.parametrize("size", range(1, len(REPLY) + 1, 3))
async def test_replies_are_read_however_they_are_cut(client: Connections, size: int) -> None:
    values, stored, facts = asked(client)
    fed(client, *[REPLY[start : start + size] for start in range(0, len(REPLY), size)])
    assert values == [{name: (value, 9) for name, value in VALUES.items()}]
    assert [str(one) for one in stored[0]] == [
        str(b"STORED"),
        str(ClientException("refused", b"SERVER_ERROR out of memory")),
    ]
    assert facts == [[b"STAT a b c"]]
    assert client.is_usable


@pytest.mark.parametrize(
    "nonsense",
    [
        b"x" * 600,
        b"VALUE other 0 1 1\r\nx\r\n",
        b"VALUE a 0 1 1\r\nxyz\r\n",
        b"VALUE a 0 99999999999999 1\r\nx\r\n",
        b"STORED\r\n",
        b"END\r\nERROR\r\n",
        REPLY + b"END\r\n",
    ],
)
async def test_nonsense_ends_the_connection_and_all_who_wait_are_told(
    client: Connections, nonsense: bytes
) -> None:
    answers = asked(client)
    fed(client, nonsense)
    assert not client.is_usable
    assert isinstance(answers[2][0], ClientException)
    with pytest.raises(ConnectionResetError):
        await client.look([b"a"])


TRICKY = st.lists(
    st.sampled_from(
        [b"x", b"\r\n", b"\r\nVALUE b 0 1\r\nx", b"\r\nVALUE a 0 0\r\n", b"\r\nEND\r\n"]
    )
).map(b"".join)


@given(st.dictionaries(st.sampled_from([b"a", b"b", b"c"]), TRICKY, min_size=1), st.booleans())
def test_a_reply_in_one_piece_is_read_as_one_in_many(
    values: dict[bytes, bytes], is_odd: bool
) -> None:
    items = [b"VALUE %b 0 %d\r\n%b\r\n" % (n, len(v), v) for n, v in values.items()]
    reply = b"".join(items) + b"END\r\n"
    if is_odd:  # a byte is lost on the way
        reply = reply[:7] + reply[8:]
    assert _read([reply]) == _read([reply[:1], reply[1:]])
    if not is_odd:
        assert _read([reply]) == {name: (value, 0) for name, value in values.items()}


def _read(pieces: list[bytes]) -> Any:
    """Return what is read of a reply that comes in pieces; None if it is nonsense."""
    got: Got = []
    values, data = Values({b"a", b"b", b"c"}, got.append), b""
    for piece in pieces:
        data += piece
        values.found.clear()
        try:
            # At 0 it may be read at once, from 1 on never is.
            start = int(len(pieces) > 1)
            values.read(b"." * start + data, start)
        except ClientException:
            return None
    return values.result() if values.is_complete else None


async def test_a_large_value_is_read_in_one_go_once_it_is_there(client: Connections) -> None:
    data = random.Random(1).randbytes(900_000)
    assert await client.set(b"large", data)
    assert (await client.look([b"large"]))[b"large"][0] == data


async def test_commands_of_one_tick_are_one_write_over_one_connection(
    client: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[bytes]()
    for line in client.lines:
        write = line._outbox._write  # pyright: ignore[reportPrivateUsage] - what is counted

        def counted(data: bytes, write: Any = write) -> None:
            written.append(data)
            write(data)

        monkeypatch.setattr(line._outbox, "_write", counted)  # pyright: ignore[reportPrivateUsage] - likewise
    assert all(await asyncio.gather(*[client.set(b"k%d" % n, b"v") for n in range(100)]))
    assert [data.count(b"set ") for data in written] == [100]


async def test_the_connection_with_the_least_to_do_is_used(client: Connections) -> None:
    line = client.line()
    line.ask(b"", Facts(lambda _: None), at_once=True)
    assert client.line() is not line


async def test_a_reply_for_who_is_gone_is_read_and_not_given_to_another(
    client: Connections,
) -> None:
    await client.set_all([(b"a", b"1", 0), (b"b", b"2", 0)])
    for _ in range(200):
        gone = asyncio.ensure_future(client.look([b"a"]))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await client.look([b"b"])).keys() == {b"b"}


async def test_the_end_of_one_connection_is_the_end_of_all(client: Connections) -> None:
    waiting = asyncio.ensure_future(client.look([b"a"]))
    await asyncio.sleep(0)
    client.lose(ConnectionAbortedError("lost"))
    with pytest.raises(ConnectionAbortedError):
        await waiting
    with pytest.raises(ConnectionResetError):
        await client.look([b"a"])


async def test_a_command_without_a_reply_is_a_timeout(client: Connections) -> None:
    client.lines[0].timeout = 0.02
    with pytest.raises(TimeoutError):
        await client.lines[0].call(b"", Facts)
    assert not client.is_usable
