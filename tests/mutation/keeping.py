"""The guards of keys, packing and memory: what is kept is the right thing, and not for too long."""

from __future__ import annotations

from tests.mutation.guards import Mutant

__all__ = ["KEEPING"]

PACKING = ("tests/packing", "tests/storages/test_mutated.py")
KEYS = ("tests/test_canonical.py", "tests/test_keys.py", "tests/test_keying.py")
HITS = ("tests/test_codegen.py", "tests/test_functions.py", "tests/test_decorator.py")
MEMORY = ("tests/storages/test_memory.py", "tests/storages/test_memory_model.py")

KEEPING = (
    Mutant(
        "a hit does not look at the clock",
        "gecaso/codegen.py",
        '"                if @now() < @entry.quick_until:"',
        '"                if True:"',
        (*HITS, "tests/test_freshness.py"),
    ),
    Mutant(
        "a stale entry is fresh",
        "gecaso/freshness.py",
        "    if now < entry.fresh_until:\n        due",
        "    if True:\n        due",
        ("tests/test_freshness.py", *HITS),
    ),
    Mutant(
        "a dead entry is found by a lookup (in process)",
        "gecaso/local.py",
        (
            "            if entry is not None and self.clock() < entry.dead_after:\n"
            "                self.hits += 1"
        ),
        "            if entry is not None:\n                self.hits += 1",
        (*MEMORY, "tests/storages/test_machine.py"),
    ),
    Mutant(
        "a dead entry is found beside a lease (in process)",
        "gecaso/local.py",
        (
            "            if entry is not None and self.clock() < entry.dead_after:\n"
            "                if isinstance(got, Lease):"
        ),
        "            if entry is not None:\n                if isinstance(got, Lease):",
        (*MEMORY, "tests/storages/test_machine.py"),
    ),
    Mutant(
        "get gives what is no longer fresh",
        "gecaso/base.py",
        "not self.now() < (entry.dead_after if stale else entry.fresh_until):",
        "not self.now() < entry.dead_after:",
        (*MEMORY, "tests/storages/test_contract.py"),
    ),
    Mutant(
        "a subclass of int or str keys as the plain value",
        "gecaso/codegen.py",
        'f"@type({name}) is @int or @type({name}) is @str"',
        'f"@isinstance({name}, (@int, @str))"',
        HITS,
    ),
    Mutant(
        "a signature holds for every key",
        "gecaso/packing/signing.py",
        '    hasher.update(len(key).to_bytes(8, "little") + key)\n',
        "",
        PACKING,
    ),
    Mutant(
        "any signature is accepted",
        "gecaso/packing/signing.py",
        (
            "            hmac.compare_digest(signature, _digest(state, key, data))"
            " for state in self._states"
        ),
        "            True for state in self._states",
        PACKING,
    ),
    Mutant(
        "a pickle is read without a secret",
        "gecaso/packing/packer.py",
        "if form == PICKLE and self._signer is not None:",
        "if form == PICKLE:",
        PACKING,
    ),
    Mutant(
        "what is larger than the bound is unpacked",
        "gecaso/packing/packer.py",
        "        if len(whole) > self.max_bytes:\n",
        "        if False:\n",
        PACKING,
    ),
    Mutant(
        "a checksum that is wrong is right",
        "gecaso/packing/packer.py",
        "if word == self._expected and crc32(data) == INTACT:",
        "if word == self._expected:",
        PACKING,
    ),
)
