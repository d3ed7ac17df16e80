"""Names, marks and times as memcached is told them."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gecaso.entry import new_token
from gecaso.errors import ConfigurationError
from gecaso.storages._memcached_records import GONE, Mark, ServerClock, WireKeys, exptime

TEXTS = st.text(st.characters(codec=None), max_size=300) | st.from_regex(r"[a-f0-9~:%]{0,260}")


@given(TEXTS, TEXTS)
@example("a", "a~")
@example("", "~")
@example("\udcff", "?")
@example("x" * 300, "x" * 301)
def test_no_two_texts_share_a_name(one: str, other: str) -> None:
    keys = WireKeys("ns")
    names = [keys.value(one), keys.value(other)]
    names += [WireKeys.beside(name) for name in names]
    assert len(set(names)) == (2 if one == other else 4)


@given(TEXTS)
@example("x" * 246)
@example("x" * 247)
@example("user 7\r\nflush_all")
@example("\u2003")
def test_every_name_is_one_that_the_protocol_allows(text: str) -> None:
    name = WireKeys.beside(WireKeys("ns").value(text))
    assert len(name) <= 250
    assert all(0x21 <= byte <= 0x7E for byte in name)


def test_plain_text_is_named_by_itself_after_the_namespace() -> None:
    assert WireKeys("shop").value("user:7") == b"shop:user:7"
    assert WireKeys("").value("user:7") == b":user:7"


@given(st.text(max_size=5), st.text(max_size=5), TEXTS, TEXTS)
@example("a", "a:b", "b:c", "c")
@example("", "a", "a:b", "b")
def test_two_namespaces_share_no_name(one: str, other: str, text: str, more: str) -> None:
    assert one == other or WireKeys(one).value(text) != WireKeys(other).value(more)


def test_a_namespace_that_leaves_no_room_for_a_key_is_refused() -> None:
    assert len(WireKeys("n" * 215).value("x" * 99)) <= 249
    with pytest.raises(ConfigurationError, match="namespace is too long"):
        WireKeys("n" * 216)


def test_a_mark_comes_back_and_nothing_else_is_taken_for_one() -> None:
    mark = Mark(new_token(), 1234.5)
    assert Mark.unpack(mark.pack()) == mark
    assert Mark.unpack(mark.pack() + b"x") is None
    assert Mark.unpack(mark.pack()[:-1]) is None
    assert Mark.unpack(b"") is None


@given(st.floats(0.001, 400 * 86400))
def test_the_server_never_expires_early(left: float) -> None:
    now = 1_795_000_000.25
    told = exptime(now + left, now)
    until = now + told if told <= 30 * 86400 else told
    # Its clock may show up to three seconds less than it should, one of them while counting.
    assert left <= until - now - (1.0 if told <= 30 * 86400 else 0.0) + 1e-3
    assert until - now <= left + 5


def test_an_expiry_that_the_server_cannot_count_is_left_to_the_entry() -> None:
    assert exptime(math.inf, 0.0) == 0
    assert exptime(2.0**31, 1.8e9) == 0
    assert exptime(5.0, 5.0) == exptime(4.0, 5.0) == GONE


def test_a_clock_that_agrees_with_the_server_is_taken_to_be_right() -> None:
    clock = ServerClock()
    for told_late in (-1, 0, 2):
        clock.measure(int(time.time()) - told_late)
        assert clock.now() == pytest.approx(time.time(), abs=0.05)


@pytest.mark.parametrize("off_by", [-7200, -10, 10, 7200])
def test_a_clock_that_is_off_is_corrected(off_by: int) -> None:
    clock = ServerClock()
    clock.measure(int(time.time()) + off_by)
    assert clock.now() == pytest.approx(time.time() + off_by, abs=1.5)


def test_setting_the_clock_of_the_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ServerClock()
    clock.measure(int(time.time()))
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now() - before < 1.0
