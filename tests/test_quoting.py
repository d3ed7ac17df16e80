"""Percent-encoded texts can be told apart."""

from __future__ import annotations

import re
from typing import get_type_hints

from hypothesis import example, given
from hypothesis import strategies as st

from gecaso.keys import (
    DIRECT,
    Key,
    as_key,
    wire_text,
)
from gecaso.keys.quoting import quote


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
