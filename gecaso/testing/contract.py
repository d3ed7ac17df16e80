"""The contract suite: the tests that every storage passes, for authors of storages."""

from __future__ import annotations

from gecaso.testing.contract_closing import Closing
from gecaso.testing.contract_fencing import Fencing
from gecaso.testing.contract_keys import Keys
from gecaso.testing.contract_leases import Leases
from gecaso.testing.contract_loops import Loops
from gecaso.testing.contract_times import Times
from gecaso.testing.contract_values import Values

__all__ = ["StorageContract"]


class StorageContract(Values, Keys, Times, Leases, Fencing, Loops, Closing):
    """Tests of the contract of a storage, of three methods or of entries. Subclass it::

        class TestMyStorage(StorageContract):
            @pytest.fixture
            def storage(self) -> MyStorage:
                return MyStorage()

    Its tests are plain functions: each runs an event loop of its own, uses the storage that the
    fixture made, and closes it there; no plugin is needed, and none is in the way. What does not
    apply to a storage is skipped with the reason. ``resolution``, ``shortest_lease``,
    ``largest_value``, ``stores``, ``any_loop`` and ``patience`` say what is special about it;
    `another`, `pass_time` and `damage` may be overridden. See ``docs/writing-a-storage.md``.

    A test can also be called by itself; it raises `AssertionError` with a sentence that says what
    the storage did.

    >>> from gecaso import MemoryStorage
    >>> StorageContract().test_a_key_never_set_is_a_key_error(MemoryStorage())
    """
