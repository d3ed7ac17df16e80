"""What is recorded: the requests of some keys, nothing of the others, and no hit pays for it."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gecaso import Cache, MemoryStorage, cached
from gecaso.advice import distinct, form, recording
from gecaso.advice.reading import Trace, read, trace_of
from gecaso.advice.recording import Recorder
from gecaso.advice.simulating import Model
from gecaso.entry import Entry
from gecaso.errors import ConfigurationError
from gecaso.storage import EntryStorage
from gecaso.storages.lru import LRUStorage
from gecaso.testing import FakeClock
from tests.scenes import Distant

KEYS = range(200)
SAMPLE = 0.2


def code(key: object) -> bytes:
    return form.hash_of(str(key).encode())


def counted(trace: Trace) -> dict[bytes, int]:
    return dict(Counter(trace.codes))


def expected(keys: list[Any], times: int) -> dict[bytes, int]:
    """Return the requests that a recording of ``keys`` has, each asked for so often."""
    limit = form.limit_of(SAMPLE)
    return {code(key): times for key in keys if code(key) < limit}


def entries_of(storage: MemoryStorage, function: Any) -> list[Entry]:
    return list(storage.partition(function.key(0).owner).entries.values())


@pytest.fixture
def by_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch flags for a sample of any size: with all keys in it a test knows what is recorded."""
    monkeypatch.setattr(recording, "EXACT_FROM", 2)


def storages() -> list[EntryStorage]:
    return [
        MemoryStorage(),
        MemoryStorage(1000, policy="lru"),
        MemoryStorage(isolate=True),
        LRUStorage(MemoryStorage(), 1000),
        Distant(),
    ]


@pytest.mark.parametrize("storage", storages(), ids=repr)
async def test_each_request_of_a_sampled_key_is_recorded_and_no_other(
    storage: EntryStorage, tmp_path: Path
) -> None:
    @cached(storage)
    async def double(x: int) -> int:
        return 2 * x

    with storage.recording(tmp_path / "t.bin", sample=SAMPLE) as recorder:
        for _ in range(5):
            for x in KEYS:
                assert await double(x) == 2 * x
            recorder.flush()
    trace = read([recorder.path])
    assert counted(trace) == expected([double.key(x) for x in KEYS], 5) != {}
    assert trace.total == 5 * len(KEYS)


def test_hits_of_what_was_stored_before_are_recorded(tmp_path: Path) -> None:
    storage = MemoryStorage()

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    for x in KEYS:
        double(x)
        double(x)
    with storage.recording(tmp_path / "t.bin", sample=SAMPLE) as recorder:
        recorder.flush()
        for x in KEYS:
            double(x)
    assert counted(read([recorder.path])) == expected([double.key(x) for x in KEYS], 1)
    assert double.stats.loads == len(KEYS)


def test_a_hit_does_nothing_that_it_does_not_do_anyway(tmp_path: Path, by_flags: None) -> None:
    storage = MemoryStorage()

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    with storage.recording(tmp_path / "t.bin", sample=1.0):
        double(1)
        long = storage.hits + storage.misses
        double(1)
        assert storage.hits + storage.misses == long  # it took the shortest path
        assert all(type(entry) is Entry for entry in entries_of(storage, double))


def test_the_policy_sees_the_hits_that_were_recorded(tmp_path: Path, by_flags: None) -> None:
    storage = MemoryStorage()

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        double(1)
        entry = entries_of(storage, double)[0]
        double(1)
        recorder.flush()
        assert entry.hot
        entry.hot = False  # as a policy does, which is no request
        recorder.flush()
        assert not entry.hot
    assert counted(read([recorder.path])) == {code(double.key(1)): 2}


def test_many_hits_at_once_are_noted_once_and_all_are_counted(
    tmp_path: Path, by_flags: None
) -> None:
    storage = MemoryStorage()

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        double(1)
        recorder.close()  # no thread looks any more
    with storage.recording(tmp_path / "t2.bin", sample=1.0) as recorder:
        recorder._sink._stop.set()  # pyright: ignore[reportPrivateUsage] - its thread looks when it likes
        for _ in range(1000):
            double(1)
    trace = read([recorder.path])
    assert len(trace) <= 2
    assert trace.total == 1000
    assert Model(trace).lru(1) == pytest.approx(1.0, abs=0.01)


