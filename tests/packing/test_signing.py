"""Who does not have the secret cannot make data that is read, or move it elsewhere."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from gecaso.entry import Entry
from gecaso.errors import ConfigurationError, PackError, UnpackError
from gecaso.packing import Packer, framing
from gecaso.packing.signing import Signer
from tests.hostile import headed, refused

SECRET = "a secret of enough bytes"
KEY = b"the key"
UNSIGNED, SIGNED = Packer(), Packer(secret=SECRET)


def test_only_signed_data_is_read_with_a_secret_and_only_unsigned_without() -> None:
    entry = Entry([1] * 30, 0.0)
    with pytest.raises(UnpackError, match="not signed"):
        SIGNED.unpack_entry(UNSIGNED.pack_entry(entry))
    with pytest.raises(UnpackError, match="is signed"):
        UNSIGNED.unpack_entry(SIGNED.pack_entry(entry))


def test_an_entry_copied_under_another_key_is_a_miss() -> None:
    data = SIGNED.pack_entry(Entry("alice's", 0.0), key=b"user:alice")
    assert SIGNED.unpack_entry(data, key=b"user:alice").value == "alice's"
    for key in (b"user:bob", b"", b"user:alice\0", b"user:alic"):
        with pytest.raises(UnpackError, match="signature"):
            SIGNED.unpack_entry(data, key=key)


def test_no_part_of_the_data_passes_for_a_part_of_the_key() -> None:
    signer = Signer(SECRET)
    signature = signer.sign(b"ab", b"cd")
    assert signer.accepts(signature, b"ab", b"cd")
    for key, data in [(b"abc", b"d"), (b"a", b"bcd"), (b"", b"abcd"), (b"abcd", b"")]:
        assert not signer.accepts(signature, key, data)


def test_every_bit_of_signed_data_counts() -> None:
    data = SIGNED.pack_entry(Entry({"a": [1, 2]}, 1.0, params={"x": 1}, version=b"v"), key=KEY)
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UnpackError):
            SIGNED.unpack_entry(bytes(changed), key=KEY)
    for size in range(len(data)):
        with pytest.raises(UnpackError):
            SIGNED.unpack_entry(data[:size], key=KEY)


def test_secrets_can_be_changed_one_after_the_other() -> None:
    old, new = "the old secret, 16+", b"the new secret, 16+"
    before, during, after = Packer(secret=old), Packer(secret=[new, old]), Packer(secret=[new])
    assert during.unpack(before.pack(1)) == (1, {})
    assert after.unpack(during.pack(2)) == (2, {})
    with pytest.raises(UnpackError):
        after.unpack(before.pack(1))
    with pytest.raises(UnpackError):
        before.unpack(during.pack(2))


def test_a_long_secret_counts_to_its_end() -> None:
    one, two = Packer(secret=b"x" * 100 + b"1"), Packer(secret=b"x" * 100 + b"2")
    assert one.unpack(one.pack(1)) == (1, {})
    with pytest.raises(UnpackError):
        two.unpack(one.pack(1))


WEAK = ["", "short", b"fifteen bytes..", [], ["x" * 16, "short"], [None], 5]


@pytest.mark.parametrize("secret", WEAK)
def test_a_secret_that_protects_nothing_is_refused(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="secret"):
        Packer(secret=secret)


# -- pickle --------------------------------------------------------------------------------------

fired: list[str] = []


def fire() -> str:
    fired.append("bang")
    return "fired"


class Bomb:
    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return fire, ()


def test_a_pickle_is_never_loaded_without_a_secret() -> None:
    fired.clear()
    for signed in (0, framing.SIGNED):
        data = headed(framing.PICKLE << framing.FORMAT | signed, pickle.dumps(Bomb()))
        refused(data, UNSIGNED, SIGNED)
        refused(data + bytes(16), UNSIGNED, SIGNED)
    refused(SIGNED.pack(Bomb()), UNSIGNED)
    refused(SIGNED.pack(Bomb())[:-16], UNSIGNED, SIGNED)
    assert fired == []


def test_a_pickle_is_not_loaded_before_its_signature_is_known_to_be_right() -> None:
    fired.clear()
    data = SIGNED.dumps(Bomb(), {}, key=KEY)
    for wrong in (data[:-1] + bytes([data[-1] ^ 1]), data[:20] + b"x" + data[21:]):
        with pytest.raises(UnpackError):
            SIGNED.loads(wrong, key=KEY)
    with pytest.raises(UnpackError):
        SIGNED.loads(data, key=b"another key")
    with pytest.raises(UnpackError):
        Packer(secret="another secret, long enough").loads(data, key=KEY)
    assert fired == []
    assert SIGNED.loads(data, key=KEY)[0] == "fired"
    assert fired == ["bang"]


def test_with_a_secret_what_is_not_known_is_pickled() -> None:
    value = {"a": [slice(1, 2), {1: memoryview}]}
    with pytest.raises(PackError):
        UNSIGNED.pack(value)
    assert SIGNED.unpack(SIGNED.pack(value, ttl=3)) == (value, {"ttl": 3})


def test_with_a_secret_a_value_may_contain_itself() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    back = SIGNED.unpack(SIGNED.pack(cyclic))[0]
    assert back[0] is back


def test_what_cannot_even_be_pickled_is_refused_with_the_path() -> None:
    def local() -> None:
        raise NotImplementedError

    with pytest.raises(PackError, match="Nor can it be pickled") as caught:
        SIGNED.pack({"a": local})
    assert caught.value.path == 'value["a"]'
