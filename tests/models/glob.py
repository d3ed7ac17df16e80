"""Redis' own patterns, as in its ``stringmatchlen``."""

from __future__ import annotations

__all__ = ["matches"]


def matches(pattern: bytes, text: bytes) -> bool:
    """Return whether the whole text matches: ``*``, ``?``, ``[a-c]``, ``[^a]`` and backslash."""
    while pattern:
        first = pattern[:1]
        if first == b"*":
            rest = pattern.lstrip(b"*")
            return not rest or any(matches(rest, text[at:]) for at in range(len(text) + 1))
        if not text:
            return False
        if first == b"[":
            ok, pattern = _in_class(pattern[1:], text[0])
            if not ok:
                return False
        else:
            if first == b"\\" and len(pattern) > 1:
                pattern = pattern[1:]
            elif first == b"?":
                pattern = text[:1] + pattern[1:]
            if pattern[0] != text[0]:
                return False
            pattern = pattern[1:]
        text = text[1:]
    return not text


def _in_class(pattern: bytes, byte: int) -> tuple[bool, bytes]:
    """Look whether a byte is in ``a-c]…``; return that, and the pattern after the bracket.

    A class that is never closed ends with the pattern.
    """
    negated = pattern[:1] == b"^"
    at, found = int(negated), False
    while at < len(pattern) and pattern[at] != ord("]"):
        if pattern[at] == ord("\\") and at + 1 < len(pattern):
            at += 1
            found |= pattern[at] == byte
        elif len(pattern) - at >= 3 and pattern[at + 1] == ord("-"):
            low, high = sorted((pattern[at], pattern[at + 2]))
            found |= low <= byte <= high
            at += 2
        else:
            found |= pattern[at] == byte
        at += 1
    return found != negated, pattern[at + 1 :]