def test_misses_look_at_the_flags_where_all_happens_within_a_fiftieth_of_a_second(
    tmp_path: Path,
) -> None:
    storage = MemoryStorage(500)

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    random = Random(1)
    keys = [int(random.paretovariate(0.4)) % 10_000 for _ in range(30_000)]
    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        recorder._sink._stop.set()  # pyright: ignore[reportPrivateUsage] - its thread looks when it likes
        for key in keys:
            double(key)
    found, really = Model(read([recorder.path])), Model(trace_of(map(str, keys)))
    for size in 200, 500, 1000:
        assert found.lru(size) == pytest.approx(really.lru(size), abs=0.03)


async def test_lookups_without_a_function_are_recorded(tmp_path: Path) -> None:
    storage = MemoryStorage()
    cache = Cache(storage)
    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        await storage.set("a", 1)
        await storage.get("a")
        await storage.get_many(["a", "b"])
        await cache.get("a")
        await cache.get_or_create("c", lambda: 3)
    wanted = {code("a"): 3, code("b"): 1, code("c"): 1}
    assert counted(read([recorder.path])) == wanted


def test_methods_are_recorded_by_instance(tmp_path: Path) -> None:
    storage = MemoryStorage()

    class Shop:
        @cached(storage)
        def price(self, x: int) -> int:
            return x

    one, other = Shop(), Shop()
    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        for shop in (one, other, one, one):
            shop.price(1)
            recorder.flush()
    assert sorted(counted(read([recorder.path])).values()) == [1, 3]


def test_a_request_of_an_expired_value_counts_once(tmp_path: Path) -> None:
    clock = FakeClock()
    storage = MemoryStorage(clock=clock)

    @cached(storage, ttl=10, stale_if_error=100)
    def double(x: int) -> int:
        return 2 * x

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        for _ in range(3):
            double(1)
            clock.advance(20)
    trace = read([recorder.path])
    assert counted(trace) == {code(double.key(1)): 3}
    assert trace.ttls == [10.0] * 3


def test_a_storage_that_tells_nothing_is_recorded_the_long_way(tmp_path: Path) -> None:
    class Silent(MemoryStorage):
        tells = False

        def _put(self, key: Any, entry: Entry, weight: int) -> None:
            recorder, self.recorder = self.recorder, None
            super()._put(key, entry, weight)
            self.recorder = recorder

    storage = Silent()

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        for _ in range(4):
            double(1)
    assert counted(read([recorder.path])) == {code(double.key(1)): 4}


def test_the_weights_of_values_are_recorded(tmp_path: Path) -> None:
    storage = MemoryStorage(maxbytes=100_000, weigh=len)

    @cached(storage)
    def text(x: int) -> str:
        return "x" * x

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        text(10)
        text(30)
    assert read([recorder.path]).mean_weight == 20


def test_threads_lose_no_request(tmp_path: Path) -> None:
    storage = MemoryStorage()

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    def ask() -> None:
        for number in range(5000):
            double(number % 10)

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        for x in range(10):
            double(x)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        recorder.flush()  # while they ask
        for thread in threads:
            thread.join()
    trace = read([recorder.path])
    assert trace.total == 10 + 4 * 5000
    assert set(trace.codes) == {code(double.key(x)) for x in range(10)}


def test_a_watched_entry_that_leaves_is_let_go(tmp_path: Path) -> None:
    class Value:
        pass

    storage = MemoryStorage()

    @cached(storage)
    def value(x: int) -> Value:
        return Value()

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        held = weakref.ref(value(1))
        value.invalidate(1)
        gc.collect()
        assert held() is None
        assert recorder.sample == 1.0


# --- the decorator's option ----------------------------------------------------------------------


def test_functions_with_record_are_recorded_and_others_are_not(tmp_path: Path) -> None:
    storage = MemoryStorage()
    path = tmp_path / "t.bin"

    @cached(storage, record=path)
    def yes(x: int) -> int:
        return x

    @cached(storage)
    def no(x: int) -> int:
        return x

    recorder = storage.recorder
    assert recorder is not None
    for _ in range(2):
        for x in range(2000):
            yes(x)
            no(x)
        recorder.flush()
    recorder.close()
    limit = form.limit_of(0.01)
    wanted = {code(yes.key(x)): 2 for x in range(2000) if code(yes.key(x)) < limit}
    trace = read([path])
    assert counted(trace) == wanted != {}
    assert trace.total == 4000


