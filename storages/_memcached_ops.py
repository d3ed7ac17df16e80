"""What is done with some keys on one server: each method is one operation, over its connections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from gecaso.entry import Busy, Entry, Lease
from gecaso.errors import ValueTooLarge
from gecaso.keys import Key, naming
from gecaso.packing import Packer

from ._memcached_client import Connections, Item
from ._memcached_leases import (
    TRIES,
    Leasing,
    contended,
    end_marks,
    names_of,
)
from ._memcached_link import Work, each
from ._memcached_records import GONE, Mark, WireKeys, exptime
from ._memcached_wire import Found

__all__ = ["Operations"]

T = TypeVar("T")


class Operations:
    """The operations of a storage. ``packer`` and ``limit`` may be replaced at any time."""

    def __init__(
        self, keys: WireKeys, leasing: Leasing, packer: Packer, most_bytes: int | None
    ) -> None:
        self.packer = packer
        self._keys = keys
        self._leasing = leasing
        self._most_bytes = most_bytes
        self.name = naming(lambda key: keys.value(str(key)))
        """The name of a key's value on its server."""

    # --- leases -----------------------------------------------------------------------------------

    async def fetch(self, names: list[bytes], client: Connections) -> dict[bytes, Entry]:
        live, found = self._leasing.live, await client.look(names)
        entries = {name: live(name, one) for name, one in found.items()}
        return {name: entry for name, entry in entries.items() if entry is not None}

    async def take(
        self, tokens: Mapping[Key, bytes], until: float, keys: list[Key], client: Connections
    ) -> dict[Key, Lease | Busy]:
        take = self._leasing.take
        taking = [take(client, key, self.name(key), Mark(tokens[key], until)) for key in keys]
        return {got.key: got for got in await each(taking)}

    async def renew(self, until: float, leases: list[Lease], client: Connections) -> set[Key]:
        renew = self._leasing.renew
        kept = await each([renew(client, one, self.name(one.key), until) for one in leases])
        return {lease.key for lease, ours in zip(leases, kept, strict=True) if ours}

    def commit(self, entries: Mapping[Lease, Entry], leases: list[Lease]) -> Work[set[Key]]:
        packed = [(lease, *self._packed(lease.key, entries[lease])) for lease in leases]

        async def work(client: Connections) -> set[Key]:
            commit = self._leasing.commit
            done = await each(
                [commit(client, lease, name, data, entries[lease]) for lease, name, data in packed]
            )
            return {lease.key for lease, stored in zip(leases, done, strict=True) if stored}

        return work

    async def release(self, leases: Iterable[Lease], client: Connections) -> None:
        held = [(self.name(lease.key), lease) for lease in leases]
        names = (at for name, lease in held for at in names_of(lease, name))
        found = await client.look(names, whole=False)
        await each([end_marks(client, name, found, lease.token) for name, lease in held])

    # --- writing without a lease ------------------------------------------------------------------

    def put(self, entries: Mapping[Key, Entry], keys: list[Key]) -> Work[set[Key]]:
        """Store entries whatever is there."""
        packed = [(entries[key], *self._packed(key, entries[key])) for key in keys]

        async def work(client: Connections) -> set[Key]:
            await client.delete_in_order([WireKeys.beside(name) for _, name, _ in packed])
            items: list[Item] = []
            for entry, name, data in packed:
                expiry = self._expiry(entry)
                items.append((name, await client.placed(name, data, entry.version, expiry), expiry))
            await client.set_all(items)
            return set(keys)

        return work

    def swap(
        self,
        entries: Mapping[Key, Entry],
        versions: Mapping[Key, bytes | None],
        keys: list[Key],
    ) -> Work[set[Key]]:
        """Store entries where the version stored is the expected one."""
        packed = {key: self._packed(key, entries[key]) for key in keys}

        async def work(client: Connections) -> set[Key]:
            done = await each(
                [self._swap(client, *packed[key], entries[key], versions.get(key)) for key in keys]
            )
            return {key for key, stored in zip(keys, done, strict=True) if stored}

        return work

    async def _swap(
        self, client: Connections, name: bytes, packed: bytes, new: Entry, version: bytes | None
    ) -> bool:
        expiry, data = self._expiry(new), b""
        for _ in range(TRIES):
            found = (await client.look((name,))).get(name)
            entry = self._leasing.live(name, found)
            if (None if entry is None else entry.version) != version:
                await client.delete_parts((data,))
                return False
            data = data or await client.placed(name, packed, new.version, expiry)
            if found is None:
                done = await client.add(name, data, expiry)
            else:
                done = await client.cas(name, data, found[1], expiry)
            if done:
                await client.delete_in_order([WireKeys.beside(name)])
                return True
        raise contended(name)

    async def discard(self, keys: list[Key], client: Connections) -> None:
        names = [self.name(key) for key in keys]
        heads: dict[bytes, Found] = {}
        if client.has_split:
            heads = await client.look(names, whole=False)
        # The mark beside the value goes first: see `_memcached_leases`.
        await client.delete_in_order([at for name in names for at in (WireKeys.beside(name), name)])
        await client.delete_parts(data for data, _ in heads.values())

    async def expire(self, keys: list[Key], client: Connections) -> None:
        """Let values stay as long as they may be stale, but not fresh."""
        names = [self.name(key) for key in keys]
        await client.delete_in_order([WireKeys.beside(name) for name in names])
        await each([self._expire(client, name) for name in names])

    async def _expire(self, client: Connections, name: bytes) -> None:
        for _ in range(TRIES):
            found = (await client.look((name,))).get(name)
            if found is None:
                return
            entry, now = self._leasing.live(name, found), self._leasing.now()
            data, expiry = b"", GONE
            if entry is not None and entry.fresh_until < entry.dead_after:
                entry.fresh_until = min(entry.fresh_until, now)
                expiry = exptime(entry.dead_after, now)
                packed = self.packer.pack_entry(entry, key=name)
                data = await client.placed(name, packed, entry.version, expiry)
            if await client.cas(name, data, found[1], expiry):
                return
        raise contended(name)

    async def evict(self, keys: list[Key], client: Connections) -> None:
        names = [self.name(key) for key in keys]
        found = await client.look(names, whole=False)
        await each([self._evict(client, name, there) for name, there in found.items()])

    async def _evict(self, client: Connections, name: bytes, found: Found) -> None:
        # A lease beside the value goes on: who wants another one looks there.
        if Mark.unpack(found[0]) is None and await client.cas(name, b"", found[1], GONE):
            await client.delete_parts((found[0],))

    # --- data -------------------------------------------------------------------------------------

    def _expiry(self, entry: Entry) -> int:
        return exptime(entry.dead_after, self._leasing.now())

    def _packed(self, key: Key, entry: Entry) -> tuple[bytes, bytes]:
        """Return name and data; raise `ValueTooLarge` for what is beyond the bound."""
        name = self.name(key)
        data = self.packer.pack_entry(entry, key=name)
        limit = self._most_bytes
        if limit is not None and len(data) > limit:
            raise ValueTooLarge(
                f"the value of {key} has {len(data)} bytes and may have {limit}: store less, or "
                "raise max_value_bytes=",
                size=len(data),
                limit=limit,
            )
        return name, data
