"""A real master, its replica and three Sentinels that watch them, on loopback."""

from __future__ import annotations

from typing import Self

from tests.redis_cluster import wait_until
from tests.servers import HOST, RedisServer

__all__ = ["SERVICE", "RedisSentinels", "Sentinel"]

SERVICE = "mymaster"
DOWN_AFTER = 300  # milliseconds of silence after which a Sentinel calls the master down


class Sentinel(RedisServer):
    """One Sentinel; its settings are in a file, which it rewrites."""

    program = "redis-server"

    def __init__(self, master: RedisServer, *lines: str) -> None:
        super().__init__()
        self._lines = [
            f"port {self.port}",
            f"bind {HOST}",
            f"dir {self.data}",
            f"sentinel monitor {SERVICE} {HOST} {master.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
            f"sentinel failover-timeout {SERVICE} 1500",
            *lines,
        ]

    def options(self) -> list[str]:
        file = self.data / "sentinel.conf"
        if not file.exists():
            file.write_text("\n".join(self._lines) + "\n")
        return [str(file), "--sentinel"]

    def master_port(self) -> int:
        """The port of the master, as this Sentinel says."""
        place = self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        assert isinstance(place, list)
        assert isinstance(place[1], bytes)
        return int(place[1])

    def facts(self) -> dict[bytes, bytes]:
        told = self.command("SENTINEL", "MASTER", SERVICE)
        assert isinstance(told, list)
        words = [word for word in told if isinstance(word, bytes)]
        return dict(zip(words[::2], words[1::2], strict=True))


class RedisSentinels:
    """A master, a replica and three Sentinels. With a ``password`` the servers ask for it, and
    with a ``word`` the Sentinels for that.
    """

    def __init__(self, *, password: str = "", word: str = "") -> None:
        login = ["--requirepass", password, "--masterauth", password] if password else []
        quick = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *login]
        self.servers = [RedisServer(*quick) for _ in range(2)]
        lines = [f"sentinel auth-pass {SERVICE} {password}"] if password else []
        if word:
            lines += [f"requirepass {word}", f"sentinel sentinel-pass {word}"]
        self.sentinels = [Sentinel(self.servers[0], *lines) for _ in range(3)]
        self._needs_login = bool(password or word)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def places(self) -> str:
        return ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.places}/{SERVICE}/0"

    @property
    def master(self) -> RedisServer:
        """The server that most Sentinels call the master."""
        ports = sorted(sentinel.master_port() for sentinel in self.sentinels)
        return next(server for server in self.servers if server.port == ports[1])

    def start(self) -> None:
        """Start all; return when the Sentinels know of each other and of the replica."""
        master, replica = self.servers
        master.start()
        replica.args = (*replica.args, "--replicaof", f"{HOST} {master.port}")
        replica.start()
        for sentinel in self.sentinels:
            sentinel.start()
        if not self._needs_login:
            self.wait()

    def wait(self) -> None:
        """Return when the Sentinels know of each other, of one master and of its replica."""
        wait_until(self._is_ready, 20.0)

    def _is_ready(self) -> bool:
        facts = [sentinel.facts() for sentinel in self.sentinels]
        if len({each[b"port"] for each in facts}) > 1:
            return False
        roles = {server.port: server.command("ROLE") for server in self.servers}
        masters = [
            port for port, role in roles.items() if isinstance(role, list) and role[0] == b"master"
        ]
        return masters == [self.master.port] and all(
            each[b"flags"] == b"master"
            and (each[b"num-slaves"], each[b"num-other-sentinels"]) == (b"1", b"2")
            for each in facts
        )

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()

    def flush(self) -> None:
        """Forget every key."""
        self.master.flush()
