"""Percent-encoding: text that can stand between separators, and text that can go to a server."""

from __future__ import annotations

import re
from functools import cache, lru_cache

__all__ = ["quote", "quoting", "wire_text"]


@lru_cache(64)
def quoting(more: str = "") -> re.Pattern[str]:
    """Return the pattern of what to encode: ``% : { }``, spaces, controls, and ``more``."""
    return re.compile(rf"[%:{{}}\s\x00-\x1f\x7f-\x9f\ud800-\udfff{re.escape(more)}]")


def quote(text: str, unsafe: re.Pattern[str] | None = None) -> str:
    """Percent-encode what is ``unsafe`` in ``text``: by default ``% : { }``, spaces and controls.

    >>> quote("a b:100%")
    'a%20b%3A100%25'
    """
    return (unsafe or quoting()).sub(_percent, text)


def _percent(match: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")])


@cache  # compiled at the first use
def _unfit() -> re.Pattern[str]:
    # A % is encoded only where it could have come from here: before the code of a brace, a control
    # character or (ED) a surrogate, or before the 25 of a % that was encoded for this reason.
    return re.compile(
        r"[{}\x00-\x1f\x7f\ud800-\udfff]|%(?=(?:25)*(?:[01][0-9A-F]|7[BDF]|ED))", re.IGNORECASE
    )


def wire_text(key: object) -> str:
    """Return the text of ``key`` without ``{ }``, control characters and lone surrogates.

    These are percent-encoded, and so is a ``%`` that would read as if it had come from one of
    them; any other text stays as it is, already encoded text too. No two keys give the same text.

    >>> wire_text("user:a%20b"), wire_text("{x}"), wire_text("%7Bx")
    ('user:a%20b', '%7Bx%7D', '%257Bx')
    """
    return _unfit().sub(_percent, str(key))
