"""What we use of asyncpg, which comes without types; and what it complains of, in our words."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs] - it has none

from gecaso.errors import ConfigurationError, GecasoError, StorageError, StorageTimeout

__all__ = [
    "GONE",
    "LOCKED",
    "MADE_MEANWHILE",
    "OUTDATED",
    "POOLER",
    "ROLLED_BACK",
    "UNSENT",
    "Connection",
    "Locked",
    "Pool",
    "Prepared",
    "Record",
    "check_url",
    "connect",
    "is_held",
    "is_pool",
    "mapped",
    "refusal",
    "where_of",
]

Record = Sequence[Any]
T = TypeVar("T")

_client: Any = asyncpg
_errors: Any = asyncpg.exceptions

MADE_MEANWHILE: tuple[type[Exception], ...] = (
    _errors.DuplicateTableError,
    _errors.DuplicateObjectError,
    _errors.UniqueViolationError,
)
"""Another process has made the table since we looked."""
LOCKED: type[Exception] = _errors.LockNotAvailableError
ROLLED_BACK: type[Exception] = _errors.TransactionRollbackError
"""A serialization failure or a deadlock: the transaction may be run again."""
OUTDATED: tuple[type[Exception], ...] = (
    _errors.UndefinedTableError,
    _errors.InvalidCachedStatementError,
    _errors.OutdatedSchemaCacheError,
)
"""The table was dropped, or made anew, since we looked."""
POOLER: tuple[type[Exception], ...] = (
    _errors.InvalidSQLStatementNameError,
    _errors.DuplicatePreparedStatementError,
)
"""A prepared statement is not where it was made: this connection ends at several servers."""


class Prepared(Protocol):
    """A prepared statement."""

    async def fetch(self, *args: Any) -> list[Record]: ...


class Connection(Protocol):
    """A connection of asyncpg, of its own or lent by a pool."""

    async def prepare(self, query: str, *, name: str | None = None) -> Prepared: ...
    async def fetch(self, query: str, *args: Any) -> list[Record]: ...
    async def execute(self, query: str) -> str: ...
    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None: ...
    async def remove_listener(self, channel: str, callback: Callable[..., None]) -> None: ...
    def add_termination_listener(self, callback: Callable[..., None]) -> None: ...
    def get_server_pid(self) -> int: ...
    def get_server_version(self) -> Sequence[Any]: ...
    def is_closed(self) -> bool: ...
    def is_in_transaction(self) -> bool: ...
    def terminate(self) -> None: ...
    def transaction(self) -> Any: ...


class Pool(Protocol):
    """A pool of asyncpg."""

    def acquire(self, *, timeout: float | None = None) -> Any: ...
    async def release(self, connection: Any) -> None: ...
    def get_max_size(self) -> int: ...


# --- making connections ---------------------------------------------------------------------------


def is_pool(given: object) -> bool:
    return isinstance(given, _client.Pool)


def is_held(connection: Any) -> bool:
    """Return whether this is a connection, and not the shell of one that its pool has again."""
    return getattr(connection, "_con", connection) is not None


def check_url(url: str) -> None:
    """Raise `ConfigurationError` for what is no URL of a Postgres; asyncpg reads the rest later."""
    usual = "postgresql://user:password@host:5432/database"
    scheme, there, _ = url.partition("://")
    if scheme not in ("postgres", "postgresql") or not there:
        raise ConfigurationError(
            f"PostgresStorage takes URLs like {usual}; "
            + (f"this one starts with {scheme}://" if there else "this one has no scheme")
        )
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    for host in hosts:
        port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host else ""
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigurationError(
                f"the port of a host in the URL is no port: write it as {usual}"
            )


def where_of(url: str) -> str:
    """Return the address in a URL, without user and password."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] + parts.path


async def connect(url: str, timeout: float) -> Connection:
    """Connect; statements are prepared by us, where that is possible, and not by asyncpg."""
    connection: Connection = await _client.connect(url, timeout=timeout, statement_cache_size=0)
    return connection


