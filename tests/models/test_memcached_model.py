"""The model of memcached has the limits of the real one: of size, and of time."""

from __future__ import annotations

import random
import time

from tests.doubles import FakeClock
from tests.models.memcached_model import MemcachedModel
from tests.models.memcached_steps import large, reading
from tests.models.wires import MemcachedPair
from tests.servers import MemcachedServer


def test_the_largest_item_is_the_same_to_the_byte(memcached_server: MemcachedServer) -> None:
    choose, model = random.Random(1), MemcachedModel(FakeClock())
    pair = MemcachedPair(memcached_server.port, model)
    try:
        for number in range(30):
            maker = large if number % 2 == 0 else reading
            assert pair.difference(*maker(choose, model)) is None
    finally:
        pair.close()


def test_an_item_runs_out_within_a_second_of_its_time_on_both_sides(
    memcached_server: MemcachedServer,
) -> None:
    """Its clock counts whole seconds, so an item with one second is gone after 0 to 2."""
    model = MemcachedModel(time.monotonic)
    pair = MemcachedPair(memcached_server.port, model)
    began = time.monotonic()
    try:
        assert pair.difference((b"set", b"a", b"0", b"1", b"1"), b"x") is None
        gone: dict[str, float] = {}
        while len(gone) < 2:
            if "model" not in gone and not model.execute((b"get", b"a")):
                gone["model"] = time.monotonic() - began
            if "real" not in gone and not memcached_server.command("get a")[:-1]:
                gone["real"] = time.monotonic() - began
            assert time.monotonic() - began < 10
            time.sleep(0.01)  # the server's clock is the machine's: it can only be waited for
    finally:
        pair.close()
    assert all(after <= 2.5 for after in gone.values())
