"""The worker processes, as their parent sees them: begun, killed, paused, measured, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.soak.worker import Settings

__all__ = ["Crew", "Gauges", "Sample"]

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds for a worker to end


@dataclass(frozen=True)
class Sample:
    """What one process had at one time."""

    at: float
    """Seconds since the beginning."""
    worker: int
    kilobytes: int
    descriptors: int
    threads: int


class Crew:
    """A number of workers. The first half lives to the end; the others may be killed."""

    def __init__(self, count: int, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._made = 0
        self.members: list[subprocess.Popen[str]] = []
        self.numbers: list[int] = []
        self._errors = (Path(settings.folder) / "stderr.txt").open("a")
        for _ in range(count):
            self.numbers.append(self._made)
            self.members.append(self._begin())

    def wait_until_ready(self) -> None:
        """Wait until every worker has begun to work."""
        for member in self.members:
            assert member.stdout is not None
            if member.stdout.readline() != "ready\n":
                raise RuntimeError("a worker did not begin: see what it wrote")

    @property
    def mortals(self) -> range:
        """The places of those that may be killed."""
        return range((len(self.members) + 1) // 2, len(self.members))

    def _begin(self) -> subprocess.Popen[str]:
        number, self._made = self._made, self._made + 1
        seed = self._settings.seed * 1000 + number
        settings = replace(self._settings, worker=number, seed=seed)
        return subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-m",
                "tests.soak.worker",
                json.dumps(asdict(settings)),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def kill(self, at: int) -> None:
        """End a worker at once, with whatever leases it holds, and begin another."""
        with self._lock:
            old = self.members[at]
            old.kill()
            old.communicate()
            self.numbers[at] = self._made
            self.members[at] = self._begin()

    def pause(self, at: int, seconds: float) -> None:
        """Let a worker stand still for a while: longer, perhaps, than its leases run."""
        member = self.members[at]
        member.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        member.send_signal(signal.SIGCONT)

    def measure(self, at: float) -> list[Sample]:
        """Return what the workers have now."""
        with self._lock:
            pairs = [(n, m.pid) for n, m in zip(self.numbers, self.members, strict=True)]
        samples: list[Sample] = []
        for number, pid in pairs:
            with contextlib.suppress(OSError, KeyError):  # it was killed a moment ago
                samples.append(_sample(at, number, pid))
        return samples

    def end(self) -> list[dict[str, int]]:
        """Let all workers end; return what each has left behind."""
        left: list[dict[str, int]] = []
        for member in self.members:
            assert member.stdin is not None
            member.stdin.close()
            member.stdin = None
        for number, member in zip(self.numbers, self.members, strict=True):
            try:
                out, _ = member.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self.close()
                raise RuntimeError(f"worker {number} did not end in {PATIENCE:g} s") from None
            if member.returncode:
                raise RuntimeError(f"worker {number} ended with {member.returncode}")
            left.append(json.loads(out.splitlines()[-1]))
        return left

    def close(self) -> None:
        """End what still runs."""
        for member in self.members:
            if member.poll() is None:
                member.kill()
                member.communicate()
        self._errors.close()


def _sample(at: float, number: int, pid: int) -> Sample:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    kilobytes = int(status["VmRSS"].split()[0])
    return Sample(at, number, kilobytes, descriptors, int(status["Threads"]))


class Gauges(threading.Thread):
    """Measures the workers, once in a while, until it is told to stop."""

    def __init__(self, crew: Crew, start: float, every: float) -> None:
        super().__init__(name="gauges", daemon=True)
        self.samples: list[Sample] = []
        self._crew = crew
        self._start_at = start
        self._every = every
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(self._every):
            self.samples += self._crew.measure(time.monotonic() - self._start_at)

    def stop(self) -> None:
        self._is_over.set()
        self.join()
