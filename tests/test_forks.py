"""Parent and child of a fork go on: no crossed replies, no shared connection, nothing left."""

from __future__ import annotations

import os
import sys

import pytest

from gecaso import events
from gecaso.breaker import Breaker
from gecaso.entry import new_token
from gecaso.events import listening
from gecaso.guard import guard_of
from gecaso.keys import as_key
from gecaso.leases import LeaseTable
from gecaso.trouble import Mark
from tests.doubles import in_thread
from tests.scenes import KINDS, Distant
from tests.workers import Worker, fork, in_child, parents_end

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at descriptors in /proc"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scene", ["fork_coroutines", "fork_plain", "fork_around"])
def test_parent_and_child_go_on(scene: str, kind: str, request: pytest.FixtureRequest) -> None:
    url: str = kind if kind == "memory" else request.getfixturevalue(f"{kind}_url")
    with Worker(scene, url) as worker:
        worker.wait_for("ready")
        worker.go()
        assert worker.end() == "well\n"


def test_a_child_hands_out_tokens_of_its_own() -> None:
    read, write = os.pipe()

    def tell() -> None:
        os.write(write, new_token())

    child = fork()
    if child == 0:
        in_child(tell)
    parents_end(child)
    theirs = os.read(read, 16)
    os.close(read)
    os.close(write)
    ours = new_token()
    assert len(ours) == len(theirs) == 16
    assert ours[:8] != theirs[:8]


def test_a_child_knows_of_no_lease_of_its_parent() -> None:
    table = LeaseTable(lambda: 0.0)
    table.take(as_key("a"), 10)

    def check() -> None:
        assert len(table) == 0
        table.take(as_key("a"), 10)

    with table.lock:  # whoever holds it is not there in the child
        child = fork()
        if child == 0:
            in_child(check)
    parents_end(child)
    assert len(table) == 1


def test_a_child_may_listen_though_its_parent_was_about_to() -> None:
    def check() -> None:
        def listen() -> None:
            with listening(lambda event: None):
                assert len(events.hooks) == 1

        in_thread(listen, timeout=5)

    with events._lock:  # pyright: ignore[reportPrivateUsage] - as a thread of the parent may
        child = fork()
        if child == 0:
            in_child(check)
    parents_end(child)


def test_a_child_starts_with_a_closed_breaker_and_what_is_pending_stays() -> None:
    storage = Distant()
    guard = guard_of(storage)
    key = as_key("a")
    guard.pending[key] = Mark(may_arrive_late=False)  # as a failed invalidation does
    guard.breaker.failures, guard.breaker.is_open = 3, True

    def check() -> None:
        assert not guard.breaker.is_open
        assert guard.bypasses(key)
        assert isinstance(guard.breaker, Breaker)

    child = fork()
    if child == 0:
        in_child(check)
    parents_end(child)
    assert guard.breaker.is_open
