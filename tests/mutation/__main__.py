"""Break each guard in turn, in a copy of the tree, and see some test go red.

``python -m tests.mutation [WORDS…] [--jobs N]``: only mutants whose name or path has all the words.
Ends with 1 if a mutant lived.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation import ALL, Mutant

ROOT = Path(__file__).parents[2]
PARTS = ("gecaso", "storages", "tests", "benchmarks", "examples", "docs", "scripts")
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md")
LONGEST = 300  # seconds of one run; a test that hangs has noticed something too
FAILED, PASSED = 1, 0  # exit codes of pytest; all others mean that no test was run to its end


def main() -> int:
    arguments = _parser().parse_args()
    chosen = [each for each in ALL if _matches(each, arguments.words)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        lived = [name for name in pool.map(_judge, chosen) if name is not None]
    print(f"{len(chosen) - len(lived)} of {len(chosen)} mutants were noticed.")
    for name in lived:
        print(f"NOT NOTICED: {name}")
    return bool(lived)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="what the name or path of a mutant must have")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    return parser


def _matches(mutant: Mutant, words: list[str]) -> bool:
    text = f"{mutant.name} {mutant.path}".lower()
    return all(word.lower() in text for word in words)


def _judge(mutant: Mutant) -> str | None:
    """Return the name of a mutant that lives."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder)
        _copy(tree)
        (tree / mutant.path).write_text(mutant.applied(ROOT))
        verdict, by = _run(tree, mutant)
    seconds = time.monotonic() - started
    print(f"{verdict:9} {seconds:4.0f} s  {mutant.name}{f'  <- {by}' if by else ''}", flush=True)
    return None if verdict == "noticed" else mutant.name


def _copy(tree: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, symlinks=True, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)


def _run(tree: Path, mutant: Mutant) -> tuple[str, str]:
    """Return what became of it, and the test that noticed it."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-rfE"]
    command = [sys.executable, "-m", "pytest", *options, *mutant.tests]
    # The tree comes first: an installed gecaso must not be what is tested.
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        run = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "noticed", "it hangs"
    if run.returncode == PASSED:
        return "LIVES", ""
    failed = [line for line in run.stdout.splitlines() if line.startswith("FAILED ")]
    if run.returncode != FAILED or not failed:
        return "BROKEN", (run.stdout + run.stderr)[-500:]
    return "noticed", failed[0].removeprefix("FAILED ").partition(" - ")[0]


if __name__ == "__main__":
    sys.exit(main())
