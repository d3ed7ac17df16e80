"""A call -> its `Key`; a `Key` -> text of a fixed size. Each step has a module of its own."""

from __future__ import annotations

from gecaso.keys.key import Key, as_key, naming, prefixed_key
from gecaso.keys.owners import DIRECT, Owner, identity, owner_of, owner_of_instance, prefix
from gecaso.keys.quoting import wire_text

__all__ = [
    "DIRECT",
    "Key",
    "Owner",
    "as_key",
    "identity",
    "naming",
    "owner_of",
    "owner_of_instance",
    "prefix",
    "prefixed_key",
    "wire_text",
]
