"""A real PostgreSQL for tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from tests.servers import HOST, MissingServer, Server

__all__ = ["PostgresServer"]


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
        login = (3 << 16).to_bytes(4, "big") + b"user\0gecaso\0database\0postgres\0\0"
        with self.connect() as connection:
            connection.sendall((len(login) + 4).to_bytes(4, "big") + login)
            return connection.recv(1) == b"R"  # the reply to a login, not "E" for an error


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