def test_one_recording_at_a_time(tmp_path: Path) -> None:
    storage = MemoryStorage()
    with (
        storage.recording(tmp_path / "a.bin"),
        pytest.raises(ConfigurationError, match="already"),
        storage.recording(tmp_path / "b.bin"),
    ):
        pass
    assert storage.recorder is None


def test_a_sample_is_a_part(tmp_path: Path) -> None:
    for sample in (0, 1.5, -1, True):
        with pytest.raises(ValueError, match="part of the keys"):
            Recorder(tmp_path / "t.bin", sample=sample)
    assert list(tmp_path.iterdir()) == []


# --- files ----------------------------------------------------------------------------------------


def test_a_file_that_is_there_stays_and_another_is_named_after_the_process(tmp_path: Path) -> None:
    storage = MemoryStorage()
    names: list[str] = []
    for _ in range(3):
        with storage.recording(tmp_path / "t.bin") as recorder:
            names.append(recorder.path.name)
    with storage.recording(tmp_path / "t-{pid}.bin") as recorder:
        names.append(recorder.path.name)
    pid = os.getpid()
    assert names == ["t.bin", f"t.{pid}.bin", f"t.{pid}-2.bin", f"t-{pid}.bin"]


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), MemoryStorage().recording(tmp_path / "no" / "t.bin"):
        pass


def test_a_disk_that_is_full_ends_the_recording_and_hurts_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage()

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        sink = recorder._sink  # pyright: ignore[reportPrivateUsage] - no other way to a full disk
        assert sink._file is not None  # pyright: ignore[reportPrivateUsage] - likewise
        sink._file.close()  # pyright: ignore[reportPrivateUsage] - likewise
        sink._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - the sink closes it  # pyright: ignore[reportPrivateUsage] - likewise
        double(1)
        recorder.flush()
        assert double(1) == 2
    assert "it cannot be written" in caplog.text


@pytest.mark.process
def test_a_child_goes_on_into_a_file_of_its_own(tmp_path: Path) -> None:
    storage = MemoryStorage()

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        double(1)
        child = os.fork()
        if child == 0:
            double(1)
            double(2)
            recorder.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        recorder.flush()
        double(1)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"t.{child}.bin", "t.bin"]
    one, two = code(double.key(1)), code(double.key(2))
    assert counted(read([files[1]])) == {one: 2}
    assert counted(read([files[0]])) == {one: 1, two: 1}
    both = read(files)
    assert counted(both) == {one: 3, two: 1}
    assert both.total == 4


def test_a_function_that_raises_is_recorded_as_asked_for(tmp_path: Path) -> None:
    storage = MemoryStorage()

    @cached(storage)
    def fails(x: int) -> int:
        raise LookupError(x)

    def call(function: Callable[[int], int]) -> None:
        with pytest.raises(LookupError):
            function(1)

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        call(fails)
        call(fails)
    assert counted(read([recorder.path])) == {code(fails.key(1)): 2}


def test_so_many_keys_that_no_register_counts_on_are_very_many() -> None:
    last, half = distinct._LONGEST, distinct.REGISTERS // 2  # pyright: ignore[reportPrivateUsage] - its largest rank
    assert distinct.estimate(bytes([last] * half + [last + 1] * half)) > 1e12


@pytest.mark.parametrize("make", [MemoryStorage, lambda: MemoryStorage(50)])
def test_who_records_half_of_the_keys_or_more_has_each_request_in_its_turn(
    make: Callable[[], MemoryStorage], tmp_path: Path
) -> None:
    storage, random = make(), Random(3)

    @cached(storage)
    def double(x: int) -> int:
        return 2 * x

    asked = [int(random.paretovariate(0.5)) for _ in range(3000)]
    with storage.recording(tmp_path / "trace", sample=1) as recorder:
        for number in asked:
            assert double(number) == 2 * number
    hits = double.stats.hits
    codes = [code(double.key(number)) for number in asked]
    assert list(read([recorder.path]).codes) == codes
    double(asked[-1])
    assert double.stats.hits == hits + 1  # the shortest path again, and it counts on
