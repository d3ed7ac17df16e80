"""A Redis in this process: the commands that gecaso sends, answered as Redis 7.0 answers them.

`RedisModel` is the data and what befalls them; a `Session` is one connection. Both are plain state
machines: a command in, a reply out, messages to subscribers at once. Time is a parameter.

    model = RedisModel(clock)
    session = model.connect(push)
    session.execute((b"SET", b"a", b"1"))      # Status(b"OK")

What the real server understands and the model does not is answered as an unknown command and noted
in ``model.refused``: a test that uses the model asserts that there is none.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

from .redis_scripts import Script
from .redis_session import Session
from .redis_values import Command, Item
from .replies import Push

__all__ = ["EPOCH", "RedisModel"]

EPOCH = 1_700_000_000.0  # seconds since 1970 when the model's clock shows 0
REMEMBERED = 1000  # writes that `forget` can take back


class RedisModel:
    """The data of a Redis server, and what commands do to them.

    ``clock()`` gives seconds. ``page`` bounds the names of one reply to SCAN.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        epoch: float = EPOCH,
        page: int = 1000,
        maxmemory_policy: bytes = b"noeviction",
    ) -> None:
        self.clock = clock
        self.epoch = epoch
        self.page = page
        self.maxmemory_policy = maxmemory_policy
        self.databases: defaultdict[int, dict[bytes, Item]] = defaultdict(dict)
        self.channels: dict[bytes, dict[Session, None]] = {}
        self.scripts: dict[bytes, Script] = {}
        self.refused: list[Command] = []
        self.sessions = 0
        self._past: deque[tuple[int, bytes, Item | None]] = deque(maxlen=REMEMBERED)

    def __repr__(self) -> str:
        return f"<RedisModel: {sum(map(len, self.databases.values()))} keys>"

    def connect(self, push: Callable[[Push], object]) -> Session:
        """Return a new connection; ``push(message)`` is called for what it is told unasked."""
        self.sessions += 1
        return Session(self, self.sessions, push)

    # --- data -----------------------------------------------------------------------------------

    def now(self) -> int:
        """Return milliseconds since 1970."""
        return int((self.epoch + self.clock()) * 1000)

    def look(self, database: int, name: bytes) -> Item | None:
        """Return what is there; what has run out is not."""
        item = self.databases[database].get(name)
        if item is not None and item.until is not None and self.now() > item.until:
            del self.databases[database][name]
            return None
        return item

    def put(self, database: int, name: bytes, item: Item | None) -> None:
        """Change what is stored under a name; None removes it."""
        items = self.databases[database]
        self._past.append((database, name, items.get(name)))
        if item is None:
            items.pop(name, None)
        else:
            items[name] = item

    def names(self, database: int) -> list[bytes]:
        """Return the names of all that has not run out."""
        return [name for name in list(self.databases[database]) if self.look(database, name)]

    def publish(self, channel: bytes, message: bytes) -> int:
        """Tell those who listen to the channel; return how many they are."""
        listening = list(self.channels.get(channel, ()))
        for session in listening:
            session.push(Push([b"message", channel, message]))
        return len(listening)

    # --- what may befall a server ---------------------------------------------------------------

    def evict(self, *names: bytes, database: int = 0) -> None:
        """Lose keys, as a full server does; nobody is told."""
        for name in names:
            self.put(database, name, None)

    def flush(self) -> None:
        """Lose everything, the scripts too: as a restart does."""
        self.databases.clear()
        self.scripts.clear()
        self._past.clear()

    def forget(self, writes: int) -> None:
        """Take back the last writes: as a fail-over to a replica that has not got them does."""
        for _ in range(min(writes, len(self._past))):
            database, name, before = self._past.pop()
            if before is None:
                self.databases[database].pop(name, None)
            else:
                self.databases[database][name] = before
