"""Soak: processes, servers, faults, and a checker of what came of it; one page of results.

Ends with 1 if a promise was broken, memory grew, or something was left behind.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests.soak.places import PLACES
from tests.soak.report import page, picture
from tests.soak.run import soak


def main() -> int:
    arguments = _parser().parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(10**6)
    print(f"seed {seed}, {arguments.minutes:g} minutes", flush=True)
    results = soak(
        arguments.minutes * 60, seed=seed, workers=arguments.workers, places=arguments.places
    )
    text = page(results)
    if arguments.report is None:
        print(text)
    else:
        arguments.report.write_text(text)
        picture(results, arguments.report.with_suffix(".png"))
        print(f"{arguments.report}: {'not well' if results.problems else 'all is well'}")
    return bool(results.problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="decides the faults and what the workers do")
    parser.add_argument("--report", type=Path, help="where to write the page, and a .png beside it")
    parser.add_argument("--workers", type=int, default=4, help="processes")
    parser.add_argument("--places", nargs="+", choices=list(PLACES), default=list(PLACES))
    return parser


if __name__ == "__main__":
    sys.exit(main())
