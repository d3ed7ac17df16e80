"""Operations of one tick share one round trip, and nobody shares another's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from gecaso.errors import StorageError
from gecaso.storages._batch import Batch, Calls, Outbox, awaiting, copy_of, fail, settle


class Sent:
    """A sender that keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[Calls[str, int]] = []

    def __call__(self, calls: Calls[str, int]) -> None:
        self.batches.append(calls)

    def answer(self, number: int) -> None:
        for item, futures in self.batches[number].items():
            settle(futures, len(item))


async def test_items_of_one_tick_are_sent_together_in_their_order() -> None:
    sent = Sent()
    batch = Batch(sent)
    futures = [batch.add(item) for item in ("a", "bb", "ccc")]
    assert sent.batches == []
    await asyncio.sleep(0)
    assert [list(calls) for calls in sent.batches] == [["a", "bb", "ccc"]]
    sent.answer(0)
    assert await asyncio.gather(*futures) == [1, 2, 3]


async def test_equal_items_of_one_tick_are_sent_once_and_all_are_answered() -> None:
    sent = Sent()
    batch = Batch(sent)
    futures = [batch.add("a"), batch.add("a")]
    await asyncio.sleep(0)
    assert [list(calls) for calls in sent.batches] == [["a"]]
    sent.answer(0)
    assert await asyncio.gather(*futures) == [1, 1]


async def test_an_item_is_not_shared_once_it_is_sent() -> None:
    sent = Sent()
    batch = Batch(sent)
    batch.add("a")
    await asyncio.sleep(0)
    batch.add("a")
    await asyncio.sleep(0)
    assert [list(calls) for calls in sent.batches] == [["a"], ["a"]]


async def test_a_slow_batch_does_not_hold_up_the_next() -> None:
    sent = Sent()
    batch = Batch(sent)
    slow = batch.add("slow")
    await asyncio.sleep(0)
    quick = batch.add("q")
    await asyncio.sleep(0)
    sent.answer(1)
    assert await quick == 1
    assert not slow.done()


async def test_a_full_batch_is_sent_at_once() -> None:
    sent = Sent()
    batch = Batch(sent, most=2)
    for item in "abcde":
        batch.add(item)
    assert [list(calls) for calls in sent.batches] == [["a", "b"], ["c", "d"]]
    await asyncio.sleep(0)
    assert [list(calls) for calls in sent.batches] == [["a", "b"], ["c", "d"], ["e"]]
    assert len(batch) == 0


async def test_a_heavy_batch_is_sent_in_parts_and_one_heavy_item_alone() -> None:
    sent = Sent()
    batch = Batch(sent, weigh=len, heaviest=4)
    for item in ("aa", "bb", "cc", "dddddd", "e"):
        batch.add(item)
    batch.flush()
    assert [list(calls) for calls in sent.batches] == [["aa", "bb"], ["cc"], ["dddddd"], ["e"]]


async def test_cancelling_one_caller_leaves_the_others_their_reply() -> None:
    sent = Sent()
    batch = Batch(sent)
    cancelled, other = batch.add("a"), batch.add("a")
    await asyncio.sleep(0)
    cancelled.cancel()
    sent.answer(0)
    assert await other == 1
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_a_failure_reaches_each_caller_as_an_error_of_his_own() -> None:
    sent = Sent()
    batch = Batch(sent)
    futures = [batch.add("a"), batch.add("a"), batch.add("b")]
    futures[1].cancel()
    await asyncio.sleep(0)
    fail(sent.batches[0], StorageError("down"))
    first, _, third = await asyncio.gather(*futures, return_exceptions=True)
    assert isinstance(first, StorageError)
    assert isinstance(third, StorageError)
    assert str(first) == str(third) == "down"
    assert first is not third


async def test_what_sending_raises_is_raised_in_those_who_wait() -> None:
    def send(calls: Calls[str, int]) -> None:
        raise StorageError("closed")

    batch = Batch(send)
    future = batch.add("a")
    with pytest.raises(StorageError, match="closed"):
        await future


async def test_a_coroutine_function_answers_a_batch_and_none_stands_for_what_it_has_not() -> None:
    asked: list[list[str]] = []

    async def run(items: list[str]) -> Mapping[str, int]:
        asked.append(items)
        await asyncio.sleep(0)
        return {item: len(item) for item in items if item != "gone"}

    batch = Batch(awaiting(run))
    assert await asyncio.gather(*map(batch.add, ("a", "bb", "gone"))) == [1, 2, None]
    assert asked == [["a", "bb", "gone"]]


async def test_cancelling_every_caller_does_not_cancel_the_coroutine_of_a_batch() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def run(items: list[str]) -> Mapping[str, int]:
        started.set()
        await asyncio.sleep(0)
        ended.set()
        return {}

    batch = Batch(awaiting(run))
    future = batch.add("a")
    await started.wait()
    future.cancel()
    await asyncio.wait_for(ended.wait(), 1)


async def test_what_the_coroutine_of_a_batch_raises_is_raised_in_those_who_wait() -> None:
    async def run(items: list[str]) -> Mapping[str, int]:
        raise StorageError("down")

    batch = Batch(awaiting(run))
    outcomes = await asyncio.gather(batch.add("a"), batch.add("b"), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["down", "down"]


def test_the_copy_of_an_error_has_its_cause_and_what_it_says_of_keys() -> None:
    error = StorageError("down")
    error.part, error.keys = "a:1", (1, 2)
    error.__cause__ = OSError("why")
    copy = copy_of(error)
    assert isinstance(copy, StorageError)
    assert copy is not error
    assert (copy.part, copy.keys, copy.__cause__) == ("a:1", (1, 2), error.__cause__)


# --- what is written ------------------------------------------------------------------------------


async def test_what_is_written_in_one_tick_is_one_write_in_its_order() -> None:
    written = list[bytes]()
    outbox = Outbox(written.append)
    for data in (b"a", b"b", b"c"):
        outbox.add(data)
    assert (written, len(outbox)) == ([], 3)
    await asyncio.sleep(0)
    assert (written, len(outbox)) == ([b"abc"], 0)


async def test_what_is_urgent_is_written_at_once_after_what_came_before() -> None:
    written = list[bytes]()
    outbox = Outbox(written.append)
    outbox.add(b"a", at_once=True)
    outbox.add(b"b")
    outbox.add(b"c", at_once=True)
    assert written == [b"a", b"bc"]
    await asyncio.sleep(0)
    assert written == [b"a", b"bc"]


async def test_much_is_not_kept_to_the_end_of_the_tick_and_what_is_dropped_is_not_written() -> None:
    written = list[bytes]()
    outbox = Outbox(written.append, heaviest=3)
    outbox.add(b"aa")
    outbox.add(b"bb")
    assert written == [b"aabb"]
    outbox.add(b"c")
    outbox.drop()
    await asyncio.sleep(0)
    assert written == [b"aabb"]
