"""``python -m gecaso advise``, as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.traces import zipf
from gecaso import MemoryStorage, advice, cached
from gecaso.cli import main


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text("\n".join(map(str, zipf(5000, keys=1000))))
    return path


def test_a_recording_comes_to_an_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = MemoryStorage(100)

    @cached(storage)
    def text(x: int) -> str:
        return "x" * 100

    with storage.recording(tmp_path / "t.bin", sample=1.0) as recorder:
        for number, x in enumerate(zipf(5000, keys=1000)):
            text(x)
            if number % 20 == 0:
                recorder.flush()  # a thread looks fifty times a second; these calls are quicker
    assert main(["advise", str(tmp_path / "t.bin"), "--sizes", "10", "100", "1000"]) == 0
    shown = capsys.readouterr().out
    assert "5,000 requests" in shown
    assert "Knee: maxsize=" in shown
    line = next(line for line in shown.splitlines() if line.split()[:1] == ["100"])
    ratio = float(line.split()[1].rstrip("%")) / 100
    assert ratio == pytest.approx(text.stats.hits / 5000, abs=0.03)
    assert "KiB" in line


def test_ttls_are_shown_where_times_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    rows = [f"{number},{key}" for number, key in enumerate(zipf(2000, keys=100))]
    path.write_text("\n".join(["time,key", *rows]))
    assert main(["advise", str(path), "--ttl", "90s", "5m"]) == 0
    shown = capsys.readouterr().out
    assert "90s" in shown
    assert "5m" in shown


def test_a_picture_is_drawn(keys: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["advise", str(keys), "--plot", str(tmp_path / "p.png"), "--sizes", "9", "90"]) == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_picture_says_what_to_install(
    keys: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "gecaso.advice.plot", raising=False)
    assert main(["advise", str(keys), "--plot", "p.png"]) == 2
    assert "gecaso[advice]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-file"], "no-such-file"),
        (["{keys}", "--ttl", "5m"], "shows only with times"),
        (["{keys}", "--format", "csv"], "no column 'key'"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    keys: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["advise", *[word.format(keys=keys) for word in arguments]]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("wrong", [["--sizes", "0"], ["--sample", "2"], ["--ttl", "soon"]])
def test_a_wrong_option_is_a_matter_of_usage(keys: Path, wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["advise", str(keys), *wrong])
    assert caught.value.code == 2


@pytest.mark.process
def test_without_arguments_it_prints_help() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "gecaso"], check=True, capture_output=True, text=True
    )
    assert "advise" in run.stdout


def test_the_names_of_the_package_are_all_there() -> None:
    assert all(getattr(advice, name) is not None for name in advice.__all__)
    assert set(advice.__all__) <= set(dir(advice))
    assert not hasattr(advice, "advize")


@pytest.mark.process
def test_importing_gecaso_imports_nothing_of_this() -> None:
    code = "import gecaso, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert "gecaso.cache" in loaded
    assert not {"gecaso.advice", "gecaso.cli", "argparse", "matplotlib", "tqdm"} & loaded
