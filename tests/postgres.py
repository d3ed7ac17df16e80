"""A real PostgreSQL, and a real PgBouncer before it, for tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import BinaryIO

from tests.servers import HOST, MissingServer, Server

__all__ = ["PgBouncer", "PostgresError", "PostgresServer"]


class PostgresServer(Server):
    """A PostgreSQL cluster of its own, without fsync, where everybody is trusted."""

    program = "postgres"
    scheme = "postgresql"
    goodbye = signal.SIGQUIT  # at once, without a checkpoint

    @property
    def url(self) -> str:
        return f"postgresql://gecaso@{HOST}:{self.port}/postgres"

    def start(self) -> None:
        if not (self.data / "base").exists():
            self._initdb()
        super().start()

    def _initdb(self) -> None:
        initdb = Path(self.executable()).with_name("initdb")
        owner = _unprivileged()
        if owner is not None:
            os.chown(self.data, owner.pw_uid, owner.pw_gid)
        subprocess.run(
            [initdb, "-D", self.data / "base", "-U", "gecaso", "-A", "trust", "-E", "UTF8", "-N"],
            check=True,
            capture_output=True,
            cwd=self.data,
            user=owner.pw_uid if owner else None,
            group=owner.pw_gid if owner else None,
        )

    # Each connection has a process of its own.

    def pause(self) -> None:
        super().pause()
        for pid in self._children():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._children():
            os.kill(pid, signal.SIGCONT)
        super().resume()

    def kill(self) -> None:
        children = self._children()
        super().kill()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _children(self) -> list[int]:
        if self._process is None:
            return []
        with contextlib.suppress(OSError):
            tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
            return [int(pid) for task in tasks for pid in task.read_text().split()]
        return []

    def executable(self) -> str:
        found = shutil.which(self.program) or _newest_installed()
        if found is None:
            raise MissingServer("postgres is not installed: run scripts/setup")
        return str(Path(found).resolve())

    def run_as(self) -> str:
        owner = _unprivileged()
        return f"{owner.pw_uid}:{owner.pw_gid}" if owner else "-"

    def options(self) -> list[str]:
        settings = ["-c", f"listen_addresses={HOST}", "-c", "fsync=off", "-k", str(self.data)]
        return ["-D", str(self.data / "base"), "-p", str(self.port), *settings]

    def greet(self) -> bool:
        # It listens before it is ready: only one that lets us in has come up.
        with self.connect() as connection:
            connection.sendall(_LOGIN)
            return connection.recv(1) == b"R"  # the reply to a login, not "E" for an error

    def execute(self, sql: str) -> list[list[str | None]]:
        """Run statements on a connection of its own; return the rows, as text."""
        query = sql.encode() + b"\0"
        rows: list[list[str | None]] = []
        with self.connect() as connection, connection.makefile("rb") as replies:
            connection.sendall(_LOGIN)
            _until_ready(replies, rows)
            connection.sendall(b"Q" + (len(query) + 4).to_bytes(4, "big") + query)
            _until_ready(replies, rows)
        return rows

    def flush(self) -> None:
        """Forget every table."""
        self.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


_STARTUP = (3 << 16).to_bytes(4, "big") + b"user\0gecaso\0database\0postgres\0\0"
_LOGIN = (len(_STARTUP) + 4).to_bytes(4, "big") + _STARTUP


class PostgresError(Exception):
    """The server replied with an error."""


def _until_ready(replies: BinaryIO, rows: list[list[str | None]]) -> None:
    """Read replies up to ReadyForQuery; gather the rows."""
    error = b""
    while True:
        kind, size = replies.read(1), int.from_bytes(replies.read(4), "big")
        body = replies.read(size - 4)
        match kind:
            case b"D":
                rows.append(_row(body))
            case b"E":
                error = error or body
            case b"Z" | b"":
                break
            case _:
                continue
    if error or not kind:
        raise PostgresError(error.replace(b"\0", b" ").decode())


def _row(body: bytes) -> list[str | None]:
    values: list[str | None] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        values.append(None if size < 0 else body[at : at + size].decode())
        at += max(0, size)
    return values


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as when we are root, which it refuses; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise MissingServer("PostgreSQL does not run as root, and there is no user to run it as")


def _newest_installed() -> str | None:
    """Where Debian puts it: /usr/lib/postgresql/16/bin/postgres, not on PATH."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return str(max(found, key=lambda path: float(path.parts[-3]), default="")) or None


class PgBouncer(Server):
    """A PgBouncer in transaction mode before a PostgreSQL, with two connections to it."""

    program = "pgbouncer"
    scheme = "postgresql"
    goodbye = signal.SIGKILL

    def __init__(self, server: PostgresServer) -> None:
        super().__init__()
        self.server = server

    @property
    def url(self) -> str:
        return f"postgresql://gecaso@{HOST}:{self.port}/postgres"

    def start(self) -> None:
        settings = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 2,
        }
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        database = f"* = host={HOST} port={self.server.port} user=gecaso"
        self._ini.write_text(f"[databases]\n{database}\n[pgbouncer]\n{lines}")
        owner = _unprivileged()
        if owner is not None:
            for path in (self.data, self._ini):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        super().start()

    def executable(self) -> str:
        found = shutil.which(self.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if found is None:
            raise MissingServer("pgbouncer is not installed: run scripts/setup")
        return found

    @property
    def _ini(self) -> Path:
        return self.data / "pgbouncer.ini"

    def run_as(self) -> str:
        return self.server.run_as()

    def options(self) -> list[str]:
        return [str(self._ini)]

    def greet(self) -> bool:
        with self.connect() as connection:
            connection.sendall(_LOGIN)
            return connection.recv(1) == b"R"
