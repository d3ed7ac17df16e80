"""Real servers for tests: started on a free loopback port, stopped, killed, paused, restarted.

Nothing here uses the client libraries of the code under test: a server is spoken to over a plain
socket, so that what a test counts or plants is not what the code under test believes.

    with RedisServer() as server:
        server.command("SET", "a", "1")
        server.url          # redis://127.0.0.1:<port>/0
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, ClassVar, Final, Self

__all__ = ["MemcachedServer", "MissingServer", "RedisServer", "Server", "self_signed"]

HOST = "127.0.0.1"
PATIENCE = 10.0  # seconds to wait for a server to come up, go away or reply

Reply = bytes | str | int | list["Reply"] | None

# Run before each server, in its process: it dies with the test process, however that ends.
# (Popen's preexec_fn would do, but it is unsafe, and warned of, once there are threads.)
LAUNCHER = """
import ctypes, os, sys
parent, user, *command = sys.argv[1:]
if user != "-":
    uid, gid = map(int, user.split(":"))
    os.setgroups([]), os.setgid(gid), os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(parent):
    sys.exit("the test process is gone")
os.execv(command[0], command)
"""

# The kernel sends that signal when the *thread* that started the server ends. This one stays.
_starter = ThreadPoolExecutor(1, thread_name_prefix="starts servers")


class MissingServer(Exception):
    """The program of a server is not installed."""


# Below those that systems give to clients: one of these may be taken by any connection of another
# test before the server is there. With room above for the second port of a cluster's node.
PORTS: Final = range(10_000, 22_000)
_any_of: Final = random.SystemRandom().choice  # tests seed the usual one


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    while True:
        port = _any_of(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port


class Server:
    """A server process with its own port and data folder; ``args`` go to its command line.

    The port stays the same through ``stop``, ``kill`` and ``restart``. Use it as a context
    manager, or call ``close()`` in the end.
    """

    program: ClassVar[str]
    scheme: ClassVar[str]
    goodbye: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, *args: str) -> None:
        self.args = args
        self.port = free_port()
        self.data = Path(tempfile.mkdtemp(prefix="gecaso-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process else "stopped"
        return f"<{type(self).__name__} on port {self.port}, {state}>"

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
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self!r} does not run")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if self._process is not None:
            raise RuntimeError(f"{self!r} runs already")
        command = [self.executable(), *self.options(), *self.args]
        launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), self.run_as()]
        with open(self.data / "log", "ab") as log:
            self._process = _starter.submit(
                subprocess.Popen,
                [*launch, *command],
                cwd=self.data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ).result()
        self._wait_until_it_answers(self._process)

    def stop(self) -> None:
        """Ask the server to end; after a while, make it. No harm if it does not run."""
        if self._process is not None:
            self._process.send_signal(self.goodbye)
            self._process.send_signal(signal.SIGCONT)  # a paused one does not see a SIGTERM
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End the server at once, without a goodbye. No harm if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: connections stay, new ones are accepted by the kernel, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        # The signal takes its time to reach every thread, and one of them may answer meanwhile.
        give_up = time.monotonic() + 5.0
        while not _has_stopped(self.pid) and time.monotonic() < give_up:
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Stop and start, on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it for good and remove the data."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                self._process = None
                raise RuntimeError(f"{self!r} did not come up:\n{(self.data / 'log').read_text()}")
            time.sleep(0.005)  # another process tells nobody when it starts to listen

    def _answers(self) -> bool:
        try:
            return self.greet()
        except OSError:
            return False

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), timeout=PATIENCE)

    def executable(self) -> str:
        found = shutil.which(self.program)
        if found is None:
            raise MissingServer(f"{self.program} is not installed: run scripts/setup")
        return found

    def run_as(self) -> str:
        return "-"

    def options(self) -> list[str]:
        raise NotImplementedError

    def greet(self) -> bool:
        raise NotImplementedError


class RedisServer(Server):
    """A Redis that keeps nothing on disk, on a port and on a unix socket; ``tls=True`` adds TLS."""

    program = "redis-server"
    scheme = "redis"

    def __init__(self, *args: str, tls: bool = False) -> None:
        super().__init__(*args)
        self.socket_path = self.data / "redis.sock"
        self.tls_port = free_port() if tls else 0

    @property
    def url(self) -> str:
        return f"{super().url}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}?db=0"

    @property
    def tls_url(self) -> str:
        """The URL for TLS; the certificate is for localhost and signed by ``ca_file``."""
        if not self.tls_port:
            raise RuntimeError("start it with RedisServer(tls=True)")
        return f"rediss://localhost:{self.tls_port}/0"

    @cached_property
    def ca_file(self) -> Path:
        return self.certificate[0]

    @cached_property
    def certificate(self) -> tuple[Path, Path]:
        """A self-signed certificate and its key."""
        return self_signed(self.data)

    def command(self, *args: str | bytes | int) -> Reply:
        """Run one command on a connection of its own and return the reply, text as bytes."""
        parts = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        request = b"*%d\r\n" % len(parts)
        request += b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with self.connect() as connection, connection.makefile("rb") as replies:
            connection.sendall(request)
            return _redis_reply(replies)

    def commands(self) -> Counter[str]:
        """How often each command ran since the start: ``Counter({"get": 2, "client|setname": 1})``.

        Those run by scripts count too; those of this helper (INFO) do not. Take the difference of
        two: ``(server.commands() - before)``, and its ``total()``.
        """
        stats = self.command("INFO", "commandstats")
        assert isinstance(stats, bytes)
        counts: Counter[str] = Counter()
        for line in stats.decode().splitlines()[1:]:
            name, _, figures = line.removeprefix("cmdstat_").partition(":calls=")
            counts[name] = int(figures.partition(",")[0])
        del counts["info"]
        return counts

    def flush(self) -> None:
        """Forget every key of every database."""
        self.command("FLUSHALL")

    def options(self) -> list[str]:
        options = ["--port", str(self.port), "--bind", HOST, "--unixsocket", str(self.socket_path)]
        options += ["--save", "", "--appendonly", "no", "--dir", str(self.data)]
        if self.tls_port:
            certificate, key = (str(path) for path in self.certificate)
            options += ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no"]
            options += ["--tls-cert-file", certificate, "--tls-ca-cert-file", certificate]
            options += ["--tls-key-file", key]
        return options

    def greet(self) -> bool:
        with self.connect() as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
            return answer.startswith((b"+PONG", b"-NOAUTH"))


class RedisError(Exception):
    """The server replied with an error."""


def _redis_reply(replies: BinaryIO) -> Reply:
    line = replies.readline().removesuffix(b"\r\n")
    kind, rest = line[:1], line[1:]
    match kind:
        case b"+":
            return rest.decode()
        case b"-":
            raise RedisError(rest.decode())
        case b":":
            return int(rest)
        case b"$":
            return None if rest == b"-1" else replies.read(int(rest) + 2)[:-2]
        case b"*":
            return None if rest == b"-1" else [_redis_reply(replies) for _ in range(int(rest))]
        case _:
            raise RedisError(f"the connection ended in the middle of a reply: {line!r}")


class MemcachedServer(Server):
    """A memcached with 64 MB."""

    program = "memcached"
    scheme = "memcached"
    goodbye = signal.SIGKILL  # it has nothing to save, and takes a second to obey a SIGTERM

    @property
    def address(self) -> str:
        """``host:port``, without a scheme."""
        return f"{HOST}:{self.port}"

    def command(self, line: str | bytes, data: bytes | None = None) -> list[bytes]:
        """Run one command of the classic protocol; return the lines of the reply.

        ``server.command("set a 0 0 1", b"x")`` returns ``[b"STORED"]``; the data of a value are a
        line of their own: they must not contain a line break.
        """
        request = (line if isinstance(line, bytes) else line.encode()) + b"\r\n"
        if data is not None:
            request += data + b"\r\n"
        # An unknown command marks the end of any reply, whatever its form.
        with self.connect() as connection, connection.makefile("rb") as replies:
            connection.sendall(request + b"the_end\r\n")
            lines = [reply.removesuffix(b"\r\n") for reply in iter(replies.readline, b"ERROR\r\n")]
        return lines

    def stats(self) -> dict[str, str]:
        """What the server says of itself."""
        lines = (line.decode().split(" ", 2) for line in self.command("stats"))
        return {words[1]: words[2] for words in lines if words[0] == "STAT"}

    def commands(self) -> Counter[str]:
        """How often each kind of command ran since the start.

        ``get`` counts keys, of ``gets`` too; ``set`` counts every kind of writing (add, cas, …).
        """
        stats = {name: int(value) for name, value in self.stats().items() if value.isdigit()}
        counts: Counter[str] = Counter()
        for name in ("get", "set", "touch"):
            counts[name] = stats[f"cmd_{name}"]
        for name in ("delete", "incr", "decr"):
            counts[name] = stats[f"{name}_hits"] + stats[f"{name}_misses"]
        return +counts

    def flush(self) -> None:
        """Forget every key."""
        self.command("flush_all")

    def options(self) -> list[str]:
        options = ["-l", HOST, "-p", str(self.port), "-U", "0", "-m", "64"]
        return [*options, "-u", "root"] if os.geteuid() == 0 else options

    def greet(self) -> bool:
        with self.connect() as connection:
            connection.sendall(b"version\r\n")
            return connection.recv(64).startswith(b"VERSION")


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Return a certificate for localhost and its key, made by the openssl command."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise MissingServer("openssl is not installed: TLS cannot be tested without it")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    for extension in (
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "keyUsage=critical,digitalSignature,keyCertSign",
    ):
        options += f" -addext {extension}"
    files = ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *options.split(), *files], check=True, capture_output=True)
    return certificate, key


def _has_stopped(pid: int) -> bool:
    """Return whether every thread of a process has been stopped; True where nobody can tell."""
    threads = Path(f"/proc/{pid}/task")
    if not threads.is_dir():
        return True
    states = (
        thread.joinpath("stat").read_text().rpartition(")")[2] for thread in threads.iterdir()
    )
    return all(state.split()[0] in "Tt" for state in states)
