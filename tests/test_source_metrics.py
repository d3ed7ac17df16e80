"""The main job counts right, asks for what it says, and says what is wrong with bad input."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PATH = Path(__file__).parents[1] / "examples" / "source_metrics.py"

SOURCE = '''
class Outer:
    class Inner:
        def method(self):
            if self:
                for _ in range(3):
                    pass
            elif not self:
                pass
            else:
                if 1:
                    pass

def short(): return 1

async def longer():
    """Seven lines."""


    def within():
        return 1
    return within
'''


@pytest.fixture(scope="module")
def job() -> Any:
    spec = importlib.util.spec_from_file_location("source_metrics", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = ModuleType(spec.name)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


def test_what_is_in_a_module_is_counted(job: Any, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    found = job.measure("module", str(path))
    assert found == job.Metrics(
        module="module",
        lines=22,
        functions=4,
        classes=2,
        depth=5,  # class, class, def, if, for: an elif is no deeper than its if
        longest="Outer.Inner.method",
        longest_lines=9,
    )


def test_the_standard_library_is_found_without_its_tests(job: Any) -> None:
    paths = job.standard_library()
    assert {"json", "json.decoder", "asyncio.base_events", "os"} <= paths.keys()
    assert len(paths) > 300
    assert not [name for name in paths if name.split(".")[0] == "test"]


def test_every_module_is_asked_for_and_some_much_more_often(job: Any) -> None:
    modules = [f"m{number}" for number in range(100)]
    asks: Counter[str] = Counter(job.choose_asks(modules, 10_000, random.Random(0)))
    assert asks.keys() == set(modules)
    assert asks.total() == 10_000
    assert asks.most_common(1)[0][1] > 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90.5, "90.5 s"), (1.86, "1.86 s"), (0.00342, "3.42 ms"), (3.1e-5, "31.0 µs")],
)
def test_times_are_written_with_three_digits(job: Any, seconds: float, text: str) -> None:
    assert job.in_units(seconds) == text


@pytest.mark.process
@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("redis://localhost:1/0", "is it running there?"),
        ("memcached://localhost:1", "see whether it runs there"),
        ("sqlite:///cache", "it is memory, redis://host:port/db or memcached://host:port"),
        ("redis://localhost:nothing/0", "cannot be read"),
    ],
)
def test_a_storage_that_cannot_be_used_is_told_in_one_line(storage: str, said: str) -> None:
    command = [sys.executable, str(PATH), "--quick", "--storage", storage]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.process
def test_the_figures_of_a_run_fit_together() -> None:
    command = [sys.executable, str(PATH), "--quick", "--askers", "50", "--calls", "100"]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    rows = {line[2:24].strip(): line[24:].split() for line in result.stdout.splitlines()}
    calls, loads = int(rows["calls"][0].replace(",", "")), int(rows["loads"][0])
    hits = int(rows["hit rate"][1].replace(",", ""))
    assert calls == 500
    assert loads == int(rows["loads"][2]) > 30
    assert hits + int(rows["joined"][0]) + loads == calls
