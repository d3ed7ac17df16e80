"""On uvloop, too, a fork and a loop closed without a word leave no connection behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

START = """
import os, uvloop
from gecaso.storages import RedisStorage

def sockets():
    names = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(name) and "socket:" in os.readlink(name) for name in names)
"""

CLOSED = """
storage = RedisStorage(URL)
bare = sockets()
for number in range(3):
    loop = uvloop.new_event_loop()
    loop.run_until_complete(storage.set("a", number))
    loop.close()
    del loop
loop = uvloop.new_event_loop()
assert loop.run_until_complete(storage.get("a")) == 2
loop.run_until_complete(storage.aclose())
loop.close()
del loop
assert sockets() == bare
"""

FORKED = """
async def main():
    storage = RedisStorage(URL)
    bare = sockets()
    await storage.set("a", 1)
    assert sockets() == bare + 1
    child = os.fork()
    if child == 0:
        os._exit(sockets() - bare)
    _, status = os.waitpid(child, 0)
    assert await storage.get("a") == 1
    await storage.aclose()
    return os.waitstatus_to_exitcode(status)

raise SystemExit(uvloop.new_event_loop().run_until_complete(main()))
"""


@pytest.mark.parametrize("code", [CLOSED, FORKED], ids=["closed", "forked"])
def test_no_descriptor_is_left_where_it_is_not_ours(redis_url: str, code: str) -> None:
    pytest.importorskip("uvloop")
    command = [sys.executable, "-c", START + code.replace("URL", repr(redis_url))]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr, run.stderr