# --- errors ---------------------------------------------------------------------------------------


class Locked(StorageTimeout):
    """A row is locked by a transaction that is not over yet."""


_LOGIN: Final = "see whether user, password and database of the URL are right"
_RIGHTS: Final = (
    "this user may not do that; give it SELECT, INSERT, UPDATE and DELETE on the table, and CREATE "
    "on its schema, or make the table yourself: PostgresStorage.ddl"
)
_ADVICE: Final[tuple[tuple[str, str], ...]] = (
    ("InvalidAuthorizationSpecificationError", _LOGIN),
    ("InvalidCatalogNameError", _LOGIN),
    (
        "TooManyConnectionsError",
        "it has no connection left for us; give pool_size= or processes fewer, or use PgBouncer",
    ),
    ("ReadOnlySQLTransactionError", "it takes no writes; give the address of the primary"),
    ("InsufficientPrivilegeError", _RIGHTS),
    ("DiskFullError", "its disk is full"),
    ("OutOfMemoryError", "it has no memory left"),
    ("CannotConnectNowError", "it is starting up or shutting down"),
    ("InvalidSchemaNameError", "the schema of table= is not there; make it, or give another"),
    (
        "InvalidColumnReferenceError",
        "the table has no unique key; drop it, or give another table=",
    ),
    (
        "UndefinedColumnError",
        "the table has another shape than gecaso's; drop it, or give another table=",
    ),
)
_POOLER_ADVICE: Final = (
    "prepared statements are lost between two connections, as behind PgBouncer in transaction "
    "mode; from now on none are used"
)


UNSENT: type[Exception] = _errors.InternalClientError
"""The server had closed the connection, and asyncpg sent nothing."""
GONE: tuple[type[Exception], ...] = (
    UNSENT,
    _errors.PostgresConnectionError,
    _errors.InterfaceError,
    _errors.AdminShutdownError,
    _errors.CrashShutdownError,
    _errors.CannotConnectNowError,
    _errors.TooManyConnectionsError,
    OSError,
)
"""After these a connection is of no use."""


def refusal(error: Exception, where: str) -> StorageError:
    """Return the error that says what to do about an error of asyncpg or of the server."""
    if isinstance(error, LOCKED):
        return Locked(
            f"Postgres at {where}: a row of the cache is locked by a transaction that is not over, "
            f"and was not free in time ({error})"
        )
    if isinstance(error, TimeoutError):
        return StorageTimeout(f"Postgres at {where} did not answer in time")
    if isinstance(error, _errors.QueryCanceledError):
        return StorageTimeout(f"Postgres at {where} ended a statement of ours: {error}")
    if isinstance(error, POOLER):
        return StorageError(f"Postgres at {where}: {_POOLER_ADVICE} ({error})")
    for name, advice in _ADVICE:
        if isinstance(error, getattr(_errors, name)):
            return StorageError(f"Postgres at {where} refused: {advice} ({error})")
    if isinstance(error, OSError):
        return StorageError(
            f"Postgres at {where} is out of reach; see whether it runs there ({error})"
        )
    return StorageError(f"Postgres at {where}: {error!s:.500} ({type(error).__name__})")


@contextlib.contextmanager
def mapped(where: str) -> Generator[None]:
    """Turn what asyncpg raises into a `StorageError`."""
    try:
        yield
    except GecasoError:
        raise
    except (_errors.PostgresError, _errors.InterfaceError, UNSENT, OSError) as error:
        raise refusal(error, where) from error
    except AttributeError as error:
        # asyncpg goes on with a connection that was ended under it, and finds that it has nothing.
        if not _is_of_asyncpg(error):
            raise
        raise StorageError(f"Postgres at {where}: the connection was ended meanwhile") from error


def _is_of_asyncpg(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("asyncpg.")
