"""What redis-py and Redis complain of -> errors of gecaso that say what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator

import redis.exceptions

from gecaso.errors import StorageError, StorageTimeout

__all__ = ["Elsewhere", "Forbidden", "Moved", "TryAgain", "mapped", "refusal"]

LOGIN = "it asks for a valid user and password: redis://user:password@host:port"
ADVICE = {
    "LOADING": "it is still loading its data and will answer when it is done",
    "MASTERDOWN": "it is a replica that has lost its master",
    "READONLY": "it is a replica and takes no writes; give the address of its master",
    "NOAUTH": LOGIN,
    "WRONGPASS": LOGIN,
    "OOM": "it has no memory left; raise maxmemory, or let it evict: maxmemory-policy allkeys-lru",
    "MISCONF": "it takes no writes because it cannot save its data to disk",
    "NOREPLICAS": "it takes no writes because too few replicas are connected",
    "WRONGTYPE": "another program keeps a value of another type under this key; "
    "give the storage a namespace of its own",
    "NOPERM": "its ACL does not let this user do that; gecaso needs +mget +get +set +eval +del "
    "+unlink +pexpire +pttl +publish +subscribe +unsubscribe +time +ping, on the keys and channels "
    "of its namespace; +scan to clear, +client for changes(), +wait for wait_replicas, +role with "
    "Sentinel and replicas, +cluster, +readonly and +asking in a cluster",
    "MOVED": "it is part of a Redis Cluster; give the URL as redis+cluster://host:port",
    "cluster support disabled": "it is a server of its own; give the URL as redis://host:port/0",
    "CLUSTERDOWN": "its cluster is down: some slots have no node; cluster-require-full-coverage no "
    "lets the others go on",
    "TRYAGAIN": "the slot of this key is being moved to another node",
    "BUSY": "it is busy with a script of somebody else's",
    "unknown command": "RedisStorage needs Redis 6.2 or newer, with EVAL not renamed or disabled",
}
ALIASES = {
    "ACL failure": "NOPERM",
    "No permissions": "NOPERM",
    "can't run this command": "NOPERM",
    "can't publish to the channel": "NOPERM",
    "ASK": "MOVED",
    "Unknown Redis command": "unknown command",
}
# An error inside a script may come wrapped in another sentence (Redis 6), so look everywhere.
_WORD = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in (*ADVICE, *ALIASES)))


class Elsewhere(StorageError):
    """This connection leads to the wrong server, or in the wrong name: make another."""


class Forbidden(StorageError):
    """The server does not let this user do it, or nobody."""


class TryAgain(StorageError):
    """Of two names in a slot that is being moved, one is here and one is there."""


class Moved(StorageError):
    """The slot is at another node of the cluster; ``asks``: so far only what is asked for here.

    ``host`` is empty where it is the one that said so.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.host = ""
        self.port = self.slot = 0
        self.asks = False

    @classmethod
    def read(cls, message: str, text: str) -> Moved:
        """Read ``MOVED slot host:port``; raise ValueError if it is something else."""
        word, slot, place = message.split()[:3]
        host, _, port = place.rpartition(":")
        error = cls(text)
        error.slot, error.port, error.asks = int(slot), int(port), word == "ASK"
        error.host = "" if host == "?" else host
        return error


KINDS: dict[str, type[StorageError]] = {
    **dict.fromkeys(("READONLY", "NOAUTH", "MASTERDOWN"), Elsewhere),
    **dict.fromkeys(("NOPERM", "unknown command"), Forbidden),
    "TRYAGAIN": TryAgain,
}


def refusal(message: str) -> StorageError:
    """Return the error for an error reply of the server."""
    if message.startswith(("MOVED ", "ASK ")):
        with contextlib.suppress(ValueError):
            return Moved.read(message, f"Redis refused: {ADVICE['MOVED']} ({message})")
    found = _WORD.search(message)
    word = "" if found is None else ALIASES.get(found[0], found[0])
    advice = ADVICE.get(word)
    text = f"Redis refused: {message}" if advice is None else f"Redis refused: {advice} ({message})"
    return KINDS.get(word, StorageError)(text)


@contextlib.contextmanager
def mapped(where: str) -> Generator[None]:
    """Turn whatever connecting to ``where`` raises into a `StorageError`."""
    try:
        yield
    except (TimeoutError, redis.exceptions.TimeoutError) as error:
        raise StorageTimeout(f"Redis at {where} did not let us connect in time") from error
    except redis.exceptions.AuthenticationError as error:
        raise StorageError(f"Redis at {where} did not let us in: {LOGIN} ({error})") from error
    except redis.exceptions.ResponseError as error:
        raise StorageError(f"at {where}: {refusal(str(error))}") from error
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(
            f"could not connect to Redis at {where}; is it running there? ({error})"
        ) from error
