"""Every example runs by itself, without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(FOLDER.glob("[!_]*.py"))
OVER_A_SERVER = [path for path in EXAMPLES if "--storage" in path.read_text()]

pytestmark = pytest.mark.process


def run(example: Path, *arguments: str, folder: Path) -> None:
    quick = ["--quick"] if "--quick" in example.read_text() else []
    command = [sys.executable, "-W", "error", str(example), *quick, *arguments]
    result = subprocess.run(
        command, check=False, cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr, result.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example: Path, tmp_path: Path) -> None:
    run(example, folder=tmp_path)


@pytest.mark.parametrize("server", ["redis_url", "memcached_url"])
@pytest.mark.parametrize("example", OVER_A_SERVER, ids=lambda path: path.name)
def test_an_example_that_takes_a_storage_runs_over_a_server(
    example: Path, server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run(example, "--storage", request.getfixturevalue(server), folder=tmp_path)
