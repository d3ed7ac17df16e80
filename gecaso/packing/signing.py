"""Signatures: who does not have the secret cannot make data that is read, or move it elsewhere."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import blake2b

from gecaso.errors import ConfigurationError

__all__ = ["SIGNATURE_SIZE", "Secret", "Signer"]

Secret = bytes | str | Sequence[bytes | str]

SIGNATURE_SIZE = 16
SHORTEST_SECRET = 16
_LONGEST_KEY = 64  # of BLAKE2b; a longer secret is hashed first


class Signer:
    """Signs with the first of its secrets and accepts the signatures of all.

    A secret has at least 16 bytes. To change it, put the new one in front; take the old one away
    when what it signed has expired. The algorithm is keyed BLAKE2b, whatever a message says.

    >>> signer = Signer(["the new secret, long enough", "the old secret, long enough"])
    >>> old = Signer("the old secret, long enough").sign(b"key", b"data")
    >>> signer.accepts(old, b"key", b"data"), signer.accepts(old, b"other key", b"data")
    (True, False)
    """

    __slots__ = ("_states",)

    def __init__(self, secret: Secret) -> None:
        several = isinstance(secret, (list, tuple))
        secrets: Sequence[object] = secret if several else [secret]
        if not secrets:
            raise ConfigurationError("secret=[] has no secret to sign with: give one, or None")
        self._states = [_keyed(one) for one in secrets]

    def sign(self, key: bytes, data: bytes) -> bytes:
        """Return the signature, 16 bytes, of ``data`` under ``key``."""
        return _digest(self._states[0], key, data)

    def accepts(self, signature: bytes, key: bytes, data: bytes) -> bool:
        """Return whether one of the secrets made ``signature`` for ``data`` under ``key``."""
        return any(
            hmac.compare_digest(signature, _digest(state, key, data)) for state in self._states
        )

    def __repr__(self) -> str:
        return f"<Signer of {len(self._states)} secrets>"


def _keyed(secret: object) -> blake2b:
    if isinstance(secret, str):
        secret = secret.encode()
    if not isinstance(secret, bytes):
        raise ConfigurationError(f"a secret is bytes or str, not {type(secret).__name__}")
    if len(secret) < SHORTEST_SECRET:
        raise ConfigurationError(
            f"a secret of {len(secret)} bytes can be guessed: use at least {SHORTEST_SECRET}, "
            "for example those of secrets.token_bytes(32)"
        )
    key = secret if len(secret) <= _LONGEST_KEY else blake2b(secret).digest()
    return blake2b(key=key, digest_size=SIGNATURE_SIZE, person=b"gecaso packing")


def _digest(state: blake2b, key: bytes, data: bytes) -> bytes:
    hasher = state.copy()
    # With its length in front, no part of the key can pass for a part of the data.
    hasher.update(len(key).to_bytes(8, "little") + key)
    hasher.update(data)
    return hasher.digest()
